//! The writing calls of a sequence.

use std::collections::BTreeMap;

use lovage_core::{Head, LaneDef, Millis, TaskKey};

use super::compare::{bare, both, same};
use super::generate::{LEASE, NAMESPACES, SESSIONS};
use super::pair::Pair;
use crate::conformance::kit::running;
use crate::{
    Claim, Commit, Committed, DocGuard, DocKind, DocOutcome, DocPut, Insert, Inserted, Mode, OwnReply, OwnRequest, OwnToken,
    Store, Sync, Want,
};

impl Pair {
    pub(super) fn now(&self) -> Millis {
        self.store.clock().now()
    }

    fn mode(&mut self) -> Mode {
        if self.source.chance(25) { Mode::Atomic } else { Mode::Each }
    }

    pub(super) fn lane(&self, head: &Head) -> Option<&LaneDef> {
        self.source.lanes().iter().find(|lane| lane.id() == head.lane).map(|lane| &**lane)
    }

    pub(super) async fn insert(&mut self) -> Result<(), String> {
        let now = self.now();
        let mode = self.mode();
        let mut items = Vec::new();
        for _ in 0..self.source.rng.usize(1..6) {
            let root = if self.source.chance(20) { self.some_key() } else { None };
            let mut item = self.source.task(now, root);
            self.steal(item.key.ns, &mut item.keys).await?;
            items.push(item);
        }
        self.insert_these(items, mode).await
    }

    async fn insert_these(&mut self, items: Vec<Insert>, mode: Mode) -> Result<(), String> {
        let found = self.store.insert(self.p, items.clone(), mode).await;
        let expected = self.model.insert(self.p, items.clone(), mode).await;
        let Some((found, expected)) = both("insert", found, expected)? else { return Ok(()) };
        same("the number of answers", &found.len(), &items.len())?;
        let refused = expected.iter().any(|answer| !matches!(answer, Inserted::Ok { .. }));
        for (item, (found, expected)) in items.iter().zip(found.iter().zip(&expected)) {
            let what = format!("an answer to insert {mode:?} {items:?}");
            match (found, expected) {
                (Inserted::Ok { seq }, Inserted::Ok { seq: model_seq }) => self.stored(&item.key, *model_seq, *seq)?,
                // The other of the same id may be in this batch and not be stored: then its order means nothing.
                (Inserted::Exists(found), Inserted::Exists(expected)) if mode == Mode::Atomic && refused => {
                    same(&what, &bare(&self.timeless(found)), &bare(&self.timeless(expected)))?;
                }
                (Inserted::Exists(found), Inserted::Exists(expected)) => {
                    self.compare_head(&what, Some(found), Some(expected))?;
                }
                (
                    Inserted::Conflict { kind, entry, head },
                    Inserted::Conflict { kind: model_kind, entry: model_entry, head: model_head },
                ) => {
                    same(&what, &(kind, entry), &(model_kind, model_entry))?;
                    if mode == Mode::Atomic {
                        let plain = |head: &Head| bare(&self.timeless(head));
                        same(&what, &head.as_ref().map(plain), &model_head.as_ref().map(plain))?;
                    } else {
                        self.compare_head(&what, head.as_ref(), model_head.as_ref())?;
                    }
                }
                (found, expected) => same(&what, found, expected)?,
            }
        }
        // Nothing was written if nothing was taken.
        self.unsettled &=
            refused && (mode == Mode::Atomic || !expected.iter().any(|answer| matches!(answer, Inserted::Ok { .. })));
        Ok(())
    }

    /// Notes a task that both stored, with the orders of acceptance that the model and the store gave it.
    pub(super) fn stored(&mut self, key: &TaskKey, model_seq: u64, seq: u64) -> Result<(), String> {
        self.keys.insert(key.clone());
        self.numbered(model_seq, seq)
    }

    /// Makes ordered changes visible: a durable write implies them.
    pub(super) async fn settle(&mut self) -> Result<(), String> {
        if !self.unsettled {
            return Ok(());
        }
        let now = self.now();
        let marker = self.source.plain_task(now, None);
        self.insert_these(vec![marker], Mode::Each).await
    }

