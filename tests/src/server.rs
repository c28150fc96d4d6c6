//! The real server as a process: started, killed, stopped and started again on the same data and port.
//!
//! ```no_run
//! # use lovage_tests::Lovage;
//! # use serde_json::json;
//! # async fn example() {
//! let mut lovage = Lovage::dev().start().await;
//! let id = lovage.client().submit(&json!({"task": "demo.add", "args": [2, 3]})).await;
//! lovage.kill9();
//! lovage.restart().await;
//! assert_eq!(lovage.client().wait_final(&id).await["result"], json!(5));
//! # }
//! ```

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use reqwest::Method;
use tempfile::TempDir;

use lovage_testkit::signal::{self, Signal};
use lovage_testkit::{Port, Redis, eventually};

use crate::binary::lovage_binary;
use crate::client::Client;
use crate::power::Disk;
use crate::process;

/// Longest time from the start of the process to a ready server, also with much data stored.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Longest time from SIGTERM to the end of the process; above the default grace.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// The line by which the server tells its address.
const ANNOUNCEMENT: &str = "listening on ";

/// A server to be: a mode and its options.
#[must_use = "a setup does nothing until it is started"]
pub struct Setup {
    mode: &'static str,
    data: Data,
    /// Where the administrator's key is, if not in a file of the server's own.
    key_file: Option<PathBuf>,
    options: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

enum Data {
    /// A folder of the server's own, gone with it.
    Own,
    Folder(PathBuf),
    Redis(String),
}

impl Setup {
    /// Keeps the data in a folder that outlives the server.
    pub fn data_dir(mut self, folder: &Path) -> Self {
        self.data = Data::Folder(folder.to_owned());
        self
    }

    /// Keeps the data in a folder whose writes are recorded, so that power cuts can be replayed.
    pub fn on_disk(mut self, disk: &Disk) -> Self {
        self.env.extend(disk.environment());
        self.data_dir(disk.folder())
    }

    /// Keeps the data in Redis.
    pub fn redis(self, redis: &Redis) -> Self {
        self.redis_url(&redis.url())
    }

    /// Keeps the data in the Redis at this URL.
    pub fn redis_url(mut self, url: &str) -> Self {
        self.data = Data::Redis(url.to_owned());
        self
    }

    /// Shares the file of the administrator's key with others.
    pub fn key_file(mut self, file: &Path) -> Self {
        self.key_file = Some(file.to_owned());
        self
    }

    /// `--durability strict|relaxed`.
    pub fn durability(self, mode: &str) -> Self {
        self.option("--durability", mode)
    }

    /// Adds an option with a value.
    pub fn option(self, name: &str, value: &str) -> Self {
        self.flag(name).flag(value)
    }

    /// Adds a word to the command line.
    pub fn flag(mut self, word: &str) -> Self {
        self.options.push(word.into());
        self
    }

    /// Sets an environment variable of the process.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Starts the server and waits until it is ready; panics with its output when it is not.
    pub async fn start(self) -> Lovage {
        let mut server = self.prepare();
        server.launch().await;
        server
    }

    /// Runs a server that must end by itself (a refused option, a locked folder) and returns what it printed.
    pub async fn run_to_end(self) -> Output {
        let mut server = self.prepare();
        server.spawn();
        let status = server.wait_exit().await;
        Output { status, stdout: server.stdout().into_bytes(), stderr: server.stderr().into_bytes() }
    }

    /// The server that is not started yet; its address is known.
    pub(crate) fn prepare(self) -> Lovage {
        let home = tempfile::Builder::new().prefix("lovage-test-").tempdir().expect("a folder for the server can be made");
        let port = Port::reserve();
        let client = Client::new(&format!("http://127.0.0.1:{}", port.number()), None);
        Lovage { setup: self, home, port, client, child: None, start: Instant::now(), ready_after: Duration::ZERO, skip: 0 }
    }
}

/// A server process. Dropping it kills the process and removes its folder.
pub struct Lovage {
    setup: Setup,
    home: TempDir,
    port: Port,
    client: Client,
    child: Option<Child>,
    start: Instant,
    ready_after: Duration,
    /// Length of the standard output of earlier runs.
    skip: usize,
}

impl Lovage {
    /// `lovage dev`: no credentials, private destinations allowed.
    pub fn dev() -> Setup {
        Setup { mode: "dev", data: Data::Own, key_file: None, options: Vec::new(), env: Vec::new() }
    }

