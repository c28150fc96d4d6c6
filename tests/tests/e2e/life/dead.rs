//! Dead letters: found, tried again after the fault was mended, deleted.

use lovage_tests::Reply;
use serde_json::json;

use crate::contract::site::Store;

on_both_stores!(dead_letters_are_tried_again_once_the_fault_is_mended, dead_letters_from_the_command_line);

async fn dead_letters_are_tried_again_once_the_fault_is_mended(store: Store) {
    let site = store.dev().await;
    site.worker.on("t", Reply::json(&json!({"type": "Broken", "message": "no"})).with_status(400));
    site.serves(&["t"]).await;
    for n in 0..20 {
        site.submit(&json!({"id": format!("t-{n}"), "task": "t", "labels": {"kind": "batch"}})).await;
    }
    let ids: Vec<String> = (0..20).map(|n| format!("t-{n}")).collect();
    site.wait_all_final(&ids, std::time::Duration::from_secs(30)).await;
    let dead = site.list("/v1/dead-letters?error_type=Broken&label=kind:batch&limit=7").await;
    assert_eq!(dead.len(), 20);
    assert!(dead.iter().all(|record| record["error"]["message"] == "no" && record["state"] == "failed"));

    site.worker.on("t", Reply::json(&json!("mended")));
    let filter = json!({"filter": {"error_type": "Broken"}});
    let tally = site.post("/v1/dead-letters:retry", &filter).await.json;
    assert_eq!((&tally["matched"], &tally["changed"], &tally["failed"]), (&json!(20), &json!(20), &json!(0)));
    let records = site.wait_all_final(&ids, std::time::Duration::from_secs(30)).await;
    assert!(records.values().all(|record| record["state"] == "succeeded" && record["generation"] == 1));
    assert!(site.list("/v1/dead-letters").await.is_empty());
}

async fn dead_letters_from_the_command_line(store: Store) {
    let site = store.dev().await;
    let cli = |words: &[&str]| {
        let output = site.lovage.cli(words);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, out, err) = cli(&["dead", "list"]);
    assert_eq!((code, &*out), (Some(0), ""), "{err}");
    for id in ["one", "two", "three"] {
        site.submit(&json!({"id": id, "task": "demo.fail", "args": ["no luck"], "retry": {"max_attempts": 1}})).await;
        site.wait_final(id).await;
    }
    let (code, out, err) = cli(&["dead", "list", "--task", "demo.fail"]);
    assert_eq!((code, out.lines().count()), (Some(0), 4), "{out}{err}");
    assert!(out.contains("no luck"), "{out}");
    assert_eq!(cli(&["dead", "list", "--queue", "elsewhere"]).1, "");
    let (code, out, _) = cli(&["dead", "retry", "--task", "demo.fail", "--dry-run"]);
    assert_eq!((code, &*out), (Some(0), "3 found, 3 would be retried\n"));
    let (code, out, err) = cli(&["dead", "delete", "one", "missing"]);
    assert_eq!((code, &*out, &*err), (Some(1), "1 found, 1 deleted\n", "missing: there is no task `missing`\n"));
    assert_eq!(cli(&["dead", "retry", "--all"]).1, "2 found, 2 retried\n");
    assert_eq!(site.wait_final("two").await["generation"], 1);
    assert_eq!(cli(&["dead", "retry"]).0, Some(2));
    assert_eq!(cli(&["dead", "retry", "two", "--all"]).0, Some(2));
}
