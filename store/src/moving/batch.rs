//! Moves one batch of records through the steps that the module names.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use lovage_core::{Body, Head, Millis, Partition, Slot, Spec, State, TaskId, TaskKey};

use super::belongings::Barrier;
use super::journal::{self, Noted, change, is_parked, send};
use super::{Move, Report, loose};
use crate::directory;
use crate::{Commit, Committed, Effect, Error, Insert, Inserted, KeyKind, KeyPut, MAX_KEYS, Mode, OnExists, Parts, Result};

/// Records read at the same time.
const READS: usize = 32;
/// About as many bytes go together.
const BYTES: usize = 4 << 20;

/// A record on its way.
struct Item {
    insert: Insert,
    /// As it was and will be, but for its order of acceptance.
    head: Head,
    /// Keys that an insert has no room for.
    more_keys: Vec<KeyPut>,
    result: Option<Bytes>,
    attempts: Vec<Bytes>,
    barrier: Option<Barrier>,
    /// The slot in which it lives, if that is not its id's.
    away: Option<Slot>,
}

/// What became of an item.
enum Outcome {
    Moved,
    There,
    Refused(String),
}

/// Moves these records of a partition of the source.
pub(super) async fn go(this: &Move<'_>, p: Partition, found: Vec<(TaskKey, Head)>, report: &mut Report) -> Result<()> {
    let (mut parts, mut bytes) = (BTreeMap::<Partition, Vec<Item>>::new(), 0);
    for some in found.chunks(READS) {
        for (to, item) in read(this, p, some).await? {
            bytes += item.bytes();
            parts.entry(to).or_default().push(item);
        }
        if bytes >= BYTES {
            together(this, p, std::mem::take(&mut parts), report).await?;
            bytes = 0;
        }
    }
    together(this, p, parts, report).await
}

/// Moves items together, by their partitions in the destination.
async fn together(this: &Move<'_>, p: Partition, parts: BTreeMap<Partition, Vec<Item>>, report: &mut Report) -> Result<()> {
    if parts.is_empty() {
        return Ok(());
    }
    let noted = parts.iter().flat_map(|(to, items)| {
        items.iter().map(|item| Noted {
            from: p,
            to: *to,
            key: item.insert.key.clone(),
            head: item.head.clone(),
            queue: item.insert.lane.queue.clone(),
        })
    });
    journal::note(this.from, noted).await?;
    let moved = try_join_all(parts.into_iter().map(|(to, items)| carry(this, p, to, items).boxed())).await?;
    for (key, state, outcome) in moved.into_iter().flatten() {
        match outcome {
            Outcome::Moved => report.moved[state as usize] += 1,
            Outcome::There => report.there[state as usize] += 1,
            Outcome::Refused(why) => report.refuse(&key, state, why),
        }
    }
    (this.told)(report);
    Ok(())
}

/// The records in full, each with its partition in the destination. What has changed since it was found is left out.
async fn read(this: &Move<'_>, p: Partition, found: &[(TaskKey, Head)]) -> Result<Vec<(Partition, Item)>> {
    let keys: Vec<TaskKey> = found.iter().map(|(key, _)| key.clone()).collect();
    let belongings = this.inside.belongings(p, &keys).await?;
    let all = Parts { body: true, result: true, attempts: true };
    // Boxed: the compiler cannot see through a stream of borrowing futures that they are `Send`.
    let reads = stream::iter(keys.iter().map(|key| this.from.get(p, key, all).boxed())).buffered(READS);
    let stored: Vec<_> = reads.try_collect().await?;
    let now = this.from.clock().now();
    let mut items = Vec::with_capacity(keys.len());
    for ((key, head), (stored, belongings)) in found.iter().cloned().zip(stored.into_iter().zip(belongings)) {
        let (Some(stored), Some(belongings)) = (stored.filter(|stored| stored.head == head), belongings) else { continue };
        let mut body = stored.body.unwrap_or_default();
        let mut keys: Vec<KeyPut> = belongings
            .keys
            .into_iter()
            .filter(|(_, _, entry)| !entry.is_over(now))
            .map(|(kind, key, entry)| KeyPut { kind, key, value: entry.value, until: entry.until, steal: None })
            .collect();
        let slot = settle_home(this, &key, &mut body);
        let to = slot.partition(this.to.caps().partitions);
        let away = (to != key.slot().partition(this.to.caps().partitions)).then_some(slot);
        if away.is_some() && keys.is_empty() {
            // What binds it there is not held any more. A key that is over already says the same and keeps nobody out.
            let name = format!("moved {}", key.id);
            keys.push(KeyPut {
                kind: KeyKind::Debounce,
                key: name.into(),
                value: Bytes::new(),
                until: Some(Millis(1)),
                steal: None,
            });
        }
        let more_keys = keys.split_off(keys.len().min(MAX_KEYS));
        let mut item = Item {
            insert: Insert {
                key,
                head: head.clone(),
                body,
                lane: Arc::new(belongings.lane),
                exists: OnExists::Return,
                not_after: None,
                keys,
                root: belongings.root,
            },
            head,
            more_keys,
            result: stored.result,
            attempts: stored.attempts,
            barrier: belongings.barrier,
            away,
        };
        item.insert.head = item.parked(item.steps() + 1);
        items.push((to, item));
    }
    Ok(items)
}

