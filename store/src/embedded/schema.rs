//! The tables, the settings of a connection, and the format's number.
//!
//! Every placement of `lovage_core::placement` is a partial index over two derived columns (`rank`, `timer`) and the
//! head's own, so that SQLite keeps them in step with the head by itself. The rowid of `task` is the order of
//! acceptance: it ends every index, so lanes need no column for it.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::failure::failed;
use crate::{Error, Result};

/// The format that this version reads and writes (`PRAGMA user_version`).
pub(super) const FORMAT: u32 = 1;
/// Marks the file as ours (`PRAGMA application_id`): "LVGE".
const APPLICATION_ID: i32 = 0x4c56_4745;

/// Bytes of a page (measured against 8 and 16 KiB: docs/decisions/001).
pub(super) const PAGE_BYTES: u32 = 4096;

/// The name of the database in its data directory.
pub(super) const FILE: &str = "lovage.db";

const TABLES: &str = "
CREATE TABLE task (
    seq INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    version INTEGER NOT NULL,
    state INTEGER NOT NULL,
    reason INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    budget INTEGER NOT NULL,
    lost INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    session INTEGER NOT NULL,
    lane INTEGER NOT NULL,
    worker INTEGER NOT NULL,
    created INTEGER NOT NULL,
    due INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    deadline INTEGER NOT NULL,
    started INTEGER NOT NULL,
    first_started INTEGER NOT NULL,
    ended INTEGER NOT NULL,
    rank INTEGER,
    timer INTEGER,
    root BLOB
) STRICT;
CREATE UNIQUE INDEX task_key ON task (key);
CREATE INDEX ready ON task (lane, rank) WHERE rank IS NOT NULL;
CREATE INDEX timer ON task (timer) WHERE timer IS NOT NULL;
CREATE INDEX running ON task (session) WHERE state = 3;
CREATE INDEX done ON task (due) WHERE state >= 5;
CREATE INDEX dead ON task (state) WHERE state = 6;
CREATE INDEX member ON task (root) WHERE root IS NOT NULL;

