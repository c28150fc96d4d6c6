#![allow(clippy::unwrap_used)]

use super::*;
use crate::answer::BAD_OUTCOME;
use crate::destinations::{Destinations, HeaderRefusal, UrlRefusal};
use crate::fields::Errors;
use crate::id::{Ns, TaskId, TaskKey};
use crate::problem::{Code, Problem};
use crate::state::State;

/// Refuses one address and one header.
pub(crate) struct Open;

impl Destinations for Open {
    fn check_url(&self, url: &str) -> Result<(), UrlRefusal> {
        if url.contains("169.254") { Err(UrlRefusal::Forbidden("must not be called".into())) } else { Ok(()) }
    }

    fn check_headers(&self, headers: &[(String, String)]) -> Result<(), HeaderRefusal> {
        match headers.iter().find(|(name, _)| name == "Host") {
            Some((name, _)) => Err(HeaderRefusal { name: name.clone(), message: "is set by the server".into() }),
            None => Ok(()),
        }
    }
}

const LIMITS: SignatureLimits =
    SignatureLimits { json_depth: 128, labels: 32, label_bytes: 256, forwarded_headers: 32, forwarded_header_bytes: 8192 };
pub(crate) const RULES: Rules<'static> = Rules { limits: &LIMITS, destinations: &Open, types: None, queues: None, source: None };
const NOW: Millis = Millis(1_800_000_000_000);

pub(super) fn check(text: &str) -> Result<Draft, Problem> {
    let mut errors = Errors::default();
    let signature = read(text, &mut errors)?;
    RULES.check(signature, errors)
}

pub(super) fn pointers(text: &str) -> Vec<String> {
    check(text).unwrap_err().errors.into_iter().map(|error| error.pointer).collect()
}