/// The slot in which a task lives in the destination, which its signature then names.
fn settle_home(this: &Move<'_>, key: &TaskKey, body: &mut Bytes) -> Slot {
    let own = key.slot();
    let TaskId::Client(_) = key.id else { return own };
    let Some((parts, mut spec)) = Body::decode(body).and_then(|parts| Spec::decode(&parts.spec).map(|spec| (parts, spec))) else {
        return own;
    };
    let Some(slot) = spec.bound(key.ns) else { return own };
    let partitions = this.to.caps().partitions;
    let away = (slot.partition(partitions) != own.partition(partitions)).then(|| slot.number());
    if spec.away != away {
        spec.away = away;
        *body = Body::encode(&spec.encode(), &String::from_utf8_lossy(&parts.content_type), &parts.payload);
    }
    slot
}

impl Item {
    /// About how large it is.
    fn bytes(&self) -> usize {
        let parts = self.attempts.iter().chain(&self.result).map(Bytes::len).sum::<usize>();
        self.insert.body.len() + parts
    }

    /// The changes that give the parked copy its parts.
    fn steps(&self) -> u64 {
        let others = self.result.is_some() || self.barrier.is_some() || !self.more_keys.is_empty();
        (self.attempts.len() as u64).max(u64::from(others))
    }

    /// The head of the parked copy, so many versions before its own. A task has had a change for each of its parts, so
    /// there are as many.
    fn parked(&self, before: u64) -> Head {
        let version = self.head.version.saturating_sub(before);
        let expires = if self.head.state == State::Blocked { self.head.expires } else { Millis(0) };
        Head { version, state: State::Blocked, deadline: Millis(0), expires, seq: 0, ..self.head.clone() }
    }

    /// The changes themselves, of the copy with this order of acceptance.
    fn commits(&self, seq: u64) -> Vec<Commit> {
        let steps = self.steps();
        let step = |n: u64| {
            let head = |before| Head { seq, ..self.parked(before) };
            let last = n + 1 == steps;
            let mut effects = Vec::new();
            if last {
                effects.extend(self.more_keys.iter().cloned().map(Effect::TakeKey));
                if let Some(barrier) = &self.barrier {
                    effects.push(Effect::Barrier { members: barrier.members });
                    let arrive = |index: &u32| Effect::Arrive { barrier: self.insert.key.clone(), index: *index };
                    effects.extend(barrier.arrived.iter().map(arrive));
                }
            }
            let was = head(steps + 1 - n);
            Commit {
                result: self.result.clone().filter(|_| last).map(Some),
                attempt: self.attempts.get(n as usize).cloned(),
                effects,
                ..change(self.insert.key.clone(), was, Some(head(steps - n)), self.queue())
            }
        };
        (0..steps).map(step).collect()
    }

    fn queue(&self) -> Arc<str> {
        self.insert.lane.queue.as_str().into()
    }
}

