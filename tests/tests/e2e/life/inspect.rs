//! `lovage limits`, `lovage inspect` and `lovage control`: what they print, what they change, how they end.

use std::process::Output;

use lovage_tests::Lovage;
use serde_json::{Value, json};

pub(super) fn told(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

pub(super) fn as_json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Whether a line of a table has these words, in this order.
pub(super) fn has_row(output: &Output, words: &[&str]) -> bool {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().any(|line| {
        let mut line = line.split_whitespace();
        words.iter().all(|word| line.any(|other| other == *word))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_stored_shown_paused_and_deleted() {
    let lovage = Lovage::dev().start().await;
    let put = lovage.cli(&["limits", "put", "customer:42", "--rate", "10/s", "--burst", "3"]);
    assert!(put.status.success() && has_row(&put, &["customer:42", "10/s", "3"]), "{put:?}");
    let got = as_json(&lovage.cli(&["limits", "get", "customer:42", "--json"]));
    assert_eq!((&got["rate"], &got["tokens"], &got["version"]), (&json!("10/s"), &json!(3), &json!(1)));
    assert!(has_row(&lovage.cli(&["limits", "list"]), &["customer:42", "10/s"]));
    let changed = as_json(&lovage.cli(&["limits", "patch", "customer:42", "--concurrency", "2", "--unset", "burst", "--json"]));
    assert_eq!((&changed["rate"], &changed["burst"], &changed["concurrency"]), (&json!("10/s"), &Value::Null, &json!(2)));
    assert_eq!(lovage.cli(&["limits", "patch", "customer:42"]).status.code(), Some(2));
    let paused = lovage.cli(&["limits", "pause", "customer:42", "--until", "2099-01-01T00:00:00Z"]);
    assert!(has_row(&paused, &["customer:42", "2099-01-01T00:00:00.000Z"]), "{paused:?}");
    assert!(has_row(&lovage.cli(&["limits", "pause", "customer:42"]), &["customer:42", "until", "resumed"]));
    assert_eq!(as_json(&lovage.cli(&["limits", "resume", "customer:42", "--json"]))["paused"], false);
    for field in ["--concurrency", "--burst"] {
        let refused = lovage.cli(&["limits", "put", "k", field, "-1"]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && said.contains("invalid_field"), "{refused:?}");
    }
    let refused = lovage.cli(&["limits", "put", "k", "--rate", "-1/s"]);
    assert!(refused.status.code() == Some(2) && String::from_utf8_lossy(&refused.stderr).contains("-1/s"), "{refused:?}");
    assert_eq!(told(&lovage.cli(&["limits", "delete", "customer:42"])), (Some(0), "customer:42 deleted".to_owned()));
    let gone = lovage.cli(&["limits", "get", "customer:42"]);
    assert!(gone.status.code() == Some(1) && String::from_utf8_lossy(&gone.stderr).contains("limit_unknown"), "{gone:?}");
    assert_eq!(lovage.cli(&["limits", "put", "k", "--rate", "0/s"]).status.code(), Some(2));
    assert_eq!(lovage.cli(&["limits", "put", "queue:q"]).status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn control_changes_rates_and_times_of_task_types() {
    let lovage = Lovage::dev().start().await;
    let client = lovage.client();
    let of = async |task: &str| client.get(&format!("/v1/task-types/{task}")).await.json;
    assert_eq!(told(&lovage.cli(&["control", "rate_limit", "demo.add", "200/m"])), (Some(0), "demo.add  rate 200/m".to_owned()));
    let one = of("demo.add").await;
    assert_eq!((&one["rate"], &one["burst"]), (&json!("200/m"), &Value::Null));
    // A name gets what its pattern said until now, as types are not joined.
    client.put("/v1/task-types/images.*", &json!({"queue": "slow", "rate": "1/s"})).await;
    let made = lovage.cli(&["control", "rate_limit", "images.resize", "5/s", "--burst", "2"]);
    assert!(made.status.success() && String::from_utf8_lossy(&made.stderr).contains("images.*"), "{made:?}");
    let one = of("images.resize").await;
    assert_eq!((&one["queue"], &one["rate"], &one["burst"]), (&json!("slow"), &json!("5/s"), &json!(2)));
    assert_eq!(told(&lovage.cli(&["control", "rate_limit", "images.resize", "none"])).0, Some(0));
    let one = of("images.resize").await;
    assert_eq!((&one["queue"], &one["rate"]), (&json!("slow"), &Value::Null));
    let set = lovage.cli(&["control", "time_limit", "images.resize", "30s", "25s"]);
    assert_eq!(told(&set), (Some(0), "images.resize  time_limit 30s, soft_time_limit 25s".to_owned()));
    let one = of("images.resize").await;
    assert_eq!((&one["time_limit"], &one["soft_time_limit"]), (&json!("30s"), &json!("25s")));
    assert_eq!(lovage.cli(&["control", "rate_limit", "demo.add", "fast"]).status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn control_pauses_and_revokes() {
    let lovage = Lovage::dev().start().await;
    let client = lovage.client();
    let until = "2099-01-01T00:00:00Z";
    let paused = lovage.cli(&["control", "pause", "limit", "k", "--until", until]);
    assert_eq!(told(&paused), (Some(0), format!("k  paused until {until}")));
    assert_eq!(told(&lovage.cli(&["control", "resume", "limit", "k"])), (Some(0), "k  resumed".to_owned()));
    // Of a task name without a type one is made, and what is probably misspelt is said.
    let says = |output: &Output, words: &str| String::from_utf8_lossy(&output.stderr).contains(words);
    let paused = lovage.cli(&["control", "pause", "task", "demo.add"]);
    assert_eq!(told(&paused), (Some(0), "demo.add  paused until resumed".to_owned()));
    assert!(says(&paused, "task type `demo.add` made") && !says(&paused, "no worker"), "{paused:?}");
    assert_eq!(client.get("/v1/task-types/demo.add").await.json["paused"]["dispatch"], true);
    for (args, task) in
        [(&["control", "pause", "task", "dem.add"][..], "dem.add"), (&["control", "rate_limit", "dem.ad", "1/s"], "dem.ad")]
    {
        let noted = lovage.cli(args);
        assert!(noted.status.success() && says(&noted, &format!("no worker serves `{task}` now")), "{noted:?}");
    }
    // What a type of its own is made from may be paused: then it is as well.
    client.put("/v1/task-types/demo.*", &json!({"queue": "slow"})).await;
    assert!(lovage.cli(&["control", "pause", "task", "demo.*"]).status.success());
    assert!(lovage.cli(&["control", "rate_limit", "demo.sleep", "1/s"]).status.success());
    let made = client.get("/v1/task-types/demo.sleep").await.json;
    assert_eq!((&made["queue"], &made["rate"], &made["paused"]["dispatch"]), (&json!("slow"), &json!("1/s"), &json!(true)));
    assert_eq!(lovage.cli(&["control", "pause", "task", "other.x", "--until", "2020-01-01T00:00:00Z"]).status.code(), Some(1));
    assert_eq!(client.get("/v1/task-types/other.x").await.status, 404, "nothing is made of a pause that is refused");
    for id in ["a", "b"] {
        client.submit(&json!({"task": "nobody.serves", "id": id})).await;
    }
    assert_eq!(told(&lovage.cli(&["control", "revoke", "a", "b"])), (Some(0), "2 found, 2 canceled".to_owned()));
    assert_eq!(client.task("a").await["state"], "canceled");
    assert_eq!(lovage.cli(&["control", "revoke", "a"]).status.code(), Some(1), "it is final");
}

#[tokio::test(flavor = "multi_thread")]
async fn inspect_shows_what_there_is() {
    let lovage = Lovage::dev().start().await;
    let client = lovage.client();
    client.submit(&json!({"task": "demo.sleep", "args": [600], "id": "runs"})).await;
    client.submit(&json!({"task": "demo.add", "delay": "1h", "id": "later"})).await;
    client.submit(&json!({"task": "nobody.serves", "id": "waits", "queue": "mail"})).await;
    client.submit(&json!({"task": "nobody.serves", "id": "gone"})).await;
    lovage.cli(&["cancel", "gone"]);
    lovage_tests::eventually("the task to run", std::time::Duration::from_secs(20), async || {
        (client.task("runs").await["state"] == "running").then_some(())
    })
    .await;
    for (word, id, state) in [
        ("active", "runs", "running"),
        ("scheduled", "later", "scheduled"),
        ("reserved", "waits", "queued"),
        ("revoked", "gone", "canceled"),
    ] {
        let shown = lovage.cli(&["inspect", word]);
        assert!(shown.status.success() && has_row(&shown, &[id, state]), "{shown:?}");
        let items = as_json(&lovage.cli(&["inspect", word, "--json"]))["items"].clone();
        assert_eq!((items.as_array().unwrap().len(), &items[0]["id"]), (1, &json!(id)), "{word}: {items}");
    }
    assert!(has_row(&lovage.cli(&["inspect", "registered"]), &["demo", "demo.*", "all"]));
    let stats = lovage.cli(&["inspect", "stats"]);
    assert!(has_row(&stats, &["demo", "100"]) && has_row(&stats, &["mail", "0", "0", "1", "0", "0"]), "{stats:?}");
    let stats = as_json(&lovage.cli(&["inspect", "stats", "--json"]));
    assert!(stats["workers"][0]["name"] == "demo" && stats["queues"].as_array().unwrap().len() >= 2, "{stats}");
    lovage.cli(&["cancel", "runs", "--hard"]);
}