    pub(super) async fn commit(&mut self) -> Result<(), String> {
        let now = self.now();
        let mode = self.mode();
        let sync = if self.source.chance(40) { Sync::Ordered } else { Sync::Durable };
        let source = if self.source.chance(30) { lovage_core::SessionId(0) } else { self.source.pick(&SESSIONS) };
        let mut items: Vec<Commit> = Vec::new();
        // What is known of tasks that an item names: their heads after it, or nothing for sure.
        let mut after: BTreeMap<TaskKey, Option<Head>> = BTreeMap::new();
        for _ in 0..self.source.rng.usize(1..5) {
            let Some(key) = self.some_key() else { return self.insert().await };
            // Nobody can name the queue of a task that another item of the same call moves, or does not if it is refused.
            if items.iter().any(|item| item.key == key && item.lane.is_some()) {
                continue;
            }
            // A refusal that an atomic batch then takes back may show either head: not generated.
            if mode == Mode::Atomic && items.iter().any(|item| item.key == key) {
                continue;
            }
            let chained = match after.get(&key) {
                // Nobody can know the head of a task that an item before may have woken.
                _ if items.iter().any(|item| item.may_wake(&key)) => continue,
                Some(None) => continue,
                Some(Some(head)) => Some(head.clone()).filter(|_| self.source.chance(70)),
                None => None,
            };
            let first = !after.contains_key(&key);
            let known = first || chained.is_some();
            let Some(was) = (match chained {
                Some(head) => Some(head),
                None => self.model_head(&key).await?,
            }) else {
                continue;
            };
            let version = was.version;
            let item = self.change(key, was, now).await?;
            if item.was.version == version {
                after.insert(item.key.clone(), item.head.clone().filter(|_| known));
            }
            items.push(item);
        }
        let mut theirs = Vec::new();
        for item in &items {
            let head = item.head.as_ref().map(|head| self.theirs(head));
            theirs.push(Commit { was: self.their_guard(&item.key, &item.was).await?, head, ..item.clone() });
        }
        let found = self.store.commit(self.p, source, theirs, mode, sync).await;
        let expected = self.model.commit(self.p, source, items.clone(), mode, sync).await;
        let Some((found, expected)) = both("commit", found, expected)? else { return Ok(()) };
        same("the number of answers", &found.len(), &items.len())?;
        let applied = expected.contains(&Committed::Ok);
        match sync {
            Sync::Ordered => self.unsettled |= applied,
            Sync::Durable => self.unsettled &= !applied,
        }
        self.learn_spawned(&items).await?;
        for (found, expected) in found.iter().zip(&expected) {
            let what = format!("an answer to commit {mode:?} {items:?}");
            match (found, expected) {
                // It may show a task that this very batch spawned, and then did not.
                (Committed::Stale(found), Committed::Stale(expected)) if mode == Mode::Atomic => {
                    let plain = |head: &Head| bare(&self.timeless(head));
                    same(&what, &found.as_ref().map(plain), &expected.as_ref().map(plain))?;
                }
                (Committed::Stale(found), Committed::Stale(expected)) => {
                    self.compare_head(&what, found.as_ref(), expected.as_ref())?;
                }
                (found, expected) => same(&what, found, expected)?,
            }
        }
        Ok(())
    }

    pub(super) async fn claim(&mut self) -> Result<(), String> {
        let (session, given) = self.own().await?;
        let mut items = Vec::new();
        for _ in 0..self.source.rng.usize(1..5) {
            let Some(key) = self.some_key() else { break };
            let Some(was) = self.model_head(&key).await? else { continue };
            // Mostly tasks that wait, once in a while any.
            if was.state.is_waiting() || self.source.chance(20) {
                let was = if self.source.chance(15) { Head { version: was.version + 1_000_000, ..was } } else { was };
                let queue = self.lane(&was).map_or("default".into(), |lane| lane.queue.as_str().into());
                items.push(Claim { head: running(&was, session), was, queue, key });
            }
        }
        let nobody = || OwnToken("0:0:nobody".into());
        let given = given.filter(|_| !self.source.chance(10));
        let (token, model_token) = given.unwrap_or_else(|| (nobody(), nobody()));
        let mut theirs = Vec::new();
        for item in &items {
            let was = self.their_guard(&item.key, &item.was).await?;
            theirs.push(Claim { was, head: self.theirs(&item.head), ..item.clone() });
        }
        let found = self.store.claim(self.p, &token, session, theirs).await;
        let expected = self.model.claim(self.p, &model_token, session, items.clone()).await;
        let Some((found, expected)) = both("claim", found, expected)? else { return Ok(()) };
        same(&format!("the answer to claim {items:?}"), &found, &expected)
    }

