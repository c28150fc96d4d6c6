//! The reads, on connections of their own: they never wait for the writer, and see what is committed.
//!
//! A few rows are read right away (some ten microseconds); more go to the blocking pool, so that an executor's thread is
//! never held for long.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use lovage_core::{Head, LaneDef, LaneId, Ns, SessionId, State, TaskKey};
use parking_lot::Mutex;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use super::failure::failed;
use super::row::{self, HEAD_WIDTH, head_columns};
use super::{books, schema};
use crate::{Cursor, Error, Index, LanePage, ListQuery, Page, Parts, QueueCounts, Result, Stored};

/// Reads of at most so many rows are carried out on the caller's thread.
pub(super) const INLINE_ROWS: usize = 16;
/// Connections kept open.
const KEEP: usize = 4;
/// The most records of one page, and the most that one listing looks at.
const PAGE_LIMIT: usize = 1_000;

/// Connections for reading.
pub(super) struct Readers {
    dir: PathBuf,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    conns: Vec<Connection>,
    /// Rises when the database is opened again: connections from before are not kept.
    generation: u64,
}

impl Readers {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, idle: Mutex::default() }
    }

    /// Reads on this thread.
    pub(super) fn with<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let (conn, generation) = {
            let mut idle = self.idle.lock();
            (idle.conns.pop(), idle.generation)
        };
        let conn = match conn {
            Some(conn) => conn,
            None => schema::connect_reader(&self.dir)?,
        };
        let result = read(&conn).map_err(failed);
        let mut idle = self.idle.lock();
        if idle.generation == generation && idle.conns.len() < KEEP && (result.is_ok() || conn.is_autocommit()) {
            idle.conns.push(conn);
        }
        result
    }

    /// Reads on a thread that may block.
    pub(super) async fn offload<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let readers = self.clone();
        tokio::task::spawn_blocking(move || readers.with(read)).await.map_err(|e| Error::Unavailable(e.to_string()))?
    }

    /// Closes the connections that are not in use; the others are closed when they come back.
    pub(super) fn clear(&self) {
        let mut idle = self.idle.lock();
        idle.generation += 1;
        idle.conns.clear();
    }
}

pub(super) fn heads(conn: &Connection, keys: &[TaskKey]) -> rusqlite::Result<Vec<Option<Head>>> {
    let mut statement = conn.prepare_cached(concat!("SELECT ", head_columns!(), " FROM task WHERE key = ?1"))?;
    keys.iter().map(|key| statement.query_row([&key.to_bytes()[..]], row::head).optional()).collect()
}

pub(super) fn bodies(conn: &Connection, keys: &[TaskKey]) -> rusqlite::Result<Vec<Option<Bytes>>> {
    let mut statement = conn.prepare_cached("SELECT bytes FROM body WHERE seq = (SELECT seq FROM task WHERE key = ?1)")?;
    keys.iter().map(|key| statement.query_row([&key.to_bytes()[..]], blob).optional()).collect()
}

/// One record as of one moment.
pub(super) fn get(conn: &Connection, key: &TaskKey, parts: Parts) -> rusqlite::Result<Option<Stored>> {
    let moment = conn.unchecked_transaction()?;
    let Some(head) = heads(&moment, std::slice::from_ref(key))?.pop().flatten() else { return Ok(None) };
    let seq = head.seq as i64;
    let mut stored = Stored { head, body: None, result: None, attempts: Vec::new() };
    if parts.body {
        stored.body = moment.prepare_cached("SELECT bytes FROM body WHERE seq = ?1")?.query_row([seq], blob).optional()?;
    }
    if parts.result {
        stored.result = moment.prepare_cached("SELECT bytes FROM result WHERE seq = ?1")?.query_row([seq], blob).optional()?;
    }
    if parts.attempts {
        let mut statement = moment.prepare_cached("SELECT bytes FROM attempt WHERE seq = ?1 ORDER BY n")?;
        stored.attempts = statement.query_map([seq], blob)?.collect::<rusqlite::Result<_>>()?;
    }
    moment.finish()?;
    Ok(Some(stored))
}

fn blob(row: &Row<'_>) -> rusqlite::Result<Bytes> {
    Ok(Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?))
}

