//! The outbox of a partition: a stream that `general.lua` adds to, read and emptied with plain commands.

use lovage_core::Millis;
use redis::Value;

use super::keys::PartitionKeys;
use super::link::{Kind, Link};
use super::value;
use crate::{Error, FeedPos, Message, OutboxPage, Result, Sent};

/// The oldest messages after a place.
pub(super) async fn page(link: &Link, names: &PartitionKeys, after: FeedPos, limit: usize) -> Result<OutboxPage> {
    let key = names.outbox();
    let mut pipe = redis::pipe();
    pipe.cmd("XRANGE").arg(&key).arg(format!("({after}")).arg("+").arg("COUNT").arg(limit);
    pipe.cmd("XLEN").arg(&key);
    let answers = link.send_all(Kind::Read, &pipe).await?;
    let [messages, waiting]: [Value; 2] = answers.try_into().map_err(|_| Error::Corrupt("redis left out an answer".into()))?;
    let messages = value::list(messages)?.into_iter().map(read).collect::<Result<_>>()?;
    Ok(OutboxPage { messages, waiting: value::number(waiting)? })
}

/// Deletes messages.
pub(super) async fn delivered(link: &Link, names: &PartitionKeys, messages: &[FeedPos]) -> Result<()> {
    let mut cmd = redis::cmd("XDEL");
    cmd.arg(names.outbox());
    for pos in messages {
        cmd.arg(pos.to_string());
    }
    link.send(Kind::Write, &cmd).await.map(drop)
}

/// Reads `[id, [field, value]]`; the id begins with the time.
fn read(entry: Value) -> Result<Sent> {
    let [id, fields] = value::exactly(entry)?;
    let pos: FeedPos = value::text(id)?.parse().map_err(|_| Error::Corrupt("a place in an outbox cannot be read".into()))?;
    let message = value::pairs(fields)?.into_iter().next().map(|(_, message)| value::bytes(message)).transpose()?.flatten();
    Ok(Sent { pos, at: Millis(pos.high), content: message.and_then(|bytes| Message::decode(&bytes)) })
}