    /// A renewal by any session; answers it with both tokens if it owns the partition now.
    pub(super) async fn own(&mut self) -> Result<(lovage_core::SessionId, Option<(OwnToken, OwnToken)>), String> {
        let session = self.source.pick(&SESSIONS);
        let want = self.source.pick(&[Want::Own, Want::Own, Want::Own, Want::Own, Want::Stand, Want::Release, Want::Leave]);
        let mut drop = if self.source.chance(50) { self.lapsed.clone() } else { Vec::new() };
        if self.source.chance(5) {
            drop.push(self.source.pick(&SESSIONS));
        }
        // A caller does not call itself lapsed.
        drop.retain(|dropped| *dropped != session);
        let request = OwnRequest { session, want, lease: LEASE, drop };
        let found = self.store.own(self.p, request.clone()).await;
        let expected = self.model.own(self.p, request.clone()).await;
        let what = format!("the answer to {request:?}");
        let Some((mut found, mut expected)) = both(&what, found, expected)? else { return Ok((session, None)) };
        let owns = |reply: &OwnReply| reply.token.is_some();
        same(&what, &owns(&found), &owns(&expected))?;
        found.lapsed.sort();
        expected.lapsed.sort();
        same(&format!("lapsed in {what}"), &found.lapsed, &expected.lapsed)?;
        same(&format!("candidates in {what}"), &found.candidates, &expected.candidates)?;
        let owner = |reply: &OwnReply| reply.owner.map(|(session, _)| session);
        same(&format!("the owner in {what}"), &owner(&found), &owner(&expected))?;
        self.lapsed = expected.lapsed;
        let tokens = found.token.zip(expected.token);
        if let Some((token, model_token)) = &tokens {
            let fresh = self.tokens.insert(token.0.clone());
            if self.model_tokens.insert(model_token.0.clone()) && !fresh {
                return Err(format!("{token:?} was given to an earlier owner"));
            }
        }
        Ok((session, tokens))
    }

    pub(super) async fn put_docs(&mut self) -> Result<(), String> {
        let mut items = Vec::new();
        let mut model_items = Vec::new();
        for _ in 0..self.source.rng.usize(1..4) {
            let kind = self.source.pick(&[DocKind::Queue, DocKind::Worker]);
            let ns = self.source.pick(&NAMESPACES);
            let name = self.source.pick(&["a", "b/c", "ü"]).to_owned();
            let (version, model_version) = self.docs.get(&(kind, ns, name.clone())).copied().unwrap_or_default();
            let (guard, model_guard) = match self.source.rng.u32(0..6) {
                0 => (DocGuard::Absent, DocGuard::Absent),
                1 | 2 => (DocGuard::Any, DocGuard::Any),
                3 => (DocGuard::Version(version + 1_000), DocGuard::Version(model_version + 1_000)),
                _ => (DocGuard::Version(version), DocGuard::Version(model_version)),
            };
            let bytes = if self.source.chance(25) { None } else { Some(self.source.bytes()) };
            let item = DocPut { kind, ns, name, guard, bytes };
            model_items.push(DocPut { guard: model_guard, ..item.clone() });
            items.push(item);
        }
        let found = self.store.put_docs(items.clone()).await;
        let expected = self.model.put_docs(model_items).await;
        let Some((found, expected)) = both("put_docs", found, expected)? else { return Ok(()) };
        same("the number of answers", &found.len(), &items.len())?;
        for (item, (found, expected)) in items.iter().zip(found.iter().zip(&expected)) {
            let what = format!("an answer to put_docs {items:?}");
            let last = self.docs.entry((item.kind, item.ns, item.name.clone())).or_default();
            match (found, expected) {
                (DocOutcome::Ok { version, created }, DocOutcome::Ok { version: model_version, created: model_created }) => {
                    same(&what, created, model_created)?;
                    // Deleting what is not there changes nothing, and no version is promised for it.
                    if *model_version > last.1 {
                        if *version <= last.0 {
                            return Err(format!("{what}: version {version} came after {}", last.0));
                        }
                        *last = (*version, *model_version);
                    }
                }
                (DocOutcome::Refused(found), DocOutcome::Refused(expected)) => {
                    same(&what, &found.as_ref().map(|doc| &doc.bytes), &expected.as_ref().map(|doc| &doc.bytes))?;
                    if let Some(found) = found {
                        same("the version shown", &found.version, &last.0)?;
                    }
                }
                (found, expected) => same(&what, found, expected)?,
            }
        }
        Ok(())
    }
}
