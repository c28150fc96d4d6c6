//! What the writer keeps in memory beside the database: counts, the lanes used lately and the next order of acceptance.
//!
//! Numbers are absolute. Changed rows are written once per transaction, in that transaction; after a failure
//! everything is read again, so memory and database never disagree. There may be a lane for every key of a limit, most of them
//! with nothing but finished tasks: so lanes are read when a task comes or goes, and only [`LANES`] of them are kept.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use ahash::AHashMap;
use lovage_core::{LaneDef, LaneId, Ns, Route, State};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, params};

/// Orders of acceptance set aside by one write of the high-water mark: a crash skips at most as many.
const SEQ_BLOCK: u64 = 4096;
/// Lanes that are kept in memory between transactions.
const LANES: usize = 4_096;
/// The number of states.
pub(super) const STATES: usize = 9;

/// How one change moves counts and lanes; `None` is "not stored".
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    /// Before.
    pub(super) from: Option<Side>,
    /// After.
    pub(super) to: Option<Side>,
}

/// Where a task is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Side {
    /// Index of the counts' row, from [`Books::queue`].
    pub(super) queue: usize,
    pub(super) state: State,
    pub(super) lane: LaneId,
}

struct QueueRow {
    ns: Ns,
    queue: Arc<str>,
    states: [i64; STATES],
    changed: bool,
}

struct LaneRow {
    /// Of a lane that is not in the database yet.
    def: Option<Arc<LaneDef>>,
    /// Records that name the lane.
    stored: i64,
    /// Those of them that are not final: while there are any, the lane is listed.
    live: i64,
    changed: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Books {
    next_seq: u64,
    reserved: u64,
    queues: Vec<QueueRow>,
    queue_index: AHashMap<Ns, AHashMap<Arc<str>, usize>>,
    changed_queues: Vec<usize>,
    lanes: AHashMap<LaneId, LaneRow>,
    changed_lanes: Vec<LaneId>,
}

impl Books {
    /// Reads the order of acceptance and the counts: a row per queue, whatever the number of tasks and lanes.
    pub(super) fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let mut books = Self::default();
        let mark: i64 = conn.query_row("SELECT value FROM meta WHERE name = 'seq'", [], |row| row.get(0))?;
        let last: Option<i64> = conn.query_row("SELECT max(seq) FROM task", [], |row| row.get(0))?;
        books.next_seq = (mark as u64).max(last.map_or(0, |n| n as u64)) + 1;
        books.reserved = books.next_seq;
        let mut statement = conn.prepare(
            "SELECT ns, queue, blocked, scheduled, queued, running, retrying, succeeded, failed, canceled, expired FROM count",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let at = books.queue(Ns(row.get(0)?), row.get_ref(1)?.as_str()?);
            for state in 0..STATES {
                books.queues[at].states[state] = row.get(state + 2)?;
            }
        }
        Ok(books)
    }

