//! The whole table of status codes, every header, and the promise not to panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn response(status: u16, body: &str) -> Answer {
    Answer::Response { status, headers: AnswerHeaders::default(), body: Bytes::copy_from_slice(body.as_bytes()), truncated: None }
}

fn with_headers(status: u16, outcome: Option<&str>, after: Option<&str>) -> Answer {
    let headers = AnswerHeaders {
        content_type: Some("application/json".into()),
        retry_after: after.map(Into::into),
        lovage_outcome: outcome.map(Into::into),
        lovage_lease: None,
    };
    Answer::Response { status, headers, body: Bytes::from_static(b"{\"message\":\"sorry\"}"), truncated: None }
}

fn judged(answer: &Answer) -> RawOutcome {
    classify(answer, &StatusMap::default(), false, 0)
}

fn class_of(outcome: &RawOutcome) -> Class {
    match outcome {
        RawOutcome::Success { .. } => Class::Success,
        RawOutcome::Retry { .. } => Class::Retry,
        RawOutcome::Throttled { .. } => Class::Throttled,
        RawOutcome::Endpoint { .. } => Class::Endpoint,
        RawOutcome::Permanent { .. } => Class::Permanent,
        _ => panic!("{outcome:?} comes from no bare status"),
    }
}

/// The documented table as runs of equal meaning: each from its status up to the next one's.
fn table(preset: Preset) -> Vec<(u16, Class)> {
    use Class::{Endpoint, Permanent, Retry, Success, Throttled};
    match preset {
        Preset::Lovage => vec![
            (100, Endpoint),
            (200, Success),
            (300, Endpoint),
            (400, Permanent),
            (401, Endpoint),
            (402, Permanent),
            (403, Endpoint),
            (406, Permanent),
            (407, Endpoint),
            (408, Retry),
            (410, Permanent),
            (421, Endpoint),
            (422, Permanent),
            (423, Retry),
            (424, Permanent),
            (425, Retry),
            (426, Permanent),
            (429, Throttled),
            (430, Permanent),
            (500, Retry),
            (501, Endpoint),
            (502, Retry),
            (503, Throttled),
            (504, Retry),
        ],
        Preset::CloudTasks | Preset::Qstash => vec![(100, Retry), (200, Success), (300, Retry)],
    }
}

#[test]
fn every_status_under_every_preset() {
    for preset in Preset::ALL {
        let table = table(preset);
        for status in 100..=599 {
            let expected = table.iter().rev().find(|(from, _)| *from <= status).unwrap().1;
            let outcome = classify(&response(status, "x"), &preset.into(), false, 0);
            assert_eq!(class_of(&outcome), expected, "{status} under {preset:?}");
        }
        for status in [0, 99, 600, 999, u16::MAX] {
            assert_eq!(class_of(&classify(&response(status, "x"), &preset.into(), false, 0)), Class::Retry, "{status}");
        }
    }
}

#[test]
fn lists_go_before_the_preset_but_not_before_success() {
    let map = StatusMap { preset: Preset::Lovage, retry: vec![400, 429, 200], permanent: vec![500], endpoint: vec![502] };
    for (status, expected) in [
        (400, Class::Retry),
        (429, Class::Retry),
        (500, Class::Permanent),
        (502, Class::Endpoint),
        (422, Class::Permanent),
        (503, Class::Throttled),
        (200, Class::Success),
    ] {
        assert_eq!(class_of(&classify(&response(status, ""), &map, false, 0)), expected, "{status}");
    }
}

#[test]
fn a_status_map_is_a_name_or_an_object() {
    let read = |json: serde_json::Value| serde_json::from_value::<StatusMap>(json).map_err(|error| error.to_string());
    assert_eq!(read(json!("cloud-tasks")), Ok(Preset::CloudTasks.into()));
    let whole = json!({"preset": "qstash", "retry": [400], "permanent": [410], "endpoint": [404]});
    let map = StatusMap { preset: Preset::Qstash, retry: vec![400], permanent: vec![410], endpoint: vec![404] };
    assert_eq!(read(whole.clone()), Ok(map.clone()));
    assert_eq!(read(json!({"permanent": [410]})), Ok(StatusMap { permanent: vec![410], ..StatusMap::default() }));
    assert_eq!(serde_json::to_value(&map).unwrap(), whole);
    assert_eq!(serde_json::to_value(StatusMap::default()).unwrap(), json!("lovage"));
    for map in [map, Preset::Qstash.into()] {
        let packed = rmp_serde::to_vec_named(&map).unwrap();
        assert_eq!(rmp_serde::from_slice::<StatusMap>(&packed).unwrap(), map);
    }
    assert!(read(json!("celery")).unwrap_err().contains("expected a preset (\"lovage\""));
    assert!(read(json!({"presets": "lovage"})).unwrap_err().contains("unknown field `presets`"));
    assert!(read(json!({"preset": "celery"})).is_err());
    assert!(read(json!(["lovage"])).is_err());
    assert!(read(json!({"retry": ["5xx"]})).is_err());
}

