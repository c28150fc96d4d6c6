//! The reading calls of a sequence.

use std::collections::BTreeMap;

use lovage_core::{Head, State, TaskKey, placement};

use super::compare::{ok, same};
use super::generate::{KEYS, NAMESPACES, SESSIONS};
use super::pair::Pair;
use crate::conformance::audit::scan_all;
use crate::{Cursor, DocKind, Document, Index, KeyKind, ListQuery, Parts, Store, Stored};

type Items = Vec<(TaskKey, Head)>;

impl Pair {
    /// One random reading call on both, after ordered changes were made visible.
    pub(super) async fn read(&mut self) -> Result<(), String> {
        self.settle().await?;
        match self.source.rng.u32(0..8) {
            0 => self.compare_batch().await,
            1 | 2 => self.compare_index().await,
            3 | 4 => self.compare_list().await,
            5 => self.compare_lookup().await,
            6 => self.compare_docs().await,
            _ => self.compare_counts().await,
        }
    }

    async fn compare_batch(&mut self) -> Result<(), String> {
        let keys: Vec<_> = (0..4).filter_map(|_| self.some_key()).collect();
        let found = ok("heads", self.store.heads(self.p, &keys).await)?;
        let expected = ok("heads", self.model.heads(self.p, &keys).await)?;
        for (found, expected) in found.iter().zip(&expected) {
            self.compare_head("a head", found.as_ref(), expected.as_ref())?;
        }
        let found = ok("bodies", self.store.bodies(self.p, &keys).await)?;
        same("bodies", &found, &ok("bodies", self.model.bodies(self.p, &keys).await)?)?;
        for key in &keys {
            self.compare_record(key).await?;
        }
        Ok(())
    }

    /// Compares a record with any choice of its parts.
    pub(super) async fn compare_record(&mut self, key: &TaskKey) -> Result<(), String> {
        let parts = Parts { body: self.source.chance(80), result: self.source.chance(80), attempts: self.source.chance(80) };
        let found = ok("get", self.store.get(self.p, key, parts).await)?;
        let expected = ok("get", self.model.get(self.p, key, parts).await)?;
        let found = found.map(|stored| Stored { head: self.timeless(&stored.head), ..stored });
        let expected = expected.map(|stored| Stored { head: self.timeless(&self.theirs(&stored.head)), ..stored });
        same(&format!("the record {key:?} with {parts:?}"), &found, &expected)
    }

    async fn compare_index(&mut self) -> Result<(), String> {
        let now = self.store.clock().now();
        let lane = self.source.lane();
        let index = match self.source.rng.u32(0..5) {
            0 => Index::Lane { lane, after: None },
            1 => return self.compare_lane_tail(lane).await,
            2 => Index::Timer { until: self.source.time(now) },
            3 => Index::Running { session: if self.source.chance(70) { Some(self.source.pick(&SESSIONS)) } else { None } },
            _ => Index::Done { until: self.source.time(now) },
        };
        self.compare_scan(&index, &index).await
    }

    /// Compares a lane from behind a task that is or was in it.
    async fn compare_lane_tail(&mut self, lane: lovage_core::LaneId) -> Result<(), String> {
        let Some(key) = self.some_key() else { return Ok(()) };
        let Some(head) = self.model_head(&key).await? else { return Ok(()) };
        let after = |head: &Head| Some(head.score());
        let theirs = Index::Lane { lane, after: after(&self.theirs(&head)) };
        self.compare_scan(&theirs, &Index::Lane { lane, after: after(&head) }).await
    }

    pub(super) async fn compare_members(&mut self, root: &TaskKey) -> Result<(), String> {
        let index = Index::Members { root: root.clone() };
        self.compare_scan(&index, &index).await
    }

    async fn compare_scan(&mut self, index: &Index, model_index: &Index) -> Result<(), String> {
        let limit = self.source.rng.usize(1..20);
        let found = scan_all(&*self.store, self.p, index, limit).await?;
        let expected = scan_all(&self.model, self.p, model_index, 100).await?;
        // Those of one time come in any order.
        let time = |head: &Head| match index {
            Index::Timer { .. } => placement(head).timer,
            Index::Done { .. } => placement(head).done,
            Index::Lane { .. } | Index::Running { .. } | Index::Members { .. } => None,
        };
        if !found.is_sorted_by_key(|(_, head)| time(head)) {
            return Err(format!("{index:?} is not in order: {found:?}"));
        }
        if matches!(index, Index::Lane { .. } | Index::Members { .. }) {
            let keys = |items: &Items| items.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
            same(&format!("{index:?}"), &keys(&found), &keys(&expected))?;
        }
        self.compare_items(&format!("{index:?} by {limit}"), &found, &expected)
    }

