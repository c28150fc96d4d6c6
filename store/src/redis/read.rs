//! The reads of single records and of whole hashes.

use std::collections::BTreeMap;

use bytes::Bytes;
use lovage_core::{Head, Ns, TaskKey};
use redis::Value;

use super::keys::{KeyPlace, PartitionKeys};
use super::link::{Kind, Link};
use super::pack::{read_head, read_key_entry};
use super::plan::read_count_field;
use super::script::GET;
use super::value;
use crate::{Error, KeyEntry, KeyKind, Parts, QueueCounts, Result, Stored};

/// Keys of one read; longer lists take several.
pub(super) const CHUNK: usize = 500;

pub(super) async fn heads(link: &Link, names: &PartitionKeys, keys: &[TaskKey]) -> Result<Vec<Option<Head>>> {
    let mut out = Vec::with_capacity(keys.len());
    for chunk in keys.chunks(CHUNK) {
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(names.heads());
        for key in chunk {
            cmd.arg(&key.to_bytes()[..]);
        }
        for head in value::list(link.send(Kind::Read, &cmd).await?)? {
            out.push(value::bytes(head)?.map(|head| read_head(&head)).transpose()?);
        }
    }
    Ok(out)
}

pub(super) fn bodies_command(names: &PartitionKeys, keys: &[TaskKey]) -> redis::Cmd {
    let mut cmd = redis::cmd("MGET");
    for key in keys {
        cmd.arg(names.body(&key.to_bytes()));
    }
    cmd
}

pub(super) fn read_bodies(answer: Value) -> Result<Vec<Option<Bytes>>> {
    value::list(answer)?.into_iter().map(|body| Ok(value::bytes(body)?.map(Bytes::from))).collect()
}

pub(super) async fn bodies(link: &Link, names: &PartitionKeys, keys: &[TaskKey]) -> Result<Vec<Option<Bytes>>> {
    let mut out = Vec::with_capacity(keys.len());
    for chunk in keys.chunks(CHUNK) {
        out.extend(read_bodies(link.send(Kind::Read, &bodies_command(names, chunk)).await?)?);
    }
    Ok(out)
}

pub(super) async fn get(link: &Link, names: &PartitionKeys, key: &TaskKey, parts: Parts) -> Result<Option<Stored>> {
    let id = key.to_bytes();
    let keys = [names.heads().to_vec(), names.body(&id), names.result(&id), names.attempts(&id)];
    let mut cmd = GET.call(keys.iter());
    cmd.arg(&id[..]).arg(u8::from(parts.body)).arg(u8::from(parts.result)).arg(u8::from(parts.attempts));
    let answer = link.run(Kind::Read, &GET, cmd, None).await?.pop().unwrap_or_default();
    if answer == Value::Nil {
        return Ok(None);
    }
    let [head, body, result, attempts] = value::exactly(answer)?;
    let attempts = value::list(attempts)?.into_iter().map(|entry| Ok(Bytes::from(value::bytes(entry)?.unwrap_or_default())));
    Ok(Some(Stored {
        head: read_head(&value::bytes(head)?.unwrap_or_default())?,
        body: value::bytes(body)?.map(Bytes::from),
        result: value::bytes(result)?.map(Bytes::from),
        attempts: attempts.collect::<Result<_>>()?,
    }))
}

pub(super) async fn lookup(link: &Link, names: &PartitionKeys, ns: Ns, kind: KeyKind, key: &[u8]) -> Result<Option<KeyEntry>> {
    let mut cmd;
    match names.key(ns, kind, key) {
        KeyPlace::Own(name) => {
            cmd = redis::cmd("GET");
            cmd.arg(name);
        }
        KeyPlace::Held(field) => {
            cmd = redis::cmd("HGET");
            cmd.arg(names.holds()).arg(field);
        }
    }
    value::bytes(link.send(Kind::Read, &cmd).await?)?.map(|entry| read_key_entry(&entry)).transpose()
}

pub(super) async fn counts(link: &Link, names: &PartitionKeys) -> Result<Vec<QueueCounts>> {
    let mut cmd = redis::cmd("HGETALL");
    cmd.arg(names.counts());
    let mut found: BTreeMap<(Ns, String), [u64; 9]> = BTreeMap::new();
    for (field, count) in value::pairs(link.send(Kind::Read, &cmd).await?)? {
        let field = value::bytes(field)?.unwrap_or_default();
        let (ns, state, queue) =
            read_count_field(&field).ok_or_else(|| Error::Corrupt("a stored count cannot be read".into()))?;
        let count = value::number(count)?;
        if count > 0 {
            found.entry((ns, queue.to_owned())).or_default()[state as usize] = count;
        }
    }
    Ok(found.into_iter().map(|((ns, queue), states)| QueueCounts { ns, queue, states }).collect())
}
