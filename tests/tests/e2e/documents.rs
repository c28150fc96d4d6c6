//! The documents speak of things that exist: files, and metrics.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders of documents; the root itself is looked at without its folders.
const DOCUMENTS: [&str; 6] = ["docs", "docs/decisions", "docs/errors", "examples", "bench", "."];
const CRATES: [&str; 5] = ["core", "store", "dispatcher", "gateway", "server"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The files of a folder whose names end so.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file() && path.to_string_lossy().ends_with(ending)).collect()
}

fn pages() -> Vec<(PathBuf, String)> {
    let pages = DOCUMENTS.iter().flat_map(|folder| files(&root().join(folder), ".md"));
    pages.map(|page| (page.clone(), fs::read_to_string(&page).unwrap())).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut links = 0;
    for (page, text) in pages() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if !link.is_empty() && !link.contains("://") {
                links += 1;
                assert!(page.parent().unwrap().join(link).exists(), "{} links to {link}", page.display());
            }
        }
    }
    assert!(links > 50, "only {links} links found");
}

/// A path in backquotes that begins with a folder of this repository and names a file.
#[test]
fn files_that_are_named_exist() {
    let folders = ["core/", "store/", "dispatcher/", "gateway/", "server/", "tests/", "bench/", "docs/", "examples/"];
    let mut names = 0;
    for (page, text) in pages() {
        for name in text.split('`').skip(1).step_by(2) {
            let is_file = [".rs", ".md", ".lua", ".toml", ".py", ".sh"].iter().any(|ending| name.ends_with(ending));
            if is_file && !name.contains(['<', ' ']) && folders.iter().any(|folder| name.starts_with(folder)) {
                names += 1;
                assert!(root().join(name).exists(), "{} names {name}", page.display());
            }
        }
    }
    assert!(names > 20, "only {names} names of files found");
}

#[test]
fn every_metric_is_explained_and_no_other() {
    let mut made = BTreeSet::new();
    for folder in CRATES {
        let mut folders = vec![root().join(folder).join("src")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
                folders.push(entry);
            }
            for file in files(&folder, ".rs") {
                made.extend(metrics(&fs::read_to_string(file).unwrap(), '"'));
            }
        }
    }
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let (_, table) = page.split_once("## Metrics").unwrap();
    assert_eq!(metrics(table, '`'), made, "left: docs/operations.md, right: the code");
}

/// Names of metrics between two `quote`s.
fn metrics(text: &str, quote: char) -> BTreeSet<String> {
    let words = text.split(quote).filter(|word| word.starts_with("lovage_"));
    let is_name = |word: &&str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    words.filter(is_name).map(str::to_owned).collect()
}