    /// The same records, each once, in any order.
    fn compare_items(&self, what: &str, found: &Items, expected: &Items) -> Result<(), String> {
        same(&format!("the length of {what}"), &found.len(), &expected.len())?;
        let found: BTreeMap<_, _> = found.iter().map(|(key, head)| (key.clone(), self.timeless(head))).collect();
        let theirs = expected.iter().map(|(key, head)| (key.clone(), self.timeless(&self.theirs(head))));
        same(what, &found, &theirs.collect())
    }

    async fn compare_list(&mut self) -> Result<(), String> {
        let now = self.store.clock().now();
        let mut query = ListQuery { ns: self.source.pick(&NAMESPACES), ..ListQuery::default() };
        while self.source.chance(50) {
            query.states.push(self.source.pick(State::ALL));
        }
        if self.source.chance(20) {
            query.created_after = Some(self.source.time(now));
        }
        if self.source.chance(20) {
            query.created_before = Some(self.source.time(now));
        }
        let limit = self.source.rng.usize(1..20);
        let found = list_all(&*self.store, self.p, &query, limit).await?;
        let expected = list_all(&self.model, self.p, &query, 100).await?;
        self.compare_items(&format!("{query:?} by {limit}"), &found, &expected)
    }

    pub(super) async fn compare_lookup(&mut self) -> Result<(), String> {
        for ns in NAMESPACES {
            for (key, kind) in KEYS.into_iter().flat_map(|key| KeyKind::ALL.map(|kind| (key, kind))) {
                let found = ok("lookup", self.store.lookup(self.p, ns, kind, key).await)?;
                let expected = ok("lookup", self.model.lookup(self.p, ns, kind, key).await)?;
                same(&format!("the {kind:?} key {key:?} of {ns:?}"), &found, &expected)?;
            }
        }
        Ok(())
    }

    pub(super) async fn compare_counts(&mut self) -> Result<(), String> {
        same("counts", &ok("counts", self.store.counts(self.p).await)?, &ok("counts", self.model.counts(self.p).await)?)?;
        let found: BTreeMap<_, _> = ok("lanes", crate::all_lanes(&*self.store, self.p).await)?.into_iter().collect();
        for (lane, def) in ok("lanes", crate::all_lanes(&self.model, self.p).await)? {
            same("a lane", &found.get(&lane), &Some(&def))?;
        }
        Ok(())
    }

    pub(super) async fn compare_docs(&mut self) -> Result<(), String> {
        let limit = self.source.rng.usize(1..5);
        for kind in [DocKind::Queue, DocKind::Worker, DocKind::Meta] {
            let ns = if self.source.chance(50) { None } else { Some(self.source.pick(&NAMESPACES)) };
            let found = docs_all(&*self.store, kind, ns, limit).await?;
            let mut expected = docs_all(&self.model, kind, ns, 100).await?;
            for doc in &mut expected {
                doc.version = self.docs.get(&(kind, doc.ns, doc.name.clone())).map_or(0, |versions| versions.0);
            }
            same("documents", &found, &expected)?;
            for doc in expected {
                same("a document", &ok("doc", self.store.doc(kind, doc.ns, &doc.name).await)?, &Some(doc))?;
            }
        }
        Ok(())
    }
}

async fn list_all(store: &dyn Store, p: lovage_core::Partition, query: &ListQuery, limit: usize) -> Result<Items, String> {
    let mut items = Vec::new();
    let mut from = Cursor::default();
    loop {
        let page = ok("list", store.list(p, query, from, limit).await)?;
        items.extend(page.items);
        let Some(next) = page.next else { return Ok(items) };
        from = next;
    }
}

async fn docs_all(store: &dyn Store, kind: DocKind, ns: Option<lovage_core::Ns>, limit: usize) -> Result<Vec<Document>, String> {
    let mut items = Vec::new();
    let mut after = None;
    loop {
        let page = ok("docs", store.docs(kind, ns, after, limit).await)?;
        items.extend(page.items);
        let Some(next) = page.next else { return Ok(items) };
        after = Some(next);
    }
}
