//! Guarded changes with effects that depend on what is stored: the arguments of `general.lua`; and keys taken alone.
//!
//! `change.lua` gathers the writes of all items into one command for each index. That needs all guards to be known before,
//! so whatever makes a later item depend on an earlier one comes here and is carried out item by item.

use bytes::Bytes;
use lovage_core::head::SEQ_OFFSET;
use lovage_core::{Head, Millis, Placement, SessionId, State, placement};
use redis::Value;

use super::MAX_BATCH;
use super::insert;
use super::keys::{KeyPlace, PartitionKeys};
use super::link::{Kind, Link};
use super::pack::{Packer, expiry, feed_prefix, pack_key, pack_lane, read_key_entry, read_kind};
use super::plan::Plan;
use super::script::{Call, GENERAL, KEY};
use super::value;
use crate::{Commit, Committed, Effect, Insert, KeyEntry, KeyTake, Mode, OnExists, Result};

/// Whether commits have effects that `change.lua` does not know, or spawn more tasks than it can number.
pub(super) fn is_needed(items: &[Commit]) -> bool {
    let mut spawned = 0;
    items.iter().flat_map(|item| &item.effects).any(|effect| match effect {
        Effect::Spawn(child) => {
            spawned += 1;
            spawned > MAX_BATCH || child.exists != OnExists::Generated || !child.keys.is_empty()
        }
        Effect::Barrier { .. } | Effect::Arrive { .. } | Effect::TakeKey(_) | Effect::FreeKey { .. } | Effect::Send { .. } => {
            true
        }
    })
}

/// Builds the call that commits `items`, some of which have such effects.
pub(super) fn commit(names: &PartitionKeys, now: Millis, source: SessionId, items: &[Commit], mode: Mode) -> Result<Call> {
    let mut call = General { names, keys: Vec::new(), args: vec![Bytes::new(), feed_prefix(source).into()] };
    let mut out = Packer::with_capacity(items.len() * 512);
    out.array(3).number(now.0).number(u64::from(mode == Mode::Atomic)).array(items.len());
    for item in items {
        call.item(&mut out, item)?;
    }
    call.args[0] = out.finish().into();
    Ok(Call { script: &GENERAL, keys: call.keys, args: call.args })
}

struct General<'a> {
    names: &'a PartitionKeys,
    keys: Vec<Vec<u8>>,
    args: Vec<Bytes>,
}