/// A page of an index. A cursor is the last record's place in it: two numbers.
pub(super) fn scan(conn: &Connection, index: &Index, from: &Cursor, limit: usize) -> rusqlite::Result<Page> {
    const SELECT: &str = concat!("SELECT ", head_columns!(), ", key, rank, timer FROM task ");
    let limit = limit.clamp(1, PAGE_LIMIT);
    let start = place_of(from);
    let int = |n: u64| Value::Integer(n as i64);
    let (after, seq) = start.map_or((Value::Integer(i64::MIN), 0), |(a, s)| (Value::Integer(a), s));
    // Every index ends with the rowid, so (column, seq) is its own order.
    let (filter, mut values) = match index {
        Index::Lane { lane, after: behind } => {
            let (rank, seq) = match (start, behind) {
                (Some((rank, seq)), _) => (rank, seq),
                (None, Some(score)) => (i64::from(score.rank()), score.seq() as i64),
                (None, None) => (i64::MIN, 0),
            };
            let values = vec![Value::Integer(rank), Value::Integer(seq), int(lane.0)];
            ("INDEXED BY ready WHERE rank IS NOT NULL AND lane = ?3 AND (rank, seq) > (?1, ?2) ORDER BY rank, seq", values)
        }
        Index::Timer { until } => (
            "INDEXED BY timer WHERE timer IS NOT NULL AND (timer, seq) > (?1, ?2) AND timer <= ?3 ORDER BY timer, seq",
            vec![after, Value::Integer(seq), int(until.0)],
        ),
        Index::Running { session: Some(session) } => (
            "INDEXED BY running WHERE state = 3 AND session = ?3 AND seq > ?2 AND ?1 IS NOT NULL ORDER BY seq",
            vec![after, Value::Integer(seq), int(session.0)],
        ),
        Index::Running { session: None } => (
            "INDEXED BY running WHERE state = 3 AND (session, seq) > (?1, ?2) ORDER BY session, seq",
            vec![after, Value::Integer(seq)],
        ),
        Index::Done { until } => (
            "INDEXED BY done WHERE state >= 5 AND (due, seq) > (?1, ?2) AND due <= ?3 ORDER BY due, seq",
            vec![after, Value::Integer(seq), int(until.0)],
        ),
        Index::Members { root } => (
            "INDEXED BY member WHERE root IS NOT NULL AND root = ?3 AND seq > ?2 AND ?1 IS NOT NULL ORDER BY seq",
            vec![after, Value::Integer(seq), Value::Blob(root.to_bytes().to_vec())],
        ),
    };
    values.push(Value::Integer(limit as i64));
    let mut statement = conn.prepare_cached(&format!("{SELECT}{filter} LIMIT ?{}", values.len()))?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut page = Page::default();
    let mut last = (0, 0);
    while let Some(row) = rows.next()? {
        let head = row::head(row)?;
        let column = match index {
            Index::Lane { .. } => row.get(HEAD_WIDTH + 1)?,
            Index::Timer { .. } => row.get(HEAD_WIDTH + 2)?,
            Index::Running { .. } => head.session.0 as i64,
            Index::Done { .. } => head.due.0 as i64,
            Index::Members { .. } => 0,
        };
        last = (column, head.seq as i64);
        page.items.push((row::key(row, HEAD_WIDTH)?, head));
    }
    if page.items.len() == limit {
        page.next = Some(cursor_at(last));
    }
    Ok(page)
}

/// A namespace's tasks, newest first. Looks at a bounded number of records, so a page may be short and still have a next.
pub(super) fn list(conn: &Connection, query: &ListQuery, from: &Cursor, limit: usize) -> rusqlite::Result<Page> {
    let limit = limit.clamp(1, PAGE_LIMIT);
    let before = place_of(from).map_or(i64::MAX, |(_, seq)| seq);
    // Failed tasks are what people look for among many others: they have an index.
    let source = if query.states == [State::Failed] { "INDEXED BY dead WHERE state = 6 AND" } else { "NOT INDEXED WHERE" };
    let mut statement = conn.prepare_cached(&format!(
        concat!("SELECT ", head_columns!(), ", key FROM task {} seq < ?1 ORDER BY seq DESC LIMIT ?2"),
        source
    ))?;
    let mut rows = statement.query(params![before, PAGE_LIMIT as i64])?;
    let mut page = Page::default();
    let (mut seen, mut last) = (0, before);
    while let Some(row) = rows.next()? {
        let head = row::head(row)?;
        let key = row::key(row, HEAD_WIDTH)?;
        seen += 1;
        last = head.seq as i64;
        let wanted = key.ns == query.ns
            && (query.states.is_empty() || query.states.contains(&head.state))
            && query.created_after.is_none_or(|t| head.created >= t)
            && query.created_before.is_none_or(|t| head.created < t);
        if wanted {
            page.items.push((key, head));
            if page.items.len() == limit {
                break;
            }
        }
    }
    if seen == PAGE_LIMIT || page.items.len() == limit {
        page.next = Some(cursor_at((0, last)));
    }
    Ok(page)
}

