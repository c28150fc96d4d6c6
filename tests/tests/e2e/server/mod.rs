//! The binary as people and service managers meet it: start, what it says, stop, and the client commands.

mod cli;
mod dev;
mod moves;
mod roles;
mod serve;
mod stop;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use lovage_tests::lovage_binary;

/// The binary with exactly these words, and without the settings of whoever runs the tests.
fn command(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(lovage_binary());
    command.args(words).current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("LOVAGE_")) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs it until it ends by itself.
fn run(folder: &Path, words: &[&str]) -> Output {
    command(folder, words).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