impl General<'_> {
    fn item(&mut self, out: &mut Packer, item: &Commit) -> Result<()> {
        let id = item.key.to_bytes();
        out.array(11).bytes(&id).bytes(&item.was.pack());
        out.bytes(item.head.as_ref().map(Head::pack).as_ref().map_or(&[][..], |head| &head[..]));

        let mut plan = Plan::behind(self.names, self.keys.len());
        plan.moved(1, 0, Some(&item.was), item.head.as_ref());
        let moved = item.moves_to();
        let queues = (&*item.queue, moved.map_or(&*item.queue, |lane| &lane.queue));
        plan.counted(1, item.key.ns, queues, Some(&item.was), item.head.as_ref());
        plan.write_alone(out);
        self.keys.append(&mut plan.keys);

        let writes = self.writes(item, &id);
        out.array(writes.len() * 3);
        for (command, key, arg) in writes {
            out.bytes(command.as_bytes()).number(key as u64).number(arg as u64);
        }
        let left = if item.head.is_none() || moved.is_some() { &item.was.lane.0.to_be_bytes()[..] } else { &[] };
        out.bytes(left);
        let blocked = item.head.as_ref().is_some_and(|head| head.state == State::Blocked);
        let leaves = item.was.state == State::Blocked && !blocked;
        out.number(if leaves { self.key(self.names.barrier(&id)) as u64 } else { 0 });

        // A barrier is for a task that is blocked now; the script need not hear of another.
        let effects: Vec<_> = item.effects.iter().filter(|effect| blocked || !matches!(effect, Effect::Barrier { .. })).collect();
        out.array(effects.len());
        effects.into_iter().try_for_each(|effect| self.effect(out, item, &id, effect))?;
        match moved {
            Some(lane) => out.bytes(&lane.id().0.to_be_bytes()).bytes(&pack_lane(lane)?),
            None => out.bytes(&[]).bytes(&[]),
        };
        Ok(())
    }

    /// The parts of a record as `(command, key, argument or 0)`.
    fn writes(&mut self, item: &Commit, id: &[u8]) -> Vec<(&'static str, usize, usize)> {
        let names = self.names;
        if item.head.is_none() {
            let parts = [names.body(id), names.result(id), names.attempts(id)];
            return parts.into_iter().map(|name| ("DEL", self.key(name), 0)).collect();
        }
        let mut writes = Vec::new();
        if let Some(body) = &item.body {
            writes.push(("SET", self.key(names.body(id)), self.arg(body)));
        }
        match &item.result {
            Some(Some(result)) => writes.push(("SET", self.key(names.result(id)), self.arg(result))),
            Some(None) => writes.push(("DEL", self.key(names.result(id)), 0)),
            None => {}
        }
        if let Some(attempt) = &item.attempt {
            writes.push(("RPUSH", self.key(names.attempts(id)), self.arg(attempt)));
        }
        writes
    }

    fn effect(&mut self, out: &mut Packer, item: &Commit, id: &[u8], effect: &Effect) -> Result<()> {
        match effect {
            Effect::Barrier { members } => {
                let key = self.key(self.names.barrier(id));
                out.array(3).bytes(b"B").number(key as u64).number(u64::from(*members));
            }
            Effect::Arrive { barrier, index } => {
                let waiting = barrier.to_bytes();
                let key = self.key(self.names.barrier(&waiting));
                out.array(4).bytes(b"A").number(key as u64).bytes(&waiting).number(u64::from(*index));
            }
            Effect::FreeKey { kind, key } => {
                out.array(3).bytes(b"F");
                match self.names.key(item.key.ns, *kind, key) {
                    KeyPlace::Own(name) => out.number(self.key(name) as u64).bytes(&[]),
                    KeyPlace::Held(field) => out.number(0).bytes(&field),
                };
            }
            Effect::TakeKey(put) => {
                out.array(2).bytes(b"T");
                let mut plan = Plan::behind(self.names, self.keys.len());
                insert::put(&mut plan, out, &item.key, put);
                self.keys.append(&mut plan.keys);
            }
            Effect::Send { to, message } => {
                let (key, arg) = (self.key(self.names.outbox()), self.arg(&message.encode(*to)));
                out.array(3).bytes(b"O").number(key as u64).number(arg as u64);
            }
            Effect::Spawn(child) => {
                out.array(2).bytes(b"S");
                self.child(out, child)?;
            }
        }
        Ok(())
    }

    fn child(&mut self, out: &mut Packer, child: &Insert) -> Result<()> {
        let (id, head) = (child.key.to_bytes(), child.head.pack());
        out.array(14).bytes(&id).bytes(&head[..SEQ_OFFSET]).bytes(&head[SEQ_OFFSET + 8..]);
        out.number(u64::from(child.exists != OnExists::Generated));
        let (body, arg) = (self.key(self.names.body(&id)), self.arg(&child.body));
        out.number(body as u64).number(arg as u64);

        let mut plan = Plan::behind(self.names, self.keys.len());
        match placement(&child.head) {
            Placement { lane: Some((lane, _)), .. } => {
                out.number(plan.lane(lane) as u64).number(Head { seq: 0, ..child.head.clone() }.score().0);
            }
            _ => drop(out.number(0).number(0)),
        }
        plan.moved(1, 0, None, Some(&child.head));
        plan.counted(1, child.key.ns, (&child.lane.queue, &child.lane.queue), None, Some(&child.head));
        plan.write_alone(out);
        out.bytes(&child.head.lane.0.to_be_bytes()).bytes(&pack_lane(&child.lane)?);
        out.bytes(&child.root.as_ref().map(super::keys::root_prefix).unwrap_or_default());
        insert::puts(&mut plan, out, child);
        self.keys.append(&mut plan.keys);
        Ok(())
    }

    fn key(&mut self, name: Vec<u8>) -> usize {
        let mut plan = Plan::behind(self.names, self.keys.len());
        let place = plan.key(name);
        self.keys.append(&mut plan.keys);
        place
    }

    fn arg(&mut self, bytes: &Bytes) -> usize {
        self.args.push(bytes.clone());
        self.args.len()
    }
}

/// Reads the refusal of an item whose spawned task cannot have a key.
pub(super) fn read_conflict(answer: Vec<Value>) -> Result<Committed> {
    let [_, kind, entry] = value::exactly(Value::Array(answer))?;
    let kind = value::bytes(kind)?.and_then(|kind| kind.first().copied()).unwrap_or_default();
    Ok(Committed::Conflict { kind: read_kind(kind)?, entry: read_key_entry(&value::bytes(entry)?.unwrap_or_default())? })
}

/// Takes a key alone, or answers the entry that is in the way.
pub(super) async fn put_key(link: &Link, names: &PartitionKeys, now: Millis, take: &KeyTake) -> Result<Option<KeyEntry>> {
    let (KeyPlace::Own(name) | KeyPlace::Held(name)) = names.key(take.entry.task.ns, take.kind, &take.key);
    let mut cmd = KEY.call(std::iter::once(&name));
    cmd.arg(pack_key(&take.entry)).arg(expiry(&take.entry));
    cmd.arg(take.seen.as_ref().map(pack_key).unwrap_or_default()).arg(now.0);
    let there = link.run(Kind::Write, &KEY, cmd, None).await?.pop().unwrap_or_default();
    value::bytes(there)?.map(|entry| read_key_entry(&entry)).transpose()
}
