//! What no record holds: documents, idempotency keys, entries of the directory.

use bytes::Bytes;
use lovage_core::{Partition, Slot, SlotKind};

use super::{Move, Report, journal};
use crate::directory::Residence;
use crate::{Cursor, DocGuard, DocKind, DocOutcome, DocPut, Document, KeyEntry, KeyKind, KeyTake, Result, Store};

/// Documents and keys of one page.
const PAGE: usize = 200;

/// Copies the documents that the destination does not have. They stay in the source too: whoever starts its servers again
/// finds a store that works.
pub(super) async fn documents(this: &Move<'_>, report: &mut Report) -> Result<()> {
    for kind in DocKind::ALL {
        let mut after = None;
        loop {
            let page = this.from.docs(kind, None, after, PAGE).await?;
            copy_documents(page.items, this.to, report).await?;
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
    }
    Ok(())
}

/// Copies those of these documents that the destination does not have.
pub async fn copy_documents(mut documents: Vec<Document>, to: &dyn Store, report: &mut Report) -> Result<()> {
    documents.retain(|document| match document.kind {
        // Processes and what is asked of them, which are not those of the destination.
        DocKind::Node | DocKind::Errand => false,
        DocKind::Meta => !document.name.starts_with(journal::NAME),
        _ => true,
    });
    let put = |document: &Document| DocPut {
        kind: document.kind,
        ns: document.ns,
        name: document.name.clone(),
        guard: DocGuard::Absent,
        bytes: document.bytes.clone(),
    };
    let answers = to.put_docs(documents.iter().map(put).collect()).await?;
    for (document, answer) in documents.iter().zip(answers) {
        match answer {
            DocOutcome::Ok { .. } => report.documents.moved += 1,
            DocOutcome::Refused(there) => {
                report.documents.there += 1;
                if there.is_none_or(|there| there.bytes != document.bytes) {
                    report.kept.push(format!("{:?} {}", document.kind, document.name));
                }
            }
        }
    }
    Ok(())
}

/// Moves the keys of a partition that no record holds. One that is taken in the destination stays as it is there.
pub(super) async fn keys(this: &Move<'_>, p: Partition, report: &mut Report) -> Result<()> {
    let mut from = Cursor::default();
    loop {
        let page = this.inside.loose_keys(p, from, PAGE).await?;
        for (kind, key, entry) in page.items {
            if !entry.is_over(this.from.clock().now()) {
                let take = KeyTake { kind, key: key.clone(), entry: entry.clone(), seen: None };
                let in_the_way = this.to.put_key(home(this, p, kind, &key, &entry), take).await?;
                match in_the_way {
                    None => report.keys.moved += 1,
                    Some(_) => report.keys.there += 1,
                }
            }
            let over = KeyEntry { until: Some(lovage_core::Millis(1)), ..entry.clone() };
            this.from.put_key(p, KeyTake { kind, key, entry: over, seen: Some(entry) }).await?;
        }
        match page.next {
            Some(next) => from = next,
            None => return Ok(()),
        }
    }
}

/// Where such a key lives in the destination.
fn home(this: &Move<'_>, p: Partition, kind: KeyKind, key: &Bytes, entry: &KeyEntry) -> Partition {
    let own = Slot::of(entry.task.ns, SlotKind::Idempotency, key);
    let in_source = |slot: Slot| slot.partition(this.from.caps().partitions) == p;
    let slot = match kind {
        // A key that lies where no request would look for it goes with its task.
        KeyKind::Idempotency if in_source(own) => own,
        _ => entry.task.slot(),
    };
    slot.partition(this.to.caps().partitions)
}

/// The entry of the directory for a task that lives away from the home of its id.
pub(super) fn residence(key: &lovage_core::TaskKey, slot: Slot, created: lovage_core::Millis) -> KeyEntry {
    // The same for every run: a second one finds its own entry.
    Residence { slot, settled_by: created, mark: u64::from(slot.number()) }.entry(key)
}