    /// The next order of acceptance.
    pub(super) fn take_seq(&mut self) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        seq
    }

    /// The index of the counts of a queue.
    pub(super) fn queue(&mut self, ns: Ns, queue: &str) -> usize {
        if let Some(at) = self.queue_index.get(&ns).and_then(|names| names.get(queue)) {
            return *at;
        }
        let (name, at): (Arc<str>, usize) = (queue.into(), self.queues.len());
        self.queue_index.entry(ns).or_default().insert(name.clone(), at);
        self.queues.push(QueueRow { ns, queue: name, states: [0; STATES], changed: false });
        at
    }

    /// Makes the definition of a lane known.
    pub(super) fn define(&mut self, conn: &Connection, id: LaneId, def: &Arc<LaneDef>) -> rusqlite::Result<()> {
        if self.lane(conn, id)?.is_none() {
            self.lanes.insert(id, LaneRow { def: Some(def.clone()), stored: 0, live: 0, changed: false });
        }
        Ok(())
    }

    /// The row of a lane, unless nothing was ever stored in it.
    fn lane(&mut self, conn: &Connection, id: LaneId) -> rusqlite::Result<Option<&mut LaneRow>> {
        Ok(match self.lanes.entry(id) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(free) => {
                let mut statement = conn.prepare_cached("SELECT stored, live FROM lane WHERE id = ?1")?;
                let read =
                    |row: &rusqlite::Row<'_>| Ok(LaneRow { def: None, stored: row.get(0)?, live: row.get(1)?, changed: false });
                statement.query_row([id.0 as i64], read).optional()?.map(|row| free.insert(row))
            }
        })
    }

    /// Counts a change.
    pub(super) fn apply(&mut self, conn: &Connection, change: &Move) -> rusqlite::Result<()> {
        let counted = |side: Option<Side>| side.map(|side| (side.queue, side.state));
        let (from, to) = (counted(change.from), counted(change.to));
        if from != to {
            if let Some((queue, state)) = from {
                self.count_queue(queue, state, -1);
            }
            if let Some((queue, state)) = to {
                self.count_queue(queue, state, 1);
            }
        }
        let place = |side: Option<Side>| side.map(|side| (side.lane, !side.state.is_final()));
        let (from, to) = (place(change.from), place(change.to));
        if from != to {
            if let Some((lane, live)) = from {
                self.count_lane(conn, lane, -1, live)?;
            }
            if let Some((lane, live)) = to {
                self.count_lane(conn, lane, 1, live)?;
            }
        }
        Ok(())
    }

    fn count_queue(&mut self, at: usize, state: State, by: i64) {
        let Some(row) = self.queues.get_mut(at) else { return };
        row.states[state as usize] += by;
        if !row.changed {
            row.changed = true;
            self.changed_queues.push(at);
        }
    }

    fn count_lane(&mut self, conn: &Connection, id: LaneId, by: i64, live: bool) -> rusqlite::Result<()> {
        let Some(row) = self.lane(conn, id)? else { return Ok(()) };
        row.stored += by;
        row.live += if live { by } else { 0 };
        if !std::mem::replace(&mut row.changed, true) {
            self.changed_lanes.push(id);
        }
        Ok(())
    }

    /// Writes what has changed, within the transaction that changes it.
    pub(super) fn write(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        if self.next_seq > self.reserved {
            self.reserved = self.next_seq + SEQ_BLOCK;
            write_seq(conn, self.reserved)?;
        }
        if !self.changed_queues.is_empty() {
            let mut statement = conn.prepare_cached(
                "INSERT INTO count VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (ns, queue) DO UPDATE SET \
                 blocked = ?3, scheduled = ?4, queued = ?5, running = ?6, retrying = ?7, succeeded = ?8, failed = ?9, \
                 canceled = ?10, expired = ?11",
            )?;
            for at in self.changed_queues.drain(..) {
                let row = &mut self.queues[at];
                row.changed = false;
                statement.raw_bind_parameter(1, row.ns.0)?;
                statement.raw_bind_parameter(2, &*row.queue)?;
                for (state, n) in row.states.iter().enumerate() {
                    statement.raw_bind_parameter(state + 3, n)?;
                }
                statement.raw_execute()?;
            }
        }
        self.write_lanes(conn)?;
        if self.lanes.len() > LANES {
            self.lanes = AHashMap::new();
        }
        Ok(())
    }

    fn write_lanes(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        if self.changed_lanes.is_empty() {
            return Ok(());
        }
        let mut update = conn.prepare_cached("UPDATE lane SET stored = ?2, live = ?3 WHERE id = ?1")?;
        let mut insert = conn.prepare_cached(
            "INSERT INTO lane (id, ns, queue, task, origin, batch, more, stored, live) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?;
        for id in self.changed_lanes.drain(..) {
            let Some(row) = self.lanes.get_mut(&id) else { continue };
            row.changed = false;
            let Some(def) = row.def.take() else {
                update.execute(params![id.0 as i64, row.stored, row.live])?;
                continue;
            };
            let (task, origin) = match &def.route {
                Route::Task(name) => (Some(name), None),
                Route::Origin(origin) => (None, Some(origin)),
                Route::Mixed => (None, None),
            };
            let failed = |error: rmp_serde::encode::Error| rusqlite::Error::ToSqlConversionFailure(error.into());
            let batch = def.batch.as_ref().map(rmp_serde::to_vec_named).transpose().map_err(failed)?;
            let plain = LaneDef { batch: def.batch.clone(), ..LaneDef::of(def.ns, &*def.queue, def.route.clone()) };
            let more = (plain != *def).then(|| rmp_serde::to_vec_named(&*def)).transpose().map_err(failed)?;
            insert.execute(params![id.0 as i64, def.ns.0, def.queue, task, origin, batch, more, row.stored, row.live])?;
        }
        Ok(())
    }

    /// Writes the exact high-water mark: after a clean end no order of acceptance is skipped.
    pub(super) fn write_last_seq(&self, conn: &Connection) -> rusqlite::Result<()> {
        write_seq(conn, self.next_seq - 1)
    }

    /// Deletes lanes that no record names any more, at most `limit`; outside of a transaction's changes.
    pub(super) fn remove_empty(&mut self, conn: &Connection, limit: usize) -> rusqlite::Result<()> {
        let mut statement = conn.prepare_cached(
            "DELETE FROM lane WHERE id IN (SELECT id FROM lane INDEXED BY lane_empty WHERE stored <= 0 LIMIT ?1) RETURNING id",
        )?;
        let mut rows = statement.query([limit as i64])?;
        while let Some(row) = rows.next()? {
            self.lanes.remove(&LaneId(row.get::<_, i64>(0)? as u64));
        }
        Ok(())
    }
}

/// Whether [`Books::remove_empty`] finds something.
pub(super) fn has_empty(conn: &Connection) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM lane INDEXED BY lane_empty WHERE stored <= 0 LIMIT 1")?.exists([])
}

fn write_seq(conn: &Connection, mark: u64) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE meta SET value = ?1 WHERE name = 'seq'")?.execute([mark as i64]).map(drop)
}

/// Reads a lane's definition from columns `ns, queue, task, origin, batch, more` at 1. The last holds all of one that has more
/// than the others can say.
pub(super) fn lane_def(row: &rusqlite::Row<'_>) -> rusqlite::Result<LaneDef> {
    let failed =
        |at| move |error: rmp_serde::decode::Error| rusqlite::Error::FromSqlConversionFailure(at, Type::Blob, error.into());
    if let Some(whole) = row.get_ref(6)?.as_blob_or_null()? {
        return rmp_serde::from_slice(whole).map_err(failed(6));
    }
    let route = match row.get::<_, Option<String>>(3)? {
        Some(name) => Route::Task(name),
        None => Route::Origin(row.get(4)?),
    };
    let batch = row.get_ref(5)?.as_blob_or_null()?.map(rmp_serde::from_slice).transpose().map_err(failed(5))?;
    Ok(LaneDef { batch, ..LaneDef::of(Ns(row.get(1)?), row.get::<_, String>(2)?, route) })
}
