//! The batch that is under way, as a document of the source: nobody else reads or writes there.

use std::collections::BTreeMap;
use std::sync::Arc;

use lovage_core::{Head, Ns, Partition, State, TaskKey};
use serde::{Deserialize, Serialize};

use super::Move;
use crate::{Commit, DocGuard, DocKind, DocPut, Error, Mode, Result, Store, Sync};

/// The name of the document.
pub(super) const NAME: &str = "moving";

/// A task of the batch.
#[derive(Serialize, Deserialize)]
struct Entry {
    from: u16,
    to: u16,
    key: Vec<u8>,
    head: Vec<u8>,
    queue: String,
}

/// A task of the batch that is under way.
pub(super) struct Noted {
    pub from: Partition,
    pub to: Partition,
    pub key: TaskKey,
    pub head: Head,
    pub queue: String,
}

/// Whether this head in the destination is that of a parked copy of the task with `head` in the source.
pub(super) fn is_parked(there: &Head, head: &Head) -> bool {
    there.created == head.created && there.version < head.version && there.state == State::Blocked
}

/// Notes the next batch in the place of the one before.
pub(super) async fn note(store: &dyn Store, batch: impl Iterator<Item = Noted>) -> Result<()> {
    let entry = |noted: Noted| Entry {
        from: noted.from.0,
        to: noted.to.0,
        key: noted.key.to_bytes().to_vec(),
        head: noted.head.pack().to_vec(),
        queue: noted.queue,
    };
    let entries: Vec<Entry> = batch.map(entry).collect();
    let bytes = rmp_serde::to_vec(&entries).map_err(|error| Error::Invalid(format!("the journal of the move: {error}")))?;
    put(store, Some(bytes)).await
}

/// Forgets the last batch.
pub(super) async fn clear(store: &dyn Store) -> Result<()> {
    put(store, None).await
}

async fn put(store: &dyn Store, bytes: Option<Vec<u8>>) -> Result<()> {
    let put =
        DocPut { kind: DocKind::Meta, ns: Ns::DEFAULT, name: NAME.into(), guard: DocGuard::Any, bytes: bytes.map(Into::into) };
    store.put_docs(vec![put]).await.map(drop)
}

async fn read(store: &dyn Store) -> Result<Vec<Noted>> {
    let Some(document) = store.doc(DocKind::Meta, Ns::DEFAULT, NAME).await? else { return Ok(Vec::new()) };
    let bad = || Error::Corrupt("the journal of the move cannot be read".into());
    let entries: Vec<Entry> = rmp_serde::from_slice(document.bytes.as_deref().unwrap_or_default()).map_err(|_| bad())?;
    let noted = |entry: Entry| {
        Some(Noted {
            from: Partition(entry.from),
            to: Partition(entry.to),
            key: TaskKey::from_bytes(&entry.key)?,
            head: Head::unpack(&entry.head)?,
            queue: entry.queue,
        })
    };
    entries.into_iter().map(|entry| noted(entry).ok_or_else(bad)).collect()
}

/// Ends the batch that an earlier run left, if there is one.
pub(super) async fn end(this: &Move<'_>) -> Result<()> {
    let mut parts: BTreeMap<(Partition, Partition), Vec<Noted>> = BTreeMap::new();
    for noted in read(this.from).await? {
        parts.entry((noted.from, noted.to)).or_default().push(noted);
    }
    for ((from, to), batch) in parts {
        let keys: Vec<TaskKey> = batch.iter().map(|noted| noted.key.clone()).collect();
        let (here, there) = (this.from.heads(from, &keys).await?, this.to.heads(to, &keys).await?);
        let mut commits = Vec::new();
        for (noted, (here, there)) in batch.into_iter().zip(here.into_iter().zip(there)) {
            let Some(parked) = there.filter(|there| is_parked(there, &noted.head)) else { continue };
            // The source still has it: the copy is not complete for sure, and nobody has seen it do anything.
            let head = here.is_none().then_some(Head { seq: parked.seq, ..noted.head });
            commits.push(change(noted.key, parked, head, noted.queue.as_str().into()));
        }
        send(this.to, to, commits).await?;
    }
    Ok(())
}

/// A change of a parked copy.
pub(super) fn change(key: TaskKey, was: Head, head: Option<Head>, queue: Arc<str>) -> Commit {
    Commit { key, was, head, queue, lane: None, body: None, result: None, attempt: None, effects: Vec::new() }
}

/// Commits in as many calls as it takes.
pub(super) async fn send(store: &dyn Store, p: Partition, mut commits: Vec<Commit>) -> Result<Vec<crate::Committed>> {
    let mut answers = Vec::with_capacity(commits.len());
    while !commits.is_empty() {
        let rest = commits.split_off(commits.len().min(store.caps().max_batch.max(1)));
        answers.extend(store.commit(p, lovage_core::SessionId(0), commits, Mode::Each, Sync::Durable).await?);
        commits = rest;
    }
    Ok(answers)
}
