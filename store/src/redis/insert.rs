//! Inserts: the arguments of `insert.lua`, and of the part of it that stores spawned tasks.

use bytes::Bytes;
use lovage_core::head::{HEAD_BYTES, SEQ_OFFSET};
use lovage_core::{Head, LaneDef, LaneId, Millis, Placement, SessionId, TaskKey, placement};
use redis::Value;

use super::keys::{KeyPlace, PartitionKeys};
use super::pack::{Packer, expiry, feed_prefix, pack_key, pack_lane, read_head, read_key_entry, read_kind};
use super::plan::Plan;
use super::script::{Call, INSERT};
use super::value;
use crate::{Error, Insert, Inserted, KeyPut, Mode, OnExists, Result};

/// Builds the call that stores `items`.
pub(super) fn call(names: &PartitionKeys, now: Millis, items: &[Insert], mode: Mode) -> Result<Call> {
    let mut plan = Plan::new(names);
    let mut args = vec![Bytes::new(), feed_prefix(SessionId(0)).into()];
    let mut out = Packer::with_capacity(items.len() * 256);
    out.array(6);
    let tasks: Vec<_> = items.iter().collect();
    store(&mut plan, &mut out, &mut args, &tasks)?;

    let numbers =
        |want: &dyn Fn(&Insert) -> bool| -> Vec<u8> { (1..).zip(items).filter(|(_, item)| want(item)).map(|(i, _)| i).collect() };
    out.bytes(&numbers(&|item| item.not_after.is_some_and(|limit| now > limit)));
    out.bytes(&numbers(&|item| item.exists == OnExists::Return));
    let keyed: Vec<_> = (1u64..).zip(items).filter(|(_, item)| !item.keys.is_empty()).collect();
    out.array(keyed.len());
    for (i, item) in keyed {
        out.array(2).number(i);
        puts(&mut plan, &mut out, item);
    }
    out.number(u64::from(mode == Mode::Atomic)).number(now.0);
    args[0] = out.finish().into();
    Ok(Call { script: &INSERT, keys: plan.keys, args })
}

/// Writes the keys that a new task takes, as `keys.lua` reads them.
pub(super) fn puts(plan: &mut Plan<'_>, out: &mut Packer, item: &Insert) {
    out.array(item.keys.len());
    for one in &item.keys {
        put(plan, out, &item.key, one);
    }
}

/// Writes a key that `task` takes.
pub(super) fn put(plan: &mut Plan<'_>, out: &mut Packer, task: &TaskKey, put: &KeyPut) {
    let entry = put.entry(task);
    out.array(7);
    match plan.names().key(task.ns, put.kind, &put.key) {
        KeyPlace::Own(name) => out.number(plan.key(name) as u64).bytes(&[]),
        KeyPlace::Held(field) => out.number(0).bytes(&field),
    };
    out.bytes(&pack_key(&entry)).number(expiry(&entry));
    match &put.steal {
        Some((from, version)) => out.bytes(&from.to_bytes()).bytes(&version.to_be_bytes()),
        None => out.bytes(&[]).bytes(&[]),
    };
    out.bytes(&[put.kind as u8]);
}

/// Writes what `store` in `lib.lua` needs; the bodies go to `args`.
pub(super) fn store(plan: &mut Plan<'_>, out: &mut Packer, args: &mut Vec<Bytes>, items: &[&Insert]) -> Result<()> {
    let ids: Vec<_> = items.iter().map(|item| item.key.to_bytes()).collect();
    let heads: Vec<_> = items.iter().map(|item| item.head.pack()).collect();
    out.array(10);
    out.array(ids.len());
    for id in &ids {
        out.bytes(id);
    }
    out.array(heads.len());
    for head in &heads {
        out.bytes(&head[..SEQ_OFFSET]);
    }
    out.array(heads.len());
    for head in &heads {
        out.bytes(&head[SEQ_OFFSET + 8..]);
    }

    let first_arg = args.len() + 1;
    args.extend(items.iter().map(|item| item.body.clone()));
    let mut first_key = 0;
    for (i, id) in ids.iter().enumerate() {
        let key = plan.key(plan.names().body(id));
        if i == 0 {
            first_key = key;
        }
    }
    out.number(first_key as u64).number(first_arg as u64);

    let mut waiting: Vec<(LaneId, u64, Vec<u8>)> = Vec::new();
    let mut definitions: Vec<(LaneId, &LaneDef, Vec<u8>)> = Vec::new();
    for (i, item) in (1u8..).zip(items) {
        let head = &item.head;
        plan.moved(i, 0, None, Some(head));
        plan.counted(i, item.key.ns, (&item.lane.queue, &item.lane.queue), None, Some(head));
        if let Placement { lane: Some((lane, _)), .. } = placement(head) {
            let base = Head { seq: 0, ..head.clone() }.score().0;
            match waiting.iter_mut().find(|(id, score, _)| (*id, *score) == (lane, base)) {
                Some((_, _, list)) => list.push(i),
                None => waiting.push((lane, base, vec![i])),
            }
        }
        match definitions.iter_mut().find(|(id, _, _)| *id == head.lane) {
            Some((_, _, list)) => list.push(i),
            None => definitions.push((head.lane, &item.lane, vec![i])),
        }
    }
    out.array(waiting.len());
    for (lane, base, list) in &waiting {
        let key = plan.lane(*lane);
        out.array(3).number(key as u64).bytes(list).number(*base);
    }
    plan.write(out);
    out.array(definitions.len());
    for (lane, definition, list) in &definitions {
        out.array(3).bytes(&lane.0.to_be_bytes()).bytes(&pack_lane(definition)?).bytes(list);
    }
    let roots: Vec<_> = (1u64..).zip(items).filter_map(|(i, item)| Some((i, item.root.as_ref()?))).collect();
    out.array(roots.len() * 2);
    for (i, root) in roots {
        out.number(i).bytes(&super::keys::root_prefix(root));
    }
    Ok(())
}

/// Reads the script's answer for `count` items.
pub(super) fn read(answer: Value, count: usize) -> Result<Vec<Inserted>> {
    if let Value::Int(first) = answer {
        return Ok((first as u64..).take(count).map(|seq| Inserted::Ok { seq }).collect());
    }
    value::list(answer)?.into_iter().map(read_one).collect()
}

fn read_one(answer: Value) -> Result<Inserted> {
    if let Value::Int(seq) = answer {
        return Ok(Inserted::Ok { seq: seq as u64 });
    }
    let bytes = value::bytes(answer)?.unwrap_or_default();
    match bytes.split_first() {
        Some((b'L', _)) => Ok(Inserted::Late),
        Some((b'A', _)) => Ok(Inserted::Aborted),
        Some((b'E', head)) => Ok(Inserted::Exists(read_head(head)?)),
        Some((b'C', conflict)) => read_conflict(conflict),
        _ => Err(unreadable()),
    }
}

/// Reads `[kind][head follows u8][head][entry]`.
fn read_conflict(bytes: &[u8]) -> Result<Inserted> {
    let ([kind, flag], rest) = bytes.split_first_chunk::<2>().ok_or_else(unreadable)?;
    let (head, entry) = rest.split_at_checked(if *flag == 0 { 0 } else { HEAD_BYTES }).ok_or_else(unreadable)?;
    let head = if *flag == 0 { None } else { Some(read_head(head)?) };
    Ok(Inserted::Conflict { kind: read_kind(*kind)?, entry: read_key_entry(entry)?, head })
}

fn unreadable() -> Error {
    Error::Corrupt("the answer to an insert cannot be read".into())
}
