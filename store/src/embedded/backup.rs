//! Copies of an embedded store: taken while a server works on it, and put into a folder of their own.
//!
//! A copy shows one moment. It is taken over a connection that only reads and holds that moment: the server goes on
//! writing, and its log grows until the copy is done.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::failure::failed;
use super::{disk, options, schema};
use crate::{Error, Result};

/// Pages copied at a time.
const STEP_PAGES: i32 = 1_024;

/// What was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Size of the copy.
    pub bytes: u64,
    /// Tasks in it.
    pub tasks: u64,
}

/// Copies the store in `dir` into the new file `to`, also while a server uses it. `told` hears how many pages of how many
/// are done.
///
/// # Errors
/// `Invalid` if there is no store or the file exists.
pub fn backup(dir: &Path, to: &Path, told: impl FnMut(u64, u64)) -> Result<Copied> {
    if !dir.join(schema::FILE).is_file() {
        return Err(Error::Invalid(format!("there is no store in {}", dir.display())));
    }
    if to.exists() {
        return Err(Error::Invalid(format!("{} exists already", to.display())));
    }
    let source = schema::connect_reader(dir)?;
    schema::check(&source)?;
    copy(&source, to, told, |_| Ok(()))
}

/// Makes `dir` a data directory with the store in the file `from`. It must not exist or be empty.
///
/// The new store is one of its own: its sessions and the places in its feed are none that the copied store can have had
/// or come to have, so that reports to one are not taken for reports to the other.
///
/// # Errors
/// `Invalid` if the directory is not empty, `Locked` if it is in use, `Corrupt` and `Format` if the file is not fit.
pub fn restore(from: &Path, dir: &Path, told: impl FnMut(u64, u64)) -> Result<Copied> {
    if !from.is_file() {
        return Err(Error::Invalid(format!("there is no file {}", from.display())));
    }
    let mut log = from.as_os_str().to_owned();
    log.push("-wal");
    if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
        let text = "has a log beside it and is no copy of `lovage backup`; put both into an empty folder instead";
        return Err(Error::Invalid(format!("{} {text}", from.display())));
    }
    let _lock = disk::DirLock::take(dir)?;
    let beside = part(&dir.join(schema::FILE));
    let unavailable = |e: std::io::Error| Error::Unavailable(format!("cannot read {}: {e}", dir.display()));
    for entry in fs::read_dir(dir).map_err(unavailable)? {
        let path = entry.map_err(unavailable)?.path();
        if path.file_name() != Some(disk::LOCK_FILE.as_ref()) && path != beside {
            return Err(Error::Invalid(format!("{} is not empty", dir.display())));
        }
    }
    let source = schema::connect_copy(from)?;
    schema::check(&source)?;
    let sound: String = source.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(damaged)?;
    if sound != "ok" {
        return Err(Error::Corrupt(format!("{}: {sound}", from.display())));
    }
    copy(&source, &dir.join(schema::FILE), told, |copy| {
        let now = options::wall_clock().0 as i64;
        copy.execute("UPDATE meta SET value = max(value, ?1) WHERE name = 'session'", [now]).map(drop)
    })
}

/// Copies into a file beside, finishes it and gives it its name.
fn copy(
    source: &Connection,
    to: &Path,
    mut told: impl FnMut(u64, u64),
    finish: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> Result<Copied> {
    let beside = part(to);
    let unwritable = |e: std::io::Error| Error::Unavailable(format!("cannot write {}: {e}", to.display()));
    // As secret as the store itself: payloads, results and secrets of workers are in it.
    File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside).map_err(unwritable)?;
    let mut target = Connection::open(&beside).map_err(failed)?;
    // Held until the end: else every write of the server would make the copy start anew.
    let moment = source.unchecked_transaction().map_err(failed)?;
    let tasks = "SELECT coalesce(sum(blocked + scheduled + queued + running + retrying + succeeded + failed + canceled + expired), 0) \
                 FROM count";
    let tasks: i64 = moment.query_row(tasks, [], |row| row.get(0)).map_err(damaged)?;
    let copying = Backup::new(source, &mut target).map_err(failed)?;
    loop {
        let step = copying.step(STEP_PAGES).map_err(failed)?;
        let progress = copying.progress();
        told((progress.pagecount - progress.remaining).max(0) as u64, progress.pagecount.max(0) as u64);
        match step {
            StepResult::Done => break,
            StepResult::More => {}
            // Of the moment that is held nothing is locked; another program holds the file.
            _ => return Err(Error::Unavailable("another program keeps the database locked".into())),
        }
    }
    drop(copying);
    moment.finish().map_err(failed)?;
    // One file: no log beside it.
    target.execute_batch("PRAGMA journal_mode = DELETE").map_err(failed)?;
    finish(&target).map_err(failed)?;
    target.execute_batch("PRAGMA journal_mode = WAL").map_err(failed)?;
    target.close().map_err(|(_, e)| failed(e))?;
    let file = File::open(&beside).map_err(unwritable)?;
    file.sync_all().map_err(unwritable)?;
    let bytes = file.metadata().map_err(unwritable)?.len();
    fs::rename(&beside, to).map_err(unwritable)?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    disk::sync_dir(folder).map_err(unwritable)?;
    Ok(Copied { bytes, tasks: tasks as u64 })
}

