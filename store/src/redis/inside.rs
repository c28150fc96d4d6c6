//! What a move reads of the Redis store.

use async_trait::async_trait;
use bytes::Bytes;
use lovage_core::{LaneDef, Partition, TaskKey};
use redis::Value;

use super::link::Kind;
use super::pack::{read_key, read_key_entry, read_kind};
use super::{Part, RedisStore, value};
use crate::moving::{Barrier, Belongings, Inside, KeyPage, set_bits};
use crate::{Cursor, Error, Footprint, KeyEntry, KeyKind, Result};

#[async_trait]
impl Inside for RedisStore {
    async fn belongings(&self, p: Partition, keys: &[TaskKey]) -> Result<Vec<Option<Belongings>>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let part = self.part(p, 0)?;
        let names = &part.names;
        let ids: Vec<_> = keys.iter().map(TaskKey::to_bytes).collect();
        let heads = super::read::heads(&part.link, names, keys).await?;
        let mut pipe = redis::pipe();
        for (hash, prefix) in [(names.roots(), &b""[..]), (names.holds(), b"t")] {
            pipe.cmd("HMGET").arg(hash);
            for id in &ids {
                pipe.arg([prefix, &id[..]].concat());
            }
        }
        pipe.cmd("HMGET").arg(names.lanes());
        for head in &heads {
            pipe.arg(&head.as_ref().map_or(0, |head| head.lane.0).to_be_bytes());
        }
        pipe.cmd("MGET");
        for id in &ids {
            pipe.arg(names.barrier(id));
        }
        let [roots, held, lanes, barriers] = value::exactly(Value::Array(part.link.send_all(Kind::Read, &pipe).await?))?;
        let (mut roots, mut held) = (value::list(roots)?.into_iter(), value::list(held)?.into_iter());
        let (mut lanes, mut barriers) = (value::list(lanes)?.into_iter(), value::list(barriers)?.into_iter());
        let mut out = Vec::with_capacity(keys.len());
        for (key, head) in keys.iter().zip(heads) {
            let mut next =
                [&mut roots, &mut held, &mut lanes, &mut barriers].map(|list| list.next().unwrap_or_default()).into_iter();
            let mut bytes = || value::bytes(next.next().unwrap_or_default());
            let (root, held, lane, barrier) = (bytes()?, bytes()?, bytes()?, bytes()?);
            if head.is_none() {
                out.push(None);
                continue;
            }
            // The length of the root's key, then the key.
            let root = root.map(|root| read_key(root.get(1..).unwrap_or_default())).transpose()?;
            let keys = self.held(part, key, &held.unwrap_or_default()).await?;
            let barrier = barrier.map(|bytes| read_barrier(&bytes)).transpose()?;
            out.push(Some(Belongings { lane: read_lane(&lane.unwrap_or_default())?, root, keys, barrier }));
        }
        Ok(out)
    }

    async fn loose_keys(&self, p: Partition, from: Cursor, limit: usize) -> Result<KeyPage> {
        let part = self.part(p, 0)?;
        let names = &part.names;
        let cursor = if from.0.is_empty() { b"0".to_vec() } else { from.0 };
        let prefix = names.loose();
        let mut pattern = Vec::new();
        for byte in &prefix {
            // The prefix of the store may hold what patterns give a meaning.
            if b"*?[]\\^-".contains(byte) {
                pattern.push(b'\\');
            }
            pattern.push(*byte);
        }
        pattern.push(b'*');
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(limit * 10).arg("TYPE").arg("string");
        let [next, found] = value::exactly(part.link.send(Kind::Read, &scan).await?)?;
        let next = value::bytes(next)?.filter(|next| next != b"0").map(Cursor);
        let found: Vec<_> =
            value::list(found)?.into_iter().map(|name| Ok(value::bytes(name)?.unwrap_or_default())).collect::<Result<_>>()?;
        if found.is_empty() {
            return Ok(KeyPage { items: Vec::new(), next });
        }
        let mut get = redis::cmd("MGET");
        for name in &found {
            get.arg(name);
        }
        let mut items = Vec::with_capacity(found.len());
        for (name, entry) in found.iter().zip(value::list(part.link.send(Kind::Read, &get).await?)?) {
            // One that has ended in between is gone.
            let Some(entry) = value::bytes(entry)? else { continue };
            let (kind, key) = names.read_loose(name).ok_or_else(|| Error::Corrupt("the name of a key cannot be read".into()))?;
            items.push((read_kind(kind)?, Bytes::copy_from_slice(key), read_key_entry(&entry)?));
        }
        Ok(KeyPage { items, next })
    }

    async fn footprint(&self) -> Result<Footprint> {
        self.weigh().await
    }
}

impl RedisStore {
    /// The keys in this list of fields that are still the task's.
    async fn held(&self, part: &Part, task: &TaskKey, list: &[u8]) -> Result<Vec<(KeyKind, Bytes, KeyEntry)>> {
        let mut fields: Vec<&[u8]> = Vec::new();
        let mut rest = list;
        while let Some((len, tail)) = rest.split_first_chunk() {
            let (field, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*len))).unwrap_or_default();
            rest = tail;
            if !fields.contains(&field) {
                fields.push(field);
            }
        }
        if fields.is_empty() {
            return Ok(Vec::new());
        }
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(part.names.holds());
        for field in &fields {
            cmd.arg(*field);
        }
        let mut keys = Vec::new();
        for (field, entry) in fields.iter().zip(value::list(part.link.send(Kind::Read, &cmd).await?)?) {
            let Some(entry) = value::bytes(entry)?.map(|entry| read_key_entry(&entry)).transpose()? else { continue };
            // The kind, the namespace, the name.
            let kind = field.first().copied().unwrap_or_default();
            if entry.task == *task {
                keys.push((read_kind(kind)?, Bytes::copy_from_slice(field.get(5..).unwrap_or_default()), entry));
            }
        }
        Ok(keys)
    }
}

fn read_lane(bytes: &[u8]) -> Result<LaneDef> {
    rmp_serde::from_slice(bytes).map_err(|_| Error::Corrupt("a stored lane cannot be read".into()))
}

/// Reads `[members u32][arrived u32][one bit for each member]`.
fn read_barrier(bytes: &[u8]) -> Result<Barrier> {
    let bad = || Error::Corrupt("a stored barrier cannot be read".into());
    let members = u32::from_be_bytes(*bytes.first_chunk().ok_or_else(bad)?);
    Ok(Barrier { members, arrived: set_bits(bytes.get(8..).ok_or_else(bad)?, false).collect() })
}