fn cursor_at(place: (i64, i64)) -> Cursor {
    let mut bytes = place.0.to_be_bytes().to_vec();
    bytes.extend_from_slice(&place.1.to_be_bytes());
    Cursor(bytes)
}

/// The place that a cursor names; one that was not made here starts from the beginning.
fn place_of(cursor: &Cursor) -> Option<(i64, i64)> {
    let (first, second) = cursor.0.split_first_chunk::<8>()?;
    Some((i64::from_be_bytes(*first), i64::from_be_bytes(second.try_into().ok()?)))
}

/// A page of the lanes with tasks that are not final, in order of their ids as SQLite sees them.
pub(super) fn lanes(conn: &Connection, from: &Cursor, limit: usize) -> rusqlite::Result<LanePage> {
    let limit = limit.clamp(1, PAGE_LIMIT);
    let after = place_of(from).map_or(i64::MIN, |(id, _)| id);
    let mut statement = conn.prepare_cached(
        "SELECT id, ns, queue, task, origin, batch, more FROM lane INDEXED BY lane_live WHERE live > 0 AND id > ?1 \
         ORDER BY id LIMIT ?2",
    )?;
    let rows = statement
        .query_map(params![after, limit as i64], |row| Ok((LaneId(row.get::<_, i64>(0)? as u64), books::lane_def(row)?)))?;
    let items: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
    let next = items.last().filter(|_| items.len() == limit).map(|(lane, _)| cursor_at((lane.0 as i64, 0)));
    Ok(LanePage { items, next })
}

/// The definitions of these lanes.
pub(super) fn lane_defs(conn: &Connection, lanes: &[LaneId]) -> rusqlite::Result<Vec<Option<LaneDef>>> {
    let mut statement = conn.prepare_cached("SELECT id, ns, queue, task, origin, batch, more FROM lane WHERE id = ?1")?;
    lanes.iter().map(|lane| statement.query_row([lane.0 as i64], books::lane_def).optional()).collect()
}

/// How many tasks these lanes hold: a walk of their part of the index.
pub(super) fn lane_sizes(conn: &Connection, lanes: &[LaneId]) -> rusqlite::Result<Vec<u64>> {
    let mut statement = conn.prepare_cached("SELECT count(*) FROM task INDEXED BY ready WHERE lane = ?1 AND rank IS NOT NULL")?;
    lanes.iter().map(|lane| Ok(statement.query_row([lane.0 as i64], |row| row.get::<_, i64>(0))?.max(0) as u64)).collect()
}

/// Counts that are not all zero, in order.
pub(super) fn counts(conn: &Connection) -> rusqlite::Result<Vec<QueueCounts>> {
    let mut statement = conn.prepare_cached(
        "SELECT ns, queue, blocked, scheduled, queued, running, retrying, succeeded, failed, canceled, expired FROM count \
         ORDER BY ns, queue",
    )?;
    let rows = statement.query_map([], |row| {
        let mut states = [0; books::STATES];
        for (i, n) in states.iter_mut().enumerate() {
            *n = row.get::<_, i64>(i + 2)?.max(0) as u64;
        }
        Ok(QueueCounts { ns: Ns(row.get(0)?), queue: row.get(1)?, states })
    })?;
    let all = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(all.into_iter().filter(|row| row.states.iter().any(|n| *n > 0)).collect())
}

/// The sessions with open attempts: one step of the index per session, not per task.
pub(super) fn running_sessions(conn: &Connection) -> rusqlite::Result<Vec<SessionId>> {
    let mut statement = conn.prepare_cached(
        "SELECT session FROM task INDEXED BY running WHERE state = 3 AND session > ?1 ORDER BY session LIMIT 1",
    )?;
    let mut first =
        conn.prepare_cached("SELECT session FROM task INDEXED BY running WHERE state = 3 ORDER BY session LIMIT 1")?;
    let mut sessions = Vec::new();
    let mut next: Option<i64> = first.query_row([], |row| row.get(0)).optional()?;
    while let Some(session) = next {
        sessions.push(SessionId(session as u64));
        next = statement.query_row([session], |row| row.get(0)).optional()?;
    }
    Ok(sessions)
}
