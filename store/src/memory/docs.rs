//! Documents. A deleted one leaves its version behind, so that no version is ever used twice.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use lovage_core::{Ns, Version};

use crate::{DocGuard, DocKind, DocOutcome, DocPage, DocPut, Document};

type Name = (DocKind, Ns, String);

/// All documents of a store.
#[derive(Debug, Default)]
pub(super) struct Docs {
    entries: BTreeMap<Name, (Version, Option<Bytes>)>,
    changes: u64,
}

impl Docs {
    /// How often a document was changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// The document of this name, unless it was deleted.
    pub(super) fn get(&self, kind: DocKind, ns: Ns, name: &str) -> Option<Document> {
        let (version, bytes) = self.entries.get(&(kind, ns, name.to_owned()))?;
        let bytes = Some(bytes.clone()?);
        Some(Document { kind, ns, name: name.to_owned(), version: *version, bytes })
    }

    /// Applies one guarded change.
    pub(super) fn put(&mut self, item: DocPut) -> DocOutcome {
        let stored = self.get(item.kind, item.ns, &item.name);
        let allowed = match item.guard {
            DocGuard::Absent => stored.is_none(),
            DocGuard::Version(version) => stored.as_ref().is_some_and(|doc| doc.version == version),
            DocGuard::Any => true,
        };
        if !allowed {
            return DocOutcome::Refused(stored);
        }
        let entry = self.entries.entry((item.kind, item.ns, item.name)).or_default();
        // Deleting what is not there changes nothing.
        if stored.is_some() || item.bytes.is_some() {
            self.changes += 1;
            entry.0 += 1;
        }
        let created = stored.is_none() && item.bytes.is_some();
        entry.1 = item.bytes;
        DocOutcome::Ok { version: entry.0, created }
    }

    /// A page of a kind behind `after`.
    pub(super) fn page(&self, kind: DocKind, ns: Option<Ns>, after: Option<(Ns, String)>, limit: usize) -> DocPage {
        let start = match after {
            Some((ns, name)) => Bound::Excluded((kind, ns, name)),
            None => Bound::Included((kind, ns.unwrap_or(Ns(0)), String::new())),
        };
        let of_kind = self.entries.range((start, Bound::Unbounded)).take_while(|((k, _, _), _)| *k == kind);
        let wanted = of_kind.filter(|((_, n, _), (_, bytes))| ns.is_none_or(|ns| ns == *n) && bytes.is_some());
        let document = |((kind, ns, name), (version, bytes)): (&Name, &(Version, Option<Bytes>))| Document {
            kind: *kind,
            ns: *ns,
            name: name.clone(),
            version: *version,
            bytes: bytes.clone(),
        };
        let mut rest = wanted.map(document).peekable();
        let items: Vec<_> = rest.by_ref().take(limit.max(1)).collect();
        let more = rest.peek().is_some();
        let next = items.last().filter(|_| more).map(|doc| (doc.ns, doc.name.clone()));
        DocPage { items, next }
    }
}
