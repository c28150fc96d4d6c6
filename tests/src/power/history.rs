//! A recorded run, and the folders that power cuts could have left of it.

use std::collections::BTreeSet;
use std::path::Path;

use fastrand::Rng;
use tempfile::TempDir;

use super::log::Record;
use super::model::{Change, File, Files, Model, write_at};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// What becomes of changes that no sync has covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Loss {
    /// All are lost.
    Whole,
    /// Each sector of each is kept or lost by chance, in no order.
    Torn,
    /// They are kept up to a point, in order, for each file by itself.
    Prefix,
    /// All are kept but one to three sectors.
    FewLost,
}

impl Loss {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Whole, Self::Torn, Self::Prefix, Self::FewLost];
}

/// A power cut at an instant. The same cut of the same history always leaves the same folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PowerCut {
    /// What had returned by this instant had happened; see [`crate::clock`].
    pub at_ns: u64,
    /// What becomes of unsynced changes.
    pub loss: Loss,
    /// Decides where chance does.
    pub seed: u64,
}

/// Everything that happened on a disk.
pub struct History {
    pub(crate) base: Model,
    pub(crate) records: Vec<Record>,
    pub(crate) log: Vec<u8>,
}

/// The files of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Contents by path below the folder.
    pub files: Files,
}

impl History {
    /// Number of recorded operations.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nothing has happened.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// `count` cuts at instants chosen by the seed, all kinds of loss in turn, in order of time. The instants lie just before
    /// or just after operations, for between two operations nothing changes.
    pub fn cuts(&self, seed: u64, count: usize) -> Vec<PowerCut> {
        self.cuts_between(0, u64::MAX, seed, count)
    }

    /// The same, at instants between two.
    pub fn cuts_between(&self, from_ns: u64, to_ns: u64, seed: u64, count: usize) -> Vec<PowerCut> {
        let instants: Vec<u64> =
            self.records.iter().map(|record| record.at_ns).filter(|at| (from_ns..=to_ns).contains(at)).collect();
        assert!(!instants.is_empty(), "nothing was recorded on the disk, so no power cut can change anything");
        let mut rng = Rng::with_seed(seed);
        let mut cuts: Vec<PowerCut> = (0..count)
            .map(|number| {
                let at_ns = instants[rng.usize(..instants.len())] - u64::from(rng.bool());
                PowerCut { at_ns, loss: Loss::ALL[number % Loss::ALL.len()], seed: rng.u64(..) }
            })
            .collect();
        cuts.sort_by_key(|cut| cut.at_ns);
        cuts
    }

    /// The folder that a cut leaves.
    pub fn image(&self, cut: PowerCut) -> Image {
        let mut images = self.images(&[cut]);
        images.next().expect("one cut leaves one folder").1
    }

    /// The folders that many cuts leave, in order of time. The run is replayed once for all.
    pub fn images<'a>(&'a self, cuts: &[PowerCut]) -> impl Iterator<Item = (PowerCut, Image)> + use<'a> {
        let mut cuts = cuts.to_vec();
        cuts.sort_by_key(|cut| cut.at_ns);
        let mut model = self.base.clone();
        let mut next = 0;
        cuts.into_iter().map(move |cut| {
            while let Some(record) = self.records.get(next).filter(|record| record.at_ns <= cut.at_ns) {
                model.apply(&record.op, &self.log);
                next += 1;
            }
            (cut, image(&model, cut, &self.log))
        })
    }

    /// The folder as the kernel shows it at the end of the run.
    pub fn current(&self) -> Image {
        Image { files: self.replayed().current() }
    }

    pub(crate) fn replayed(&self) -> Model {
        let mut model = self.base.clone();
        for record in &self.records {
            model.apply(&record.op, &self.log);
        }
        model
    }
}

impl Image {
    /// Writes the files into a new folder, which is removed with the returned value.
    pub fn restore(&self) -> TempDir {
        let folder = tempfile::Builder::new().prefix("lovage-after-power-cut-").tempdir().expect("a folder can be made");
        self.write_to(folder.path());
        folder
    }