    /// `lovage serve`: the client uses the key that the server makes at its first start. Private destinations, and with them
    /// the test worker, are refused unless `.option("--allow-network", "127.0.0.0/8")` is added.
    pub fn serve() -> Setup {
        Setup { mode: "serve", ..Self::dev() }
    }

    /// `lovage gateway`: takes requests and delivers nothing.
    pub fn gateway() -> Setup {
        Setup { mode: "gateway", ..Self::dev() }
    }

    /// `lovage dispatcher`: delivers and takes no requests but those for its health and its metrics.
    pub fn dispatcher() -> Setup {
        Setup { mode: "dispatcher", ..Self::dev() }
    }

    /// A client of this server; unless it is in dev mode, with the admin key. It stays valid over restarts.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// `http://127.0.0.1:PORT`, the same after every restart.
    pub fn url(&self) -> &str {
        self.client.url()
    }

    /// Where the server keeps its data (unless it is in Redis).
    pub fn data_dir(&self) -> PathBuf {
        match &self.setup.data {
            Data::Folder(folder) => folder.clone(),
            Data::Own | Data::Redis(_) => self.home.path().join("data"),
        }
    }

    /// Time from the start of the process until `/readyz` answered 200, at the last start.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// The process id; panics when the process does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        process::resident_bytes(self.pid())
    }

    /// The most resident memory since the start, in bytes.
    pub fn peak_resident_bytes(&self) -> u64 {
        process::peak_resident_bytes(self.pid())
    }

