//! The workers of `examples/` in their languages: each registers itself and does the same five tasks.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lovage_tests::{Lovage, Port, eventually, signal};
use serde_json::{Value, json};

/// A build may be waited for, and all the machine's processors may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// What has to be there, and the Debian package that brings it. `./test` installs all of them.
fn needs(program: &str, package: &str) {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status();
    assert!(found.unwrap().success(), "`{program}` is missing: install it, for instance with `apt-get install {package}`");
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

fn build(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?} failed");
}

#[tokio::test]
async fn the_worker_in_python() {
    needs("python3", "python3");
    serves("python", Command::new("python3").arg(example("python/worker.py")), true).await;
}

#[tokio::test]
async fn the_worker_in_node() {
    needs("node", "nodejs");
    serves("node", Command::new("node").arg(example("node/worker.mjs")), true).await;
}

#[tokio::test]
async fn the_worker_in_go() {
    needs("go", "golang-go");
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("worker");
    build(Command::new("go").args(["build", "-o"]).arg(&program).arg(example("go/worker.go")));
    serves("go", &mut Command::new(program), true).await;
}

#[tokio::test]
async fn the_worker_in_rust() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let folder = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
    let profile = if folder.ends_with("debug") { "dev" } else { folder.file_name().unwrap().to_str().unwrap() };
    let arguments = ["build", "--quiet", "--locked", "--example", "rust-worker", "--profile", profile];
    let target = folder.parent().unwrap();
    build(Command::new(cargo).args(arguments).arg("--manifest-path").arg(manifest).arg("--target-dir").arg(target));
    serves("rust", &mut Command::new(folder.join("examples/rust-worker")), true).await;
}

#[tokio::test]
async fn the_worker_in_shell() {
    needs("socat", "socat");
    needs("curl", "curl");
    serves("shell", Command::new("sh").arg(example("shell/worker.sh")), false).await;
}

/// A worker's process with whatever it starts; all of them end with the test.
struct Process(Child);

impl Process {
    fn start(command: &mut Command, lovage: &Lovage, port: &Port) -> Self {
        command.env("LOVAGE_URL", lovage.url()).env("PORT", port.number().to_string()).env_remove("LOVAGE_KEY");
        Self(command.stdin(Stdio::null()).process_group(0).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        signal::kill_group(&mut self.0);
    }
}

async fn serves(name: &str, command: &mut Command, checks_signatures: bool) {
    let lovage = Lovage::dev().start().await;
    let (client, port) = (lovage.client(), Port::reserve());
    let _process = Process::start(command, &lovage, &port);
    let path = format!("/v1/workers/{name}");
    eventually("the worker to register", PATIENCE, async || (client.get(&path).await.status == 200).then_some(())).await;

    let run = async |task: &str, args: Value| client.wait_final(&client.submit(&json!({"task": task, "args": args})).await).await;
    let done = |record: &Value, result: Value| {
        assert_eq!((&record["state"], &record["worker"]), (&json!("succeeded"), &json!(name)), "{record}");
        assert_eq!(record["result"].as_f64(), result.as_f64(), "{record}");
    };
    done(&run("ex.add", json!([20, 22])).await, json!(42));
    let later = run("ex.later", json!([1.5, 2])).await;
    done(&later, json!(3.5));
    // Reported, not answered: such an attempt has an entry without a status.
    let attempts = client.list(&format!("/v1/tasks/{}/attempts", later["id"].as_str().unwrap())).await;
    let last = attempts.last().unwrap();
    assert_eq!((&last["outcome"], &last["status"]), (&json!("succeeded"), &json!(null)), "{attempts:?}");
    done(&run("ex.steps", json!([3])).await, json!(3));
    let refused = run("ex.refuse", json!([1])).await;
    let told = (&refused["state"], &refused["reason"], &refused["error"]["type"]);
    assert_eq!(told, (&json!("failed"), &json!("permanent"), &json!("Refused")), "{refused}");
    let total = run("ex.total", json!([[1, 2], [3, 4], [5, 6]])).await;
    done(&total, json!(21));
    assert_eq!(total["attempt"], 2);
    assert_eq!(client.list(&format!("/v1/tasks?root={}", total["id"].as_str().unwrap())).await.len(), 3);

    if checks_signatures {
        let call = json!({"id": "forged", "task": "ex.add", "args": [1, 2], "kwargs": {}});
        let forged = lovage_tests::Client::new(&format!("http://127.0.0.1:{}", port.number()), None);
        assert_eq!(forged.post("/", &call).await.status, 401);
    }
}
