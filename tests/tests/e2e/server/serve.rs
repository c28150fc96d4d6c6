//! `lovage serve`

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use lovage_tests::{Client, Lovage, Redis, Reply, Worker, eventually};
use serde_json::json;

use super::stderr;

#[tokio::test]
async fn without_the_key_only_public_routes_answer() {
    let mut lovage = Lovage::serve().start().await;
    let nobody = lovage.client().with_key(None);
    for path in ["/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(nobody.get(path).await.status, 200, "{path}");
    }
    for client in [nobody.clone(), nobody.with_key(Some("lvg_wrong"))] {
        let answer = client.post_task(&json!({"task": "a.b"})).await;
        assert_eq!((answer.status, answer.code()), (401, "unauthenticated"));
        assert!(answer.header("www-authenticate").starts_with("Bearer"));
    }
    let id = lovage.client().submit(&json!({"task": "a.b"})).await;
    // The key file is read again at the next start.
    lovage.restart().await;
    assert_eq!(lovage.client().task(&id).await["state"], json!("queued"));
    assert!(lovage.stdout().contains("durability"), "{}", lovage.stdout());
}

/// A server with exactly these words, on a port of the system's choice.
pub(super) struct Plain {
    child: Child,
    pub(super) client: Client,
    pub(super) printed: String,
}

impl Plain {
    async fn start(folder: &Path, words: &[&str]) -> Self {
        Self::start_as("serve", folder, words).await
    }

    pub(super) async fn start_as(role: &str, folder: &Path, words: &[&str]) -> Self {
        let out = folder.join("out");
        let mut command = super::command(folder, &[role, "--listen", "127.0.0.1:0"]);
        command.args(words);
        command.stdout(File::create(&out).unwrap()).stderr(File::create(folder.join("err")).unwrap());
        let child = command.spawn().unwrap();
        // The text ends with an empty line; all of it is written at once.
        let printed = eventually("a listening server", Duration::from_secs(30), async || {
            fs::read_to_string(&out).ok().filter(|text| text.ends_with("\n\n"))
        });
        let printed = printed.await;
        let url = printed.lines().next().unwrap().strip_prefix("listening on ").unwrap().to_owned();
        Self { child, client: Client::new(&url, None), printed }
    }

    pub(super) fn printed_key(&self) -> Option<&str> {
        self.printed.split_whitespace().find(|word| word.starts_with("lvg_"))
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn the_first_start_prints_a_key_once() {
    let folder = tempfile::tempdir().unwrap();
    let first = Plain::start(folder.path(), &["--data-dir", "data"]).await;
    let key = first.printed_key().expect("a key is printed").to_owned();
    let client = first.client.with_key(Some(&key));
    let id = client.submit(&json!({"task": "a.b"})).await;
    drop(first);

    let second = Plain::start(folder.path(), &["--data-dir", "data"]).await;
    assert_eq!(second.printed_key(), None, "{}", second.printed);
    assert_eq!(second.client.with_key(Some(&key)).task(&id).await["id"], json!(id));
    assert_eq!(second.client.get(&format!("/v1/tasks/{id}")).await.status, 401);
    drop(second);

    // Whoever lost the key names a file: its key alone counts then.
    let third = Plain::start(folder.path(), &["--data-dir", "data", "--admin-key-file", "admin.key"]).await;
    let file = folder.path().join("admin.key");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let other = fs::read_to_string(&file).unwrap().trim().to_owned();
    assert_eq!(third.printed_key(), None, "{}", third.printed);
    assert_eq!(third.client.with_key(Some(&other)).task(&id).await["id"], json!(id));
    assert_eq!(third.client.with_key(Some(&key)).get(&format!("/v1/tasks/{id}")).await.status, 401);
}

#[tokio::test]
async fn a_place_for_the_data_must_be_named() {
    let folder = tempfile::tempdir().unwrap();
    let output = super::run(folder.path(), &["serve"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--data-dir DIR") && stderr(&output).contains("--redis-url URL"), "{}", stderr(&output));
    let output = super::run(folder.path(), &["serve", "--data-dir", "d", "--redis-url", "redis://127.0.0.1"]);
    assert_eq!(output.status.code(), Some(2));
    for url in ["", "http://127.0.0.1", "redis://127.0.0.1:99999", "redis+cluster://127.0.0.1/3"] {
        let output = super::run(folder.path(), &["serve", "--listen", "127.0.0.1:0", "--redis-url", url]);
        assert_eq!(output.status.code(), Some(2), "{url}: {}", stderr(&output));
        assert!(!stderr(&output).contains("invalid call"), "{url}: {}", stderr(&output));
    }
}

#[tokio::test]
async fn private_destinations_are_refused_unless_allowed() {
    let worker = Worker::start();
    worker.on("a.b", Reply::json(&json!("called")));
    let task = json!({"task": "a.b", "url": worker.url()});
    let strict = Lovage::serve().start().await;
    let answer = strict.client().post_task(&task).await;
    assert_eq!((answer.status, answer.code()), (403, "destination_forbidden"));
    assert_eq!(worker.count(), 0);

    let allowing = Lovage::serve().option("--allow-network", "127.0.0.0/8").start().await;
    let id = allowing.client().submit(&task).await;
    assert_eq!(allowing.client().wait_final(&id).await["result"], json!("called"));
}

#[tokio::test]
async fn a_server_on_redis_says_what_redis_promises() {
    let redis = Redis::start();
    let mut lovage = Lovage::serve().redis(&redis).option("--allow-network", "127.0.0.0/8").start().await;
    assert!(lovage.stdout().contains("when a task is acknowledged, Redis has"), "{}", lovage.stdout());
    let worker = Worker::start();
    worker.on("a.b", Reply::json(&json!("called")));
    let id = lovage.client().submit(&json!({"task": "a.b", "url": worker.url()})).await;
    lovage.client().wait_final(&id).await;
    assert!(lovage.stop().await.success());
    lovage.restart().await;
    assert_eq!(lovage.client().task(&id).await["result"], json!("called"));
}

#[tokio::test]
async fn a_redis_that_is_away_or_unfit_is_explained() {
    let away = Lovage::serve().redis_url("redis://user:secret@127.0.0.1:1/").run_to_end().await;
    assert_eq!(away.status.code(), Some(1));
    let said = stderr(&away);
    assert!(said.contains("cannot use Redis at redis://127.0.0.1:1/") && said.contains("--redis-url"), "{said}");
    assert!(!said.contains("secret"), "{said}");

    let redis = Redis::start();
    redis.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).unwrap();
    let unfit = Lovage::serve().redis(&redis).run_to_end().await;
    assert_eq!(unfit.status.code(), Some(1));
    assert!(stderr(&unfit).contains("config set maxmemory-policy noeviction"), "{}", stderr(&unfit));
}
