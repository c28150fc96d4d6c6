//! Keys in the database: who has them, who may take them.
//!
//! Those that end with a record are deleted with it, through a partial index by task; the others are swept at their end.

use lovage_core::{Head, Millis, Ns, TaskKey};
use rusqlite::{Connection, OptionalExtension, Row, Statement, params};

use super::row::{self, head_columns};
use crate::{Insert, KeyEntry, KeyKind, KeyPut, KeyTake};

/// An end that never comes, so that sweeping by time needs no second case.
const NEVER: i64 = i64::MAX;

/// A key that cannot be taken, and who has it.
pub(super) struct Conflict {
    pub(super) kind: KeyKind,
    pub(super) entry: KeyEntry,
    /// The head of that task, if it has one here.
    pub(super) head: Option<Head>,
}

/// The statements, prepared once per connection.
pub(super) struct Keys<'c> {
    read: Statement<'c>,
    put: Statement<'c>,
    free: Statement<'c>,
    free_all: Statement<'c>,
    head: Statement<'c>,
}

impl<'c> Keys<'c> {
    pub(super) fn prepare(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            read: conn.prepare("SELECT task, value, until FROM key WHERE ns = ?1 AND kind = ?2 AND key = ?3")?,
            put: conn.prepare("INSERT OR REPLACE INTO key VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?,
            free: conn.prepare("DELETE FROM key WHERE ns = ?1 AND kind = ?2 AND key = ?3 AND task = ?4")?,
            // The kinds as numbers, as the index has them: 'b' and 'u'.
            free_all: conn.prepare("DELETE FROM key INDEXED BY key_task WHERE task = ?1 AND kind IN (98, 117)")?,
            head: conn.prepare(concat!("SELECT ", head_columns!(), " FROM task WHERE key = ?1"))?,
        })
    }

    /// The first key that the item cannot have; from `parent` it may be stolen whatever the version.
    pub(super) fn conflict(
        &mut self,
        now: Millis,
        item: &Insert,
        parent: Option<&TaskKey>,
    ) -> rusqlite::Result<Option<Conflict>> {
        for put in &item.keys {
            let Some(entry) = self.taken(now, item.key.ns, put.kind, &put.key)? else { continue };
            let head = self.head.query_row([&entry.task.to_bytes()[..]], row::head).optional()?;
            if !may_steal(put, &entry, head.as_ref(), parent) {
                return Ok(Some(Conflict { kind: put.kind, entry, head }));
            }
        }
        Ok(None)
    }

    /// Gives a new task its keys.
    pub(super) fn put_all(&mut self, item: &Insert) -> rusqlite::Result<()> {
        item.keys.iter().try_for_each(|put| self.store(put.kind, &put.key, &put.entry(&item.key)))
    }

    /// Takes a key alone, or answers the entry that is in the way.
    pub(super) fn take(&mut self, now: Millis, take: &KeyTake) -> rusqlite::Result<Option<KeyEntry>> {
        let there = self.taken(now, take.entry.task.ns, take.kind, &take.key)?;
        let in_the_way = there.filter(|entry| *entry != take.entry && Some(entry) != take.seen.as_ref());
        if in_the_way.is_none() {
            self.store(take.kind, &take.key, &take.entry)?;
        }
        Ok(in_the_way)
    }

    /// Gives a key to a task that is there, or answers the entry that is in the way.
    pub(super) fn take_with(&mut self, now: Millis, task: &TaskKey, put: &KeyPut) -> rusqlite::Result<Option<KeyEntry>> {
        if let Some(entry) = self.taken(now, task.ns, put.kind, &put.key)?.filter(|entry| entry.task != *task) {
            let head = self.head.query_row([&entry.task.to_bytes()[..]], row::head).optional()?;
            if !may_steal(put, &entry, head.as_ref(), None) {
                return Ok(Some(entry));
            }
        }
        self.store(put.kind, &put.key, &put.entry(task))?;
        Ok(None)
    }

    /// Frees a key if it belongs to `task`.
    pub(super) fn free(&mut self, task: &TaskKey, kind: KeyKind, key: &[u8]) -> rusqlite::Result<()> {
        self.free.execute(params![task.ns.0, kind as u8, key, &task.to_bytes()[..]]).map(drop)
    }

    /// Frees the keys that end with the record of `task`.
    pub(super) fn free_all(&mut self, task: &TaskKey) -> rusqlite::Result<()> {
        self.free_all.execute([&task.to_bytes()[..]]).map(drop)
    }

    fn taken(&mut self, now: Millis, ns: Ns, kind: KeyKind, key: &[u8]) -> rusqlite::Result<Option<KeyEntry>> {
        let found = self.read.query_row(params![ns.0, kind as u8, key], entry).optional()?;
        Ok(found.filter(|entry| !entry.is_over(now)))
    }

    fn store(&mut self, kind: KeyKind, key: &[u8], entry: &KeyEntry) -> rusqlite::Result<()> {
        let until = entry.until.map_or(NEVER, |until| until.0 as i64);
        let task = entry.task.to_bytes();
        self.put.execute(params![entry.task.ns.0, kind as u8, key, &task[..], &entry.value[..], until]).map(drop)
    }
}

fn may_steal(put: &KeyPut, entry: &KeyEntry, head: Option<&Head>, parent: Option<&TaskKey>) -> bool {
    put.steal.as_ref().is_some_and(|(from, version)| {
        *from == entry.task && (parent == Some(from) || head.is_none_or(|head| head.version == *version))
    })
}

/// A key that is taken, read apart from the writer.
pub(super) fn lookup(conn: &Connection, ns: Ns, kind: KeyKind, key: &[u8]) -> rusqlite::Result<Option<KeyEntry>> {
    conn.prepare_cached("SELECT task, value, until FROM key WHERE ns = ?1 AND kind = ?2 AND key = ?3")?
        .query_row(params![ns.0, kind as u8, key], entry)
        .optional()
}

fn entry(row: &Row<'_>) -> rusqlite::Result<KeyEntry> {
    let until: i64 = row.get(2)?;
    Ok(KeyEntry {
        task: row::key(row, 0)?,
        value: bytes::Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?),
        until: (until != NEVER).then_some(Millis(until as u64)),
    })
}

/// An entry in the first columns of a row, with its kind and name in those from `at`.
pub(super) fn named(row: &Row<'_>, at: usize) -> rusqlite::Result<(KeyKind, bytes::Bytes, KeyEntry)> {
    let number: u8 = row.get(at)?;
    let kind = KeyKind::ALL.into_iter().find(|kind| *kind as u8 == number);
    let kind = kind.ok_or(rusqlite::Error::IntegralValueOutOfRange(at, i64::from(number)))?;
    Ok((kind, bytes::Bytes::copy_from_slice(row.get_ref(at + 1)?.as_blob()?), entry(row)?))
}
