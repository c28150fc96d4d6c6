//! `lovage backup`, `restore` and `migrate`, with real servers at work.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lovage_tests::{Call, Client, Lovage, Redis, RedisCluster, Reply, Worker};
use serde_json::{Value, json};

use super::{run, stderr, stdout};

const PATIENCE: Duration = Duration::from_secs(90);

/// The task that counts itself down waits for what nobody serves yet.
const CHILDREN: usize = 3;

fn worker() -> Worker {
    let worker = Worker::start();
    worker.on_call("done.*", |call| Reply::json(&json!({"by": call.id})));
    worker.on("bad.*", Reply::bytes("application/json", r#"{"type":"Bad","message":"no"}"#).with_status(422));
    worker.on("accepted.*", Reply::accepted("10m"));
    worker.on_call("again.*", |call| if call.attempt == 1 { Reply::status(500) } else { Reply::json(&json!(call.attempt)) });
    worker.on_call("parent.*", |call| {
        if call.header("lovage-resume") == "1" {
            return Reply::json(&call.json()["children"]);
        }
        // One child that ends at once, and some that nobody serves yet.
        let mut tasks = vec![json!({"task": "done.child"})];
        tasks.resize(CHILDREN, json!({"task": "later.child"}));
        let outcome = json!({"outcome": "spawn", "then": "wait", "tasks": tasks});
        Reply::bytes("application/vnd.lovage.outcome+json", outcome.to_string())
    });
    worker.on_call("later.*", |call| Reply::json(&json!({"by": call.id, "attempt": call.attempt})));
    worker
}

/// Tasks for all states: id to signature. Those of `later` wait for a worker.
fn tasks(count: usize) -> HashMap<String, Value> {
    let kinds: [(&str, &str, Value); 8] = [
        ("waiting", "later.plain", json!({"priority": 7})),
        ("unique", "later.unique", json!({})),
        ("delayed", "later.delayed", json!({"delay": "6s"})),
        ("held", "later.hours", json!({"delay": "3h"})),
        ("done", "done.plain", json!({"labels": {"a": "b"}})),
        ("failed", "bad.plain", json!({})),
        ("accepted", "accepted.one", json!({})),
        ("again", "again.one", json!({"retry": {"backoff": "fixed", "min": "8s", "jitter": "none", "max_attempts": 3}})),
    ];
    let mut all = HashMap::new();
    for n in 0..count {
        let (kind, task, more) = &kinds[n % kinds.len()];
        let id = format!("{kind}-{n}");
        let mut signature = json!({"id": id, "task": task, "args": [n]});
        signature.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        if *kind == "unique" {
            signature["unique"] = json!({"key": format!("key-{n}")});
        }
        all.insert(id, signature);
    }
    for n in 0..20 {
        let id = format!("parent-{n}");
        all.insert(id.clone(), json!({"id": id, "task": "parent.one"}));
    }
    all
}

async fn submit_all(client: &Client, tasks: &HashMap<String, Value>) {
    let signatures: Vec<Value> = tasks.values().cloned().collect();
    for batch in signatures.chunks(200) {
        assert_eq!(client.submit_batch(batch).await.ids().len(), batch.len());
    }
}

fn migrate(folder: &Path, from: &str, to: &str, more: &[&str]) -> Value {
    let output = run(folder, &[&["migrate", "--json", "--from", from, "--to", to], more].concat());
    assert!(output.status.success(), "{} {}", stdout(&output), stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

fn sum(counts: &Value) -> u64 {
    counts.as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_migrated_while_producers_go_on() {
    let (worker, redis, folder) = (worker(), Redis::start(), tempfile::tempdir().unwrap());
    let data = folder.path().join("old");
    let mut old = Lovage::dev().data_dir(&data).start().await;
    old.client().register_worker("now", &worker.url(), &["done.*", "bad.*", "accepted.*", "again.*", "parent.*"]).await;
    let tasks = tasks(2_000);
    submit_all(old.client(), &tasks).await;
    let first = old.client().request(reqwest::Method::POST, "/v1/tasks").header("idempotency-key", "order 7");
    let first = old.client().send(first.json(&json!({"task": "later.keyed"}))).await.id();
    let calls = worker
        .wait_until("the first attempts", PATIENCE, |calls| {
            let seen: HashSet<&str> = calls.iter().map(|call| call.id.as_str()).collect();
            let ended = |call: &&Call| call.task == "done.child";
            let wanted = tasks.iter().filter(|(_, it)| !it["task"].as_str().unwrap().starts_with("later")).count();
            calls.iter().filter(ended).count() == 20 && seen.len() == wanted + 20
        })
        .await;
    worker.wait_answered(calls.len()).await;

    // The old server works while its settings are copied; then the new one takes what is new.
    let from = data.to_str().unwrap();
    let to = format!("{}?prefix=new&partitions=4", redis.url());
    let copied = migrate(folder.path(), from, &to, &["--documents"]);
    assert!(copied["documents"]["copied"].as_u64().unwrap() > 3, "{copied}");
    let new = Lovage::dev().redis(&redis).option("--redis-prefix", "new").start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let producing = tokio::spawn({
        let (client, stop) = (new.client().clone(), stop.clone());
        async move {
            let mut ids = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                ids.push(client.submit(&json!({"task": "done.new"})).await);
            }
            ids
        }
    });
    new.client().register_worker("later", &worker.url(), &["later.*"]).await;
    let refused = run(folder.path(), &["migrate", "--from", from, "--to", &to]);
    assert_eq!(refused.status.code(), Some(1), "a store in use was moved");
    assert!(stderr(&refused).contains("in use"), "{}", stderr(&refused));
    old.stop().await;

    let counted = migrate(folder.path(), from, &to, &["--dry-run"]);
    let report = migrate(folder.path(), from, &to, &[]);
    assert_eq!(report["found"], counted["found"]);
    assert_eq!(sum(&report["found"]), 2_020 + 1 + 20 * CHILDREN as u64);
    assert_eq!((&report["moved"], sum(&report["refused"])), (&report["found"], 0), "{report}");
    assert_eq!(sum(&migrate(folder.path(), from, &to, &[])["found"]), 0, "something is left");
    stop.store(true, Ordering::Relaxed);

    // Attempts that were accepted from the old server are reported to the new one.
    let accepted = worker.received().into_iter().filter(|call| call.task == "accepted.one");
    for call in accepted {
        let url = call.header("lovage-attempt-url").to_owned();
        let path = url.strip_prefix(old.url()).unwrap();
        let answer = new.client().post(&format!("{path}/complete"), &json!({"by": call.id})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    // A repetition of the request finds its task.
    let again = new.client().request(reqwest::Method::POST, "/v1/tasks").header("idempotency-key", "order 7");
    assert_eq!(new.client().send(again.json(&json!({"task": "later.keyed"}))).await.id(), first);

    let (hours, others): (Vec<String>, Vec<String>) = tasks.keys().cloned().partition(|id| id.starts_with("held-"));
    let records = new.client().wait_all_final(&others, PATIENCE).await;
    for (id, record) in &records {
        let state = if id.starts_with("failed-") { "failed" } else { "succeeded" };
        assert_eq!(record["state"], state, "{record}");
        let attempts = if id.starts_with("again-") || id.starts_with("parent-") { 2 } else { 1 };
        assert_eq!(record["attempt"], attempts, "{record}");
        if id.starts_with("parent-") {
            let states: Vec<&Value> = record["result"].as_array().unwrap().iter().map(|child| &child["state"]).collect();
            assert_eq!(states, ["succeeded"; CHILDREN], "{record}");
        }
    }
    for id in hours {
        assert_eq!(new.client().task(&id).await["state"], "scheduled");
    }
    for record in new.client().wait_all_final(&producing.await.unwrap(), PATIENCE).await.values() {
        assert_eq!(record["state"], "succeeded");
    }
    for (id, calls) in worker.by_task() {
        let attempts: Vec<u32> = calls.iter().map(|call| call.attempt).collect();
        let expected: &[u32] =
            if attempts.len() == 2 && (id.starts_with("again-") || id.starts_with("parent-")) { &[1, 2] } else { &[1] };
        assert_eq!(attempts, expected, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_working_server_starts_again() {
    let (worker, folder) = (worker(), tempfile::tempdir().unwrap());
    let data = folder.path().join("data");
    let server = Lovage::serve().data_dir(&data).option("--allow-network", "127.0.0.0/8").start().await;
    server.client().register_worker("now", &worker.url(), &["done.*", "bad.*", "accepted.*", "again.*", "parent.*"]).await;
    let before = tasks(400);
    submit_all(server.client(), &before).await;
    let stop = Arc::new(AtomicBool::new(false));
    let producing = tokio::spawn({
        let (client, stop) = (server.client().clone(), stop.clone());
        async move {
            while !stop.load(Ordering::Relaxed) {
                client.submit(&json!({"task": "done.more"})).await;
            }
        }
    });
    let words = |words: &[&str]| run(folder.path(), words);
    let copied = words(&["backup", "--data-dir", "data", "--to", "copy.db", "--json"]);
    stop.store(true, Ordering::Relaxed);
    producing.await.unwrap();
    assert!(copied.status.success(), "{}", stderr(&copied));
    let copied: Value = serde_json::from_str(&stdout(&copied)).unwrap();
    assert!(copied["tasks"].as_u64().unwrap() >= 420, "{copied}");

    let refused = words(&["backup", "--data-dir", "data", "--to", "copy.db"]);
    assert_eq!((refused.status.code(), stderr(&refused).contains("exists already")), (Some(1), true));
    let refused = words(&["restore", "--from", "copy.db", "--data-dir", "data"]);
    assert_eq!((refused.status.code(), stderr(&refused).contains("in use")), (Some(1), true), "{}", stderr(&refused));
    let restored = words(&["restore", "--from", "copy.db", "--data-dir", "restored"]);
    assert!(restored.status.success(), "{}", stderr(&restored));
    drop(server);

    let other = Lovage::dev().data_dir(&folder.path().join("restored")).start().await;
    other.client().register_worker("later", &worker.url(), &["later.*"]).await;
    let wanted: Vec<String> =
        before.keys().filter(|id| !id.starts_with("held-") && !id.starts_with("accepted-")).cloned().collect();
    for (id, record) in other.client().wait_all_final(&wanted, PATIENCE).await {
        assert_eq!(record["state"] == "failed", id.starts_with("failed-"), "{record}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_migrated_from_a_cluster_to_a_cluster() {
    let (worker, cluster, folder) = (worker(), RedisCluster::start(3, 1), tempfile::tempdir().unwrap());
    let serve = |prefix: &str, partitions: &str| {
        let setup = Lovage::dev().redis_url(&cluster.url()).option("--redis-prefix", prefix);
        setup.option("--partitions", partitions).option("--redis-wait", "1")
    };
    let mut old = serve("old", "6").start().await;
    old.client().register_worker("now", &worker.url(), &["done.*", "bad.*", "accepted.*", "again.*", "parent.*"]).await;
    let tasks = tasks(400);
    submit_all(old.client(), &tasks).await;
    // Until it waits for children that nobody serves, and nothing is on its way between partitions.
    old.client().wait_final("done-4").await;
    worker.wait_until("all parents", PATIENCE, |calls| calls.iter().filter(|call| call.task == "done.child").count() == 20).await;
    worker.wait_answered(worker.count()).await;
    old.stop().await;

    let (from, to) = (format!("{}?prefix=old", cluster.url()), format!("{}?prefix=new&partitions=9", cluster.url()));
    // The configuration is that of a server.
    std::fs::write(folder.path().join("lovage.toml"), "redis_wait = 1\n[redis]\ntimeout = \"9s\"\n").unwrap();
    for (set, code, said) in [
        ("redis.ca_file=nowhere.pem", 3, "cannot read nowhere.pem"),
        ("redis.time=1s", 2, "did you mean `redis.timeout`?"),
        ("redis_wait=3", 3, "has 1 replicas"),
    ] {
        let refused = run(folder.path(), &["migrate", "--from", &from, "--to", &to, "--set", set]);
        assert_eq!((refused.status.code(), stderr(&refused).contains(said)), (Some(code), true), "{}", stderr(&refused));
    }
    let copied = migrate(folder.path(), &from, &to, &["--documents"]);
    assert!(copied["documents"]["copied"].as_u64().unwrap() > 3, "{copied}");
    let report = migrate(folder.path(), &from, &to, &[]);
    assert_eq!((&report["moved"], sum(&report["refused"])), (&report["found"], 0), "{report}");
    assert_eq!(sum(&report["found"]), (tasks.len() + 20 * CHILDREN) as u64);
    assert_eq!(sum(&migrate(folder.path(), &from, &to, &[])["found"]), 0, "something is left");

    let new = serve("new", "1").start().await;
    new.client().register_worker("later", &worker.url(), &["later.*"]).await;
    let ended = |id: &&String| !id.starts_with("held-") && !id.starts_with("accepted-");
    let wanted: Vec<String> = tasks.keys().filter(ended).cloned().collect();
    for (id, record) in new.client().wait_all_final(&wanted, PATIENCE).await {
        assert_eq!(record["state"] == "failed", id.starts_with("failed-"), "{record}");
    }
    assert!(worker.overlaps().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_not_migrated_onto_itself_nor_from_nowhere() {
    let (redis, folder) = (Redis::start(), tempfile::tempdir().unwrap());
    let mut server = Lovage::dev().redis(&redis).option("--redis-prefix", "s1").start().await;
    for n in 0..20 {
        server.client().submit(&json!({"id": format!("kept-{n}"), "task": "later.kept"})).await;
    }
    let before = server.client().task("kept-7").await;
    server.stop().await;
    let from = format!("{}?prefix=s1", redis.url());
    let local = redis.url().replace("127.0.0.1", "localhost");
    for to in [from.clone(), format!("{}/0?prefix=s1", redis.url().trim_end_matches('/')), format!("{local}?prefix=s1")] {
        for more in [&[][..], &["--dry-run"], &["--documents"]] {
            let refused = run(folder.path(), &[&["migrate", "--from", &from, "--to", &to], more].concat());
            assert_eq!(refused.status.code(), Some(2), "{to} {more:?} {} {}", stdout(&refused), stderr(&refused));
            assert!(stderr(&refused).contains("the same store"), "{}", stderr(&refused));
        }
    }
    for more in [&[][..], &["--dry-run"], &["--documents"]] {
        let nowhere = format!("{}?prefix=nowhere", redis.url());
        let to = format!("{}?prefix=new", redis.url());
        let refused = run(folder.path(), &[&["migrate", "--from", &nowhere, "--to", &to], more].concat());
        assert_eq!(refused.status.code(), Some(1), "{more:?} {} {}", stdout(&refused), stderr(&refused));
        assert!(stderr(&refused).contains("there is no store with the prefix `nowhere`"), "{}", stderr(&refused));
        let other_way = run(folder.path(), &["migrate", "--dry-run", "--from", &to, "--to", &nowhere]);
        assert_eq!(other_way.status.code(), Some(1), "a store was made: {}", stderr(&other_way));
    }
    for wrong in ["partition=4", "partitions=0"] {
        let refused = run(folder.path(), &["migrate", "--from", &from, "--to", &format!("{}?{wrong}", redis.url())]);
        assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    }
    let server = Lovage::dev().redis(&redis).option("--redis-prefix", "s1").start().await;
    assert_eq!(server.client().task("kept-7").await["created_at"], before["created_at"]);
}