    /// Processor time used since the start, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        process::cpu_seconds(self.pid())
    }

    /// Open file descriptors.
    pub fn open_files(&self) -> usize {
        process::open_files(self.pid())
    }

    /// What the process and its predecessors printed on standard output.
    pub fn stdout(&self) -> String {
        fs::read_to_string(self.home.path().join("stdout.log")).unwrap_or_default()
    }

    /// What the process and its predecessors printed on standard error.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.home.path().join("stderr.log")).unwrap_or_default()
    }

    /// Ends the process with SIGKILL, in the middle of whatever it does.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child of ours can be killed");
            child.wait().expect("a child of ours can be waited for");
        }
    }

    /// Asks the process to stop (SIGTERM) and returns at once.
    pub fn sigterm(&self) {
        signal::send(self.pid(), Signal::TERM);
    }

    /// Halts the process (SIGSTOP): its connections stay open and nothing moves.
    pub fn pause(&self) {
        signal::send(self.pid(), Signal::STOP);
    }

    /// Lets a halted process go on.
    pub fn unpause(&self) {
        signal::send(self.pid(), Signal::CONT);
    }

    /// Waits until the process has ended; panics with its output when it does not within 60 s.
    pub async fn wait_exit(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the server runs");
        let status = eventually_or_none(STOP_LIMIT, || child.try_wait().expect("a child of ours can be waited for")).await;
        let Some(status) = status else {
            let _already_gone = child.kill();
            let _reaped = child.wait();
            panic!("the server did not end within {STOP_LIMIT:?}\n{}", self.output());
        };
        status
    }

    /// SIGTERM, then waits for the end.
    pub async fn stop(&mut self) -> ExitStatus {
        self.sigterm();
        self.wait_exit().await
    }

    /// Starts the server again on the same data and port, with the same options; kills it first if it still runs.
    pub async fn restart(&mut self) {
        self.kill9();
        self.launch().await;
    }

    /// Starts again with changed options on the same data and port.
    pub async fn restart_with(&mut self, change: impl FnOnce(Setup) -> Setup) {
        self.kill9();
        let setup = std::mem::replace(&mut self.setup, Self::dev());
        self.setup = change(setup);
        self.launch().await;
    }

    /// Runs a client command (`submit`, `get`, …) of the binary against this server.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(lovage_binary());
        command.args(arguments).env("LOVAGE_URL", self.url()).stdin(Stdio::null());
        if let Some(key) = self.admin_key() {
            command.env("LOVAGE_KEY", key);
        }
        command.output().expect("the binary can be run")
    }

    fn admin_key_file(&self) -> PathBuf {
        self.setup.key_file.clone().unwrap_or_else(|| self.home.path().join("admin.key"))
    }

    fn admin_key(&self) -> Option<String> {
        fs::read_to_string(self.admin_key_file()).ok().map(|key| key.trim().to_owned())
    }

    fn output(&self) -> String {
        format!("--- standard output ---\n{}\n--- standard error ---\n{}", self.stdout(), self.stderr())
    }

    fn spawn(&mut self) {
        let mut command = Command::new(lovage_binary());
        command.arg(self.setup.mode).args(["--listen", &format!("127.0.0.1:{}", self.port.number())]);
        match &self.setup.data {
            Data::Own | Data::Folder(_) => command.arg("--data-dir").arg(self.data_dir()),
            Data::Redis(url) => command.args(["--redis-url", url]),
        };
        if self.setup.mode != "dev" {
            command.arg("--admin-key-file").arg(self.admin_key_file());
        }
        command.args(&self.setup.options);
        // Options of whoever runs the tests must not reach the server under test.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("LOVAGE_")) {
                command.env_remove(name);
            }
        }
        command.envs(self.setup.env.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.home.path()).stdin(Stdio::null());
        command.stdout(self.append("stdout.log")).stderr(self.append("stderr.log"));
        self.skip = self.stdout().len();
        self.start = Instant::now();
        self.child = Some(command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", lovage_binary().display())));
    }

    /// Starts the process and waits until it is ready.
    pub(crate) async fn launch(&mut self) {
        self.spawn();
        let url = self.await_announcement().await;
        assert_eq!(url, self.client.url(), "the server announces another address than it was given");
        let probe = self.client.clone();
        while !self.is_ready(&probe).await {
            self.check_alive("before it was ready");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.ready_after = self.start.elapsed();
        if self.setup.mode != "dev" {
            let key = self.admin_key().unwrap_or_else(|| panic!("the server wrote no admin key\n{}", self.output()));
            self.client = self.client.with_key(Some(&key));
        }
    }

    async fn is_ready(&self, probe: &Client) -> bool {
        probe.try_send(probe.request(Method::GET, "/readyz")).await.is_ok_and(|answer| answer.status == 200)
    }

    async fn await_announcement(&mut self) -> String {
        loop {
            let printed = self.stdout();
            let line = printed[self.skip..].lines().find_map(|line| line.strip_prefix(ANNOUNCEMENT).map(str::to_owned));
            // A line still being written has no end yet.
            if let Some(url) = line.filter(|url| printed.contains(&format!("{ANNOUNCEMENT}{url}\n"))) {
                return url.trim_end_matches('/').to_owned();
            }
            self.check_alive("before it told its address");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Panics when the process has ended or takes too long to become ready.
    fn check_alive(&mut self, when: &str) {
        let child = self.child.as_mut().expect("the server has just been started");
        if let Some(status) = child.try_wait().expect("a child of ours can be waited for") {
            panic!("the server ended {when} ({status})\n{}", self.output());
        }
        assert!(self.start.elapsed() < START_LIMIT, "the server hung {when}\n{}", self.output());
    }

    fn append(&self, name: &str) -> File {
        OpenOptions::new().create(true).append(true).open(self.home.path().join(name)).expect("a log file can be opened")
    }
}

impl Drop for Lovage {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            eprintln!("the server of the failed test said:\n{}", self.output());
        }
    }
}

async fn eventually_or_none<T>(timeout: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let search = eventually("an end", timeout + Duration::from_secs(1), async || probe());
    tokio::time::timeout(timeout, search).await.ok()
}
