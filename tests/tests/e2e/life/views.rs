//! Attempts, trees and explanations of tasks that real workers answer.

use std::time::Duration;

use lovage_tests::{Reply, Worker};
use serde_json::{Value, json};

use crate::contract::site::{Site, Store, quick_retry, slow_retry};

on_both_stores!(
    attempts_show_what_happened,
    a_tree_has_children_links_and_callbacks,
    explain_names_what_is_in_the_way,
    explain_follows_a_family,
);

fn outcome(body: &Value) -> Reply {
    Reply::bytes("application/vnd.lovage.outcome+json", body.to_string())
}

async fn explained(site: &Site, id: &str) -> Value {
    let answer = site.get(&format!("/v1/tasks/{id}/explain")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json
}

async fn attempts_show_what_happened(store: Store) {
    let site = store.dev().await;
    let bad = Reply::json(&json!({"type": "ValueError", "message": "no"})).with_status(500);
    site.worker.on("t", vec![bad, Reply::json(&json!({"sum": 3}))]);
    site.serves(&["t", "first"]).await;
    let id = site.submit(&json!({"task": "t", "retry": quick_retry(3)})).await;
    site.wait_final(&id).await;
    let attempts = site.attempts(&id).await;
    assert_eq!(attempts.len(), 2, "{attempts:?}");
    let first = &attempts[0];
    assert_eq!((&first["attempt"], &first["outcome"], &first["status"]), (&json!(1), &json!("backoff"), &json!(500)));
    assert_eq!(first["error"]["type"], "ValueError");
    assert_eq!((&attempts[1]["attempt"], &attempts[1]["outcome"]), (&json!(2), &json!("succeeded")));
    assert_eq!(attempts[0]["excerpt"], r#"{"type":"ValueError","message":"no"}"#);
    assert_eq!(attempts[1]["excerpt"], r#"{"sum":3}"#);
    for attempt in &attempts {
        assert_eq!(attempt["worker"], "w", "{attempt}");
        assert!(attempt["started_at"].is_string() && attempt["ended_at"].is_string(), "{attempt}");
    }
    assert!(attempts[0]["instance"].as_str().unwrap().starts_with(&site.worker.url()), "{}", attempts[0]);
    // A success at the first try, too, of which nothing but the result is stored.
    site.worker.on("first", Reply::json(&json!(["x"])));
    let id = site.submit_plain("first").await;
    site.wait_final(&id).await;
    assert_eq!(site.attempts(&id).await[0]["excerpt"], r#"["x"]"#);
}

async fn a_tree_has_children_links_and_callbacks(store: Store) {
    let site = store.dev().await;
    let spawn = json!({"outcome": "spawn", "tasks": [{"task": "child"}, {"task": "child"}], "then": "detach"});
    site.worker.on("parent", outcome(&spawn)).on("child", Reply::json(&json!(1))).on("*", Reply::json(&json!(2)));
    site.serves(&["parent", "child", "after"]).await;
    let id = site
        .submit(&json!({
            "id": "family", "task": "parent", "name": "the \"first\"",
            "link": {"task": "after"}, "callbacks": {"on_success": site.worker.url_of("/told")},
        }))
        .await;
    site.wait_final(&id).await;
    let nodes = lovage_tests::eventually("the whole family to be done", Duration::from_secs(20), async || {
        let tree = site.get("/v1/tasks/family/tree").await.json;
        let nodes = tree["nodes"].as_array().unwrap().clone();
        (nodes.len() == 5 && nodes.iter().all(|node| node["state"] == "succeeded")).then_some(nodes)
    })
    .await;
    assert_eq!((&nodes[0]["id"], &nodes[0]["kind"]), (&json!("family"), &json!("root")));
    let mut kinds: Vec<&str> = nodes[1..].iter().map(|node| node["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["callback", "child", "child", "link"]);
    assert!(nodes[1..].iter().all(|node| node["parent"] == "family"), "{nodes:?}");
    let children: Vec<&Value> = nodes.iter().filter(|node| node["kind"] == "child").map(|node| &node["id"]).collect();
    assert_eq!(json!(children), site.attempts("family").await[0]["children"]);

    let dot = site.get("/v1/tasks/family/tree?format=dot").await;
    assert_eq!(dot.header("content-type"), "text/vnd.graphviz; charset=utf-8");
    let text = String::from_utf8(dot.body.to_vec()).unwrap();
    assert!(text.contains(r#"label="the \"first\"\nsucceeded""#) && text.matches(" -> ").count() == 4, "{text}");
    let mermaid = site.get("/v1/tasks/family/tree?format=mermaid").await;
    assert!(mermaid.body.starts_with(b"flowchart LR\n"), "{mermaid:?}");

    let shown = site.lovage.cli(&["tree", "family"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(text.lines().count(), 5, "{text}");
    assert!(text.starts_with("family  the \"first\"  succeeded\n  "), "{text}");
}

async fn explain_names_what_is_in_the_way(store: Store) {
    let site = store.dev().await;
    let lonely = site.submit(&json!({"id": "lonely", "task": "nobody"})).await;
    let said = explained(&site, &lonely).await;
    assert_eq!((&said["reason"], &said["lane"]["ahead"]), (&json!("no_worker"), &json!(0)));
    let shown = site.lovage.cli(&["explain", "lonely"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.starts_with("lonely  queued\nNo worker serves `nobody`"), "{text}");

    // The only slot is taken.
    site.worker.on("slow", Reply::never());
    let settings = json!({"url": site.worker.url(), "tasks": ["slow", "again"], "concurrency": 1});
    site.register_worker_with("one", &settings).await;
    let first = site.submit_plain("slow").await;
    site.until_state(&first, "running").await;
    let second = site.submit_plain("slow").await;
    let said = explained(&site, &second).await;
    assert_eq!((&said["reason"], &said["worker"]["name"]), (&json!("concurrency"), &json!("one")), "{said}");
    assert_eq!(
        (&said["worker"]["open"], &said["worker"]["slots"], &said["worker"]["breaker"]),
        (&json!(1), &json!(1), &json!("closed"))
    );
    let said = explained(&site, &first).await;
    assert_eq!(said["causes"][0]["code"], "dispatched", "{said}");
    site.post(&format!("/v1/tasks/{first}/cancel"), &json!({"mode": "hard"})).await;
    site.post(&format!("/v1/tasks/{second}/cancel"), &json!({"mode": "hard"})).await;
    site.wait_final(&first).await;
    site.wait_final(&second).await;
    assert!(explained(&site, &first).await["text"].as_str().unwrap().starts_with("It was canceled at"));

    site.worker.on("again", Reply::status(500));
    let again = site.submit(&json!({"task": "again", "retry": slow_retry()})).await;
    let record = site.until_state(&again, "retrying").await;
    let said = explained(&site, &again).await;
    assert_eq!((&said["reason"], &said["next_at"]), (&json!("backoff"), &record["due_at"]));

    // An endpoint that fails is left alone, and that is said.
    let mut away = Worker::start();
    away.stop();
    let settings = json!({"url": away.url(), "tasks": ["away"], "breaker": {"failures": 1, "open_for": "1h"}});
    site.register_worker_with("away", &settings).await;
    site.submit(&json!({"task": "away", "retry": slow_retry()})).await;
    let waiting = site.submit_plain("away").await;
    let said = lovage_tests::eventually("the breaker to be open", Duration::from_secs(20), async || {
        let said = explained(&site, &waiting).await;
        (said["worker"]["breaker"] == "open" && said["state"] == "queued").then_some(said)
    })
    .await;
    assert_eq!(said["reason"], "breaker", "{said}");
    assert_eq!(said["next_at"], said["worker"]["paused_until"]);
}

async fn explain_follows_a_family(store: Store) {
    let site = store.dev().await;
    let spawn = json!({"outcome": "spawn", "tasks": [{"task": "quick"}, {"task": "never"}], "then": "wait"});
    site.worker.on("parent", outcome(&spawn)).on("quick", Reply::json(&json!(1)));
    site.serves(&["parent", "quick"]).await;
    let id = site.submit_plain("parent").await;
    site.until_state(&id, "blocked").await;
    let said = lovage_tests::eventually("one child to be done", Duration::from_secs(20), async || {
        let said = explained(&site, &id).await;
        said["text"].as_str().unwrap().contains("1 of 2 are not final").then_some(said)
    })
    .await;
    assert_eq!((&said["state"], &said["reason"]), (&json!("blocked"), &json!("children")));
}
