//! Guarded changes: the arguments of `change.lua` for claims and commits.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use lovage_core::{Head, LaneDef, LaneId, SessionId, State, TaskKey};
use redis::{Cmd, Value};

use super::keys::PartitionKeys;
use super::link::{Kind, Link};
use super::pack::{Packer, feed_prefix, pack_lane, push_row, read_head};
use super::plan::Plan;
use super::script::{CHANGE, Call};
use super::value;
use super::{general, insert};
use crate::{Claim, Commit, Committed, Effect, Insert, Mode, OwnToken, Result};

/// A change as the script sees it; claims have none of the optional parts.
struct Change<'a> {
    key: &'a TaskKey,
    was: &'a Head,
    head: Option<&'a Head>,
    queue: &'a Arc<str>,
    parts: Option<&'a Commit>,
}

/// Builds the call that moves `items` to running as the holder of `own`.
pub(super) fn claim(names: &PartitionKeys, own: &OwnToken, source: SessionId, items: &[Claim]) -> Result<Call> {
    let changes: Vec<_> = items
        .iter()
        .map(|item| Change { key: &item.key, was: &item.was, head: Some(&item.head), queue: &item.queue, parts: None })
        .collect();
    call(names, &own.0, source, &changes, Mode::Each)
}

/// Builds the call that commits `items`.
pub(super) fn commit(names: &PartitionKeys, source: SessionId, items: &[Commit], mode: Mode) -> Result<Call> {
    let changes: Vec<_> = items
        .iter()
        .map(|item| Change { key: &item.key, was: &item.was, head: item.head.as_ref(), queue: &item.queue, parts: Some(item) })
        .collect();
    call(names, "", source, &changes, mode)
}

