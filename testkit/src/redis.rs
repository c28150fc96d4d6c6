//! A real `redis-server` for one test: own port, own folder, killed at the end.
//!
//! The server survives [`Redis::kill9`] and [`Redis::stop`] as a value: [`Redis::restart`] brings it back with the same data
//! on the same port, as an operator would. `LOVAGE_REDIS_SERVER` names another binary, for instance Valkey's.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::command_line::find_or_install;
use crate::port::Port;
use crate::signal::{self, Signal};
use crate::wait::wait_until;

/// Longest time from start to an answered PING; loading a large append-only file counts.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A server whose folder has this file is a sentinel.
const SENTINEL_FILE: &str = "sentinel.conf";

/// When the append-only file reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// Before every answer.
    Always,
    /// Once a second.
    EverySecond,
    /// When the kernel likes. The data still survives [`Redis::kill9`].
    Never,
    /// No append-only file at all: a restart begins empty.
    NoFile,
}

/// What a test may choose about its server.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// The durability of writes.
    pub fsync: Fsync,
    /// Further options as `redis-server` takes them, for instance `("maxmemory", "20mb")`.
    pub extra: Vec<(String, String)>,
    /// Environment of the process.
    pub env: Vec<(String, String)>,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self { fsync: Fsync::Always, extra: Vec::new(), env: Vec::new() }
    }
}

impl RedisOptions {
    /// The same options with another durability.
    #[must_use]
    pub fn fsync(mut self, fsync: Fsync) -> Self {
        self.fsync = fsync;
        self
    }

    /// The same options and one more, named as in `redis.conf`.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.extra.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same options and one more environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running (or deliberately stopped) Redis server.
#[derive(Debug)]
pub struct Redis {
    port: Port,
    folder: TempDir,
    options: RedisOptions,
    child: Option<Child>,
}

impl Redis {
    /// Starts a server that syncs before every answer and waits until it answers.
    pub fn start() -> Self {
        Self::start_with(RedisOptions::default())
    }

    /// Starts a server and waits until it answers.
    pub fn start_with(options: RedisOptions) -> Self {
        let mut server = Self::spawn(options);
        server.wait_ready();
        server
    }

    /// Starts a server that copies `master`, and waits until it has done so and follows.
    pub fn start_replica_of(master: &Self) -> Self {
        let address = format!("127.0.0.1 {}", master.port());
        // Diskless copies begin at once instead of waiting for more replicas.
        master.command(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]).expect("a running Redis can be configured");
        let replica = Self::start_with(master.options.clone().with("replicaof", &address));
        replica.wait_until_it_follows();
        replica
    }

    /// Waits until this replica has the data of its master and follows it.
    pub fn wait_until_it_follows(&self) {
        wait_until("the replica follows its master", START_LIMIT, || {
            self.command(&["INFO", "replication"]).is_ok_and(|info| info.contains("master_link_status:up"))
        });
    }

    /// Starts a server without waiting for it.
    pub(crate) fn spawn(options: RedisOptions) -> Self {
        let folder = tempfile::Builder::new().prefix("lovage-redis-").tempdir().expect("a folder for Redis can be made");
        let mut server = Self { port: Port::reserve(), folder, options, child: None };
        server.launch();
        server
    }

