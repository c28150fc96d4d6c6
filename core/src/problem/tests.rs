//! The catalogue agrees with its pages, and problems look on the wire as documented.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

fn pages() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/errors")
}

/// The text between the first ```` ```json ```` and its end.
fn example(page: &str) -> Value {
    let start = page.find("```json\n").expect("an example in JSON") + "```json\n".len();
    let end = page[start..].find("```").expect("the end of the example");
    serde_json::from_str(&page[start..start + end]).expect("the example is JSON")
}

#[test]
fn every_page_agrees_with_its_code() {
    for code in Code::ALL {
        let page = code.page();
        let mut lines = page.lines();
        assert_eq!(lines.next(), Some(format!("# {code}").as_str()));
        assert_eq!(lines.nth(1), Some(format!("**{}** {}", code.status(), code.title()).as_str()), "{code}");
        for heading in ["\n## Example\n", "\n## What to do\n"] {
            assert!(page.contains(heading), "{code} has no heading {heading:?}");
        }
        let again = if code.retryable() { "Worth trying again unchanged: yes" } else { "Worth trying again unchanged: no" };
        assert!(page.contains(again), "{code} does not say {again:?}");
    }
}

#[test]
fn every_example_could_be_an_answer() {
    for code in Code::ALL {
        let example = example(code.page());
        let text = |name: &str| example[name].as_str().unwrap_or_else(|| panic!("{code} has no {name}")).to_owned();
        let errors = example.get("errors").cloned().unwrap_or_else(|| json!([]));
        let mut problem = Problem::new(*code, text("detail"));
        problem.errors = serde_json::from_value(errors).expect("a list of pointers and messages");
        problem.existing_id = example.get("existing_id").map(|id| id.as_str().unwrap().to_owned());
        problem.state = example.get("state").map(|state| state.as_str().unwrap().to_owned());
        let answer: Value = serde_json::from_slice(&problem.to_json(&text("request_id"))).unwrap();
        assert_eq!(answer, example, "{code}");
    }
}

#[test]
fn the_index_lists_exactly_the_codes() {
    let index = std::fs::read_to_string(pages().join("README.md")).expect("docs/errors/README.md");
    let rows: Vec<_> = index.lines().filter(|line| line.starts_with("| [")).map(str::to_owned).collect();
    let row = |code: &Code| {
        let again = if code.retryable() { "yes" } else { "no" };
        format!("| [`{code}`]({code}.md) | {} | {} | {again} |", code.status(), code.title())
    };
    assert_eq!(rows, Code::ALL.iter().map(row).collect::<Vec<_>>());

    let files: BTreeSet<_> =
        std::fs::read_dir(pages()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let expected = Code::ALL.iter().map(|code| format!("{code}.md")).chain(["README.md".to_owned()]).collect();
    assert_eq!(files, expected);
}

#[test]
fn codes_are_words_and_come_back() {
    for code in Code::ALL {
        let text = code.as_str();
        assert_eq!(Code::parse(text), Some(*code));
        assert_eq!(serde_json::to_value(code).unwrap(), json!(text));
        assert!(text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{text}");
        assert!((400..=599).contains(&code.status()), "{text}");
        assert!(code.title().starts_with(char::is_uppercase) && !code.title().ends_with('.'), "{text}");
    }
    assert!(Code::ALL.is_sorted_by_key(|code| code.status()));
    assert_eq!(Code::parse("internal"), None);
}

/// The table of the API, so that no code gets lost or moves to another status.
#[test]
fn the_catalogue_is_the_documented_one() {
    let mut table = Vec::new();
    for code in Code::ALL {
        match table.last_mut() {
            Some((status, codes)) if *status == code.status() => *codes = format!("{codes} {code}"),
            _ => table.push((code.status(), code.to_string())),
        }
    }
    let table: Vec<_> = table.iter().map(|(status, codes)| (*status, codes.as_str())).collect();
    assert_eq!(
        table,
        [
            (400, "malformed bad_cursor"),
            (401, "unauthenticated"),
            (403, "scope_missing destination_forbidden foreign_origin"),
            (
                404,
                "task_unknown queue_unknown worker_unknown task_type_unknown limit_unknown schedule_unknown workflow_unknown \
                 token_unknown hook_unknown node_unknown key_unknown route_unknown"
            ),
            (405, "method_not_allowed"),
            (409, "id_exists unique_conflict wrong_state request_in_flight"),
            (410, "attempt_superseded result_expired"),
            (412, "version_mismatch"),
            (413, "payload_too_large"),
            (415, "content_type_refused"),
            (422, "invalid_field unknown_field bad_schedule graph_cycle idempotency_mismatch arguments_refused"),
            (424, "task_failed task_canceled task_expired"),
            (429, "client_rate_limited quota_exceeded queue_full"),
            (503, "store_unavailable store_full queue_paused draining overloaded fault"),
        ]
    );
}

#[test]
fn a_problem_on_the_wire() {
    let problem = Problem::new(Code::InvalidField, "2 fields are not valid")
        .field("/queue", "is empty")
        .field("/retry/min", "is longer than max");
    let body = String::from_utf8(problem.to_json("req-1")).unwrap();
    assert_eq!(
        body,
        r#"{"type":"/docs/errors/invalid_field","title":"Field is not valid","status":422,"detail":"2 fields are not valid","code":"invalid_field","request_id":"req-1","errors":[{"pointer":"/queue","message":"is empty"},{"pointer":"/retry/min","message":"is longer than max"}]}"#
    );
    let bare: Value = serde_json::from_slice(&Problem::new(Code::TaskUnknown, "no task `a`").to_json("r")).unwrap();
    assert_eq!(bare.as_object().unwrap().keys().collect::<Vec<_>>(), ["type", "title", "status", "detail", "code", "request_id"]);
    let conflict = Problem::new(Code::WrongState, "the task is final").in_state("succeeded").existing("a");
    let conflict: Value = serde_json::from_slice(&conflict.to_json("r")).unwrap();
    assert_eq!((&conflict["state"], &conflict["existing_id"]), (&json!("succeeded"), &json!("a")));
    assert_eq!(problem.to_string(), "invalid_field: 2 fields are not valid");
}

#[test]
fn items_of_an_array_are_named_by_their_index() {
    let field = Problem::invalid("/queue", "is empty").at_index(3);
    assert_eq!(field.errors, [FieldError::new("/3/queue", "is empty")]);
    assert_eq!(field.detail, "/queue: is empty");
    let whole = Problem::new(Code::QueueFull, "queue `mail` is full").at_index(0);
    assert_eq!(whole.errors, [FieldError::new("/0", "queue `mail` is full")]);
    assert_eq!(pointer_step("a/b~c"), "/a~1b~0c");
    assert_eq!(FieldError::new("/min", "x").under("/retry").pointer, "/retry/min");
}

#[test]
fn retry_after_is_there_when_it_must_be() {
    let secs = |code, wait: Option<u64>| {
        Problem { retry_after: wait.map(Duration::from_millis), ..Problem::new(code, "x") }.retry_after_secs()
    };
    for code in Code::ALL {
        assert_eq!(secs(*code, None), matches!(code.status(), 429 | 503).then_some(1), "{code}");
        assert_eq!(secs(*code, Some(1_001)), Some(2), "{code}");
    }
    assert_eq!(secs(Code::Overloaded, Some(0)), Some(1));
    assert_eq!(Problem::new(Code::Draining, "x").after(Duration::MAX).retry_after_secs(), Some(u64::MAX));
}
