//! `lovage queues`: what it prints, what it changes, how it ends.

use lovage_tests::{Lovage, eventually};
use serde_json::{Value, json};

use super::inspect::{as_json, has_row, told};
use crate::contract::site::PATIENCE;

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_set_up_changed_shown_and_emptied() {
    let lovage = Lovage::dev().start().await;
    let client = lovage.client();
    let put = lovage.cli(&["queues", "put", "mail", "--rate", "10/s", "--burst", "3", "--order", "fair", "--max-length", "50"]);
    assert!(put.status.success() && has_row(&put, &["mail", "fair", "10/s", "50"]), "{put:?}");
    // A change leaves alone what it does not name.
    let args = ["queues", "patch", "mail", "--max-length", "5", "--on-full", "drop_oldest", "--unset", "burst", "--json"];
    let changed = as_json(&lovage.cli(&args));
    assert_eq!(
        (&changed["max_length"], &changed["on_full"], &changed["burst"]),
        (&json!(5), &json!("drop_oldest"), &Value::Null)
    );
    assert_eq!((&changed["rate"], &changed["order"], &changed["version"]), (&json!("10/s"), &json!("fair"), &json!(2)));
    let unset = lovage.cli(&["queues", "patch", "mail", "--unset", "max-length", "--unset", "on_full", "--max-age", "1h"]);
    assert!(unset.status.success(), "{unset:?}");
    let stored = client.get("/v1/queues/mail").await.json;
    assert_eq!((&stored["max_length"], &stored["max_age"], &stored["rate"]), (&Value::Null, &json!("1h"), &json!("10/s")));
    for (args, code, said) in [
        (&["patch", "mail"][..], 2, "nothing to change"),
        (&["patch", "mail", "--rate", "1/s", "--unset", "rate"], 2, "rate is given and taken away"),
        (&["patch", "mail", "--unset", "colour"], 1, "unknown_field"),
        (&["patch", "mail", "--max-length", "0"], 1, "max_length"),
        (&["patch", "mail", "--order", "odd"], 2, "odd"),
        (&["patch", "nowhere", "--max-age", "1h"], 1, "queue_unknown"),
    ] {
        let refused = lovage.cli(&[&["queues"], args].concat());
        let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(code) && stderr.contains(said), "{args:?}: {refused:?}");
    }
    assert_eq!(client.get("/v1/queues/mail").await.json, stored);
    // What is in it, what came, and what left.
    client.submit_batch(&vec![json!({"task": "nobody", "queue": "mail"}); 6]).await;
    eventually("what came", PATIENCE, async || {
        has_row(&lovage.cli(&["queues", "stats", "mail"]), &["in", "a", "second", "0.1"]).then_some(())
    })
    .await;
    assert!(has_row(&lovage.cli(&["queues", "stats", "mail"]), &["queued", "6"]));
    assert_eq!(lovage.cli(&["queues", "delete", "mail"]).status.code(), Some(1));
    assert_eq!(told(&lovage.cli(&["queues", "purge", "mail"])), (Some(0), "6 tasks canceled".to_owned()));
    eventually("what left", PATIENCE, async || {
        has_row(&lovage.cli(&["queues", "stats", "mail"]), &["out", "a", "second", "0.1"]).then_some(())
    })
    .await;
    assert_eq!(told(&lovage.cli(&["queues", "purge", "mail"])), (Some(0), "0 tasks canceled".to_owned()));
    assert!(has_row(&lovage.cli(&["queues", "pause", "mail"]), &["mail", "dispatch", "until", "resumed"]));
    assert_eq!(told(&lovage.cli(&["queues", "delete", "mail"])), (Some(0), "mail deleted".to_owned()));
    let reset = told(&lovage.cli(&["queues", "delete", "default"]));
    assert!(reset.0 == Some(0) && reset.1.starts_with("default has no settings any more"), "{reset:?}");
    for name in [".", ".."] {
        let named = client.post("/v1/tasks", &json!({"task": "nobody", "queue": name})).await;
        assert_eq!(named.status, 422, "{name}");
    }
    assert!(lovage.cli(&["inspect", "stats"]).status.success());
}
