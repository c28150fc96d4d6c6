//! The changes of a sequence with all that happens together with them, and keys that are taken alone.

use bytes::Bytes;
use lovage_core::{Head, Millis, Ns, Slot, State, TaskKey};

use super::compare::{both, ok, same};
use super::generate::KEYS;
use super::pair::Pair;
use crate::{Commit, Effect, FeedPos, KeyEntry, KeyKind, KeyPut, KeyTake, Message, OutboxPage, Store};

impl Pair {
    /// A change of this task, right or wrong.
    pub(super) async fn change(&mut self, key: TaskKey, mut was: Head, now: Millis) -> Result<Commit, String> {
        let queue = self.lane(&was).map_or("default".into(), |lane| lane.queue.as_str().into());
        let mut head = if self.source.chance(12) { None } else { Some(self.source.next_head(&was, now)) };
        let lane = self.source.chance(20).then(|| self.source.lane_of(key.ns));
        if let (Some(head), Some(lane)) = (&mut head, &lane) {
            head.lane = lane.id();
        }
        if self.source.chance(15) {
            was.version = self.source.pick(&[was.version + 1_000_000, 0]);
        }
        let result = match self.source.rng.u32(0..10) {
            0..3 => Some(Some(self.source.bytes())),
            3 => Some(None),
            _ => None,
        };
        let mut effects = Vec::new();
        // Most commits of a store are plain, and take another way through some.
        let plain = self.source.chance(40);
        while effects.len() < 6 && self.source.chance(if plain { 20 } else { 60 }) {
            effects.push(if plain { self.plain_spawn(&key, now) } else { self.effect(&key, &mut head, now).await? });
        }
        leave_open(&mut effects);
        Ok(Commit {
            was,
            head,
            queue,
            lane,
            body: if self.source.chance(10) { Some(self.source.bytes()) } else { None },
            result,
            attempt: if self.source.chance(30) { Some(self.source.bytes()) } else { None },
            effects,
            key,
        })
    }

    fn plain_spawn(&mut self, key: &TaskKey, now: Millis) -> Effect {
        let root = if self.source.chance(50) { Some(key.clone()) } else { None };
        Effect::Spawn(Box::new(self.source.plain_task(now, root)))
    }

    async fn effect(&mut self, key: &TaskKey, head: &mut Option<Head>, now: Millis) -> Result<Effect, String> {
        Ok(match self.source.rng.u32(0..12) {
            0 => self.plain_spawn(key, now),
            1 | 2 => {
                let mut child = self.source.task(now, Some(key.clone()));
                self.steal(child.key.ns, &mut child.keys).await?;
                Effect::Spawn(Box::new(child))
            }
            3 | 4 => {
                if let Some(head) = head.as_mut().filter(|_| self.source.chance(80)) {
                    head.state = State::Blocked;
                }
                self.waiting.push(key.clone());
                Effect::Barrier { members: self.source.rng.u32(0..4) }
            }
            5 => Effect::FreeKey { kind: self.source.pick(&KeyKind::ALL), key: Bytes::from_static(self.source.pick(&KEYS)) },
            6 => {
                let mut put = [self.source.key(now)];
                self.steal(key.ns, &mut put).await?;
                let [put] = put;
                Effect::TakeKey(put)
            }
            7 => self.send(key, now),
            _ => {
                let latest = self.waiting.len().saturating_sub(3);
                let barrier = match self.waiting.get(latest..) {
                    Some(some) if !some.is_empty() && self.source.rng.u32(0..10) > 0 => self.source.pick(some),
                    _ => self.some_key().unwrap_or_else(|| key.clone()),
                };
                Effect::Arrive { barrier, index: self.source.rng.u32(0..4) }
            }
        })
    }

    fn send(&mut self, key: &TaskKey, now: Millis) -> Effect {
        let to = Slot::new(self.source.rng.u16(..));
        let message = match self.source.rng.u32(0..4) {
            0 => {
                let item = self.source.task(now, Some(key.clone()));
                return Effect::Send { to: item.key.slot(), message: Message::Insert(Box::new(item)) };
            }
            1 => Message::Arrive { barrier: key.clone(), index: self.source.rng.u32(0..4), attempt: 1, generation: 0 },
            2 => Message::Cancel { key: key.clone(), generation: self.source.rng.u8(..) },
            _ => Message::Free { task: key.clone(), slot: to, created: now },
        };
        Effect::Send { to, message }
    }

