//! What the store asks of the file system besides the database itself: the lock and the free space.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock, statvfs};

use crate::{Error, Result};

/// The file that is locked; it stays when the store is closed.
pub(super) const LOCK_FILE: &str = "lovage.lock";

/// How old a measurement of the free space may be.
const FRESH: Duration = Duration::from_millis(100);

/// What is written anew in one piece.
const REWRITE_BYTES: usize = 256 << 10;

/// Keeps other processes out of the data directory while it lives; the kernel frees it when the process ends.
#[derive(Debug)]
pub(super) struct DirLock(#[allow(dead_code)] File);

impl DirLock {
    /// Makes the directory if need be and takes its lock.
    pub(super) fn take(dir: &Path) -> Result<Self> {
        let failed = |what: &str, e: &dyn std::fmt::Display| Error::Unavailable(format!("{what} {}: {e}", dir.display()));
        let new = !dir.exists();
        // Payloads, results and secrets of workers are in there: for the owner alone.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|e| failed("cannot make", &e))?;
        if new && let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_dir(parent).map_err(|e| failed("cannot sync the parent of", &e))?;
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join(LOCK_FILE))
            .map_err(|e| failed("cannot open the lock file in", &e))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked(dir.display().to_string())),
            Err(e) => Err(failed("cannot lock", &e)),
        }
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Writes a file over itself and syncs it; a file that is not there needs nothing.
///
/// After a failed sync the kernel takes what it could not write for written: a later sync succeeds and the bytes are still
/// not on the disk. Written once more they are sure to be. Whatever a power cut leaves of this is what was there before.
pub(super) fn write_anew(path: &Path) -> std::io::Result<()> {
    let file = match File::options().read(true).write(true).open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let mut bytes = vec![0; REWRITE_BYTES];
    let mut at = 0;
    loop {
        let count = file.read_at(&mut bytes, at)?;
        if count == 0 {
            return file.sync_all();
        }
        file.write_all_at(&bytes[..count], at)?;
        at += count as u64;
    }
}

/// Watches the free space of the data directory's disk.
pub(super) struct FreeSpace {
    dir: PathBuf,
    min: u64,
    seen: Option<(Instant, u64)>,
}

impl FreeSpace {
    pub(super) fn new(dir: PathBuf, min: u64) -> Self {
        Self { dir, min, seen: None }
    }

    /// Fails with [`Error::Full`] if less than the minimum is free.
    pub(super) fn check(&mut self) -> Result<()> {
        let free = match self.seen {
            Some((at, free)) if at.elapsed() < FRESH => free,
            _ => {
                // An answer that cannot be had is no reason to refuse work: the write itself will tell.
                let free = statvfs(&self.dir).map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize));
                metrics::gauge!("lovage_store_free_bytes", "store" => "embedded").set(free as f64);
                self.seen = Some((Instant::now(), free));
                free
            }
        };
        if free < self.min {
            return Err(Error::Full(format!("{free} bytes are free on the disk, {} are required", self.min)));
        }
        Ok(())
    }
}
