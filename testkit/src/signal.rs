//! Signals to processes of a test, without the `kill` program, which a minimal system lacks.

use std::process::Child;

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};

/// Sends a signal to a process; panics if there is none.
pub fn send(pid: u32, signal: Signal) {
    kill_process(known(pid), signal).unwrap_or_else(|error| panic!("{signal:?} cannot be sent to process {pid}: {error}"));
}

/// Kills a child that was started in a process group of its own, with all that it has started in turn, and takes its leave.
/// Nothing happens if they are gone.
pub fn kill_group(leader: &mut Child) {
    let _gone = kill_process_group(known(leader.id()), Signal::KILL);
    let _reaped = leader.wait();
}

fn known(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process has a number above 0")
}
