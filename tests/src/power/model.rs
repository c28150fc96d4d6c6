//! A folder as the kernel sees it and as the disk holds it, side by side, while the records of a run pass by.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use super::log::{Op, Target};

/// Files by path below the disk's folder.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Position of a file in [`Model::files`]; files that have lost their name keep it.
type FileId = usize;

/// The state after a number of records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) files: Vec<File>,
    /// Names as the kernel shows them.
    names: BTreeMap<String, FileId>,
    /// Names as they are on the disk.
    durable_names: BTreeMap<String, FileId>,
    /// Changes of names that no sync has covered, in order.
    pub(crate) pending_names: Vec<(Position, NameChange)>,
    inodes: HashMap<u64, FileId>,
    /// Position at which each running sync was called.
    syncs: HashMap<u64, Position>,
    position: Position,
}

/// Number of a record in its run.
pub(crate) type Position = u64;

#[derive(Debug, Clone, Default)]
pub(crate) struct File {
    /// The content as the kernel shows it.
    pub(crate) current: Vec<u8>,
    /// The content that is on the disk for sure.
    pub(crate) durable: Vec<u8>,
    /// Changes that no sync has covered, in order.
    pub(crate) pending: Vec<(Position, Change)>,
}

#[derive(Debug, Clone)]
pub(crate) enum Change {
    Write { offset: usize, data: Range<usize> },
    Truncate(usize),
}

#[derive(Debug, Clone)]
pub(crate) enum NameChange {
    Create { name: String, file: FileId },
    Unlink { name: String },
    Rename { from: String, to: String, file: FileId },
}

impl Model {
    /// A folder whose files, given with their inodes, are all durable.
    pub(crate) fn new(base: &[(String, u64, Vec<u8>)]) -> Self {
        let mut model = Self::default();
        for (name, inode, content) in base {
            let file = model.add_file(*inode);
            model.files[file].current.clone_from(content);
            model.files[file].durable.clone_from(content);
            model.names.insert(name.clone(), file);
        }
        model.durable_names.clone_from(&model.names);
        model
    }

    /// Applies one record; `log` holds its data.
    pub(crate) fn apply(&mut self, op: &Op, log: &[u8]) {
        self.position += 1;
        match op {
            Op::Create { inode, name } => self.create(*inode, name),
            Op::Write { inode, offset, data } => {
                self.change(*inode, Change::Write { offset: *offset as usize, data: data.clone() }, log);
            }
            Op::Truncate { inode, length } => self.change(*inode, Change::Truncate(*length as usize), log),
            Op::Unlink { name } => {
                self.names.remove(name);
                self.pending_names.push((self.position, NameChange::Unlink { name: name.clone() }));
            }
            Op::Rename { from, to } => {
                let file =
                    self.names.remove(from).unwrap_or_else(|| panic!("{from:?} was renamed to {to:?} but is not on the disk"));
                self.names.insert(to.clone(), file);
                self.pending_names.push((self.position, NameChange::Rename { from: from.clone(), to: to.clone(), file }));
            }
            Op::SyncBegin { number } => {
                self.syncs.insert(*number, self.position);
            }
            Op::SyncEnd { target, number } => {
                if let Some(covered) = self.syncs.remove(number) {
                    self.make_durable(target, covered, log);
                }
            }
            Op::SyncFailed { target, number } => {
                if let (Some(covered), Target::File(inode)) = (self.syncs.remove(number), target)
                    && let Some(&file) = self.inodes.get(inode)
                {
                    self.files[file].pending.retain(|(position, _)| *position > covered);
                }
            }
        }
    }

    /// The folder as the kernel shows it.
    pub(crate) fn current(&self) -> Files {
        self.names.iter().map(|(name, file)| (name.clone(), self.files[*file].current.clone())).collect()
    }