fn call(names: &PartitionKeys, own: &str, source: SessionId, items: &[Change<'_>], mode: Mode) -> Result<Call> {
    let ids: Vec<_> = items.iter().map(|item| item.key.to_bytes()).collect();
    let heads: Vec<_> = items.iter().map(|item| item.head.map(Head::pack)).collect();
    let waves = waves(items);
    let repeats = waves.iter().any(|wave| *wave > 0);

    let mut rows = feed_prefix(source);
    for (id, head) in ids.iter().zip(&heads) {
        push_row(&mut rows, id, head.as_ref().map(|head| &head[..]));
    }
    let mut args = vec![Bytes::new(), rows.into()];
    let mut out = Packer::with_capacity(items.len() * 192);
    out.array(13).bytes(own.as_bytes());
    out.array(ids.len());
    for id in &ids {
        out.bytes(id);
    }
    out.array(ids.len());
    for item in items {
        out.bytes(&item.was.pack());
    }
    out.array(ids.len());
    for head in &heads {
        out.bytes(head.as_ref().map_or(&[][..], |head| &head[..]));
    }
    out.number(u64::from(mode == Mode::Atomic)).number(u64::from(repeats));

    let mut plan = Plan::new(names);
    let mut left: Vec<(LaneId, Vec<u8>)> = Vec::new();
    let mut entered: Vec<(LaneId, &LaneDef, Vec<u8>)> = Vec::new();
    let mut runs = Runs { list: Vec::new(), ordered: repeats };
    let mut children: Vec<&Insert> = Vec::new();
    let mut parents = Vec::new();
    for (i, (item, wave)) in (1u8..).zip(items.iter().zip(&waves)) {
        plan.moved(i, *wave, Some(item.was), item.head);
        let moved = item.parts.and_then(Commit::moves_to);
        let queues = (&**item.queue, moved.map_or(&**item.queue, |lane| &lane.queue));
        plan.counted(i, item.key.ns, queues, Some(item.was), item.head);
        let id = &ids[usize::from(i) - 1];
        if item.head.is_none() || moved.is_some() {
            match left.iter_mut().find(|(lane, _)| *lane == item.was.lane) {
                Some((_, list)) => list.push(i),
                None => left.push((item.was.lane, vec![i])),
            }
        }
        if let Some(lane) = moved {
            let id = lane.id();
            match entered.iter_mut().find(|(known, _, _)| *known == id) {
                Some((_, _, list)) => list.push(i),
                None => entered.push((id, lane, vec![i])),
            }
        }
        if item.head.is_none() {
            for name in [names.body(id), names.result(id), names.attempts(id)] {
                runs.push("DEL", i, plan.key(name), 0);
            }
        }
        if item.was.state == State::Blocked && item.head.is_none_or(|head| head.state != State::Blocked) {
            runs.push("DEL", i, plan.key(names.barrier(id)), 0);
        }
        let Some(parts) = item.parts else { continue };
        if item.head.is_some() {
            let mut put = |command, name, bytes: &Bytes| {
                args.push(bytes.clone());
                runs.push(command, i, plan.key(name), args.len());
            };
            if let Some(body) = &parts.body {
                put("MSET", names.body(id), body);
            }
            if let Some(Some(result)) = &parts.result {
                put("MSET", names.result(id), result);
            }
            if let Some(attempt) = &parts.attempt {
                put("RPUSH", names.attempts(id), attempt);
            }
            if let Some(None) = &parts.result {
                runs.push("DEL", i, plan.key(names.result(id)), 0);
            }
        }
        for effect in &parts.effects {
            // All others go through the general script.
            if let Effect::Spawn(child) = effect {
                children.push(child);
                parents.push(i);
            }
        }
    }
    plan.write(&mut out);
    out.array(left.len());
    for (lane, list) in &left {
        out.array(2).bytes(&lane.0.to_be_bytes()).bytes(list);
    }
    runs.write(&mut out);
    out.bytes(&parents);
    let mut keys = plan.keys;
    if children.is_empty() {
        out.nothing();
    } else {
        let mut spawned = Plan::behind(names, keys.len());
        insert::store(&mut spawned, &mut out, &mut args, &children)?;
        keys.append(&mut spawned.keys);
    }
    out.array(entered.len());
    for (lane, definition, list) in &entered {
        out.array(3).bytes(&lane.0.to_be_bytes()).bytes(&pack_lane(definition)?).bytes(list);
    }
    args[0] = out.finish().into();
    Ok(Call { script: &CHANGE, keys, args })
}

/// How many changes of the same task come before each one.
fn waves(items: &[Change<'_>]) -> Vec<u8> {
    let mut seen: HashMap<&TaskKey, u8> = HashMap::with_capacity(items.len());
    let mut waves = Vec::with_capacity(items.len());
    for item in items {
        let count = seen.entry(item.key).or_default();
        waves.push(*count);
        *count += 1;
    }
    waves
}

/// An item, the place of its key, the place of its argument.
type Write = (u8, usize, usize);

/// Writes of single keys, gathered by command; in the order of the items where that matters.
struct Runs {
    list: Vec<(&'static str, Vec<Write>)>,
    ordered: bool,
}

impl Runs {
    fn push(&mut self, command: &'static str, item: u8, key: usize, arg: usize) {
        let last = self.list.len().saturating_sub(1);
        let open = self.list.iter_mut().enumerate().find(|(i, (known, _))| *known == command && (!self.ordered || *i == last));
        match open {
            Some((_, (_, list))) => list.push((item, key, arg)),
            None => self.list.push((command, vec![(item, key, arg)])),
        }
    }

    fn write(&self, out: &mut Packer) {
        out.array(self.list.len());
        for (command, list) in &self.list {
            out.array(2).bytes(command.as_bytes()).array(list.len() * 3);
            for (item, key, arg) in list {
                out.number(u64::from(*item)).number(*key as u64).number(*arg as u64);
            }
        }
    }
}

/// Sends a call about `count` items, and `more` in the same go, whose answer comes second.
pub(super) async fn apply(
    link: &Link,
    names: &PartitionKeys,
    call: &Call,
    count: usize,
    more: Option<Cmd>,
) -> Result<(Vec<Committed>, Value)> {
    let mut answers = link.run(Kind::Write, call.script, call.command(&names.fixed), more).await?.into_iter();
    Ok((read(answers.next().unwrap_or_default(), count)?, answers.next().unwrap_or_default()))
}

/// Reads the script's answer about `count` items.
fn read(answer: Value, count: usize) -> Result<Vec<Committed>> {
    if answer == Value::Int(1) {
        return Ok(vec![Committed::Ok; count]);
    }
    let one = |answer| match answer {
        Value::Int(1) => Ok(Committed::Ok),
        Value::Int(2) => Ok(Committed::Stale(None)),
        Value::Int(3) => Ok(Committed::Aborted),
        Value::Array(conflict) => general::read_conflict(conflict),
        other => Ok(Committed::Stale(value::bytes(other)?.map(|head| read_head(&head)).transpose()?)),
    };
    value::list(answer)?.into_iter().map(one).collect()
}
