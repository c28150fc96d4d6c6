//! The power-cut tool finds a planted lack of durability in every mode, and accuses nobody who syncs.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use lovage_tests::power::{Disk, History, Image, Loss};
use rusqlite::{Connection, OpenFlags};

const CUTS: usize = 200;

/// What a probe has promised: record number and the instant of the promise.
type Promises = Vec<(usize, u64)>;

fn probe(disk: &Disk, kind: &str, mode: &str, count: usize) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_power_probe"));
    command.arg(disk.folder()).args([kind, mode, &count.to_string()]).envs(disk.environment()).stdout(Stdio::piped());
    command
}

fn promises(child: &mut Child) -> impl Iterator<Item = (usize, u64)> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // A killed probe may leave half a line.
    lines.map_while(|line| {
        let line = line.ok()?;
        let (number, at_ns) = line.split_once(' ')?;
        Some((number.parse().ok()?, at_ns.parse().ok()?))
    })
}

fn run(disk: &Disk, kind: &str, mode: &str, count: usize) -> Promises {
    let mut child = probe(disk, kind, mode, count).spawn().unwrap();
    let promises: Promises = promises(&mut child).collect();
    assert!(child.wait().unwrap().success(), "the probe failed");
    assert_eq!(promises.len(), count);
    promises
}

/// How many promised records each kind of loss took, over many cuts.
fn losses(history: &History, promises: &Promises, survivors: impl Fn(&Image) -> Vec<usize>) -> HashMap<Loss, usize> {
    let mut lost: HashMap<Loss, usize> = Loss::ALL.map(|loss| (loss, 0)).into();
    for (cut, image) in history.images(&history.cuts(1, CUTS)) {
        let found = survivors(&image);
        let missing = promises.iter().filter(|(number, at_ns)| *at_ns <= cut.at_ns && !found.contains(number));
        *lost.get_mut(&cut.loss).unwrap() += missing.count();
    }
    lost
}

fn records_in_file(image: &Image) -> Vec<usize> {
    let content = image.files.get("records").map_or(&[][..], Vec::as_slice);
    let whole = |number: &usize| {
        content.get(number * 100..number * 100 + 100).is_some_and(|record| record == format!("{number:099}\n").as_bytes())
    };
    (0..content.len() / 100).filter(whole).collect()
}

fn records_in_database(image: &Image) -> Vec<usize> {
    let folder = image.restore();
    let path = folder.path().join("records.db");
    if !path.exists() {
        return Vec::new();
    }
    let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    let verdict: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
    let table: i64 = database.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    if table == 0 {
        return Vec::new();
    }
    let mut statement = database.prepare("SELECT number FROM record").unwrap();
    let numbers = statement.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    numbers.map(|number| number.unwrap() as usize).collect()
}

#[test]
fn a_file_that_is_synced_loses_nothing() {
    let disk = Disk::new();
    let promises = run(&disk, "file", "strict", 300);
    disk.assert_complete();
    let lost = losses(&disk.history(), &promises, records_in_file);
    assert!(lost.values().all(|count| *count == 0), "{lost:?}");
}

#[test]
fn a_file_that_is_not_synced_loses_records_in_every_mode() {
    let disk = Disk::new();
    let promises = run(&disk, "file", "careless", 300);
    disk.assert_complete();
    let lost = losses(&disk.history(), &promises, records_in_file);
    assert!(lost.values().all(|count| *count > 0), "{lost:?}");
}

#[test]
fn a_summary_replaced_with_syncs_is_never_torn_and_never_older_than_promised() {
    let disk = Disk::new();
    let promises = run(&disk, "file", "strict", 200);
    let history = disk.history();
    for (cut, image) in history.images(&history.cuts(2, CUTS)) {
        let newest =
            promises.iter().filter(|(number, at_ns)| number % 10 == 0 && *at_ns <= cut.at_ns).map(|(number, _)| *number).max();
        let summary = image.files.get("summary").map(|content| String::from_utf8_lossy(content).parse::<usize>().unwrap());
        assert!(summary >= newest, "{cut:?} left the summary at {summary:?}, promised was {newest:?}");
    }
}

#[test]
fn a_summary_replaced_without_syncs_is_torn_or_too_old() {
    let disk = Disk::new();
    let promises = run(&disk, "file", "careless", 200);
    let history = disk.history();
    let wrong = history.images(&history.cuts(2, CUTS)).filter(|(cut, image)| {
        let newest =
            promises.iter().filter(|(number, at_ns)| number % 10 == 0 && *at_ns <= cut.at_ns).map(|(number, _)| *number).max();
        let summary = image.files.get("summary").and_then(|content| String::from_utf8_lossy(content).parse::<usize>().ok());
        summary < newest
    });
    assert!(wrong.count() > 0);
}

#[test]
fn sqlite_with_full_synchronous_loses_nothing() {
    let disk = Disk::new();
    let promises = run(&disk, "sqlite", "strict", 150);
    disk.assert_complete();
    let lost = losses(&disk.history(), &promises, records_in_database);
    assert!(lost.values().all(|count| *count == 0), "{lost:?}");
}

#[test]
fn sqlite_with_normal_synchronous_loses_records_but_not_its_integrity() {
    let disk = Disk::new();
    let promises = run(&disk, "sqlite", "careless", 150);
    disk.assert_complete();
    let lost = losses(&disk.history(), &promises, records_in_database);
    assert!(lost[&Loss::Whole] > 0 && lost[&Loss::Torn] > 0, "{lost:?}");
}

#[test]
fn a_disk_that_ignores_syncs_loses_even_from_a_careful_program() {
    let disk = Disk::new();
    disk.set_ignoring_syncs(true);
    let promises = run(&disk, "file", "strict", 300);
    disk.assert_complete();
    let lost = losses(&disk.history(), &promises, records_in_file);
    assert!(lost.values().all(|count| *count > 0), "{lost:?}");
}

#[test]
fn kills_before_the_cut_are_part_of_the_history() {
    for kind in ["file", "sqlite"] {
        let disk = Disk::new();
        let mut promised = Promises::new();
        for round in 1..=5 {
            let mut child = probe(&disk, kind, "strict", 1_000_000).spawn().unwrap();
            promised.extend(promises(&mut child).take(40 * round));
            child.kill().unwrap();
            child.wait().unwrap();
            disk.reconcile();
            disk.assert_complete();
        }
        let survivors = if kind == "file" { records_in_file } else { records_in_database };
        let lost = losses(&disk.history(), &promised, survivors);
        assert!(lost.values().all(|count| *count == 0), "{kind}: {lost:?}");
    }
}

#[test]
fn a_full_disk_and_a_failing_sync_reach_the_program() {
    let disk = Disk::new();
    let fails = || {
        // Its complaint is expected and would only confuse whoever reads the output.
        let mut child = probe(&disk, "file", "strict", 1_000_000).stderr(Stdio::null()).spawn().unwrap();
        let promised = promises(&mut child).next();
        child.kill().unwrap();
        child.wait().unwrap();
        promised.is_none()
    };
    disk.set_full(true);
    assert!(fails());
    disk.set_full(false);
    disk.set_sync_failing(true);
    assert!(fails());
    disk.set_sync_failing(false);
    assert!(!fails());
}

#[test]
fn the_same_cut_leaves_the_same_folder() {
    let disk = Disk::new();
    run(&disk, "file", "careless", 100);
    let history = disk.history();
    for (cut, image) in history.images(&history.cuts(3, 20)) {
        assert_eq!(history.image(cut), image);
    }
}
