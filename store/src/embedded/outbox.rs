//! The outbox in the database. Numbers are never used twice, so that a late acknowledgement hits no newer message.

use bytes::Bytes;
use lovage_core::Millis;
use rusqlite::{Connection, Row, Statement, params};

use crate::{FeedPos, Message, OutboxPage, Sent};

/// The statements, prepared once per connection.
pub(super) struct Outbox<'c> {
    put: Statement<'c>,
    remove: Statement<'c>,
}

impl<'c> Outbox<'c> {
    pub(super) fn prepare(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            put: conn.prepare("INSERT INTO outbox (sent_at, bytes) VALUES (?1, ?2)")?,
            remove: conn.prepare("DELETE FROM outbox WHERE n = ?1")?,
        })
    }

    /// Adds an encoded message.
    pub(super) fn put(&mut self, now: Millis, bytes: &Bytes) -> rusqlite::Result<()> {
        self.put.execute(params![now.0 as i64, &bytes[..]]).map(drop)
    }

    /// Deletes messages that were delivered.
    pub(super) fn remove(&mut self, messages: &[FeedPos]) -> rusqlite::Result<()> {
        messages.iter().try_for_each(|pos| self.remove.execute([pos.low as i64]).map(drop))
    }
}

/// The oldest messages after a place.
pub(super) fn page(conn: &Connection, after: FeedPos, limit: usize) -> rusqlite::Result<OutboxPage> {
    let sent = |row: &Row<'_>| {
        let pos = FeedPos { high: 0, low: row.get::<_, i64>(0)? as u64 };
        let at = Millis(row.get::<_, i64>(1)? as u64);
        Ok(Sent { pos, at, content: Message::decode(row.get_ref(2)?.as_blob()?) })
    };
    let mut page = conn.prepare_cached("SELECT n, sent_at, bytes FROM outbox WHERE n > ?1 ORDER BY n LIMIT ?2")?;
    let messages = page.query_map(params![after.low as i64, limit as i64], sent)?.collect::<rusqlite::Result<_>>()?;
    let waiting: i64 = conn.prepare_cached("SELECT count(*) FROM outbox")?.query_row([], |row| row.get(0))?;
    Ok(OutboxPage { messages, waiting: waiting as u64 })
}
