//! A head as columns and back.

use lovage_core::{Flags, Head, LaneId, Millis, Placement, Reason, SessionId, State, TaskKey, placement};
use rusqlite::types::Type;
use rusqlite::{Row, Statement};

/// The columns that [`head`] reads, in its order.
macro_rules! head_columns {
    () => {
        "seq, version, state, reason, priority, flags, attempt, budget, lost, generation, session, lane, worker, created, due, expires, \
         deadline, started, first_started, ended"
    };
}
pub(super) use head_columns;

/// The number of columns in `head_columns`.
pub(super) const HEAD_WIDTH: usize = 20;

/// Reads a head from the first columns of a row.
pub(super) fn head(row: &Row<'_>) -> rusqlite::Result<Head> {
    let int = |i: usize| row.get::<_, i64>(i);
    let time = |i: usize| int(i).map(|t| Millis(t as u64));
    let state = int(2)?;
    let reason = int(3)?;
    Ok(Head {
        seq: int(0)? as u64,
        version: int(1)? as u64,
        state: u8::try_from(state).ok().and_then(State::from_u8).ok_or_else(|| damaged(2, state))?,
        reason: u8::try_from(reason).ok().and_then(Reason::from_u8).ok_or_else(|| damaged(3, reason))?,
        priority: row.get(4)?,
        flags: Flags(row.get(5)?),
        attempt: row.get(6)?,
        budget: row.get(7)?,
        lost: row.get(8)?,
        generation: row.get(9)?,
        session: SessionId(int(10)? as u64),
        lane: LaneId(int(11)? as u64),
        worker: row.get(12)?,
        created: time(13)?,
        due: time(14)?,
        expires: time(15)?,
        deadline: time(16)?,
        started: time(17)?,
        first_started: time(18)?,
        ended: time(19)?,
    })
}

/// Reads a task's key from column `i`.
pub(super) fn key(row: &Row<'_>, i: usize) -> rusqlite::Result<TaskKey> {
    let bytes = row.get_ref(i)?.as_blob()?;
    TaskKey::from_bytes(bytes)
        .ok_or_else(|| rusqlite::Error::FromSqlConversionFailure(i, Type::Blob, "these bytes are no task key".into()))
}

fn damaged(column: usize, number: i64) -> rusqlite::Error {
    rusqlite::Error::IntegralValueOutOfRange(column, number)
}

/// Stores a new task: `?1` seq, `?2` key, `?3`… head, `?24` root. Changes nothing if the key is taken.
pub(super) const INSERT: &str = "INSERT INTO task (seq, key, version, state, reason, priority, flags, attempt, budget, lost, \
    generation, session, lane, worker, created, due, expires, deadline, started, first_started, ended, rank, timer, root) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24) \
    ON CONFLICT (key) DO NOTHING";

/// Rewrites a head: `?1` seq and `?2` key, `?3`… head, then the version, state and lane that must be there.
pub(super) const UPDATE: &str = "UPDATE task SET version = ?3, state = ?4, reason = ?5, priority = ?6, flags = ?7, attempt = ?8, \
    budget = ?9, lost = ?10, generation = ?11, session = ?12, lane = ?13, worker = ?14, created = ?15, due = ?16, expires = ?17, \
    deadline = ?18, started = ?19, first_started = ?20, ended = ?21, rank = ?22, timer = ?23 \
    WHERE seq = ?1 AND version = ?24 AND key = ?2 AND state = ?25 AND lane = ?26";

/// Deletes a head: `?1` seq and `?2` key, then the version, state and lane that must be there.
pub(super) const DELETE: &str = "DELETE FROM task WHERE seq = ?1 AND version = ?3 AND key = ?2 AND state = ?4 AND lane = ?5";

/// Binds `?1` to `?23` of [`INSERT`] and [`UPDATE`].
pub(super) fn bind(statement: &mut Statement<'_>, seq: u64, key: &[u8], head: &Head) -> rusqlite::Result<()> {
    let Placement { lane, timer, .. } = placement(head);
    statement.raw_bind_parameter(1, seq as i64)?;
    statement.raw_bind_parameter(2, key)?;
    let numbers = [
        head.version as i64,
        i64::from(head.state as u8),
        i64::from(head.reason as u8),
        i64::from(head.priority),
        i64::from(head.flags.0),
        i64::from(head.attempt),
        i64::from(head.budget),
        i64::from(head.lost),
        i64::from(head.generation),
        head.session.0 as i64,
        head.lane.0 as i64,
        i64::from(head.worker),
        head.created.0 as i64,
        head.due.0 as i64,
        head.expires.0 as i64,
        head.deadline.0 as i64,
        head.started.0 as i64,
        head.first_started.0 as i64,
        head.ended.0 as i64,
    ];
    for (i, number) in numbers.into_iter().enumerate() {
        statement.raw_bind_parameter(i + 3, number)?;
    }
    statement.raw_bind_parameter(22, lane.map(|(_, score)| score.rank()))?;
    statement.raw_bind_parameter(23, timer.map(|t| t.0 as i64))
}

/// Binds the three guards of [`UPDATE`] (`first` 24) or [`DELETE`] (`first` 3).
pub(super) fn bind_guard(statement: &mut Statement<'_>, first: usize, was: &Head) -> rusqlite::Result<()> {
    statement.raw_bind_parameter(first, was.version as i64)?;
    statement.raw_bind_parameter(first + 1, i64::from(was.state as u8))?;
    statement.raw_bind_parameter(first + 2, was.lane.0 as i64)
}
