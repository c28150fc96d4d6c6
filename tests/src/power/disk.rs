//! A folder whose writes are recorded, and whose faults a test can switch on.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::history::{History, Image};
use super::log;
use super::model::{Files, Model};
use super::shim;
use crate::clock::now_ns;

const FULL: u8 = 1;
const SYNC_FAILS: u8 = 2;
const SYNC_IGNORED: u8 = 4;

/// A folder on a disk that can lose its power. Processes write to it through [`Disk::environment`].
pub struct Disk {
    home: TempDir,
    folder: PathBuf,
    base: Model,
    control: std::sync::Mutex<[u8; 2]>,
}

impl Disk {
    /// An empty folder, removed with this value.
    pub fn new() -> Self {
        Self::with(&Image { files: Files::new() })
    }

    /// A folder that already holds these files, durably: for instance those that an earlier cut has left.
    pub fn with(image: &Image) -> Self {
        let home = tempfile::Builder::new().prefix("lovage-disk-").tempdir().expect("a folder for the disk can be made");
        let folder = home.path().join("data");
        fs::create_dir(&folder).expect("the disk's folder can be made");
        image.write_to(&folder);
        let folder = folder.canonicalize().expect("the disk's folder has a path");
        let base: Vec<(String, u64, Vec<u8>)> =
            scan(&folder).into_iter().map(|(name, content)| (name.clone(), inode(&folder.join(name)), content)).collect();
        let disk = Self { home, folder, base: Model::new(&base), control: std::sync::Mutex::new([0; 2]) };
        fs::write(disk.log_path(), b"").expect("the disk's log can be made");
        disk.set(|_| {});
        disk
    }

    /// The folder to work in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What a process needs in its environment to be recorded. It must be linked dynamically to the C library.
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        vec![
            ("LD_PRELOAD".into(), shim::library().into()),
            ("POWER_SHIM_FOLDER".into(), self.folder().into()),
            ("POWER_SHIM_LOG".into(), self.log_path().into()),
            ("POWER_SHIM_CONTROL".into(), self.control_path().into()),
        ]
    }

    /// While full, no file can grow (`ENOSPC`); writing inside a file still works.
    pub fn set_full(&self, full: bool) {
        self.set_fault(FULL, full);
    }

    /// While failing, every sync returns `EIO`, and what it should have covered is lost.
    pub fn set_sync_failing(&self, failing: bool) {
        self.set_fault(SYNC_FAILS, failing);
    }

    /// While ignoring, every sync returns success and does nothing: a disk that lies, or a server that forgot to sync. A
    /// durability test must fail on such a disk, else it proves nothing.
    pub fn set_ignoring_syncs(&self, ignoring: bool) {
        self.set_fault(SYNC_IGNORED, ignoring);
    }

    /// Makes every sync take this much longer; up to 255 ms.
    pub fn set_sync_delay(&self, delay: Duration) {
        let delay = u8::try_from(delay.as_millis()).expect("a sync can be delayed by at most 255 ms");
        self.set(|control| control[1] = delay);
    }

    /// Adds to the record what a killed process did but could no longer record. To be called between a kill and the next
    /// start; returns the number of changes found.
    pub fn reconcile(&self) -> usize {
        let (records, length) = log::read(&self.read_log());
        let last_ns = records.last().map_or(0, |record| record.at_ns);
        let log_file = fs::OpenOptions::new().append(true).open(self.log_path()).expect("the disk's log can be opened");
        log_file.set_len(length as u64).expect("the torn end of the log can be cut off");
        let model = self.history().replayed();
        let at_ns = now_ns().max(last_ns);
        let missing = self.differences(&model, at_ns);
        (&log_file).write_all(&missing.concat()).expect("the disk's log can be completed");
        missing.len()
    }

    /// Everything recorded so far. Take it when no process writes any more.
    pub fn history(&self) -> History {
        let log = self.read_log();
        let (records, _) = log::read(&log);
        History { base: self.base.clone(), records, log }
    }

    /// Fails unless the record explains every byte in the folder: then no write has passed the recorder by. To be called
    /// after a process has ended in order.
    pub fn assert_complete(&self) {
        let (recorded, actual) = (self.history().current().files, scan(self.folder()));
        let names = recorded.keys().chain(actual.keys());
        let differing: Vec<&String> = names.filter(|name| recorded.get(*name) != actual.get(*name)).collect();
        assert!(differing.is_empty(), "files changed without being recorded: {differing:?}");
    }

    /// The folder's difference from the record, as records.
    fn differences(&self, model: &Model, at_ns: u64) -> Vec<Vec<u8>> {
        let (mut recorded, actual) = (model.current(), scan(self.folder()));
        let mut missing = Vec::new();
        for (name, content) in &actual {
            let inode = inode(&self.folder().join(name));
            let old_name = model.name(inode).filter(|old| *old == name || !actual.contains_key(*old));
            let known = match old_name {
                Some(old) if old == name => recorded.remove(old),
                Some(old) => {
                    missing.push(log::encode(at_ns, 5, 0, 0, old, name.as_bytes()));
                    recorded.remove(name);
                    recorded.remove(old)
                }
                None => {
                    missing.push(log::encode(at_ns, 1, inode, 0, name, b""));
                    recorded.remove(name);
                    None
                }
            };
            let known = known.unwrap_or_default();
            if known == *content {
                continue;
            }
            // From the first byte that differs: more than was written, perhaps, but the same bytes.
            let same = known.iter().zip(content).take_while(|(left, right)| left == right).count();
            if content.len() > same {
                missing.push(log::encode(at_ns, 2, inode, same as u64, "", &content[same..]));
            }
            if content.len() < known.len() {
                missing.push(log::encode(at_ns, 3, inode, content.len() as u64, "", b""));
            }
        }
        missing.extend(recorded.keys().map(|gone| log::encode(at_ns, 4, 0, 0, gone, b"")));
        missing
    }

    fn set_fault(&self, fault: u8, on: bool) {
        self.set(|control| if on { control[0] |= fault } else { control[0] &= !fault });
    }

    fn set(&self, change: impl FnOnce(&mut [u8; 2])) {
        let mut control = self.control.lock().expect("no holder panics");
        change(&mut control);
        // Not truncated first: the recorder may read at any moment.
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(self.control_path());
        file.and_then(|mut file| file.write_all(&*control)).expect("the disk's faults can be set");
    }

    fn read_log(&self) -> Vec<u8> {
        fs::read(self.log_path()).expect("the disk's log can be read")
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("log")
    }

    fn control_path(&self) -> PathBuf {
        self.home.path().join("control")
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self::new()
    }
}

/// All files below a folder, but for shared memory, which is no part of the disk's content.
fn scan(folder: &Path) -> Files {
    fn visit(folder: &Path, prefix: &str, files: &mut Files) {
        for entry in fs::read_dir(folder).expect("the disk's folder can be listed") {
            let entry = entry.expect("the disk's folder can be listed");
            let name = format!("{prefix}{}", entry.file_name().to_str().expect("names on the disk are text"));
            if entry.file_type().expect("a file has a type").is_dir() {
                visit(&entry.path(), &format!("{name}/"), files);
            } else if !name.ends_with("-shm") {
                files.insert(name, fs::read(entry.path()).expect("a file on the disk can be read"));
            }
        }
    }
    let mut files = Files::new();
    visit(folder, "", &mut files);
    files
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).expect("a file on the disk has an inode").ino()
}
