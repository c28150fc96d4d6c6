//! The client commands: what they print and how they end.

use std::process::Output;

use lovage_tests::{Lovage, Port};
use serde_json::{Value, json};

use super::{run, stderr, stdout};

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn as_json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn submit_and_wait() {
    let lovage = Lovage::dev().start().await;
    let done = lovage.cli(&["submit", "demo.add", "--args", "[2,3]", "--wait", "10s"]);
    assert_eq!(code(&done), Some(0), "{done:?}");
    assert!(stdout(&done).ends_with("  succeeded  5\n") && !stdout(&done).contains('\x1b'), "{done:?}");

    let submitted = lovage.cli(&["submit", "demo.add", "--kwargs", r#"{"a": 1, "b": 2}"#, "--id", "mine", "--label", "team=a"]);
    assert_eq!(code(&submitted), Some(0), "{submitted:?}");
    assert!(stdout(&submitted).starts_with("mine  "), "{submitted:?}");
    let waited = lovage.cli(&["wait", "mine", "--timeout", "10s"]);
    assert_eq!((code(&waited), stdout(&waited)), (Some(0), "mine  succeeded  3\n".to_owned()));

    let got = lovage.cli(&["get", "mine"]);
    assert_eq!(code(&got), Some(0));
    assert!(stdout(&got).lines().any(|line| line.split_whitespace().eq(["state", "succeeded"])), "{got:?}");
    let got = lovage.cli(&["get", "mine", "--json"]);
    assert_eq!(as_json(&got)["labels"], json!({"team": "a"}));
    let result = lovage.cli(&["result", "mine"]);
    assert_eq!((code(&result), stdout(&result)), (Some(0), "3".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_come_from_the_line_or_a_file_unchanged() {
    let lovage = Lovage::dev().start().await;
    // Digits and order that a parser would lose.
    let text = r#"{"b": 1.50, "a": 12345678901234567890123}"#;
    let file = lovage.data_dir().join("payload.json");
    std::fs::write(&file, text).unwrap();
    for (id, payload) in [("line", text.to_owned()), ("file", format!("@{}", file.display()))] {
        let done = lovage.cli(&["submit", "demo.echo", "--payload", &payload, "--id", id, "--wait", "10s", "--json"]);
        assert_eq!(code(&done), Some(0), "{done:?}");
        assert_eq!(stdout(&lovage.cli(&["result", id])), text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_is_sent_as_text() {
    let lovage = Lovage::dev().start().await;
    let file = lovage.data_dir().join("payload.txt");
    std::fs::write(&file, "hello, wörld").unwrap();
    let payload = format!("@{}", file.display());
    let refused = lovage.cli(&["submit", "demo.echo", "--payload", &payload]);
    assert!(code(&refused) == Some(2) && stderr(&refused).contains("--text sends it as it is"), "{refused:?}");
    let words = ["submit", "demo.echo", "--payload", &payload, "--text", "--id", "t", "--label", "team=ä", "--priority", "9"];
    let done = lovage.cli(&[&words[..], &["--queue", "q", "--time-limit", "5s", "--wait", "10s", "--json"]].concat());
    assert_eq!(code(&done), Some(0), "{done:?}");
    let record = as_json(&done);
    assert_eq!((&record["queue"], &record["priority"], &record["labels"]["team"]), (&json!("q"), &json!(9), &json!("ä")));
    assert_eq!((&record["time_limit"], record.get("payload")), (&json!("5s"), None));
    assert_eq!(stdout(&lovage.cli(&["result", "t"])), "hello, wörld");
}

/// What JSON allows and a record cannot show: the result itself is still to be had.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_cannot_be_shown_is_pointed_to() {
    let lovage = Lovage::dev().start().await;
    let deep = format!("{}{}", "[".repeat(120), "]".repeat(120));
    for (id, payload) in [("huge", "1e400"), ("half", r#""\ud800""#), ("deep", deep.as_str())] {
        let done = lovage.cli(&["submit", "demo.echo", "--payload", payload, "--id", id, "--wait", "10s"]);
        assert_eq!(code(&done), Some(0), "{done:?}");
        assert!(stdout(&done).contains(&format!("lovage result {id}")), "{done:?}");
        let got = lovage.cli(&["get", id]);
        assert!(code(&got) == Some(0) && stdout(&got).contains(&format!("lovage result {id}")), "{got:?}");
        assert_eq!(stdout(&lovage.cli(&["result", id])), payload);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_task_is_exit_code_1() {
    let lovage = Lovage::dev().start().await;
    let failed = lovage.cli(&["submit", "demo.fail", "--args", r#"["no luck"]"#, "--id", "bad", "--wait", "10s"]);
    assert_eq!(code(&failed), Some(1), "{failed:?}");
    assert!(stdout(&failed).starts_with("bad  failed") && stderr(&failed).contains("no luck"), "{failed:?}");
    // What a worker says does not steer the terminal.
    let evil = r#"["\u001b]0;owned\u0007\u009b2J"]"#;
    for words in [&["submit", "demo.fail", "--args", evil, "--id", "evil", "--wait", "10s"][..], &["get", "evil"]] {
        let shown = lovage.cli(words);
        let all = stdout(&shown) + &stderr(&shown);
        assert!(all.contains(r"\u{1b}]0;owned\u{7}\u{9b}2J"), "{all:?}");
        assert!(!all.contains(|c: char| c.is_control() && c != '\n'), "{all:?}");
    }
    assert_eq!(code(&lovage.cli(&["wait", "bad"])), Some(1));
    // To show a failed task is no failure; to want its result is.
    assert_eq!(code(&lovage.cli(&["get", "bad"])), Some(0));
    assert_eq!(code(&lovage.cli(&["result", "bad"])), Some(1));
    let as_json = as_json(&lovage.cli(&["wait", "bad", "--json"]));
    assert_eq!(as_json["error"]["message"], json!("no luck"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_is_exit_code_1_and_explained() {
    let lovage = Lovage::dev().start().await;
    let unknown = lovage.cli(&["get", "nothing-here"]);
    assert_eq!(code(&unknown), Some(1));
    assert!(stderr(&unknown).contains("task_unknown"), "{unknown:?}");
    let bad = lovage.cli(&["submit", "demo.add", "--priority", "11"]);
    assert_eq!(code(&bad), Some(1));
    assert!(stderr(&bad).contains("/priority"), "{bad:?}");
    let bad = lovage.cli(&["submit", "demo.add", "--priority", "11", "--json"]);
    assert_eq!(as_json(&bad)["code"], json!("invalid_field"));

    let serving = Lovage::serve().start().await;
    let folder = tempfile::tempdir().unwrap();
    let no_key = run(folder.path(), &["get", "x", "--url", serving.url()]);
    assert_eq!(code(&no_key), Some(1));
    assert!(stderr(&no_key).contains("--key or LOVAGE_KEY"), "{no_key:?}");
    assert_eq!(code(&serving.cli(&["submit", "a.b"])), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_in_vain_is_exit_code_124() {
    let lovage = Lovage::dev().start().await;
    let late = lovage.cli(&["submit", "nobody.serves", "--id", "lonely", "--wait", "50ms"]);
    assert_eq!(code(&late), Some(124), "{late:?}");
    assert!(stderr(&late).contains("lovage wait lonely"), "{late:?}");
    assert_eq!(code(&lovage.cli(&["wait", "lonely", "--timeout", "50ms"])), Some(124));
    assert_eq!(code(&lovage.cli(&["result", "lonely", "--wait", "50ms"])), Some(124));
    let none = lovage.cli(&["result", "lonely"]);
    assert_eq!(code(&none), Some(1));
    assert!(stderr(&none).contains("no result yet"), "{none:?}");

    let canceled = lovage.cli(&["cancel", "lonely"]);
    assert_eq!((code(&canceled), stdout(&canceled)), (Some(0), "lonely  canceled\n".to_owned()));
    assert_eq!(code(&lovage.cli(&["wait", "lonely"])), Some(1));
}

#[test]
fn no_server_is_exit_code_3() {
    let folder = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let output = run(folder.path(), &["get", "x", "--url", &format!("http://127.0.0.1:{}", port.number())]);
    assert_eq!(code(&output), Some(3), "{output:?}");
    assert!(stderr(&output).contains("lovage dev"), "{output:?}");
}

#[test]
fn wrong_use_is_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    for words in [
        &["submit"][..],
        &["submit", "a.b", "--args", "not JSON"],
        &["submit", "a.b", "--args", "[1]", "--payload", "1"],
        &["submit", "a.b", "--label", "noequals"],
        &["submit", "a.b", "--payload", "@missing"],
        &["submit", "a.b", "--delay", "soon"],
        &["get", "x", "--url", "127.0.0.1:8275"],
        &["get", ""],
        &["wait", "no such"],
        &["dead", "retry", ""],
        &["nonsense"],
        &["config", "--set", "lisen=127.0.0.1:1"],
    ] {
        assert_eq!(code(&run(folder.path(), words)), Some(2), "{words:?}");
    }
}

#[test]
fn the_description_of_the_api_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let printed = as_json(&run(folder.path(), &["openapi"]));
    assert!(printed["openapi"].as_str().unwrap().starts_with("3.1"), "{}", printed["openapi"]);
    assert!(printed["paths"]["/v1/tasks"]["post"].is_object());
}

#[test]
fn a_closed_pipe_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    for words in [["openapi"], ["config"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = super::command(folder.path(), &words).stdout(writer).output().unwrap();
        assert_eq!((code(&output), stderr(&output)), (Some(0), String::new()));
    }
}

#[test]
fn the_configuration_tells_where_values_come_from() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("lovage.toml"), "partitions = 3\n").unwrap();
    let shown = stdout(&run(folder.path(), &["config", "--grace", "5s"]));
    let line = |name: &str| shown.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("partitions = 3").ends_with("lovage.toml"), "{shown}");
    assert!(line("grace = \"5s\"").ends_with("--grace"), "{shown}");
    assert!(line("listen = ").ends_with("default"), "{shown}");
}
