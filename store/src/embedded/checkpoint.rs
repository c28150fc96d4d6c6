//! Moves the write-ahead log into the database on a thread and a connection of its own, so that no commit pays for it.
//!
//! A passive checkpoint runs beside the writer, but what the writer adds meanwhile keeps the log from being
//! used again from its start: under constant load it would grow for ever. So when little is left, the writer is held back for
//! the last piece (the gate), which is a few milliseconds, and the next commit starts the log anew.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::failure::failed;
use super::schema;
use crate::{Error, Result};

const PAGE: u64 = schema::PAGE_BYTES as u64;
/// Passive passes before the gate is closed whatever is left.
const PASSES: u32 = 4;
/// Little enough to be moved while the writer waits.
const REST_PAGES: u32 = 128;
/// How long the log may hold something while nothing is written.
const IDLE: Duration = Duration::from_secs(1);
/// How long to wait for a reader that holds the log back.
const RETRY: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Signal {
    wanted: bool,
    closed: bool,
    last_commit: Option<Instant>,
}

/// Shared between the writer and the checkpoint thread.
pub(super) struct Checkpoints {
    dir: PathBuf,
    limit_pages: u32,
    pages: AtomicU32,
    gate: Mutex<()>,
    /// Held while anything is moved.
    moving: Mutex<()>,
    /// A sync failed: what the log seems to hold may not be on the disk, and must not be moved before it is written anew.
    doubtful: AtomicBool,
    signal: Mutex<Signal>,
    wake: Condvar,
}

impl Checkpoints {
    pub(super) fn new(dir: PathBuf, wal_bytes: u64) -> Self {
        Self {
            dir,
            limit_pages: (wal_bytes / PAGE).max(1) as u32,
            pages: AtomicU32::new(0),
            gate: Mutex::new(()),
            moving: Mutex::new(()),
            doubtful: AtomicBool::new(false),
            signal: Mutex::default(),
            wake: Condvar::new(),
        }
    }

    /// Held by the writer during a transaction.
    pub(super) fn pass(&self) -> MutexGuard<'_, ()> {
        self.gate.lock()
    }

    /// A sync failed: nothing is moved until [`Checkpoints::trust`].
    pub(super) fn doubt(&self) {
        self.doubtful.store(true, Ordering::Release);
    }

    /// The log was written anew.
    pub(super) fn trust(&self) {
        self.doubtful.store(false, Ordering::Release);
    }

    /// Fails when a sync failed, here or in the writer.
    pub(super) fn check_trusted(&self) -> Result<()> {
        if self.doubtful.load(Ordering::Acquire) {
            return Err(Error::Unavailable("the log could not be synced".into()));
        }
        Ok(())
    }

    /// Keeps the thread from moving anything.
    pub(super) fn alone(&self) -> MutexGuard<'_, ()> {
        self.moving.lock()
    }

    /// The writer tells how many pages the log holds after a commit.
    pub(super) fn committed(&self, pages: u32) {
        let before = self.pages.swap(pages, Ordering::Relaxed);
        let mut signal = self.signal.lock();
        signal.last_commit = Some(Instant::now());
        if before == 0 || (pages >= self.limit_pages && !signal.wanted) {
            signal.wanted = pages >= self.limit_pages;
            drop(signal);
            self.wake.notify_one();
        }
    }

    /// Ends [`Checkpoints::run`].
    pub(super) fn close(&self) {
        self.signal.lock().closed = true;
        self.wake.notify_one();
    }

    /// The thread: works when the log is long, or when it holds something and nothing happens.
    pub(super) fn run(&self) {
        loop {
            let mut signal = self.signal.lock();
            loop {
                if signal.closed {
                    return;
                }
                let filled = self.pages.load(Ordering::Relaxed) > 0;
                let idle = signal.last_commit.is_some_and(|at| at.elapsed() >= IDLE);
                if signal.wanted || (filled && idle) {
                    break;
                }
                if filled {
                    self.wake.wait_for(&mut signal, IDLE);
                } else {
                    self.wake.wait(&mut signal);
                }
            }
            drop(signal);
            let began = Instant::now();
            match self.checkpoint() {
                Ok(()) => metrics::histogram!("lovage_store_checkpoint_seconds", "store" => "embedded")
                    .record(began.elapsed().as_secs_f64()),
                Err(e) => {
                    tracing::warn!(error = %e, "the checkpoint failed and is tried again");
                    let mut signal = self.signal.lock();
                    if !signal.closed {
                        self.wake.wait_for(&mut signal, IDLE);
                    }
                }
            }
            let mut signal = self.signal.lock();
            signal.wanted = self.pages.load(Ordering::Relaxed) >= self.limit_pages;
            if signal.wanted && !signal.closed {
                self.wake.wait_for(&mut signal, RETRY);
            }
        }
    }

    fn checkpoint(&self) -> Result<()> {
        let _moving = self.moving.lock();
        self.check_trusted()?;
        let conn = schema::connect(&self.dir, schema::Missing::Fail, 64 << 10, u64::from(self.limit_pages) * PAGE)?;
        let done = self.move_all(&conn);
        if done.as_ref().is_err_and(|e| !matches!(e, Error::Full(_))) {
            // Perhaps a sync: that is not told. The writer finds out before it promises anything more, and opens anew.
            self.doubt();
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed)?;
        }
        done
    }

    fn move_all(&self, conn: &Connection) -> Result<()> {
        for _ in 0..PASSES {
            let done = passive(conn)?;
            if self.pages.load(Ordering::Relaxed).saturating_sub(done) <= REST_PAGES {
                break;
            }
        }
        let gate = self.gate.lock();
        let done = passive(conn)?;
        // A reader that still needs an old page stops the rest from being moved; the next turn will do it.
        if done >= self.pages.load(Ordering::Relaxed) {
            self.pages.store(0, Ordering::Relaxed);
        }
        MutexGuard::unlock_fair(gate);
        Ok(())
    }
}

/// Moves what can be moved without waiting; the pages of the log that are in the database now.
fn passive(conn: &Connection) -> Result<u32> {
    let done: i64 = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(2)).map_err(failed)?;
    Ok(done.max(0) as u32)
}

/// Moves everything and empties the log; whether that was possible.
pub(super) fn truncate(conn: &Connection) -> Result<bool> {
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)).map(|busy| busy == 0).map_err(failed)
}