    /// Writes the files into a folder.
    pub fn write_to(&self, folder: &Path) {
        for (name, content) in &self.files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder can be made");
            std::fs::write(path, content).expect("a file can be restored");
        }
    }
}

fn image(model: &Model, cut: PowerCut, log: &[u8]) -> Image {
    let mut rng = Rng::with_seed(cut.seed);
    let names_pending = model.pending_names.len();
    let names_kept = match cut.loss {
        Loss::Whole => 0,
        Loss::Torn | Loss::Prefix => rng.usize(..=names_pending),
        Loss::FewLost => names_pending,
    };
    let names = model.names_on_disk(names_kept);
    let reachable: BTreeSet<usize> = names.values().copied().collect();
    let units_pending: usize = reachable.iter().map(|file| units(&model.files[*file]).count()).sum();
    let mut fate = Fate::new(cut.loss, units_pending, &mut rng);
    let contents: Vec<(usize, Vec<u8>)> =
        reachable.into_iter().map(|file| (file, content(&model.files[file], &mut fate, &mut rng, log))).collect();
    let content_of = |file: &usize| {
        let place = contents.binary_search_by_key(file, |(known, _)| *known).expect("every named file has a content");
        contents[place].1.clone()
    };
    Image { files: names.iter().map(|(name, file)| (name.clone(), content_of(file))).collect() }
}

/// One part of a change that is kept or lost as a whole.
enum Unit {
    Sector { offset: usize, start: usize, end: usize },
    Truncate(usize),
}

/// The pending changes of a file as units, in order.
fn units(file: &File) -> impl Iterator<Item = Unit> {
    file.pending.iter().flat_map(|(_, change)| match change {
        Change::Truncate(length) => vec![Unit::Truncate(*length)],
        Change::Write { offset, data } => {
            let mut sectors = Vec::new();
            let mut done = 0;
            while done < data.len() {
                let at = offset + done;
                let size = (SECTOR - at % SECTOR).min(data.len() - done);
                sectors.push(Unit::Sector { offset: at, start: data.start + done, end: data.start + done + size });
                done += size;
            }
            sectors
        }
    })
}

/// Decides unit by unit what is kept.
enum Fate {
    Whole,
    Torn { kept: f64 },
    Prefix,
    FewLost { lost: BTreeSet<usize>, seen: usize },
}

impl Fate {
    fn new(loss: Loss, units: usize, rng: &mut Rng) -> Self {
        match loss {
            Loss::Whole => Self::Whole,
            // Some disks write nearly everything before the power goes, some nearly nothing.
            Loss::Torn => Self::Torn { kept: 0.05 + 0.9 * rng.f64() },
            Loss::Prefix => Self::Prefix,
            Loss::FewLost if units == 0 => Self::FewLost { lost: BTreeSet::new(), seen: 0 },
            Loss::FewLost => Self::FewLost { lost: (0..rng.usize(1..=3)).map(|_| rng.usize(..units)).collect(), seen: 0 },
        }
    }
}

fn content(file: &File, fate: &mut Fate, rng: &mut Rng, log: &[u8]) -> Vec<u8> {
    let mut content = file.durable.clone();
    let prefix = if matches!(fate, Fate::Prefix) { rng.usize(..=units(file).count()) } else { 0 };
    for (place, unit) in units(file).enumerate() {
        let kept = match fate {
            Fate::Whole => false,
            Fate::Torn { kept } => rng.f64() < *kept,
            Fate::Prefix => place < prefix,
            Fate::FewLost { lost, seen } => {
                *seen += 1;
                !lost.contains(&(*seen - 1))
            }
        };
        match unit {
            Unit::Sector { offset, start, end } if kept => write_at(&mut content, offset, &log[start..end]),
            Unit::Truncate(length) if kept => content.resize(length, 0),
            Unit::Sector { .. } | Unit::Truncate(_) => {}
        }
    }
    // The new length may have reached the disk before the data it makes room for, which then reads as zeros.
    let out_of_order = matches!(fate, Fate::Torn { .. } | Fate::FewLost { .. });
    if out_of_order && content.len() < file.current.len() && rng.bool() {
        content.resize(file.current.len(), 0);
    }
    content
}
