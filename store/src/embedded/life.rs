//! The life of the writer's thread: work, and opening the database again when it has failed.
//!
//! Nothing is known about a log whose sync failed, so a connection that failed is never used again. A new one has to move the
//! whole log into the database before work goes on; whoever asks meanwhile is told that the store is not available.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::failure::failed;
use super::queue::{Taken, closed, refuse_all};
use super::writer::Writer;
use super::{Shared, checkpoint, disk, documents, schema};
use crate::{Error, Result};

/// First and longest pause between attempts to open the database again.
const REOPEN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// Runs until the queue is closed and empty.
pub(super) fn run(shared: &Arc<Shared>, first: Connection) {
    let _refuse_rest = RefuseRest(shared);
    let mut conn = Some(first);
    while let Some(open) = conn.take() {
        match Writer::serve(shared, &open) {
            Ok(()) => return shut(shared, open),
            Err(e) => {
                tracing::error!(error = %e, "the database failed; it is opened again");
                shared.broken.store(true, Ordering::Relaxed);
                shared.checkpoints.doubt();
                // Closing must not move a log into the database of which nobody knows what has reached the disk.
                if let Err(e) = open.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true) {
                    tracing::warn!(error = %e, "the failed database closes with a checkpoint");
                }
                drop(open);
                conn = reopen(shared);
            }
        }
    }
}

/// Leaves nothing in the log; failing that, the next start does it.
fn shut(shared: &Shared, conn: Connection) {
    shared.readers.clear();
    if let Err(e) = checkpoint::truncate(&conn) {
        tracing::warn!(error = %e, "the last checkpoint failed");
    }
    if let Err((_, e)) = conn.close() {
        tracing::warn!(error = %e, "the database did not close");
    }
}

/// Opens the database again, refusing what comes in meanwhile; `None` once the queue is closed.
fn reopen(shared: &Shared) -> Option<Connection> {
    let mut pause = REOPEN.0;
    // A database that opens and fails at once must not make a busy loop.
    std::thread::sleep(pause);
    loop {
        shared.readers.clear();
        match try_reopen(shared) {
            Ok((conn, documents)) => {
                shared.doc_version.send_replace(documents);
                shared.broken.store(false, Ordering::Relaxed);
                // What the failed round wrote may be stored after all, and nobody has been told.
                shared.feed.restart();
                tracing::info!("the database works again");
                return Some(conn);
            }
            Err(e) => {
                tracing::warn!(error = %e, "the database cannot be opened");
                let until = Instant::now() + pause;
                pause = (pause * 2).min(REOPEN.1);
                loop {
                    match shared.queue.take(Some(until)) {
                        Taken::Ops(ops) => refuse_all(ops, &e),
                        Taken::TimedOut => break,
                        Taken::Closed => return None,
                    }
                    if Instant::now() >= until {
                        break;
                    }
                }
            }
        }
    }
}

/// Nothing is known about a log whose sync failed, not even after a later sync of the same bytes. So the log is first written
/// anew; moving it into the database then settles what it holds: what is there after that is stored and synced, what is not is gone.
///
/// Answers the connection and the number of the last change of a document.
fn try_reopen(shared: &Shared) -> Result<(Connection, u64)> {
    let _alone = shared.checkpoints.alone();
    disk::write_anew(&schema::log_path(&shared.options.dir))
        .map_err(|e| Error::Unavailable(format!("cannot write the log anew: {e}")))?;
    let conn = schema::connect(&shared.options.dir, schema::Missing::Fail, shared.options.page_cache, shared.options.wal_bytes)?;
    schema::prepare(&conn)?;
    if !checkpoint::truncate(&conn)? {
        return Err(Error::Unavailable("a reader keeps the log from being emptied".into()));
    }
    shared.checkpoints.trust();
    let documents = documents::change_number(&conn).map_err(failed)?;
    Ok((conn, documents))
}

/// Whatever ends the thread, nobody waits for ever.
struct RefuseRest<'a>(&'a Shared);

impl Drop for RefuseRest<'_> {
    fn drop(&mut self) {
        self.0.queue.close();
        while let Taken::Ops(ops) = self.0.queue.take(Some(Instant::now())) {
            refuse_all(ops, &closed());
        }
    }
}