/// Carries items of one partition to another.
async fn carry(this: &Move<'_>, from: Partition, to: Partition, items: Vec<Item>) -> Result<Vec<(TaskKey, State, Outcome)>> {
    let mut done = Vec::with_capacity(items.len());
    let mut end = |item: &Item, outcome| done.push((item.insert.key.clone(), item.head.state, outcome));

    let mut going = Vec::with_capacity(items.len());
    for item in items {
        if let Some(slot) = item.away {
            let entry = loose::residence(&item.insert.key, slot, item.head.created);
            if let Some(other) = directory::enter(this.to, entry, None).await?
                && directory::Residence::read(&other).is_none_or(|other| other.slot != slot)
            {
                end(&item, Outcome::Refused("another task of its id is entered in the directory".into()));
                continue;
            }
        }
        going.push(item);
    }
    let inserts = going.iter().map(|item| item.insert.clone()).collect();
    let answers = this.to.insert(to, inserts, Mode::Each).await?;
    let mut parked = Vec::with_capacity(going.len());
    let mut arrived = Vec::new();
    for (item, answer) in going.into_iter().zip(answers) {
        match answer {
            Inserted::Ok { seq } => parked.push((item, seq)),
            // An earlier run has moved it, and the destination has gone on with it.
            Inserted::Exists(there) if there.created == item.head.created && there.version >= item.head.version => {
                arrived.push(item);
            }
            Inserted::Exists(there) if is_parked(&there, &item.head) => {
                end(&item, Outcome::Refused("another run is moving it".into()));
            }
            Inserted::Exists(_) => end(&item, Outcome::Refused("the destination has another task of this id".into())),
            Inserted::Conflict { kind, entry, .. } => {
                end(&item, Outcome::Refused(format!("its {kind:?} key belongs to {} in the destination", entry.task.id)));
            }
            Inserted::Late | Inserted::Aborted => return Err(Error::Corrupt(format!("an insert was answered {answer:?}"))),
        }
    }

    let commits = parked.iter().flat_map(|(item, seq)| item.commits(*seq)).collect();
    let answers = send(this.to, to, commits).await?;
    let mut answers = answers.into_iter();
    let mut whole = Vec::with_capacity(parked.len());
    let mut undo = Vec::new();
    for (item, seq) in parked {
        let bad = answers.by_ref().take(item.steps() as usize).find(|answer| *answer != Committed::Ok);
        match bad {
            None => whole.push((item, seq)),
            Some(answer) => {
                end(&item, Outcome::Refused(format!("its parts cannot be stored: {answer:?}")));
                undo.push((item, seq));
            }
        }
    }

    let whole_then = whole.iter().map(|(item, _)| item).chain(&arrived);
    let deletes = whole_then.map(|item| change(item.insert.key.clone(), item.head.clone(), None, item.queue())).collect();
    let mut answers = send(this.from, from, deletes).await?.into_iter();
    let mut own = Vec::with_capacity(whole.len());
    for (item, seq) in whole {
        if answers.next() == Some(Committed::Ok) {
            let head = Head { seq, ..item.head.clone() };
            own.push(change(item.insert.key.clone(), Head { seq, ..item.parked(1) }, Some(head), item.queue()));
            end(&item, Outcome::Moved);
        } else {
            end(&item, Outcome::Refused("it was changed in the source meanwhile".into()));
            undo.push((item, seq));
        }
    }
    for item in &arrived {
        end(item, Outcome::There);
    }
    // Refused as stale: somebody has called it off, or the last child has ended, which is the change that was due.
    send(this.to, to, own).await?;
    if !undo.is_empty() {
        let keys: Vec<TaskKey> = undo.iter().map(|(item, _)| item.insert.key.clone()).collect();
        let heads = this.to.heads(to, &keys).await?;
        let copies = undo.into_iter().zip(heads).filter_map(|((item, _), head)| {
            let copy = head.filter(|head| is_parked(head, &item.head))?;
            Some(change(item.insert.key.clone(), copy, None, item.queue()))
        });
        send(this.to, to, copies.collect()).await?;
    }
    Ok(done)
}
