//! The worker protocol with real processes: what a worker may answer beyond success and failure,
//! and what it may report.

mod answers;
mod batches;
pub(crate) mod events;
mod leases;
mod limits;
mod reports;
mod tokens;

/// Every test that the table of the protocol names is there.
#[test]
fn the_table_names_tests_that_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(root.join("../docs/worker-protocol.md")).unwrap();
    let mut rows = 0;
    for line in table.lines().filter(|line| line.contains(".rs` `")) {
        let mut words = line.rsplit('`');
        let (test, file) = (words.nth(1).unwrap(), words.nth(1).unwrap());
        let source = std::fs::read_to_string(root.join("tests/e2e").join(file)).unwrap();
        assert!(source.contains(&format!("async fn {test}(")), "{file} has no {test}");
        rows += 1;
    }
    assert!(rows >= 35, "only {rows} rows found");
}