#[test]
fn a_status_map_that_makes_no_sense_is_refused() {
    for (json, pointer) in [
        (json!({"retry": [99]}), "/retry/0"),
        (json!({"permanent": [400, 600]}), "/permanent/1"),
        (json!({"endpoint": [200]}), "/endpoint/0"),
        (json!({"retry": [404], "endpoint": [404]}), "/endpoint/0"),
        (json!({"retry": [404, 404]}), "/retry/1"),
    ] {
        assert_eq!(serde_json::from_value::<StatusMap>(json).unwrap().validate().unwrap_err().pointer, pointer);
    }
    assert_eq!(StatusMap { retry: vec![400, 404], permanent: vec![500], ..StatusMap::default() }.validate(), Ok(()));
}

#[test]
fn no_body_is_null() {
    let null = RawOutcome::Success { content_type: None, body: None };
    for answer in [response(204, ""), response(205, ""), response(204, "odd"), response(200, ""), response(202, "")] {
        assert_eq!(judged(&answer), null, "{answer:?}");
    }
    let body = Some(Bytes::from_static(b"null"));
    assert_eq!(judged(&response(200, "null")), RawOutcome::Success { content_type: None, body });
}

#[test]
fn an_answer_beyond_the_limit_fails_for_good_in_whatever_form() {
    for content_type in [None, Some("text/plain"), Some(document::CONTENT_TYPE)] {
        let headers = AnswerHeaders { content_type: content_type.map(Into::into), ..AnswerHeaders::default() };
        let body = Bytes::from_static(b"{\"outcome\":");
        let answer = Answer::Response { status: 200, headers, body, truncated: Some(1234) };
        let RawOutcome::Permanent { error } = judged(&answer) else { panic!("{content_type:?}") };
        assert_eq!((error.kind.as_str(), error.status), ("ResultTooLarge", Some(200)));
        assert!(error.message.contains("1234 bytes"), "{error:?}");
    }
}

#[test]
fn what_is_no_http_says_what_is_wrong() {
    let RawOutcome::Retry { after: None, error } = judged(&Answer::Malformed("chunk 3 is broken".into())) else { panic!() };
    assert_eq!(error, TaskError::new("MalformedAnswer", "chunk 3 is broken"));
}

/// What an answer says in several ways at once.
#[derive(Debug)]
struct Said {
    status: u16,
    word: Option<&'static str>,
    document: Option<&'static str>,
    lease: Option<&'static str>,
    accepts: bool,
    truncated: bool,
}

impl Said {
    fn answer(&self) -> Answer {
        let headers = AnswerHeaders {
            content_type: self.document.map(|_| document::CONTENT_TYPE.into()),
            lovage_outcome: self.word.map(Into::into),
            lovage_lease: self.lease.map(Into::into),
            retry_after: None,
        };
        let body = self
            .document
            .map_or_else(|| "7".to_owned(), |word| json!({"outcome": word, "tasks": [], "replacement": 1}).to_string());
        Answer::Response { status: self.status, headers, body: body.into(), truncated: self.truncated.then_some(5) }
    }

    /// The documented order: the header, the document, the acceptance, the status. Whatever becomes a result is bounded.
    fn meaning(&self) -> &'static str {
        let success = if self.truncated { "ResultTooLarge" } else { "success" };
        match (self.word, self.document) {
            (Some("success"), _) => return success,
            (Some("fail"), _) => return "permanent",
            (Some(word @ ("retry" | "snooze" | "cancel")), _) => return word,
            (Some("success, fail" | "perhaps"), _) => return "UnknownOutcome",
            (_, Some(_)) if self.truncated => return success,
            (_, Some("fail")) => return "permanent",
            (_, Some("junk")) => return "BadOutcome",
            (_, Some(word)) => return word,
            (_, None) => {}
        }
        match self.status {
            202 if self.lease == Some("junk") => "BadLease",
            202 if self.accepts || self.lease.is_some() => "accepted",
            200 | 202 => success,
            400 => "permanent",
            404 => "endpoint",
            429 => "throttled",
            _ => "retry",
        }
    }
}

