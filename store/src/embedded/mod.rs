//! The embedded store: one partition in one SQLite database, made durable by group commit.
//!
//! One thread writes (`writer`), on a queue that callers fill (`queue`); reads have connections of their own (`reads`);
//! the write-ahead log is moved into the database beside both (`checkpoint`). Heads are columns and placements are
//! partial indexes (`schema`), so guards are `WHERE version = ?` and a person can look inside with any SQLite tool.

mod apply;
mod backup;
mod barrier;
mod bodies;
mod books;
mod checkpoint;
mod disk;
mod documents;
mod failure;
mod feed;
mod footprint;
mod inside;
mod keys;
mod life;
mod options;
mod outbox;
mod queue;
mod reads;
mod row;
mod schema;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use lovage_core::SessionId;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot, watch};

pub use backup::{Copied, backup, restore};
pub use documents::documents_of;
pub use options::{Durability, EmbeddedOptions, ReadClock};

use crate::local::Local;
use crate::ownership::Owners;
use crate::{Caps, Error, Result};
use checkpoint::Checkpoints;
use failure::failed;
use feed::Feed;
use options::Clock;
use queue::{Op, Queue, Reply, Work, closed};
use reads::Readers;

/// The most items one call may carry.
const MAX_BATCH: usize = 1_000;
/// Items that may wait for the writer; further callers wait for room.
const QUEUE_ITEMS: u32 = 65_536;

/// What the threads and the callers share.
struct Shared {
    options: EmbeddedOptions,
    clock: Clock,
    queue: Queue,
    feed: Feed,
    /// The lock on the data directory lets one process in, so ownership is a matter of this process's memory.
    owners: Mutex<Owners>,
    /// So are limits, notes and boards.
    local: Local,
    readers: Arc<Readers>,
    checkpoints: Checkpoints,
    doc_version: watch::Sender<u64>,
    /// The database has failed and does not work again yet.
    broken: AtomicBool,
}

/// A store in a data directory of this machine. One process at a time.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    caps: Caps,
    session: SessionId,
    room: Arc<Semaphore>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl EmbeddedStore {
    /// Opens the store of a data directory, which is made if need be. Takes milliseconds, whatever is stored.
    ///
    /// # Errors
    /// `Locked` if another process uses it, `Format` if a newer version wrote it, `Corrupt` if it is something else.
    pub fn open(options: EmbeddedOptions) -> Result<Arc<Self>> {
        let lock = disk::DirLock::take(&options.dir)?;
        // The process before may have been ended because the disk failed.
        disk::write_anew(&schema::log_path(&options.dir))
            .map_err(|e| Error::Unavailable(format!("cannot write the log anew: {e}")))?;
        let conn = schema::connect(&options.dir, schema::Missing::Create, options.page_cache, options.wal_bytes)?;
        schema::prepare(&conn)?;
        let session: i64 = conn
            .query_row("UPDATE meta SET value = value + 1 WHERE name = 'session' RETURNING value", [], |row| row.get(0))
            .map_err(failed)?;
        disk::sync_dir(&options.dir).map_err(|e| Error::Unavailable(format!("cannot sync the data directory: {e}")))?;
        let life = session as u64;
        let shared = Arc::new(Shared {
            clock: Clock::new(options.clock.clone()),
            queue: Queue::default(),
            feed: Feed::new(life, options.feed_rows),
            // A session of an earlier process is over: the index of running tasks tells which had attempts open.
            owners: Mutex::new(Owners::after(reads::running_sessions(&conn).map_err(failed)?)),
            local: Local::default(),
            readers: Arc::new(Readers::new(options.dir.clone())),
            checkpoints: Checkpoints::new(options.dir.clone(), options.wal_bytes),
            doc_version: watch::Sender::new(documents::change_number(&conn).map_err(failed)?),
            broken: AtomicBool::new(false),
            options,
        });
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(run).map_err(|e| Error::Unavailable(e.to_string()))
        };
        let (for_writer, for_checkpoints) = (shared.clone(), shared.clone());
        let checkpoints = spawn("store-checkpoint", Box::new(move || for_checkpoints.checkpoints.run()))?;
        let writer = spawn(
            "store-writer",
            Box::new(move || {
                life::run(&for_writer, conn);
                drop(lock);
            }),
        );
        let writer = writer.inspect_err(|_| shared.checkpoints.close())?;
        let durability = match shared.options.durability {
            Durability::Strict => "the task is synced to disk",
            Durability::Relaxed => "the task is written to the operating system; a power cut may lose the last 100 ms",
        };
        let caps = Caps { name: "embedded", partitions: 1, durability: durability.into(), max_batch: MAX_BATCH };
        Ok(Arc::new(Self {
            shared,
            caps,
            session: SessionId(life),
            room: Arc::new(Semaphore::new(QUEUE_ITEMS as usize)),
            threads: Mutex::new(vec![checkpoints, writer]),
        }))
    }

    /// The number of this start of the store: it was never used before and is not 0.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Forgets all feed entries written so far, as if many had been written since: readers behind the end have to start anew.
    pub fn forget_feed(&self) {
        self.shared.feed.forget();
    }

    /// Carries out what is waiting, moves the log into the database and lets go of the directory.
    /// Verbs called afterwards answer `Unavailable`.
    pub async fn close(&self) {
        self.shared.queue.close();
        let threads = self.end();
        // A panic of a thread was reported when it happened.
        drop(tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join()))).await);
    }

    fn end(&self) -> Vec<JoinHandle<()>> {
        self.shared.queue.close();
        self.shared.checkpoints.close();
        std::mem::take(&mut *self.threads.lock())
    }

    /// Puts an operation in the queue, once there is room, and waits for its answer.
    async fn submit<T>(&self, items: usize, make: impl FnOnce(Reply<T>) -> Work) -> Result<T> {
        let room = self.room.clone().acquire_many_owned(items.max(1) as u32).await.map_err(|_| closed())?;
        let (reply, answer) = oneshot::channel();
        self.shared.queue.put(Op { work: make(reply), _room: Some(room) });
        answer.await.map_err(|_| Error::Unknown("the writer ended before it answered".into()))?
    }

    fn check_open(&self) -> Result<()> {
        if self.shared.queue.is_closed() {
            return Err(closed());
        }
        if self.shared.broken.load(Ordering::Relaxed) {
            return Err(Error::Unavailable("the database failed and is being opened again".into()));
        }
        Ok(())
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        for thread in self.end() {
            drop(thread.join());
        }
    }
}