CREATE TABLE body (seq INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
CREATE TABLE result (seq INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
CREATE TABLE attempt (seq INTEGER NOT NULL, n INTEGER NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY (seq, n)) STRICT, WITHOUT ROWID;

CREATE TABLE lane (
    id INTEGER PRIMARY KEY,
    ns INTEGER NOT NULL,
    queue TEXT NOT NULL,
    task TEXT,
    origin TEXT,
    batch BLOB,
    more BLOB,
    stored INTEGER NOT NULL,
    live INTEGER NOT NULL
) STRICT;

CREATE TABLE count (
    ns INTEGER NOT NULL,
    queue TEXT NOT NULL,
    blocked INTEGER NOT NULL,
    scheduled INTEGER NOT NULL,
    queued INTEGER NOT NULL,
    running INTEGER NOT NULL,
    retrying INTEGER NOT NULL,
    succeeded INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    canceled INTEGER NOT NULL,
    expired INTEGER NOT NULL,
    PRIMARY KEY (ns, queue)
) STRICT, WITHOUT ROWID;

CREATE TABLE key (
    ns INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    key BLOB NOT NULL,
    task BLOB NOT NULL,
    value BLOB NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (ns, kind, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX key_until ON key (until);

CREATE TABLE document (
    kind INTEGER NOT NULL,
    ns INTEGER NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    bytes BLOB,
    PRIMARY KEY (kind, ns, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('seq', 0), ('session', 0), ('docs', 0), ('sync', 0);
";

/// What later versions of this format added: made when a store is opened, so that a file of an earlier one has it too.
const ADDED: &str = "
CREATE INDEX IF NOT EXISTS lane_live ON lane (id) WHERE live > 0;
CREATE INDEX IF NOT EXISTS lane_empty ON lane (id) WHERE stored <= 0;
CREATE INDEX IF NOT EXISTS key_task ON key (task) WHERE kind IN (98, 117);
CREATE TABLE IF NOT EXISTS barrier (seq INTEGER PRIMARY KEY, members INTEGER NOT NULL, arrived INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS arrival (seq INTEGER NOT NULL, page INTEGER NOT NULL, bits BLOB NOT NULL, PRIMARY KEY (seq, page))
    STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (n INTEGER PRIMARY KEY AUTOINCREMENT, sent_at INTEGER NOT NULL, bytes BLOB NOT NULL) STRICT;
";

/// Whether a connection may make the database. Only the first of a process: a file that vanishes later must not be
/// replaced by an empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    Create,
    Fail,
}

/// The write-ahead log.
pub(super) fn log_path(dir: &Path) -> PathBuf {
    dir.join(format!("{FILE}-wal"))
}

/// A connection that may write: for the writer and for checkpoints.
pub(super) fn connect(dir: &Path, missing: Missing, page_cache: usize, wal_bytes: u64) -> Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, missing == Missing::Create);
    if missing == Missing::Create {
        // For its owner alone, also in a directory that others may read; SQLite gives the log the same mode.
        let made = File::options().write(true).create(true).truncate(false).mode(0o600).open(dir.join(FILE));
        made.map_err(|e| Error::Unavailable(format!("cannot make {FILE} in {}: {e}", dir.display())))?;
    }
    let conn = Connection::open_with_flags(dir.join(FILE), flags).map_err(failed)?;
    conn.set_prepared_statement_cache_capacity(64);
    // A commit never runs a checkpoint by itself.
    conn.execute_batch(&format!(
        "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; PRAGMA temp_store = MEMORY; PRAGMA foreign_keys = OFF;
         PRAGMA cache_size = -{}; PRAGMA journal_size_limit = {};",
        page_cache / 1024,
        wal_bytes * 2,
    ))
    .map_err(failed)?;
    Ok(conn)
}

/// A connection that only reads.
pub(super) fn connect_reader(dir: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(dir.join(FILE), flags).map_err(failed)?;
    conn.set_prepared_statement_cache_capacity(64);
    conn.execute_batch("PRAGMA query_only = ON; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -2048;").map_err(failed)?;
    Ok(conn)
}

/// A connection that only reads a copy of a store.
pub(super) fn connect_copy(file: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let escaped: String = file
        .to_string_lossy()
        .chars()
        .flat_map(|c| match c {
            '%' => "%25".chars().collect::<Vec<_>>(),
            '?' => "%3f".chars().collect(),
            '#' => "%23".chars().collect(),
            other => vec![other],
        })
        .collect();
    // Nobody writes to it, and no files may be made beside it.
    Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags).map_err(failed)
}

/// Checks that this is a store of a format that is known; changes nothing.
pub(super) fn check(conn: &Connection) -> Result<()> {
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let no_store = |_| Error::Corrupt("this is not a store of this program".into());
    let (format, application) = (pragma("user_version").map_err(no_store)?, pragma("application_id").map_err(no_store)?);
    match u32::try_from(format) {
        Ok(FORMAT) if application == i64::from(APPLICATION_ID) => Ok(()),
        Ok(found) if application == i64::from(APPLICATION_ID) && found > FORMAT => Err(Error::Format { found, known: FORMAT }),
        _ => Err(Error::Corrupt("this is not a store of this program".into())),
    }
}

/// Checks the format; makes the tables in an empty database.
pub(super) fn prepare(conn: &Connection) -> Result<()> {
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(failed);
    let (format, application) = (pragma("user_version")?, pragma("application_id")?);
    if format == i64::from(FORMAT) && application == i64::from(APPLICATION_ID) {
        let mut added = String::new();
        for column in ["batch", "more"] {
            let known = "SELECT count(*) FROM pragma_table_info('lane') WHERE name = ?1";
            let known: i64 = conn.query_row(known, [column], |row| row.get(0)).map_err(failed)?;
            if known == 0 {
                added = added + "ALTER TABLE lane ADD COLUMN " + column + " BLOB;";
            }
        }
        return conn.execute_batch(&format!("BEGIN IMMEDIATE; {added} {ADDED} COMMIT;")).map_err(failed);
    }
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    if format == 0 && tables == 0 {
        // Page size and vacuum mode only take effect on an empty file.
        let all = format!(
            "PRAGMA page_size = {PAGE_BYTES}; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;
             BEGIN IMMEDIATE; {TABLES} {ADDED} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; COMMIT;"
        );
        return conn.execute_batch(&all).map_err(failed);
    }
    match u32::try_from(format) {
        Ok(found) if application == i64::from(APPLICATION_ID) && found > FORMAT => Err(Error::Format { found, known: FORMAT }),
        _ => Err(Error::Corrupt(format!("{FILE} is not a store of this program"))),
    }
}
