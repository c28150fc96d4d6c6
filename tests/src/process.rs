//! What the kernel knows about a process: memory, processor time, open files. Read from `/proc`.

use std::fs;

/// Resident memory in bytes.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

/// The most resident memory that the process ever had, in bytes.
pub(crate) fn peak_resident_bytes(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

/// User and system processor time so far, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = read(pid, "stat");
    // The name in parentheses may hold spaces; the fields after it do not. utime and stime are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(')').expect("stat names the program");
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks are numbers")).sum();
    ticks as f64 / 100.0 // USER_HZ, fixed by the kernel's interface
}

/// Number of open file descriptors.
pub(crate) fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").count()
}

fn memory(pid: u32, field: &str) -> u64 {
    let status = read(pid, "status");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a live process has memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("memory is a number") * 1024
}

fn read(pid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_else(|error| panic!("cannot read /proc/{pid}/{file}: {error}"))
}
