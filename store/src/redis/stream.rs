//! Places in a feed as Redis keeps it: its end, what follows a place, and whether the place is still there.

use std::sync::Arc;

use redis::Value;

use super::link::{Kind, Link};
use super::{pack, value};
use crate::{Error, FeedBatch, FeedEntry, FeedPos, Result};

/// Entries of a stream in one reply.
pub(super) const PAGE: usize = 64;

/// An answer with these entries, which come after `at`.
pub(super) fn batch(entries: Vec<Arc<FeedEntry>>, at: FeedPos) -> FeedBatch {
    let next = entries.last().map_or(at, |entry| entry.pos);
    FeedBatch::Entries { entries, next }
}

/// The end of a stream; the very beginning if there is none.
pub(super) async fn tail(link: &Link, key: &[u8]) -> Result<FeedPos> {
    let mut cmd = redis::cmd("XREVRANGE");
    cmd.arg(key).arg("+").arg("-").arg("COUNT").arg(1);
    let last = value::list(link.send(Kind::Read, &cmd).await?)?.into_iter().next();
    last.map_or(Ok(FeedPos::default()), |entry| Ok(read_entry(entry)?.pos))
}

/// Reads in Redis what comes after `at`, after making sure that `at` is still a place in the stream.
pub(super) async fn look_up(link: &Link, key: &[u8], at: FeedPos) -> Result<FeedBatch> {
    let mut pipe = redis::pipe();
    pipe.cmd("XRANGE").arg(key).arg(at.to_string()).arg(at.to_string());
    pipe.cmd("XRANGE").arg(key).arg(format!("({at}")).arg("+").arg("COUNT").arg(PAGE);
    pipe.cmd("XREVRANGE").arg(key).arg("+").arg("-").arg("COUNT").arg(1);
    pipe.cmd("EXISTS").arg(key);
    let answers = link.send_all(Kind::Read, &pipe).await?;
    let [here, after, last, exists]: [Value; 4] =
        answers.try_into().map_err(|_| Error::Corrupt("redis left out an answer".into()))?;
    let here = value::list(here)?;
    let tail = value::list(last)?.into_iter().next().map(read_entry).transpose()?.map_or(FeedPos::default(), |entry| entry.pos);
    let from_start = at == FeedPos::default() && (value::number(exists)? == 0 || nothing_trimmed(link, key).await?);
    if here.is_empty() && !from_start {
        return Ok(FeedBatch::Behind { tail });
    }
    Ok(batch(read_entries(after)?, at))
}

/// Whether every entry that was ever added is still there.
async fn nothing_trimmed(link: &Link, key: &[u8]) -> Result<bool> {
    let mut cmd = redis::cmd("XINFO");
    cmd.arg("STREAM").arg(key);
    let (mut added, mut length) = (0, 0);
    for (name, fact) in value::pairs(link.send(Kind::Read, &cmd).await?)? {
        match value::text(name)?.as_str() {
            "entries-added" => added = value::number(fact)?,
            "length" => length = value::number(fact)?,
            _ => {}
        }
    }
    Ok(added == length)
}

/// Reads the entries of one stream.
pub(super) fn read_entries(entries: Value) -> Result<Vec<Arc<FeedEntry>>> {
    value::list(entries)?.into_iter().map(|entry| read_entry(entry).map(Arc::new)).collect()
}

/// Reads `[id, [field, value]]`. Entries of the documents have another field and no rows.
fn read_entry(entry: Value) -> Result<FeedEntry> {
    let [id, fields] = value::exactly(entry)?;
    let pos = value::text(id)?.parse().map_err(|_| Error::Corrupt("a feed position cannot be read".into()))?;
    let (mut source, mut rows, mut sends) = (lovage_core::SessionId(0), Vec::new(), false);
    for (name, content) in value::pairs(fields)? {
        match value::bytes(name)?.as_deref() {
            Some(b"r") => (source, rows) = pack::read_entry(&value::bytes(content)?.unwrap_or_default())?,
            Some(b"o") => sends = true,
            _ => {}
        }
    }
    Ok(FeedEntry { pos, source, rows, sends })
}