    /// The name of an inode as the kernel shows it.
    pub(crate) fn name(&self, inode: u64) -> Option<&str> {
        let file = self.inodes.get(&inode)?;
        self.names.iter().find(|(_, known)| *known == file).map(|(name, _)| name.as_str())
    }

    /// Names on the disk, after the first `kept` of the pending changes.
    pub(crate) fn names_on_disk(&self, kept: usize) -> BTreeMap<String, FileId> {
        let mut names = self.durable_names.clone();
        for (_, change) in &self.pending_names[..kept] {
            change.apply(&mut names);
        }
        names
    }

    fn add_file(&mut self, inode: u64) -> FileId {
        self.files.push(File::default());
        self.inodes.insert(inode, self.files.len() - 1);
        self.files.len() - 1
    }

    fn create(&mut self, inode: u64, name: &str) {
        // The kernel gives inodes of removed files to new ones: the same file only if the name led to it before.
        if self.names.get(name).is_some_and(|file| self.inodes.get(&inode) == Some(file)) {
            return;
        }
        let file = self.add_file(inode);
        self.names.insert(name.to_owned(), file);
        self.pending_names.push((self.position, NameChange::Create { name: name.to_owned(), file }));
    }

    fn change(&mut self, inode: u64, change: Change, log: &[u8]) {
        let file = *self.inodes.get(&inode).unwrap_or_else(|| panic!("a file with the unknown inode {inode} was changed"));
        let file = &mut self.files[file];
        change.apply(&mut file.current, log);
        file.pending.push((self.position, change));
    }

    /// Makes what was recorded up to `covered` durable for the target of a sync.
    fn make_durable(&mut self, target: &Target, covered: Position, log: &[u8]) {
        match target {
            Target::File(inode) => {
                let Some(&file) = self.inodes.get(inode) else { return };
                let state = &mut self.files[file];
                let count = state.pending.partition_point(|(position, _)| *position <= covered);
                for (_, change) in state.pending.drain(..count) {
                    change.apply(&mut state.durable, log);
                }
                self.make_names_durable(covered, |change| change.file() == Some(file));
            }
            Target::Folder(path) => {
                self.make_names_durable(covered, |change| change.names().iter().any(|name| parent(name) == path));
            }
        }
    }

    /// Makes the chosen changes durable, and with each the earlier ones of the same names: a name cannot skip a step.
    fn make_names_durable(&mut self, covered: Position, chosen: impl Fn(&NameChange) -> bool) {
        let mut names: BTreeSet<String> = BTreeSet::new();
        let mut durable = vec![false; self.pending_names.len()];
        for (place, (position, change)) in self.pending_names.iter().enumerate().rev() {
            let touched = change.names();
            if *position <= covered && (chosen(change) || touched.iter().any(|name| names.contains(*name))) {
                durable[place] = true;
                names.extend(touched.into_iter().map(str::to_owned));
            }
        }
        let mut durable = durable.into_iter();
        for (position, change) in std::mem::take(&mut self.pending_names) {
            if durable.next() == Some(true) {
                change.apply(&mut self.durable_names);
            } else {
                self.pending_names.push((position, change));
            }
        }
    }
}

impl Change {
    /// Applies the change to a content.
    pub(crate) fn apply(&self, content: &mut Vec<u8>, log: &[u8]) {
        match self {
            Self::Write { offset, data } => write_at(content, *offset, &log[data.clone()]),
            Self::Truncate(length) => content.resize(*length, 0),
        }
    }
}

impl NameChange {
    fn names(&self) -> Vec<&str> {
        match self {
            Self::Create { name, .. } | Self::Unlink { name } => vec![name],
            Self::Rename { from, to, .. } => vec![from, to],
        }
    }