#[test]
fn a_kept_draft_keeps_its_relative_times() {
    let draft = check(r#"{"task":"a","link":{"task":"b","delay":"10s","expires_in":"1m","args":[1],"link":{"url":"http://c"}}}"#)
        .unwrap();
    let spec = crate::Spec::decode(&draft.spec.encode()).unwrap();
    assert_eq!(spec, draft.spec);
    let link = &spec.link[0];
    assert_eq!((&link.payload[..], link.spec.eta), (&br#"{"args":[1],"kwargs":{}}"#[..], None));
    assert_eq!(link.spec.link[0].spec.url.as_deref(), Some("http://c"));
    let later = Millis(NOW.0 + 5_000);
    let task = link.task(TaskKey::new(Ns(0), TaskId::parse("t").unwrap()), later);
    assert_eq!((task.head.state, task.head.due), (State::Scheduled, Millis(later.0 + 10_000)));
    assert_eq!(task.head.expires, Millis(later.0 + 60_000));
    let stored = crate::Spec::decode(&crate::Body::decode(&task.body).unwrap().spec).unwrap();
    assert_eq!(stored.eta, Some(task.head.due));
}

#[test]
fn a_payload_shares_the_bytes_of_its_request() {
    let source = Bytes::from(r#"{"task":"a","payload":{"large":[1,2]},"link":{"task":"b","payload":[3]}}"#);
    let text = std::str::from_utf8(&source).unwrap();
    let place = |bytes: &Bytes| bytes.as_ptr().addr().wrapping_sub(source.as_ptr().addr());
    for (rules, shared) in [(Rules { source: Some(&source), ..RULES }, true), (RULES, false)] {
        let mut errors = Errors::default();
        let draft = rules.check(read(text, &mut errors).unwrap(), errors).unwrap();
        assert_eq!((&draft.payload[..], &draft.spec.link[0].payload[..]), (&br#"{"large":[1,2]}"#[..], &b"[3]"[..]));
        assert_eq!(place(&draft.payload) == 22, shared);
        assert_eq!(place(&draft.spec.link[0].payload) < source.len(), shared);
    }
    // Bytes of another request are of no use.
    let other = Bytes::from(source.to_vec());
    let mut errors = Errors::default();
    let draft = Rules { source: Some(&other), ..RULES }.check(read(text, &mut errors).unwrap(), errors).unwrap();
    assert_eq!(draft.payload, r#"{"large":[1,2]}"#);
}

#[test]
fn fields_without_a_value_are_not_stored() {
    let draft = check(r#"{"task":"demo.add"}"#).unwrap();
    assert!(draft.spec.encode().len() < 20);
    assert_eq!(draft.spec.home(Ns(0)), None);
}

#[test]
fn keys_are_read_with_their_defaults() {
    let spec = check(r#"{"task":"a","unique":{"key":"k"},"batch":{"key":"b"}}"#).unwrap().spec;
    let unique = spec.unique.clone().unwrap();
    assert_eq!((unique.scope, unique.on_conflict), (crate::UniqueScope::Active, crate::OnConflict::Return));
    let batch = spec.batch.clone().unwrap();
    assert_eq!((batch.max, batch.max_wait), (crate::keys::MAX_BATCH, crate::keys::DEFAULT_BATCH_WAIT));
    assert!(
        spec.home(Ns(0)).is_some() && spec.home(Ns(0)) != check(r#"{"task":"a","batch":{"key":"k"}}"#).unwrap().spec.home(Ns(0))
    );
    let debounced = check(r#"{"task":"a","debounce":{"key":"k","wait":"5s","max_wait":"1m"}}"#).unwrap();
    assert_eq!(debounced.due(NOW), Some(Millis(NOW.0 + 5_000)));
}

#[test]
fn what_is_refused_names_its_place() {
    for (text, expected) in [
        (r#"{"task":"a","soft_time_limit":0}"#, "/soft_time_limit"),
        (r#"{"task":"a","max_run":"0s"}"#, "/max_run"),
        (r#"{"task":"a","max_run":"soon"}"#, "/max_run"),
        (r#"{"task":"a","immutable":1}"#, "/immutable"),
        (r#"{"task":"a","redact":["password"]}"#, "/redact/0"),
        (r#"{"task":"a","redact":[""]}"#, "/redact/0"),
        (r#"{"task":"a","redact":["/args","/kwargs~2"]}"#, "/redact/1"),
        (r#"{"task":"a","redact":["/password"]}"#, "/redact/0"),
        (r#"{"task":"a","redact":"/a"}"#, "/redact"),
        (r#"{"task":"a","unique":{}}"#, "/unique/key"),
        (r#"{"task":"a","unique":"k"}"#, "/unique"),
        (r#"{"task":"a","unique":{"key":""}}"#, "/unique/key"),
        (r#"{"task":"a","unique":{"key":"k","scope":"ttl"}}"#, "/unique/ttl"),
        (r#"{"task":"a","unique":{"key":"k","ttl":"1m"}}"#, "/unique/ttl"),
        (r#"{"task":"a","unique":{"key":"k","scope":"for ever"}}"#, "/unique/scope"),
        (r#"{"task":"a","unique":{"key":"k","on_conflict":"fight"}}"#, "/unique/on_conflict"),
        (r#"{"task":"a","unique":{"key":"k","scop":"ttl"}}"#, "/unique/scop"),
        (r#"{"task":"a","debounce":{"key":"k"}}"#, "/debounce/wait"),
        (r#"{"task":"a","debounce":{"key":"k","wait":0}}"#, "/debounce/wait"),
        (r#"{"task":"a","debounce":{"key":"k","wait":2,"max_wait":1}}"#, "/debounce/max_wait"),
        (r#"{"task":"a","debounce":{"key":"k","wait":2},"delay":1}"#, "/debounce"),
        (r#"{"task":"a","debounce":{"key":"k","wait":2},"unique":{"key":"k"}}"#, "/debounce"),
        (r#"{"task":"a","batch":{"key":"k","max":0}}"#, "/batch/max"),
        (r#"{"task":"a","batch":{"key":"k","max":1001}}"#, "/batch/max"),
        (r#"{"task":"a","batch":{"key":"k","max_wait":"11m"}}"#, "/batch/max_wait"),
        (r#"{"task":"a","batch":{"key":"k"},"headers":{"X-A":"1"}}"#, "/batch"),
        (r#"{"task":"a","headers":{"X-A":"1","x-a":"2"}}"#, "/headers/x-a"),
        (
            r#"{"task":"a","callbacks":{"on_success":{"url":"http://a","headers":{"B":"","b":""}}}}"#,
            "/callbacks/on_success/headers/b",
        ),
        (r#"{"task":"a","labels":{"Team":"1","b":"2","team":"1"}}"#, "/labels/team"),
        (r#"{"task":"a","eta":"1969-12-31T23:59:59Z"}"#, "/eta"),
        (r#"{"task":"a","link":3}"#, "/link"),
        (r#"{"task":"a","link":{}}"#, "/link"),
        (r#"{"task":"a","link":[{"task":"b"},{"task":"c","queue":"no good"}]}"#, "/link/1/queue"),
        (r#"{"task":"a","link_error":{"task":"b","id":"x"}}"#, "/link_error/id"),
        (r#"{"task":"a","link":{"task":"b","unique":{"key":"k"}}}"#, "/link/unique"),
        (r#"{"task":"a","link":{"task":"b","debounce":{"key":"k","wait":1}}}"#, "/link/debounce"),
        (r#"{"task":"a","link":{"task":"b","link":[{"url":"http://169.254.169.254"}]}}"#, "/link/link/0/url"),
        (r#"{"task":"a","link":[{"task":"b","colour":1}]}"#, "/link/0/colour"),
    ] {
        assert_eq!(pointers(text), [expected], "{text}");
    }
    let forbidden = check(r#"{"task":"a","link":{"url":"http://169.254.169.254"}}"#).unwrap_err();
    assert_eq!(forbidden.code, Code::DestinationForbidden);
    assert_eq!(check(r#"{"task":"a","link":{"taks":"b"}}"#).unwrap_err().code, Code::UnknownField);
}

#[test]
fn links_are_bounded_in_number_and_depth() {
    let many = |n: usize| format!(r#"{{"task":"a","link":[{}]}}"#, vec![r#"{"task":"b"}"#; n].join(","));
    assert_eq!(check(&many(MAX_LINKS)).unwrap().spec.link.len(), MAX_LINKS);
    assert_eq!(pointers(&many(MAX_LINKS + 1)), ["/link"]);
    let deep = |n: usize| format!("{}{{\"task\":\"a\"}}{}", "{\"task\":\"a\",\"link\":".repeat(n), "}".repeat(n));
    assert!(check(&deep(MAX_LINK_DEPTH)).is_ok());
    assert_eq!(pointers(&deep(MAX_LINK_DEPTH + 1)), ["/link".repeat(MAX_LINK_DEPTH + 1)]);
}

#[test]
fn children_are_checked_like_submits() {
    let raw = |texts: &[&'static str]| texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect::<Vec<_>>();
    let drafts = read_children(&raw(&[r#"{"task":"a"}"#, r#"{"url":"http://b","payload":[1.50]}"#]), &RULES).unwrap();
    assert_eq!((drafts.len(), &drafts[1].payload[..]), (2, &b"[1.50]"[..]));
    for (texts, message) in [
        (raw(&[]), "/tasks: must have 1 to 1000 signatures"),
        (vec![Bytes::from_static(b"{}"); MAX_CHILDREN + 1], "/tasks: must have 1 to 1000 signatures"),
        (
            raw(&[r#"{"task":"a"}"#, r#"{"task":"a","id":"x"}"#]),
            "/tasks/1/id: cannot be given for a task that another task starts",
        ),
        (raw(&["3"]), "/tasks/0: "),
        (raw(&["{"]), "/tasks/0: "),
        (vec![Bytes::from_static(b"\xff")], "/tasks/0: is not UTF-8"),
    ] {
        let error = read_children(&texts, &RULES).unwrap_err();
        assert_eq!(error.kind, BAD_OUTCOME);
        assert!(error.message.starts_with(message), "{}", error.message);
    }
}

#[test]
fn a_task_that_could_never_start_is_refused_whatever_the_time_is() {
    for (text, pointer) in [
        (r#"{"task":"a","delay":"1h","expires_in":"1m"}"#, "/expires_in"),
        (r#"{"task":"a","delay":"1m","expires_in":"1m"}"#, "/expires_in"),
        (r#"{"task":"a","debounce":{"key":"k","wait":"2m"},"expires_in":"1m"}"#, "/expires_in"),
        (r#"{"task":"a","eta":"2030-01-01T00:00:00Z","expires_at":"2029-01-01T00:00:00Z"}"#, "/expires_at"),
        (r#"{"task":"a","eta":"2020-01-02T00:00:00Z","expires_at":"2020-01-01T00:00:00Z"}"#, "/expires_at"),
        (r#"{"task":"a","link":{"task":"b","delay":"1h","expires_in":"1m"}}"#, "/link/expires_in"),
    ] {
        assert_eq!(pointers(text), [pointer], "{text}");
    }
    // What is merely late is taken, and expires.
    for text in [
        r#"{"task":"a","expires_at":"2020-01-01T00:00:00Z"}"#,
        r#"{"task":"a","delay":"1h","expires_at":"2020-01-01T00:00:00Z"}"#,
        r#"{"task":"a","eta":"2099-01-01T00:00:00Z","expires_in":"1s"}"#,
        r#"{"task":"a","eta":"2020-01-01T00:00:00Z","expires_at":"2020-01-02T00:00:00Z"}"#,
        r#"{"task":"a","debounce":{"key":"k","wait":"2m","max_wait":"2m"},"expires_in":"1m"}"#,
    ] {
        check(text).unwrap();
    }
}
