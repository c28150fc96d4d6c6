//! `lovage dev`

use std::time::Duration;

use lovage_tests::{Lovage, Redis};
use serde_json::{Value, json};

#[tokio::test]
async fn the_printed_line_works_when_it_is_pasted() {
    let lovage = Lovage::dev().start().await;
    let printed = lovage.stdout();
    assert!(printed.starts_with(&format!("listening on {}\n", lovage.url())), "{printed}");
    assert!(!printed.contains('\x1b'), "colours in a file: {printed:?}");
    let line = printed.lines().find(|line| line.trim_start().starts_with("curl ")).unwrap();
    let words: Vec<&str> = line.split('\'').collect();
    let [_, url, _, content_type, _, body, ..] = words[..] else { panic!("{line}") };
    assert_eq!(content_type, "content-type: application/json");

    let path = url.strip_prefix(lovage.url()).unwrap();
    let answer = lovage.client().post(path, &serde_json::from_str(body).unwrap()).await;
    assert_eq!((answer.status, &answer.json["state"], &answer.json["result"]), (200, &json!("succeeded"), &json!(5)));
}

#[tokio::test]
async fn an_empty_store_is_ready_at_once() {
    let lovage = Lovage::dev().start().await;
    // The promise is 300 ms for a release build on an idle machine; this only notices a start that waits for something.
    assert!(lovage.ready_after() < Duration::from_secs(3), "ready after {:?}", lovage.ready_after());
}

#[tokio::test]
async fn the_demo_worker_has_five_functions() {
    let lovage = Lovage::dev().start().await;
    let ended = async |task: &str, args: Value| {
        let id = lovage.client().submit(&json!({"task": task, "args": args, "retry": {"min": "10ms", "max": "20ms"}})).await;
        lovage.client().wait_final(&id).await
    };
    assert_eq!(ended("demo.echo", json!(["hello"])).await["result"], json!("hello"));
    assert_eq!(ended("demo.add", json!([1, 2.5])).await["result"], json!(3.5));
    assert_eq!(ended("demo.sleep", json!([0.01])).await["result"], json!({"slept": 0.01}));
    let failed = ended("demo.fail", json!(["as asked"])).await;
    assert_eq!((&failed["state"], &failed["error"]["message"]), (&json!("failed"), &json!("as asked")));
    let flaky = ended("demo.flaky", json!([2])).await;
    assert_eq!((&flaky["result"], &flaky["attempt"]), (&json!({"attempts": 3}), &json!(3)));
}

#[tokio::test]
async fn addresses_that_others_reach_are_refused() {
    let output = Lovage::dev().option("--listen", "0.0.0.0:0").run_to_end().await;
    assert_eq!(output.status.code(), Some(2));
    assert!(super::stderr(&output).contains("use `lovage serve`"), "{}", super::stderr(&output));
}

#[tokio::test]
async fn a_second_server_on_the_same_data_says_who_has_it() {
    let first = Lovage::dev().start().await;
    let output = Lovage::dev().data_dir(&first.data_dir()).run_to_end().await;
    assert_eq!(output.status.code(), Some(1));
    let said = super::stderr(&output);
    assert!(said.contains(&format!("in use by process {} at {}", first.pid(), first.url())), "{said}");
    assert!(said.contains("--data-dir"), "{said}");
    // The first one does not mind.
    assert_eq!(first.client().get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_port_in_use_is_explained() {
    let first = Lovage::dev().start().await;
    let address = first.url().trim_start_matches("http://").to_owned();
    let output = Lovage::dev().option("--listen", &address).run_to_end().await;
    assert_eq!(output.status.code(), Some(1));
    assert!(super::stderr(&output).contains(&format!("cannot listen on {address}")), "{}", super::stderr(&output));
}

#[tokio::test]
async fn tasks_and_results_outlive_a_crash() {
    let mut lovage = Lovage::dev().start().await;
    let done = lovage.client().submit(&json!({"task": "demo.add", "args": [2, 3]})).await;
    lovage.client().wait_final(&done).await;
    let later = lovage.client().submit(&json!({"task": "demo.add", "args": [4, 5], "delay": "300ms"})).await;
    lovage.kill9();
    lovage.restart().await;
    assert_eq!(lovage.client().task(&done).await["result"], json!(5));
    // The demo worker has another port now.
    assert_eq!(lovage.client().wait_final(&later).await["result"], json!(9));
}

#[tokio::test]
async fn two_servers_on_one_redis_do_not_take_the_demo_worker_from_each_other() {
    let redis = Redis::start();
    let mut first = Lovage::dev().redis(&redis).start().await;
    let mut second = Lovage::dev().redis(&redis).start().await;
    let instances = async |lovage: &Lovage| {
        let list = lovage.client().get("/v1/workers/demo/instances").await;
        list.json["items"].as_array().unwrap().len()
    };
    assert_eq!((instances(&first).await, instances(&second).await), (2, 2));
    second.kill9();
    second.restart().await;
    assert_eq!(instances(&first).await, 2, "a new life takes the place of the old one");
    for lovage in [&first, &second] {
        let id = lovage.client().submit(&json!({"task": "demo.add", "args": [2, 3]})).await;
        assert_eq!(lovage.client().wait_final(&id).await["result"], json!(5));
    }
    first.stop().await;
    assert_eq!(instances(&second).await, 1);
    for _ in 0..4 {
        let id = second.client().submit(&json!({"task": "demo.add", "args": [4, 5]})).await;
        let record = second.client().wait_final(&id).await;
        assert_eq!((&record["result"], &record["attempt"]), (&json!(9), &json!(1)));
    }
}

#[tokio::test]
async fn wrong_settings_end_the_start_with_a_reason() {
    let wrong = Lovage::dev().option("--set", "limits.task_byte=1").run_to_end().await;
    assert_eq!(wrong.status.code(), Some(2));
    assert!(super::stderr(&wrong).contains("did you mean `limits.task_bytes`?"), "{}", super::stderr(&wrong));
    let wrong = Lovage::dev().env("LOVAGE_GRAC", "1s").run_to_end().await;
    assert_eq!(wrong.status.code(), Some(2));
    assert!(super::stderr(&wrong).contains("did you mean `LOVAGE_GRACE`?"), "{}", super::stderr(&wrong));
    let wrong = Lovage::dev().option("--log", "loud=very").run_to_end().await;
    assert_eq!(wrong.status.code(), Some(2), "{}", super::stderr(&wrong));
}

#[tokio::test]
async fn limits_of_the_configuration_hold() {
    let lovage = Lovage::dev().env("LOVAGE_LIMITS_TASK_BYTES", "1KiB").start().await;
    let answer = lovage.client().post_task(&json!({"task": "demo.echo", "args": ["x".repeat(2_000)]})).await;
    assert_eq!((answer.status, answer.code()), (413, "payload_too_large"));
}

#[tokio::test]
async fn logs_are_json_on_request() {
    let mut lovage = Lovage::dev().option("--log-format", "json").start().await;
    assert!(lovage.stop().await.success());
    let said = lovage.stderr();
    assert!(said.lines().count() > 0, "nothing was logged");
    for line in said.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["level"].is_string() && line["message"].is_string(), "{line}");
    }
}