    fn file(&self) -> Option<FileId> {
        match self {
            Self::Create { file, .. } | Self::Rename { file, .. } => Some(*file),
            Self::Unlink { .. } => None,
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, FileId>) {
        match self {
            Self::Create { name, file } => {
                names.insert(name.clone(), *file);
            }
            Self::Unlink { name } => {
                names.remove(name);
            }
            Self::Rename { from, to, file } => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
        }
    }
}

/// Writes into a content, filling a gap before `offset` with zeros.
pub(crate) fn write_at(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(data);
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] = b"aaaabbbb";

    fn run(ops: &[Op]) -> Model {
        let mut model = Model::new(&[]);
        for op in ops {
            model.apply(op, LOG);
        }
        model
    }

    fn create(name: &str, inode: u64) -> Op {
        Op::Create { inode, name: name.to_owned() }
    }

    fn write(inode: u64, data: Range<usize>) -> Op {
        Op::Write { inode, offset: 0, data }
    }

    fn sync(target: &Target, number: u64) -> [Op; 2] {
        [Op::SyncBegin { number }, Op::SyncEnd { target: target.clone(), number }]
    }

    #[test]
    fn a_sync_covers_what_was_written_before_its_call() {
        let [begin, end] = sync(&Target::File(9), 1);
        let model = run(&[create("f", 9), write(9, 0..4), begin, write(9, 4..8), end]);
        assert_eq!(model.files[0].durable, b"aaaa");
        assert_eq!(model.files[0].current, b"bbbb");
        assert_eq!(model.names_on_disk(0).len(), 1);
    }

    #[test]
    fn a_sync_that_has_not_returned_covers_nothing() {
        let model = run(&[create("f", 9), write(9, 0..4), Op::SyncBegin { number: 1 }]);
        assert!(model.files[0].durable.is_empty());
        assert!(model.names_on_disk(0).is_empty());
    }

    #[test]
    fn changes_of_a_failed_sync_are_lost_even_if_the_next_succeeds() {
        let [begin, end] = sync(&Target::File(9), 2);
        let failed = Op::SyncFailed { target: Target::File(9), number: 1 };
        let model = run(&[create("f", 9), write(9, 0..4), Op::SyncBegin { number: 1 }, failed, begin, end]);
        assert!(model.files[0].durable.is_empty());
    }

    #[test]
    fn a_removal_needs_a_sync_of_the_folder() {
        let [begin, end] = sync(&Target::File(9), 1);
        let unlink = Op::Unlink { name: "f".to_owned() };
        let model = run(&[create("f", 9), begin.clone(), end.clone(), unlink.clone()]);
        assert!(model.names_on_disk(0).contains_key("f"));
        let [folder_begin, folder_end] = sync(&Target::Folder(String::new()), 2);
        let model = run(&[create("f", 9), begin, end, unlink, folder_begin, folder_end]);
        assert!(model.names_on_disk(0).is_empty());
    }

    #[test]
    fn a_rename_over_a_file_is_whole_or_absent() {
        let rename = Op::Rename { from: "new".to_owned(), to: "f".to_owned() };
        let [begin, end] = sync(&Target::Folder(String::new()), 1);
        let mut ops = vec![create("f", 8), create("new", 9), begin, end, rename];
        let model = run(&ops);
        assert_eq!(model.names_on_disk(0).get("f"), Some(&0));
        assert_eq!(model.names_on_disk(1).get("f"), Some(&1));
        ops.extend(sync(&Target::File(9), 2));
        let model = run(&ops);
        assert_eq!(model.names_on_disk(0).into_iter().collect::<Vec<_>>(), [("f".to_owned(), 1)]);
    }

    #[test]
    fn an_inode_used_again_is_another_file() {
        let [begin, end] = sync(&Target::File(9), 1);
        let unlink = Op::Unlink { name: "f".to_owned() };
        let model = run(&[create("f", 9), write(9, 0..4), begin, end, unlink, create("f", 9)]);
        assert_eq!(model.files.len(), 2);
        assert!(model.current()["f"].is_empty());
        assert_eq!(model.names_on_disk(0).get("f"), Some(&0));
    }
}
