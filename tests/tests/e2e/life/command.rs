//! The words of the command line for one task.

use std::process::Output;

use lovage_tests::Lovage;
use serde_json::{Value, json};

fn told(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

fn as_json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_word_for_each_verb() {
    let lovage = Lovage::dev().start().await;
    let client = lovage.client();
    client.submit(&json!({"task": "demo.add", "args": [2, 3], "id": "t", "delay": "1h"})).await;
    assert_eq!(told(&lovage.cli(&["hold", "t"])), (Some(0), "t  scheduled  held".to_owned()));
    assert_eq!(told(&lovage.cli(&["run-now", "t"])), (Some(0), "t  queued  held".to_owned()));
    assert_eq!(as_json(&lovage.cli(&["release", "t", "--json"]))["held"], Value::Null);
    assert_eq!(told(&lovage.cli(&["wait", "t"])), (Some(0), "t  succeeded  5".to_owned()));
    let replayed = as_json(&lovage.cli(&["replay", "t", "--edits", r#"{"args":[4,5]}"#, "--json"]));
    let id = replayed["id"].as_str().unwrap();
    assert_eq!(told(&lovage.cli(&["wait", id])), (Some(0), format!("{id}  succeeded  9")));
    let bad = lovage.cli(&["retry", "t"]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("wrong_state"), "{bad:?}");

    lovage.cli(&["submit", "demo.fail", "--id", "f", "--wait", "10s"]);
    assert_eq!(lovage.cli(&["retry", "f"]).status.code(), Some(0));
    assert_eq!(client.wait_final("f").await["generation"], 1);
    assert_eq!(lovage.cli(&["replay", "f", "--edits", "{nope"]).status.code(), Some(2));
    assert_eq!(lovage.cli(&["replay", "unknown"]).status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_may_be_hard_and_without_children() {
    let lovage = Lovage::dev().start().await;
    for (id, words) in [("a", &["cancel", "a"][..]), ("b", &["cancel", "b", "--hard", "--no-cascade"])] {
        lovage.client().submit(&json!({"task": "nobody.serves", "id": id})).await;
        assert_eq!(told(&lovage.cli(words)), (Some(0), format!("{id}  canceled")));
    }
}