fn part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

fn damaged(e: rusqlite::Error) -> Error {
    Error::Corrupt(e.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::sync::Arc;

    use lovage_core::{Partition, State};

    use super::*;
    use crate::conformance::Fixture;
    use crate::conformance::kit::Kit;
    use crate::embedded::EmbeddedOptions;
    use crate::{EmbeddedStore, Store};

    struct Plain(tempfile::TempDir);

    #[async_trait::async_trait]
    impl Fixture for Plain {
        async fn fresh(&self) -> Arc<dyn Store> {
            EmbeddedStore::open(EmbeddedOptions::new(self.0.path().join("data"))).unwrap()
        }

        async fn forget_feed(&self, _: &Arc<dyn Store>, _: Partition) {}
    }

    /// A store with tasks that goes on being written to, and its folder.
    async fn busy() -> (Plain, Arc<dyn Store>, Vec<crate::conformance::kit::Task>) {
        let fixture = Plain(tempfile::tempdir().unwrap());
        let store = fixture.fresh().await;
        let tasks = {
            let kit = Kit::over(&fixture, store.clone());
            kit.put_all((0..900).map(|_| kit.task()).collect()).await
        };
        (fixture, store, tasks)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_copy_of_a_working_store_shows_one_moment_and_starts() {
        let (fixture, store, tasks) = busy().await;
        let (data, file) = (fixture.0.path().join("data"), fixture.0.path().join("copy.db"));
        let kit = Kit::over(&fixture, store.clone());
        let writing = tokio::spawn({
            let store = store.clone();
            let tasks = tasks.clone();
            async move {
                for task in tasks {
                    let gone = vec![task.commit(None)];
                    store
                        .commit(Partition(0), crate::conformance::kit::SESSION, gone, crate::Mode::Each, crate::Sync::Durable)
                        .await
                        .unwrap();
                }
            }
        });
        let copied = tokio::task::block_in_place(|| backup(&data, &file, |_, _| {})).unwrap();
        writing.await.unwrap();
        assert!(matches!(backup(&data, &file, |_, _| {}), Err(Error::Invalid(_))), "a copy was overwritten");

        let target = fixture.0.path().join("restored");
        let mut told = Vec::new();
        let restored = restore(&file, &target, |done, all| told.push((done, all))).unwrap();
        assert_eq!(restored.tasks, copied.tasks);
        assert!(told.last().is_some_and(|(done, all)| done == all && *all > 0));
        assert!(matches!(restore(&file, &target, |_, _| {}), Err(Error::Invalid(_))), "a store was overwritten");
        let session = kit.store.tail(kit.p).await.unwrap().high;
        let copy = EmbeddedStore::open(EmbeddedOptions::new(&target)).unwrap();
        assert!(matches!(restore(&file, &target, |_, _| {}), Err(Error::Locked(_))));
        assert!(copy.session().0 > session + 1_000_000, "the sessions of both may meet");
        let keys: Vec<_> = tasks.iter().map(|task| task.key.clone()).collect();
        let heads = copy.heads(Partition(0), &keys).await.unwrap();
        // They were deleted in order: those that are left are the last.
        let first = heads.iter().position(Option::is_some).unwrap_or(heads.len());
        assert!(heads[first..].iter().all(Option::is_some), "the copy shows more than one moment");
        assert_eq!((heads.len() - first) as u64, restored.tasks);
        let counted: u64 =
            copy.counts(Partition(0)).await.unwrap().iter().map(|counts| counts.states[State::Queued as usize]).sum();
        assert_eq!(counted, restored.tasks);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_no_sound_copy_is_refused() {
        let (fixture, store, _tasks) = busy().await;
        let (data, file) = (fixture.0.path().join("data"), fixture.0.path().join("copy.db"));
        tokio::task::block_in_place(|| backup(&data, &file, |_, _| {})).unwrap();
        drop(store);
        let target = |name: &str| fixture.0.path().join(name);
        let bytes = fs::read(&file).unwrap();

        fs::write(target("text.db"), "no database").unwrap();
        assert!(matches!(restore(&target("text.db"), &target("a"), |_, _| {}), Err(Error::Corrupt(_))));
        let mut torn = bytes.clone();
        let middle = torn.len() / 2;
        torn[middle..middle + 8_192].fill(0x5a);
        fs::write(target("torn.db"), &torn).unwrap();
        assert!(matches!(restore(&target("torn.db"), &target("b"), |_, _| {}), Err(Error::Corrupt(_))));
        fs::write(target("newer.db"), &bytes).unwrap();
        Connection::open(target("newer.db")).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
        assert!(matches!(restore(&target("newer.db"), &target("c"), |_, _| {}), Err(Error::Format { found: 99, .. })));
        assert!(matches!(restore(&target("none.db"), &target("d"), |_, _| {}), Err(Error::Invalid(_))));
        assert!(matches!(backup(&target("nowhere"), &target("e.db"), |_, _| {}), Err(Error::Invalid(_))));
    }
}
