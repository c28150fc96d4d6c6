//! Compiles the recorder. Where Rust links there is a C compiler, so this asks for nothing new.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::binary::build_folder;

const SOURCE: &str = include_str!("../../power/shim.c");

/// The compiled library; built once per version of its source.
pub(crate) fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(compile)
}

fn compile() -> PathBuf {
    let digest = Sha256::digest(SOURCE);
    let library =
        build_folder().join(format!("power-shim-{:02x}{:02x}{:02x}{:02x}.so", digest[0], digest[1], digest[2], digest[3]));
    if library.exists() {
        return library;
    }
    // Two test processes may compile at once: each into a folder of its own, then the last rename wins with the same content.
    let folder = tempfile::tempdir_in(build_folder()).expect("a folder for the recorder can be made");
    let (source, product) = (folder.path().join("shim.c"), folder.path().join("shim.so"));
    std::fs::write(&source, SOURCE).expect("the recorder's source can be written");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let output = Command::new(&compiler)
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-U_FORTIFY_SOURCE", "-o"])
        .args([&product, &source])
        .output()
        .unwrap_or_else(|error| panic!("cannot run the C compiler {}: {error}", compiler.display()));
    assert!(output.status.success(), "the recorder does not compile:\n{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&product, &library).expect("the recorder can be put in place");
    library
}
