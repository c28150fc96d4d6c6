//! Lanes: their definitions are a hash, their tasks a sorted set each.

use lovage_core::{LaneDef, LaneId};
use redis::Value;

use super::keys::PartitionKeys;
use super::link::{Kind, Link};
use super::pages::{Walk, walk};
use super::read::CHUNK;
use super::value;
use crate::{Cursor, Error, LanePage, Result};

/// A page of the lanes that hold tasks. A definition outlives its lane's tasks while records of them are kept, so empty lanes are
/// left out, and a page may be short.
pub(super) async fn page(link: &Link, names: &PartitionKeys, from: Cursor, limit: usize) -> Result<LanePage> {
    let limit = limit.clamp(1, CHUNK);
    let mut step = Walk::read(&from)?;
    let mut cmd = redis::cmd("HSCAN");
    cmd.arg(names.lanes()).arg(step.cursor).arg("COUNT").arg(limit);
    let (next, found) = walk(link, &cmd).await?;
    let (lanes, cut) = step.cut(value::pairs(Value::Array(found))?, |(lane, definition)| read(lane, definition), limit)?;
    let ids: Vec<_> = lanes.iter().map(|(lane, _)| *lane).collect();
    let sizes = sizes(link, names, &ids).await?;
    let items = lanes.into_iter().zip(sizes).filter_map(|(lane, size)| (size > 0).then_some(lane));
    Ok(LanePage { items: items.collect(), next: step.next(cut, next) })
}

/// The definitions of these lanes.
pub(super) async fn definitions(link: &Link, names: &PartitionKeys, lanes: &[LaneId]) -> Result<Vec<Option<LaneDef>>> {
    let mut out = Vec::with_capacity(lanes.len());
    for chunk in lanes.chunks(CHUNK) {
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(names.lanes());
        for lane in chunk {
            cmd.arg(&lane.0.to_be_bytes());
        }
        for definition in value::list(link.send(Kind::Read, &cmd).await?)? {
            out.push(value::bytes(definition)?.map(|bytes| decode(&bytes)).transpose()?);
        }
    }
    Ok(out)
}

/// How many tasks these lanes hold.
pub(super) async fn sizes(link: &Link, names: &PartitionKeys, lanes: &[LaneId]) -> Result<Vec<u64>> {
    let mut out = Vec::with_capacity(lanes.len());
    for chunk in lanes.chunks(CHUNK) {
        let mut pipe = redis::pipe();
        for lane in chunk {
            pipe.cmd("ZCARD").arg(names.lane(*lane));
        }
        for size in link.send_all(Kind::Read, &pipe).await? {
            out.push(value::number(size)?);
        }
    }
    Ok(out)
}

fn read(lane: Value, definition: Value) -> Result<(LaneId, LaneDef)> {
    let lane = value::bytes(lane)?.and_then(|lane| lane.try_into().ok()).map(u64::from_be_bytes).ok_or_else(unreadable)?;
    Ok((LaneId(lane), decode(&value::bytes(definition)?.unwrap_or_default())?))
}

fn decode(definition: &[u8]) -> Result<LaneDef> {
    rmp_serde::from_slice(definition).map_err(|_| unreadable())
}

fn unreadable() -> Error {
    Error::Corrupt("a stored lane cannot be read".into())
}