fn meaning(outcome: &RawOutcome) -> &str {
    match outcome {
        RawOutcome::Success { .. } => "success",
        RawOutcome::Accepted { .. } => "accepted",
        RawOutcome::Retry { error, .. } | RawOutcome::Permanent { error }
            if ["UnknownOutcome", "BadOutcome", "BadLease", "ResultTooLarge"].contains(&&*error.kind) =>
        {
            &error.kind
        }
        RawOutcome::Retry { .. } => "retry",
        RawOutcome::TimedOut { .. } => "timed out",
        RawOutcome::Throttled { .. } => "throttled",
        RawOutcome::Endpoint { .. } => "endpoint",
        RawOutcome::Permanent { .. } => "permanent",
        RawOutcome::Snooze { .. } => "snooze",
        RawOutcome::Cancel => "cancel",
        RawOutcome::Spawn { .. } => "spawn",
        RawOutcome::Replace { .. } => "replace",
    }
}

#[test]
fn of_answers_that_contradict_themselves_the_documented_part_counts() {
    let words = [None, Some(""), Some("success"), Some("retry"), Some("fail"), Some("snooze"), Some("cancel"), Some("perhaps")];
    let words = words.into_iter().chain([Some("success, fail")]);
    let documents = ["success", "retry", "snooze", "fail", "cancel", "spawn", "replace", "junk"].map(Some);
    let documents: Vec<_> = documents.into_iter().chain([None]).collect();
    for word in words {
        for document in &documents {
            for status in [200, 202, 400, 404, 409, 429, 500] {
                for lease in [None, Some("5m"), Some("junk")] {
                    for (accepts, truncated) in [(false, false), (false, true), (true, false), (true, true)] {
                        let said = Said { status, word, document: *document, lease, accepts, truncated };
                        let outcome = classify(&said.answer(), &StatusMap::default(), accepts, 0);
                        assert_eq!(meaning(&outcome), said.meaning(), "{said:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn faults_before_sending_are_the_endpoints_and_later_ones_are_charged() {
    for fault in Fault::ALL {
        for preset in Preset::ALL {
            let outcome = classify(&Answer::Fault(fault), &preset.into(), false, 0);
            assert_eq!(matches!(outcome, RawOutcome::Endpoint { .. }), fault.before_send(), "{fault:?}");
        }
    }
    assert_eq!(judged(&Answer::Fault(Fault::TimedOut)), RawOutcome::TimedOut { error: Fault::TimedOut.error() });
    assert_eq!(judged(&Answer::Fault(Fault::Reset)), RawOutcome::Retry { after: None, error: Fault::Reset.error() });
}

#[test]
fn the_outcome_header_overrides_the_status() {
    let minute = Some(Duration::from_secs(60));
    let sorry = |status| TaskError::new("HttpStatus", "sorry").with_status(status);
    let body = Some(Bytes::from_static(b"{\"message\":\"sorry\"}"));
    for status in [200, 404, 500, 503] {
        let judge = |word, after| judged(&with_headers(status, Some(word), after));
        let content_type = Some("application/json".to_owned());
        assert_eq!(judge("success", None), RawOutcome::Success { content_type, body: body.clone() });
        assert_eq!(judge(" Retry ", Some("60")), RawOutcome::Retry { after: minute, error: sorry(status) });
        assert_eq!(judge("retry", None), RawOutcome::Retry { after: None, error: sorry(status) });
        assert_eq!(judge("FAIL", Some("60")), RawOutcome::Permanent { error: sorry(status) });
        assert_eq!(judge("snooze", Some("7")), RawOutcome::Snooze { after: Duration::from_secs(7) });
        assert_eq!(judge("snooze", Some("soon")), RawOutcome::Snooze { after: DEFAULT_SNOOZE });
        assert_eq!(judge("cancel", None), RawOutcome::Cancel);
        let unknown = TaskError::new("UnknownOutcome", "the worker answered with Lovage-Outcome \"sucess\"").with_status(status);
        assert_eq!(judge("sucess", Some("60")), RawOutcome::Retry { after: minute, error: unknown });
        assert_eq!(judge(" ", None), judged(&with_headers(status, None, None)));
    }
}

#[test]
fn retry_after_comes_through() {
    let minute = Some(Duration::from_secs(60));
    assert!(matches!(judged(&with_headers(503, None, Some("60"))), RawOutcome::Throttled { after, .. } if after == minute));
    assert!(matches!(judged(&with_headers(429, None, None)), RawOutcome::Throttled { after: None, .. }));
    assert!(matches!(judged(&with_headers(500, None, Some("60"))), RawOutcome::Retry { after, .. } if after == minute));
    assert!(matches!(judged(&with_headers(500, None, Some("later"))), RawOutcome::Retry { after: None, .. }));
}

#[test]
fn retry_after_in_all_forms() {
    let date_ms = 784_111_777_000;
    let secs = |secs| Some(Duration::from_secs(secs));
    for (raw, now_ms, expected) in [
        ("120", 0, secs(120)),
        (" 0 ", 0, secs(0)),
        ("86401", 0, secs(86_400)),
        ("99999999999999999999999999", 0, secs(86_400)),
        ("Sun, 06 Nov 1994 08:49:37 GMT", date_ms - 5_000, secs(5)),
        ("Sunday, 06-Nov-94 08:49:37 GMT", date_ms - 5_000, secs(5)),
        ("Sun Nov  6 08:49:37 1994", date_ms - 5_000, secs(5)),
        ("Sun, 06 Nov 1994 08:49:37 GMT", date_ms + 1, secs(0)),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0, secs(86_400)),
        ("Sun, 06 Nov 1994 08:49:37 GMT", u64::MAX, secs(0)),
        ("", 0, None),
        ("-5", 0, None),
        ("+5", 0, None),
        ("1.5", 0, None),
        ("5s", 0, None),
        ("tomorrow", 0, None),
        ("Sun, 99 Nov 1994 08:49:37 GMT", 0, None),
    ] {
        assert_eq!(retry_after(raw, now_ms), expected, "{raw}");
    }
}

#[test]
fn the_error_comes_from_a_json_body() {
    let error = |content_type: Option<&str>, body: &str| error::from_body(500, content_type, body.as_bytes());
    let plain = TaskError::new("HttpStatus", "HTTP 500").with_status(500);
    let whole = r#"{"type": "ValueError", "message": "no \"such\" image", "stack": "at main", "more": [1]}"#;
    let expected = TaskError::new("ValueError", "no \"such\" image").with_stack("at main").with_status(500);
    for json in [None, Some(""), Some("application/json; charset=utf-8"), Some("Application/Problem+JSON")] {
        assert_eq!(error(json, whole), expected, "{json:?}");
    }
    assert_eq!(error(Some("text/plain"), whole), plain);
    for body in ["", "oops", "[]", "null", "{", "{}", r#"{"type": "", "message": null, "stack": 5}"#, "\u{feff}{}"] {
        assert_eq!(error(None, body), plain, "{body}");
    }
    let message = TaskError::new("HttpStatus", "sorry").with_status(500);
    assert_eq!(error(None, r#"{"type": {"a": [1]}, "message": "sorry"}"#), message);
    let deep = "[".repeat(100_000);
    assert_eq!(error(None, &format!("{{\"type\": {deep}")), plain);
}

fn document(status: u16, body: &str) -> RawOutcome {
    let content_type = Some("Application/vnd.lovage.outcome+json; v=1".into());
    let headers = AnswerHeaders { content_type, ..AnswerHeaders::default() };
    judged(&Answer::Response { status, headers, body: Bytes::copy_from_slice(body.as_bytes()), truncated: None })
}

#[test]
fn a_document_says_the_outcome_whatever_the_status() {
    use crate::outcome::Then;
    let error = TaskError::new("E", "m").with_stack("s").with_status(500);
    let said = r#""error":{"type":"E","message":"m","stack":"s"}"#;
    let secs = |secs| Some(Duration::from_secs(secs));
    let json = Bytes::from_static;
    for (body, expected) in [
        (format!(r#"{{"outcome":"retry","after":"30s",{said}}}"#), RawOutcome::Retry { after: secs(30), error: error.clone() }),
        (format!(r#"{{"outcome":"retry","after":90,{said}}}"#), RawOutcome::Retry { after: secs(90), error: error.clone() }),
        (format!(r#"{{"outcome":"fail",{said}}}"#), RawOutcome::Permanent { error: error.clone() }),
        (r#"{"outcome":"snooze","after":"9d"}"#.into(), RawOutcome::Snooze { after: MAX_RETRY_AFTER }),
        (r#"{"outcome":"snooze"}"#.into(), RawOutcome::Snooze { after: DEFAULT_SNOOZE }),
        (r#"{"outcome":"cancel"}"#.into(), RawOutcome::Cancel),
        (r#"{"outcome":"success","result":null}"#.into(), RawOutcome::Success { content_type: None, body: None }),
        (
            r#"{"outcome":"success","result":[1.50]}"#.into(),
            RawOutcome::Success { content_type: Some("application/json".into()), body: Some(json(b"[1.50]")) },
        ),
        (
            r#"{"outcome":"spawn","tasks":[{"task":"a"},3]}"#.into(),
            RawOutcome::Spawn { tasks: vec![json(br#"{"task":"a"}"#), json(b"3")], then: Then::Wait, result: None },
        ),
        (
            r#"{"outcome":"spawn","tasks":[],"then":"detach","result":7}"#.into(),
            RawOutcome::Spawn { tasks: vec![], then: Then::Detach, result: Some(json(b"7")) },
        ),
        (
            r#"{"outcome":"replace","replacement":{"task":"b"}}"#.into(),
            RawOutcome::Replace { replacement: Box::new(json(br#"{"task":"b"}"#)) },
        ),
    ] {
        assert_eq!(document(500, &body), expected, "{body}");
    }
    // The header goes before it.
    let headers = AnswerHeaders {
        content_type: Some(document::CONTENT_TYPE.into()),
        lovage_outcome: Some("cancel".into()),
        ..AnswerHeaders::default()
    };
    let answer = Answer::Response { status: 200, headers, body: Bytes::from_static(b"{}"), truncated: None };
    assert_eq!(judged(&answer), RawOutcome::Cancel);
}

#[test]
fn a_document_that_cannot_be_read_is_a_charged_failure_with_its_reason() {
    for (body, reason) in [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ("{}", "/outcome: must be given"),
        (r#"{"outcome":"sucess"}"#, "/outcome: must be one of"),
        (r#"{"outcome":3}"#, "/outcome: must be a string"),
        (r#"{"outcome":"retry","after":"soon"}"#, "/after: "),
        (r#"{"outcome":"retry","after":-1}"#, "/after: "),
        (r#"{"outcome":"retry","error":"oops"}"#, "/error: must be an object"),
        (r#"{"outcome":"spawn"}"#, "/tasks: must be given"),
        (r#"{"outcome":"spawn","tasks":{}}"#, "/tasks: must be an array"),
        (r#"{"outcome":"spawn","tasks":[],"then":"rest"}"#, "/then: "),
        (r#"{"outcome":"replace"}"#, "/replacement: must be given"),
        (r#"{"outcome":"retry","afer":1}"#, "did you mean `after`"),
    ] {
        let RawOutcome::Retry { after: None, error } = document(200, body) else { panic!("{body}") };
        assert_eq!((error.kind.as_str(), error.status), (crate::answer::BAD_OUTCOME, Some(200)));
        assert!(error.message.contains(reason), "{body}: {}", error.message);
    }
    let json = Answer::Response {
        status: 200,
        headers: AnswerHeaders { content_type: Some("application/json".into()), ..AnswerHeaders::default() },
        body: Bytes::from_static(b"{\"outcome\":\"fail\"}"),
        truncated: None,
    };
    assert_eq!(class_of(&judged(&json)), Class::Success);
}

#[test]
fn signatures_in_an_answer_are_checked() {
    use crate::outcome::{Outcome, Then};
    use crate::signature::tests::RULES;
    let read = |body: &str| document(200, body).read(&RULES);
    assert!(
        matches!(read(r#"{"outcome":"spawn","tasks":[{"task":"a"}]}"#), Outcome::Spawn { tasks, then: Then::Wait, .. } if tasks.len() == 1)
    );
    assert!(matches!(read(r#"{"outcome":"replace","replacement":{"task":"a"}}"#), Outcome::Replace { .. }));
    for (body, place) in [
        (r#"{"outcome":"spawn","tasks":[]}"#, "/tasks: "),
        (r#"{"outcome":"spawn","tasks":[{"task":"a"},{"task":"b","priority":11}]}"#, "/tasks/1/priority: "),
        (r#"{"outcome":"replace","replacement":{"task":"a","id":"x"}}"#, "/replacement/id: "),
        (r#"{"outcome":"replace","replacement":7}"#, "/replacement: "),
    ] {
        let Outcome::Retry { after: None, error } = read(body) else { panic!("{body}") };
        assert_eq!(error.kind, crate::answer::BAD_OUTCOME);
        assert!(error.message.starts_with(place), "{body}: {}", error.message);
    }
}

#[test]
fn a_202_with_a_lease_or_of_a_worker_that_accepts_is_an_acceptance() {
    let answer = |status, lease: Option<&str>| Answer::Response {
        status,
        headers: AnswerHeaders { lovage_lease: lease.map(Into::into), ..AnswerHeaders::default() },
        body: Bytes::from_static(b"{}"),
        truncated: None,
    };
    let judge = |status, lease, accepts| classify(&answer(status, lease), &StatusMap::default(), accepts, 0);
    let accepted = |secs: Option<u64>| RawOutcome::Accepted { lease: secs.map(Duration::from_secs) };
    assert_eq!(judge(202, Some("5m"), false), accepted(Some(300)));
    assert_eq!(judge(202, Some(" 90 "), false), accepted(Some(90)));
    assert_eq!(judge(202, Some("100d"), false), RawOutcome::Accepted { lease: Some(MAX_LEASE) });
    assert_eq!(judge(202, None, true), accepted(None));
    assert_eq!(class_of(&judge(202, None, false)), Class::Success);
    assert_eq!(class_of(&judge(200, Some("5m"), true)), Class::Success);
    for junk in ["", "soon", "0", "0s", "-5s", "99999999999999999999"] {
        let RawOutcome::Retry { after: None, error } = judge(202, Some(junk), true) else { panic!("{junk}") };
        assert_eq!((error.kind.as_str(), error.status), (BAD_LEASE, Some(202)));
    }
}

proptest! {
    #[test]
    fn classify_never_panics(
        status: u16, content_type: Option<String>, retry_after: Option<String>, lovage_outcome: Option<String>,
        lovage_lease: Option<String>, body: Vec<u8>, truncated: Option<usize>, accepts: bool, now_ms: u64, retry: Vec<u16>,
    ) {
        let headers = AnswerHeaders { content_type, retry_after, lovage_outcome, lovage_lease };
        let answer = Answer::Response { status, headers, body: body.into(), truncated };
        for preset in Preset::ALL {
            let map = StatusMap { preset, retry: retry.clone(), ..StatusMap::default() };
            let _ = map.validate();
            let _ = classify(&answer, &map, accepts, now_ms);
        }
    }

    /// Whatever a worker puts into its error, what is kept is bounded, and nothing asks for more than a day.
    #[test]
    fn what_is_kept_is_bounded(
        status in 100..600_u16, kind in ".{0,300}", message in ".{0,300}", times in 0..100_usize,
        word in prop::option::of("success|retry|fail|snooze|cancel"), after in "[0-9]{0,30}",
    ) {
        let body = json!({"type": kind, "message": message.repeat(times), "stack": message.repeat(4 * times)}).to_string();
        let headers = AnswerHeaders { content_type: None, retry_after: Some(after), lovage_outcome: word, lovage_lease: None };
        let answer = Answer::Response { status, headers, body: body.into(), truncated: None };
        match judged(&answer) {
            RawOutcome::Retry { after, error } | RawOutcome::Throttled { after, error } => {
                prop_assert!(after.is_none_or(|after| after <= MAX_RETRY_AFTER));
                prop_assert!(bounded(&error));
            }
            RawOutcome::Endpoint { error } | RawOutcome::Permanent { error } | RawOutcome::TimedOut { error } => prop_assert!(bounded(&error)),
            RawOutcome::Snooze { after } => prop_assert!(after <= MAX_RETRY_AFTER),
            _ => {}
        }
    }

    #[test]
    fn retry_after_is_at_most_a_day(raw: String, digits in "[0-9]{1,40}", now_ms: u64) {
        for raw in [raw, digits] {
            prop_assert!(retry_after(&raw, now_ms).is_none_or(|after| after <= MAX_RETRY_AFTER));
        }
    }
}

fn bounded(error: &TaskError) -> bool {
    !error.kind.is_empty()
        && error.kind.len() <= TaskError::MAX_TYPE
        && error.message.len() <= TaskError::MAX_MESSAGE
        && error.stack.as_ref().is_none_or(|stack| stack.len() <= TaskError::MAX_STACK)
}