    /// `redis://127.0.0.1:PORT`, the same after every restart.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port())
    }

    /// The port, the same after every restart.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Where the server keeps its append-only file.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process id while the server runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Ends the process with SIGKILL. What it has written to files stays (the kernel holds it); memory is gone.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child of ours can be killed");
            child.wait().expect("a child of ours can be waited for");
        }
    }

    /// Stops the server in order: SHUTDOWN, then waits for its end.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // The connection closes without an answer when the command succeeds.
        let _closed = self.command(&["SHUTDOWN", "NOSAVE"]);
        let start = Instant::now();
        while child.try_wait().expect("a child of ours can be waited for").is_none() {
            if start.elapsed() > START_LIMIT {
                let _already_gone = child.kill();
                let _reaped = child.wait();
                panic!("redis-server did not stop within {START_LIMIT:?}: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts the stopped server again: same data, same port. Kills it first if it still runs.
    pub fn restart(&mut self) {
        self.kill9();
        self.launch();
        self.wait_ready();
    }

    /// Starts again with other options on the same data and port.
    pub fn restart_with(&mut self, options: RedisOptions) {
        self.restart_unready_with(options);
        self.wait_ready();
    }

    /// Starts again with other options on the same data and port, and does not wait until it answers.
    pub fn restart_unready_with(&mut self, options: RedisOptions) {
        self.options = options;
        self.kill9();
        self.launch();
    }

    /// Halts the process (SIGSTOP) without closing its connections: what a hung server looks like to clients.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a halted process go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends one command on a connection of its own; arrays come back as lines. An error answer is an `Err`.
    pub fn command(&self, words: &[&str]) -> io::Result<String> {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let lines: Vec<_> = self.command_bytes(&words)?.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        Ok(lines.join("\n"))
    }

    /// The same for words and answers that are no text; the values of an array, however deep, come back one after the other.
    pub fn command_bytes(&self, words: &[&[u8]]) -> io::Result<Vec<Vec<u8>>> {
        let stream = TcpStream::connect(("127.0.0.1", self.port()))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        (&stream).write_all(&request)?;
        let mut values = Vec::new();
        read_reply(&mut BufReader::new(&stream), &mut values)?;
        Ok(values)
    }

    /// Removes every key.
    pub fn flush(&self) {
        self.command(&["FLUSHALL"]).expect("a running Redis can be flushed");
    }

    /// What the server has printed since its last start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("redis.log")
    }

    fn signal(&self, signal: Signal) {
        signal::send(self.pid().expect("the server runs"), signal);
    }

    fn launch(&mut self) {
        let program = std::env::var_os("LOVAGE_REDIS_SERVER")
            .map_or_else(|| find_or_install("redis-server", "redis-server"), PathBuf::from);
        let log = File::create(self.log_path()).expect("the log of Redis can be made");
        let sentinel = self.folder.path().join(SENTINEL_FILE);
        if sentinel.exists() {
            let mut command = Command::new(&program);
            command.arg(sentinel).args(["--sentinel", "--port", &self.port().to_string()]);
            return self.run(command, log);
        }
        let (appendonly, appendfsync) = match self.options.fsync {
            Fsync::Always => ("yes", "always"),
            Fsync::EverySecond => ("yes", "everysec"),
            Fsync::Never => ("yes", "no"),
            Fsync::NoFile => ("no", "no"),
        };
        let mut command = Command::new(&program);
        command
            .args(["--port", &self.port().to_string(), "--bind", "127.0.0.1", "--daemonize", "no", "--save", ""])
            .args(["--appendonly", appendonly, "--appendfsync", appendfsync, "--dir"])
            .arg(self.folder.path());
        for (name, value) in &self.options.extra {
            command.arg(format!("--{name}")).arg(value);
        }
        for (name, value) in &self.options.env {
            command.env(name, value);
        }
        self.run(command, log);
    }

    fn run(&mut self, mut command: Command, log: File) {
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file handle can be cloned")).stderr(log);
        let program = command.get_program().to_owned();
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        self.child = Some(child);
    }

    /// Starts a sentinel, which keeps its configuration, and what it learns, in a file of its own.
    pub(crate) fn spawn_sentinel(config: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("lovage-redis-").tempdir().expect("a folder for Redis can be made");
        let config = format!("dir {}\n{config}", folder.path().display());
        fs::write(folder.path().join(SENTINEL_FILE), config).expect("the configuration of a sentinel can be written");
        let mut server = Self { port: Port::reserve(), folder, options: RedisOptions::default(), child: None };
        server.launch();
        server
    }

    /// Waits until the server answers; it has loaded its data then.
    pub fn wait_ready(&mut self) {
        let start = Instant::now();
        loop {
            if self.command(&["PING"]).is_ok_and(|answer| answer == "PONG") {
                return;
            }
            let child = self.child.as_mut().expect("the server has just been started");
            if let Some(status) = child.try_wait().expect("a child of ours can be waited for") {
                panic!("redis-server ended at once ({status}): {}", self.log());
            }
            assert!(start.elapsed() < START_LIMIT, "redis-server does not answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn read_reply(reader: &mut impl BufRead, values: &mut Vec<Vec<u8>>) -> io::Result<()> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let line = line.trim_end();
    let unexpected = || io::Error::new(io::ErrorKind::InvalidData, format!("unexpected reply {line:?}"));
    let Some((kind, rest)) = line.split_at_checked(1) else { return Err(io::ErrorKind::UnexpectedEof.into()) };
    match kind {
        "+" | ":" => values.push(rest.as_bytes().to_vec()),
        "-" => return Err(io::Error::other(rest.to_owned())),
        "$" if rest == "-1" => values.push(Vec::new()),
        "$" => {
            let length: usize = rest.parse().map_err(|_| unexpected())?;
            let mut bytes = vec![0; length + 2];
            reader.read_exact(&mut bytes)?;
            bytes.truncate(length);
            values.push(bytes);
        }
        "*" => {
            let count: usize = rest.parse().map_err(|_| unexpected())?;
            (0..count).try_for_each(|_| read_reply(reader, values))?;
        }
        _ => return Err(unexpected()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn data_survives_a_kill_and_a_stop_on_the_same_port() {
        let mut redis = Redis::start();
        let url = redis.url();
        redis.command(&["SET", "a", "1"]).unwrap();
        redis.kill9();
        assert!(redis.command(&["PING"]).is_err());
        redis.restart();
        assert_eq!(redis.command(&["GET", "a"]).unwrap(), "1");
        redis.stop();
        redis.restart();
        assert_eq!(redis.command(&["GET", "a"]).unwrap(), "1");
        assert_eq!(redis.url(), url);
    }

    #[test]
    fn options_reach_the_server() {
        let redis = Redis::start_with(RedisOptions::default().fsync(Fsync::NoFile).with("maxmemory", "20mb"));
        assert_eq!(redis.command(&["CONFIG", "GET", "maxmemory"]).unwrap(), "maxmemory\n20971520");
        assert_eq!(redis.command(&["CONFIG", "GET", "appendonly"]).unwrap(), "appendonly\nno");
    }

    #[test]
    fn a_paused_server_answers_after_it_is_resumed() {
        let redis = Redis::start();
        redis.pause();
        // The kernel still accepts the connection and the request; only the answer is missing.
        let mut stream = TcpStream::connect(("127.0.0.1", redis.port())).unwrap();
        stream.write_all(b"PING\r\n").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(stream.read(&mut [0; 16]).is_err());
        redis.resume();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(stream.read(&mut [0; 16]).unwrap(), b"+PONG\r\n".len());
    }

    #[test]
    fn an_error_answer_is_an_error() {
        let redis = Redis::start();
        assert!(redis.command(&["NOSUCHCOMMAND"]).unwrap_err().to_string().contains("unknown command"));
    }

    #[test]
    fn a_replica_has_what_its_master_has() {
        let master = Redis::start();
        master.command(&["SET", "a", "1"]).unwrap();
        let replica = Redis::start_replica_of(&master);
        assert_eq!(replica.command(&["GET", "a"]).unwrap(), "1");
        assert!(replica.command(&["SET", "a", "2"]).unwrap_err().to_string().contains("READONLY"));
    }

    #[test]
    fn dropping_the_value_ends_the_process() {
        let redis = Redis::start();
        let port = redis.port();
        drop(redis);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}
