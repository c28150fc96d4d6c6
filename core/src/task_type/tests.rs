#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::problem::{Code, FieldError, Problem};
use crate::signature::tests::RULES;
use crate::signature::{Payload, read_children};
use crate::{Draft, Ns};

fn table(types: &[(&str, &str)]) -> TaskTypes {
    TaskTypes::new(types.iter().map(|(pattern, text)| {
        let one = TaskType::read(pattern, &merge(None, text).unwrap()).unwrap();
        one.check(&RULES).unwrap();
        Arc::new(one)
    }))
}

fn submit(types: &TaskTypes, text: &str) -> Result<Draft, Problem> {
    let mut errors = Errors::default();
    let signature = signature::read(text, &mut errors)?;
    Rules { types: Some(types), ..RULES }.check(signature, errors)
}

fn refused(text: &str) -> Vec<FieldError> {
    let stored = match merge(None, text) {
        Ok(stored) => stored,
        Err(problem) => return problem.errors,
    };
    let problem = match TaskType::read("a", &stored) {
        Ok(one) => one.check(&RULES).unwrap_err(),
        Err(problem) => problem,
    };
    problem.errors
}

#[test]
fn what_a_signature_leaves_out_comes_from_its_type() {
    let types = table(&[(
        "images.*",
        r#"{"queue":"slow","priority":7,"delay":"10s","expires_in":"1h","time_limit":"30s","retry":{"max_attempts":3},
            "labels":{"team":"a","kind":"image"},"headers":{"X-One":"1","X-Two":"2"},"callbacks":{"on_success":"http://a"},
            "ignore_result":true,"redact":["/kwargs/secret"],"link":{"task":"images.done"},"immutable":true}"#,
    )]);
    let draft = submit(&types, r#"{"task":"images.resize"}"#).unwrap();
    assert_eq!((draft.spec.queue(), draft.priority(), draft.spec.labels.len()), ("slow", 7, 2));
    assert_eq!(draft.delay.unwrap().to_string(), "10s");
    assert!(draft.spec.ignore_result && draft.spec.immutable && draft.spec.callbacks.on_success.is_some());
    assert_eq!(draft.spec.link[0].spec.task.as_deref(), Some("images.done"));
    assert_eq!(draft.spec.link[0].spec.queue(), "slow", "links have types too");
    assert!(draft.spec.link[0].spec.link.is_empty(), "but a type does not continue a link");

    let text = r#"{"task":"images.resize","queue":"default","priority":0,"delay":0,"expires_at":"2030-01-01T00:00:00Z",
        "retry":{"min":"2s"},"labels":{"team":"b"},"headers":{"x-two":"mine"},"callbacks":{"on_failure":"http://b"},
        "ignore_result":false,"immutable":false,"redact":["/args/0"],"link":[]}"#;
    let draft = submit(&types, text).unwrap();
    assert_eq!((draft.spec.queue(), draft.priority(), draft.delay), ("default", 0, None));
    assert_eq!((draft.expires_in, draft.expires_at.is_some()), (None, true));
    assert_eq!(draft.spec.retry.as_ref().unwrap().max_attempts, crate::retry::RetryPolicy::DEFAULT.max_attempts);
    assert_eq!(draft.spec.labels, [("kind", "image"), ("team", "b")].map(|(k, v)| (k.into(), v.into())).into());
    assert_eq!(draft.spec.headers, [("x-two", "mine"), ("X-One", "1")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    assert!(draft.spec.callbacks.on_success.is_some() && draft.spec.callbacks.on_failure.is_some());
    assert!(!draft.spec.ignore_result && !draft.spec.immutable && draft.spec.link.is_empty());
    assert_eq!(draft.spec.redact, ["/args/0", "/kwargs/secret"], "what a type hides stays hidden");
}

#[test]
fn the_most_specific_pattern_wins_and_alone() {
    let types = table(&[
        ("*", r#"{"queue":"all"}"#),
        ("images.*", r#"{"queue":"images","priority":9}"#),
        ("*.resize", r#"{"queue":"resize"}"#),
        ("images.resize", r#"{"queue":"exact"}"#),
    ]);
    let queue = |task: &str| submit(&types, &format!(r#"{{"task":"{task}"}}"#)).unwrap().spec.queue().to_owned();
    assert_eq!(queue("images.resize"), "exact");
    assert_eq!(queue("images.crop"), "images");
    assert_eq!(queue("video.resize"), "resize");
    assert_eq!(queue("mail"), "all");
    assert_eq!(submit(&types, r#"{"task":"images.resize"}"#).unwrap().priority(), 4, "types are not joined");
    assert_eq!(submit(&types, r#"{"url":"http://a"}"#).unwrap().spec.queue(), "default", "no name, no type");
    assert_eq!((types.len(), TaskTypes::default().is_empty()), (4, true));
}

#[test]
fn a_default_that_cannot_stand_beside_the_signature_is_left_out() {
    let of = |text: &str| table(&[("a", text)]);
    let later = of(r#"{"delay":"1m"}"#);
    assert_eq!(submit(&later, r#"{"task":"a","eta":"2030-01-01T00:00:00Z"}"#).unwrap().delay, None);
    assert!(submit(&later, r#"{"task":"a","debounce":{"key":"k","wait":1}}"#).unwrap().delay.is_none());
    let unique = of(r#"{"unique":{"key":"one"}}"#);
    assert!(submit(&unique, r#"{"task":"a"}"#).unwrap().spec.unique.is_some());
    assert!(submit(&unique, r#"{"task":"a","debounce":{"key":"k","wait":1}}"#).unwrap().spec.unique.is_none());
    let debounce = of(r#"{"debounce":{"key":"one","wait":"1s"}}"#);
    assert!(submit(&debounce, r#"{"task":"a"}"#).unwrap().spec.debounce.is_some());
    for other in [r#""delay":1"#, r#""eta":"2030-01-01T00:00:00Z""#, r#""unique":{"key":"k"}"#] {
        assert!(submit(&debounce, &format!(r#"{{"task":"a",{other}}}"#)).unwrap().spec.debounce.is_none(), "{other}");
    }
    let batch = of(r#"{"batch":{"key":"one"}}"#);
    assert!(submit(&batch, r#"{"task":"a","headers":{"X":"1"}}"#).unwrap().spec.batch.is_none());
    let headers = of(r#"{"headers":{"X":"1"},"method":"PUT"}"#);
    assert!(submit(&headers, r#"{"task":"a","batch":{"key":"k"}}"#).unwrap().spec.headers.is_empty());
}

#[test]
fn limits_and_keys_are_defaults_where_they_can_stand() {
    let of = |text: &str| table(&[("a", text)]);
    let limits = of(r#"{"limits":[{"key":"k","rate":"1/s"}],"fair_key":"f","order_key":"o"}"#);
    let spec = submit(&limits, r#"{"task":"a"}"#).unwrap().spec;
    assert_eq!((spec.limits.len(), spec.fair_key.as_deref(), spec.order_key.as_deref()), (1, Some("f"), Some("o")));
    let spec = submit(&limits, r#"{"task":"a","limits":[],"fair_key":"g","batch":{"key":"b"}}"#).unwrap().spec;
    assert_eq!((spec.limits.len(), spec.fair_key.as_deref(), spec.order_key), (0, Some("g"), None));
    let batch = of(r#"{"batch":{"key":"b"}}"#);
    assert!(submit(&batch, r#"{"task":"a","order_key":"o"}"#).unwrap().spec.batch.is_none());
    let link = submit(&limits, r#"{"task":"b","link":{"task":"a"}}"#).unwrap().spec.link.remove(0).spec;
    assert_eq!((link.limits.len(), link.fair_key.as_deref(), link.order_key.as_deref()), (1, Some("f"), Some("o")));
}

#[test]
fn what_holds_for_a_name_is_no_default() {
    let types = table(&[("a.*", r#"{"rate":"10/m","burst":2,"concurrency":0,"worker":"w","queue":"q"}"#)]);
    let one = types.of("a.b").unwrap();
    let (rule, worker) = (one.rule(), one.worker());
    assert_eq!((rule.rate.unwrap().to_string().as_str(), rule.burst, rule.concurrency), ("10/m", Some(2), Some(0)));
    assert_eq!((worker, submit(&types, r#"{"task":"a.b"}"#).unwrap().spec.queue()), (Some("w"), "q"));
    assert!(table(&[("a", r#"{"queue":"q"}"#)]).of("a").unwrap().rule().is_free());
}

#[test]
fn tasks_that_others_start_get_no_keys() {
    let types = table(&[("b", r#"{"unique":{"key":"one"},"order_key":"o","queue":"q","link":{"task":"c"}}"#)]);
    let rules = Rules { types: Some(&types), ..RULES };
    let spawned = read_children(&[Bytes::from_static(br#"{"task":"b"}"#)], &rules).unwrap().remove(0).spec;
    assert_eq!((spawned.unique.is_none(), spawned.queue(), spawned.link.len()), (true, "q", 1));
    assert_eq!(spawned.order_key.as_deref(), Some("o"));
    let replacement = rules.replacement(&Bytes::from_static(br#"{"task":"b"}"#), "", &mut Errors::default()).unwrap().spec;
    assert_eq!((replacement.unique, replacement.order_key), (None, None), "it keeps those of the task that it replaces");
    let link = submit(&types, r#"{"task":"a","link":{"task":"b"}}"#).unwrap().spec.link.remove(0).spec;
    assert_eq!((link.unique.is_none(), link.queue(), link.link.len()), (true, "q", 0));
}

#[test]
fn what_types_add_to_links_is_bounded() {
    let long = "x".repeat(200);
    let labels: Vec<String> = (0..30).map(|n| format!(r#""k{n}":"{long}""#)).collect();
    let types = table(&[("b", &format!(r#"{{"labels":{{{}}}}}"#, labels.join(",")))]);
    let links = |n: usize| format!(r#"{{"task":"a","link":[{}]}}"#, vec![r#"{"task":"b"}"#; n].join(","));
    assert_eq!(submit(&types, &links(10)).unwrap().spec.link.len(), 10);
    let problem = submit(&types, &links(11)).unwrap_err();
    assert_eq!(problem.errors[0].pointer, "/link/10");
}

const SCHEMA: &str = r##"{"args_schema":{
    "$id":"https://example.com/resize","$schema":"https://json-schema.org/draft/2020-12/schema",
    "properties":{
        "args":{"prefixItems":[{"type":"string"}],"minItems":1},
        "kwargs":{"properties":{"width":{"$ref":"#/$defs/size"},"mode":{"enum":["fit","crop"]}},"required":["width"]},
        "payload":{"type":"object"}},
    "$defs":{"size":{"type":"integer","minimum":1}}}}"##;

#[test]
fn arguments_are_checked_by_the_schema() {
    let types = table(&[("a", SCHEMA)]);
    let told = |text: &str| {
        let problem = submit(&types, text).unwrap_err();
        assert_eq!(problem.code, Code::ArgumentsRefused, "{problem}");
        problem.errors.into_iter().map(|error| format!("{}: {}", error.pointer, error.message)).collect::<Vec<_>>()
    };
    assert!(submit(&types, r#"{"task":"a","args":["x"],"kwargs":{"width":3}}"#).is_ok());
    assert!(submit(&types, r#"{"task":"a","payload":{}}"#).is_ok());
    assert_eq!(
        told(r#"{"task":"a","args":[7],"kwargs":{"width":"secret","mode":"zoom"}}"#),
        [
            "/args/0: value is not of type \"string\"",
            "/kwargs/width: value is not of type \"integer\"",
            "/kwargs/mode: value is not one of \"fit\" or \"crop\"",
        ]
    );
    assert_eq!(told(r#"{"task":"a"}"#)[0], "/args: value has less than 1 item");
    assert_eq!(told(r#"{"task":"a","args":["x"]}"#), ["/kwargs: \"width\" is a required property"]);
    assert_eq!(told(r#"{"task":"a","payload":null}"#), ["/payload: value is not of type \"object\""]);
    let link = |rest: &str| format!(r#"{{"task":"b","link":{{"task":"a"{rest}}}}}"#);
    assert!(submit(&types, &link("")).is_ok(), "the result that is put in front is not known yet");
    assert_eq!(told(&link(r#","immutable":true,"args":["x"]"#)), ["/link/kwargs: \"width\" is a required property"]);
    assert_eq!(told(&link(r#","payload":3"#)), ["/link/payload: value is not of type \"object\""]);
    let other = submit(&types, r#"{"task":"a","queue":"no good"}"#).unwrap_err();
    assert_eq!((other.code, other.errors.len()), (Code::InvalidField, 1), "arguments are looked at last");
}

#[test]
fn raw_payloads_are_checked_if_they_are_json() {
    let types = table(&[("a", SCHEMA)]);
    let raw = |content_type, bytes: &'static [u8]| {
        let payload = Payload::Raw { content_type, bytes: bytes.into() };
        let signature = Signature { task: Some("a".into()), payload, ..Signature::default() };
        Rules { types: Some(&types), ..RULES }.check(signature, Errors::default())
    };
    assert!(raw("application/problem+json", b" {} ").is_ok());
    for (content_type, bytes) in [("application/json", &b"[]"[..]), ("application/json", b"{"), ("image/png", b"{}")] {
        let problem = raw(content_type, bytes).unwrap_err();
        assert_eq!((problem.code, &*problem.errors[0].pointer), (Code::ArgumentsRefused, "/payload"), "{content_type}");
    }
}

#[test]
fn what_is_refused_names_its_place() {
    for (text, pointer) in [
        (r#"{"id":"x"}"#, "/id"),
        (r#"{"task":"x"}"#, "/task"),
        (r#"{"kwargs":{}}"#, "/kwargs"),
        (r#"{"eta":"2030-01-01T00:00:00Z"}"#, "/eta"),
        (r#"{"rate":"0/s"}"#, "/rate"),
        (r#"{"rate":"1e99/s"}"#, "/rate"),
        (r#"{"burst":2}"#, "/burst"),
        (r#"{"rate":"1/s","burst":0}"#, "/burst"),
        (r#"{"concurrency":-1}"#, "/concurrency"),
        (r#"{"worker":"no good"}"#, "/worker"),
        (r#"{"worker":7}"#, "/worker"),
        (r#"{"limits":[{"key":"k","cost":0}]}"#, "/limits/0/cost"),
        (r#"{"order_key":"k","batch":{"key":"b"}}"#, "/order_key"),
        (r#"{"prioritty":3}"#, "/prioritty"),
        (r#"{"priority":11}"#, "/priority"),
        (r#"{"queue":"no good"}"#, "/queue"),
        (r#"{"delay":1,"debounce":{"key":"k","wait":1}}"#, "/debounce"),
        (r#"{"link":{"task":"b","id":"x"}}"#, "/link/id"),
        (r#"{"args_schema":3}"#, "/args_schema"),
        (r#"{"args_schema":{"type":"strnig"}}"#, "/args_schema/type"),
        (r#"{"args_schema":{"properties":{"a":{"pattern":"("}}}}"#, "/args_schema/properties/a/pattern"),
        (r#"{"args_schema":{"pattern":"(?=a)b"}}"#, "/args_schema/pattern"),
        (r#"{"args_schema":{"pattern":"(a{1000}){1000}"}}"#, "/args_schema/pattern"),
        (r#"{"args_schema":{"$schema":"http://json-schema.org/draft-07/schema#"}}"#, "/args_schema/$schema"),
        (r#"{"args_schema":{"properties":{"a":{"$ref":"file:///etc/passwd"}}}}"#, "/args_schema/properties/a/$ref"),
        (r#"{"args_schema":{"$ref":"https://example.com/s.json"}}"#, "/args_schema/$ref"),
        (r##"{"args_schema":{"$ref":"#/$defs/a"}}"##, "/args_schema/$ref"),
        (r##"{"args_schema":{"$ref":"#anchor"}}"##, "/args_schema/$ref"),
        (r##"{"args_schema":{"$ref":"#"}}"##, "/args_schema/$ref/$ref"),
        (r##"{"args_schema":{"$dynamicRef":"#a"}}"##, "/args_schema/$dynamicRef"),
        (r#"{"args_schema":{"$defs":{"a":{"$id":"x"}}}}"#, "/args_schema/$defs/a/$id"),
        (
            r##"{"args_schema":{"properties":{"enum":{"items":{"$ref":"#/properties/enum"}}}}}"##,
            "/args_schema/properties/enum/items/$ref/items/$ref",
        ),
    ] {
        let errors = refused(text);
        assert_eq!(errors.iter().map(|error| &*error.pointer).collect::<Vec<_>>(), [pointer], "{text}: {errors:?}");
        assert!(errors[0].message.len() < 400);
    }
    assert!(refused(&format!(r#"{{"name":"{}"}}"#, "x".repeat(MAX_DEFAULT_BYTES)))[0].message.contains("16384 bytes"));
    let large = format!(r#"{{"args_schema":{{"const":"{}"}}}}"#, "x".repeat(MAX_SCHEMA_BYTES));
    assert!(refused(&large)[0].message.contains("65536 bytes"));
    let deep = format!(r#"{{"args_schema":{}{{}}{}}}"#, r#"{"not":"#.repeat(65), "}".repeat(65));
    assert!(refused(&deep)[0].message.contains("64 levels"));
}

/// Each schema names the next one twice: a thousand bytes would be a million schemas.
#[test]
fn a_schema_that_is_long_when_written_out_is_refused() {
    let mut defs = String::from(r#""n":{"type":"string"}"#);
    let mut next = "n".to_owned();
    for n in 0..20 {
        write!(defs, r##","d{n}":{{"anyOf":[{{"$ref":"#/$defs/{next}"}},{{"$ref":"#/$defs/{next}"}}]}}"##).unwrap();
        next = format!("d{n}");
    }
    let errors = refused(&format!(r##"{{"args_schema":{{"$ref":"#/$defs/{next}","$defs":{{{defs}}}}}}}"##));
    assert!(errors[0].message.contains("more than 5000 values"), "{errors:?}");
}

#[test]
fn checks_with_much_work_tell_less_or_nothing() {
    let options: Vec<String> = (0..4_000).map(|n| n.to_string()).collect();
    let types = table(&[(
        "a",
        &format!(r#"{{"args_schema":{{"properties":{{"args":{{"items":{{"enum":[{}]}}}}}}}}}}"#, options.join(",")),
    )]);
    let args = |n: usize| format!(r#"{{"task":"a","args":[{}]}}"#, vec!["-1"; n].join(","));
    let told = |n: usize| submit(&types, &args(n)).unwrap_err().errors;
    assert_eq!((told(100).len(), &*told(100)[0].pointer), (20, "/args/0"));
    assert_eq!((told(1_000).len(), &*told(1_000)[0].pointer), (1, ""));
    assert!(told(20_000)[0].message.contains("too many"));
}

#[test]
fn a_library_compiles_each_version_once() {
    let of = |ns: u32, version, bytes| StoredType { ns: Ns(ns), pattern: "a", version, bytes };
    let first = [of(1, 1, &br#"{"queue":"q"}"#[..]), of(2, 1, br#"{"queue":"r"}"#)];
    let one = Library::default().next(first.into_iter(), |_, problem| panic!("{problem}"));
    let mut bad = Vec::new();
    let second = [first[0], of(2, 2, b"{"), StoredType { pattern: "b", ..of(2, 1, b"{}") }, of(3, 1, b"\xff")];
    let two = one.next(second.into_iter(), |document, _| bad.push((document.ns.0, document.pattern.to_owned())));
    let same = |ns: u32| std::ptr::eq(one.of(Ns(ns)).unwrap().of("a").unwrap(), two.of(Ns(ns)).unwrap().of("a").unwrap());
    assert!(same(1), "not compiled again");
    assert_eq!(bad, [(2, "a".to_owned()), (3, "a".to_owned())]);
    assert!(two.of(Ns(2)).unwrap().of("a").is_none() && two.of(Ns(2)).unwrap().of("b").is_some());
    assert!(two.of(Ns(3)).is_none() && one.of(Ns(4)).is_none());
}

#[test]
fn a_document_is_changed_field_by_field() {
    let first = merge(None, r#"{"queue":"a","priority":1,"retry":{"factor":2.50}}"#).unwrap();
    assert_eq!(first, r#"{"queue":"a","priority":1,"retry":{"factor":2.50}}"#);
    let second = merge(Some(&first), r#"{"priority":null,"queue":"b","args_schema":true}"#).unwrap();
    assert_eq!(second, r#"{"retry":{"factor":2.50},"queue":"b","args_schema":true}"#);
    let nothing = merge(Some(&second), r#"{"retry":null,"queue":null,"args_schema":null}"#).unwrap();
    assert_eq!(nothing, "{}");
    assert_eq!(submit(&table(&[("a", &nothing)]), r#"{"task":"a"}"#).unwrap(), submit(&table(&[]), r#"{"task":"a"}"#).unwrap());
    assert_eq!(merge(None, "[]").unwrap_err().code, Code::InvalidField);
    assert_eq!(merge(None, "{").unwrap_err().code, Code::Malformed);
}

/// Fields that can stand beside each other, with two values each.
const FREE: [(&str, &str, &str); 15] = [
    ("url", r#""http://a""#, r#""http://b""#),
    ("name", r#""a""#, r#""b""#),
    ("queue", r#""default""#, r#""q""#),
    ("priority", "0", "9"),
    ("expires_in", r#""1s""#, r#""1m""#),
    ("soft_time_limit", "1", "2"),
    ("time_limit", "3", "4"),
    ("max_run", "5", "6"),
    ("retry", r#"{"max_attempts":2}"#, r#"{"backoff":"fixed"}"#),
    ("link", r#"{"task":"x"}"#, r#"[{"task":"y"}]"#),
    ("link_error", "[]", r#"{"task":"z"}"#),
    ("immutable", "true", "false"),
    ("ignore_result", "true", "false"),
    ("result_ttl", "7", "8"),
    ("labels", r#"{"a":"1","b":"2"}"#, r#"{"b":"3","c":"4"}"#),
];

/// Fields that exclude each other.
const TIED: [(&str, &str, &str); 9] = [
    ("delay", "0", "1"),
    ("eta", r#""2030-01-01T00:00:00Z""#, r#""2031-01-01T00:00:00Z""#),
    ("unique", r#"{"key":"u"}"#, r#"{"key":"v","scope":"queued"}"#),
    ("debounce", r#"{"key":"d","wait":1}"#, r#"{"key":"e","wait":2}"#),
    ("batch", r#"{"key":"b"}"#, r#"{"key":"c"}"#),
    ("headers", r#"{"X-A":"1"}"#, r#"{"x-a":"2","X-B":"3"}"#),
    ("method", r#""PUT""#, r#""POST""#),
    ("url", r#""http://a""#, r#""http://b""#),
    ("expires_in", r#""1s""#, r#""1m""#),
];

fn object(menu: &[(&str, &str, &str)], picks: &[u8]) -> Value {
    let mut object = json!({});
    for ((name, one, two), pick) in menu.iter().zip(picks) {
        let text = match pick {
            1 => one,
            2 => two,
            _ => continue,
        };
        object[*name] = serde_json::from_str(text).unwrap();
    }
    object
}

/// The picked fields, beginning with the one at `turn`, without those that do not go with the ones before.
fn valid_part(picks: &[u8], turn: usize, valid: impl Fn(Value) -> bool) -> Value {
    let mut whole = json!({});
    for n in (0..picks.len()).map(|n| (n + turn) % picks.len()) {
        let mut more = whole.clone();
        more.as_object_mut().unwrap().extend(object(&TIED[n..=n], &picks[n..=n]).as_object().unwrap().clone());
        if valid(more.clone()) {
            whole = more;
        }
    }
    whole
}

fn with_task(mut signature: Value) -> String {
    signature["task"] = json!("a");
    signature.to_string()
}

proptest! {
    /// Joining the two objects by hand, with the signature's fields on top, is the same as using the type.
    #[test]
    fn a_signature_beats_its_type(own in prop::collection::vec(0..3_u8, 15), typed in prop::collection::vec(0..3_u8, 15)) {
        let (own, typed) = (object(&FREE, &own), object(&FREE, &typed));
        let mut joined = typed.clone();
        for (name, value) in own.as_object().unwrap() {
            joined[name] = value.clone();
        }
        for (key, value) in typed["labels"].as_object().filter(|_| own["labels"].is_object()).into_iter().flatten() {
            if joined["labels"].get(key).is_none() {
                joined["labels"][key] = value.clone();
            }
        }
        let filled = submit(&table(&[("a", &typed.to_string())]), &with_task(own)).unwrap();
        prop_assert_eq!(filled, submit(&table(&[]), &with_task(joined)).unwrap());
    }

    /// A type makes nothing wrong that was right, and using it twice is using it once.
    #[test]
    fn types_fit_every_signature(
        own in prop::collection::vec(0..3_u8, 9),
        typed in prop::collection::vec(0..3_u8, 9),
        turn in 0..9_usize,
    ) {
        let own = with_task(valid_part(&own, turn, |text| submit(&table(&[]), &with_task(text)).is_ok()));
        let read = |value: Value| merge(None, &value.to_string()).and_then(|text| TaskType::read("a", &text));
        let typed = valid_part(&typed, 0, |value| read(value).and_then(|one| one.check(&RULES)).is_ok());
        let types = TaskTypes::new([Arc::new(read(typed).unwrap())]);
        prop_assert!(submit(&types, &own).is_ok());

        let mut errors = Errors::default();
        let mut signature = signature::read(&own, &mut errors).unwrap();
        let missing = Missing { keys: true, order: true, links: true };
        types.of("a").unwrap().fill(&mut signature, missing, &mut errors);
        let once = format!("{signature:?}");
        types.of("a").unwrap().fill(&mut signature, missing, &mut errors);
        prop_assert_eq!(once, format!("{signature:?}"));
    }
}
