//! Where the real `lovage` binary comes from, and where build products of the tests go.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The binary under test: `LOVAGE_BIN` if set, else built once per test process, with the profile of the tests themselves.
pub fn lovage_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| std::env::var_os("LOVAGE_BIN").map_or_else(build, PathBuf::from))
}

/// The folder of this build, for instance `target/debug`.
pub(crate) fn build_folder() -> PathBuf {
    let test = std::env::current_exe().expect("a process knows its own path");
    let folder = test.parent().expect("a test lies in a folder");
    // Tests and examples lie one level deeper than binaries.
    let is_inner = folder.ends_with("deps") || folder.ends_with("examples");
    let folder = if is_inner { folder.parent().expect("target folders are nested") } else { folder };
    folder.to_owned()
}

fn build() -> PathBuf {
    let folder = build_folder();
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        None | Some("debug") => "dev",
        Some(name) => name,
    };
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package", "lovage", "--bin", "lovage", "--profile", profile, "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(folder.parent().expect("a profile's folder lies in the target folder"))
        .status()
        .expect("cargo can be run");
    assert!(status.success(), "the lovage binary does not build");
    folder.join("lovage")
}