    /// Compares the outboxes; answers the places of the messages in both.
    pub(super) async fn compare_outbox(&mut self) -> Result<Vec<(FeedPos, FeedPos)>, String> {
        self.settle().await?;
        let found = ok("outbox", self.store.outbox(self.p, FeedPos::default(), 1_000).await)?;
        let expected = ok("outbox", self.model.outbox(self.p, FeedPos::default(), 1_000).await)?;
        let says = |page: &OutboxPage| page.messages.iter().map(|sent| format!("{:?}", sent.content)).collect::<Vec<_>>();
        same("the outbox", &(says(&found), found.waiting), &(says(&expected), expected.waiting))?;
        Ok(found.messages.iter().map(|sent| sent.pos).zip(expected.messages.iter().map(|sent| sent.pos)).collect())
    }

    /// Some messages have been delivered, some of them more than once.
    pub(super) async fn deliver(&mut self) -> Result<(), String> {
        let places = self.compare_outbox().await?;
        if places.is_empty() {
            return Ok(());
        }
        let some: Vec<_> = (0..self.source.rng.usize(0..4)).map(|_| self.source.pick(&places)).collect();
        let (found, expected): (Vec<_>, Vec<_>) = some.into_iter().unzip();
        ok("delivered", self.store.delivered(self.p, &found).await)?;
        ok("delivered", self.model.delivered(self.p, &expected).await)?;
        self.compare_outbox().await.map(drop)
    }

    /// Lets some of these keys be stolen from whoever has them, at the right version or not.
    pub(super) async fn steal(&mut self, ns: Ns, keys: &mut [KeyPut]) -> Result<(), String> {
        for put in keys {
            if !self.source.chance(50) {
                continue;
            }
            let entry = ok("lookup", self.model.lookup(self.p, ns, put.kind, &put.key).await)?;
            let holder = entry.map(|entry| entry.task).or_else(|| self.some_key());
            let Some(holder) = holder else { continue };
            let version = self.model_head(&holder).await?.map_or(1, |head| head.version);
            put.steal = Some((holder, if self.source.chance(20) { version + 1 } else { version }));
        }
        Ok(())
    }

    /// Reads the order of acceptance of tasks that a batch has spawned, which no answer tells.
    pub(super) async fn learn_spawned(&mut self, items: &[Commit]) -> Result<(), String> {
        let mut spawned = Vec::new();
        for effect in items.iter().flat_map(|item| &item.effects) {
            if let Effect::Spawn(child) = effect
                && let Some(head) = self.model_head(&child.key).await?
                && !self.seqs.contains_key(&head.seq)
            {
                spawned.push((child.key.clone(), head.seq));
            }
        }
        if spawned.is_empty() {
            return Ok(());
        }
        self.settle().await?;
        let keys: Vec<_> = spawned.iter().map(|(key, _)| key.clone()).collect();
        let heads = ok("heads", self.store.heads(self.p, &keys).await)?;
        for ((key, model_seq), head) in spawned.iter().zip(heads) {
            let head = head.ok_or_else(|| format!("{key:?}, spawned by {items:?}, is not there"))?;
            self.stored(key, *model_seq, head.seq)?;
        }
        Ok(())
    }

    pub(super) async fn put_key(&mut self) -> Result<(), String> {
        let Some(task) = self.some_key() else { return Ok(()) };
        let now = self.now();
        let put = self.source.key(now);
        let there = ok("lookup", self.model.lookup(self.p, task.ns, put.kind, &put.key).await)?;
        let seen = match self.source.rng.u32(0..4) {
            0 => None,
            1 => there.clone().map(|entry| KeyEntry { value: self.source.bytes(), ..entry }),
            _ => there.clone(),
        };
        let entry = match there {
            Some(entry) if self.source.chance(20) => entry,
            _ => put.entry(&task),
        };
        let take = KeyTake { kind: put.kind, key: put.key, entry, seen };
        let found = self.store.put_key(self.p, take.clone()).await;
        let expected = self.model.put_key(self.p, take.clone()).await;
        let Some((found, expected)) = both("put_key", found, expected)? else { return Ok(()) };
        same(&format!("the answer to {take:?}"), &found, &expected)?;
        self.unsettled &= expected.is_some();
        Ok(())
    }
}

/// A key is not stolen from a task at whose barrier the same commit arrives: whether the version before or after that counts
/// is left open.
fn leave_open(effects: &mut [Effect]) {
    let barrier = |effect: &Effect| if let Effect::Arrive { barrier, .. } = effect { Some(barrier.clone()) } else { None };
    let arrived: Vec<TaskKey> = effects.iter().filter_map(barrier).collect();
    for effect in effects {
        let keys = match effect {
            Effect::Spawn(child) => &mut child.keys[..],
            Effect::TakeKey(put) => std::slice::from_mut(put),
            _ => continue,
        };
        for put in keys {
            put.steal = put.steal.take().filter(|(from, _)| !arrived.contains(from));
        }
    }
}
