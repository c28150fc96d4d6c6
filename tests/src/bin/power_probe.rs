//! A small program that keeps, or breaks, the promise of durability, so that the power-cut tool can be tested without Lovage.
//!
//! `power_probe FOLDER (file|sqlite) (strict|careless) COUNT` stores COUNT numbered records and prints a line `NUMBER NANOSECONDS` after
//! each: "from this instant on it is durable". In careless mode that is not true, for it does not sync. It goes on after the
//! last record found, so that it can be killed and started again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use lovage_tests::clock::now_ns;
use rusqlite::Connection;

/// Bytes of a record in the file: no divisor of a sector, so that some records lie in two.
const RECORD: usize = 100;

/// Every so many records the file probe also replaces its summary by a rename.
const SUMMARY_EVERY: usize = 10;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, kind, mode, count] = arguments.as_slice() else { panic!("power_probe FOLDER KIND MODE COUNT") };
    let strict = match mode.as_str() {
        "strict" => true,
        "careless" => false,
        other => panic!("no such mode: {other}"),
    };
    let count = count.parse().expect("COUNT is a number");
    match kind.as_str() {
        "file" => write_file(Path::new(folder), strict, count),
        "sqlite" => write_database(Path::new(folder), strict, count),
        other => panic!("no such kind: {other}"),
    }
}

fn acknowledge(number: usize) {
    println!("{number} {}", now_ns());
}

fn write_file(folder: &Path, strict: bool, count: usize) {
    let path = folder.join("records");
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the file can be opened");
    // A killed process may have left half a record, and whole ones that it has not synced.
    let found = file.metadata().expect("the file has a length").len() as usize / RECORD;
    file.set_len((found * RECORD) as u64).expect("the file can be cut");
    if strict {
        file.sync_all().expect("the file can be synced");
    }
    for number in found..count {
        let record = format!("{number:0width$}\n", width = RECORD - 1);
        file.write_all(record.as_bytes()).expect("the file can be written");
        if strict {
            file.sync_data().expect("the file can be synced");
        }
        if number % SUMMARY_EVERY == 0 {
            replace_summary(folder, strict, number);
        }
        acknowledge(number);
    }
}

fn replace_summary(folder: &Path, strict: bool, number: usize) {
    let (new, old) = (folder.join("summary.new"), folder.join("summary"));
    let mut file = File::create(&new).expect("the summary can be made");
    file.write_all(number.to_string().as_bytes()).expect("the summary can be written");
    if strict {
        file.sync_all().expect("the summary can be synced");
    }
    fs::rename(new, old).expect("the summary can be replaced");
    if strict {
        File::open(folder).and_then(|folder| folder.sync_all()).expect("the folder can be synced");
    }
}

fn write_database(folder: &Path, strict: bool, count: usize) {
    let database = Connection::open(folder.join("records.db")).expect("the database can be opened");
    database.pragma_update(None, "journal_mode", "wal").expect("the journal mode can be set");
    let synchronous = if strict { "full" } else { "normal" };
    database.pragma_update(None, "synchronous", synchronous).expect("the synchronous mode can be set");
    database.pragma_update(None, "wal_autocheckpoint", 50).expect("the checkpoint interval can be set");
    database
        .execute("CREATE TABLE IF NOT EXISTS record (number INTEGER PRIMARY KEY, body BLOB) STRICT", [])
        .expect("the table can be made");
    let found: i64 = database.query_row("SELECT count(*) FROM record", [], |row| row.get(0)).expect("records can be counted");
    for number in found as usize..count {
        let body = vec![(number % 251) as u8; 300];
        database.execute("INSERT INTO record VALUES (?, ?)", (number as i64, body)).expect("a record can be stored");
        acknowledge(number);
    }
}
