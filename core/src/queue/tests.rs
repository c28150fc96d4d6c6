#![allow(clippy::unwrap_used)]

use super::*;
use crate::problem::Code;

fn put(text: &str) -> Result<QueueConfig, crate::problem::Problem> {
    let mut config = QueueConfig::default();
    apply(&mut config, text).map(|()| config)
}

#[test]
fn every_field_is_read_and_kept() {
    let text = r#"{"rate":"10/s","burst":5,"concurrency":3,"max_length":100,"on_full":"drop_oldest","max_age":"1h",
        "retry":{"max_attempts":3},"soft_time_limit":"5s","time_limit":"10s","max_run":"1m","retention":"1h","worker":"w",
        "order":"fair"}"#;
    let config = put(text).unwrap();
    let stored = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<QueueConfig>(&stored).unwrap(), config);
    let names: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&stored).unwrap();
    assert_eq!(names.len(), FIELDS.len(), "{stored}");
    assert_eq!(config.rule().burst(), 5);
    assert_eq!(config.order(), LaneOrder::Fair);

    let mut changed = config.clone();
    apply(&mut changed, r#"{"rate":null,"burst":null,"order":"fifo"}"#).unwrap();
    assert_eq!(changed, QueueConfig { rate: None, burst: None, order: Some(LaneOrder::Fifo), ..config });
}

#[test]
fn nothing_given_is_nothing_written() {
    assert_eq!(serde_json::to_string(&put("{}").unwrap()).unwrap(), "{}");
    let old: QueueConfig = serde_json::from_str(r#"{"created_at":"2026-01-01T00:00:00.000Z"}"#).unwrap();
    assert_eq!(old.created_at.as_deref(), Some("2026-01-01T00:00:00.000Z"));
}

#[test]
fn refusals_name_their_field() {
    for (text, at, message) in [
        (r#"{"rate":"0/s"}"#, "/rate", "more than zero"),
        (r#"{"rate":"1e99/s"}"#, "/rate", "period"),
        (r#"{"rate":"1000001/s"}"#, "/rate", "at most 1000000/s"),
        (r#"{"rate":-1}"#, "/rate", ""),
        (r#"{"concurrency":-1}"#, "/concurrency", "from 0"),
        (r#"{"concurrency":1.5}"#, "/concurrency", "whole number"),
        (r#"{"rate":"1/s","burst":0}"#, "/burst", "from 1"),
        (r#"{"burst":2}"#, "/burst", "without rate"),
        (r#"{"max_length":0}"#, "/max_length", "from 1"),
        (r#"{"on_full":"reject"}"#, "/on_full", "without max_length"),
        (r#"{"max_length":1,"on_full":"drop"}"#, "/on_full", "drop_oldest"),
        (r#"{"max_age":0}"#, "/max_age", "longer than zero"),
        (r#"{"time_limit":"1s","soft_time_limit":"1s"}"#, "/soft_time_limit", "shorter"),
        (r#"{"retry":{"max_attempts":0}}"#, "/retry/max_attempts", "from 1"),
        (r#"{"worker":"a b"}"#, "/worker", "128"),
        (r#"{"order":"lifo"}"#, "/order", "fifo"),
        (r#"{"paused":{}}"#, "/paused", "pause"),
        (r#"{"version":1}"#, "/version", "cannot be set"),
    ] {
        let problem = put(text).unwrap_err();
        assert_eq!((problem.code, &*problem.errors[0].pointer), (Code::InvalidField, at), "{text}: {problem}");
        assert!(problem.errors[0].message.contains(message), "{text}: {}", problem.errors[0].message);
    }
    let unknown = put(r#"{"max_lenght":1}"#).unwrap_err();
    assert_eq!(unknown.code, Code::UnknownField);
    assert!(unknown.detail.contains("max_length"), "{}", unknown.detail);
    assert_eq!(put("{").unwrap_err().code, Code::Malformed);
}

#[test]
fn a_change_is_judged_together_with_what_stays() {
    let mut config = put(r#"{"rate":"1/s","burst":2}"#).unwrap();
    let problem = apply(&mut config, r#"{"rate":null}"#).unwrap_err();
    assert_eq!(problem.errors[0].pointer, "/burst");
}

#[test]
fn a_pause_closes_dispatch_unless_said_otherwise() {
    let now = Millis(1_000);
    let pause = |text: &str| read_pause(text, now);
    assert_eq!(pause("").unwrap(), Pause { intake: false, dispatch: true, until: None });
    assert_eq!(pause("{}").unwrap(), pause("").unwrap());
    assert_eq!(pause(r#"{"intake":true,"dispatch":false}"#).unwrap(), Pause { intake: true, dispatch: false, until: None });
    let until = pause(r#"{"until":"2026-01-01T00:00:00Z"}"#).unwrap();
    assert_eq!(until.until, Some(Millis(1_767_225_600_000)));
    assert!(until.holds(now) && !until.holds(Millis(1_767_225_600_000)));
    for (text, at) in [
        (r#"{"dispatch":false}"#, ""),
        (r#"{"until":"1970-01-01T00:00:01Z"}"#, "/until"),
        (r#"{"until":5}"#, "/until"),
        (r#"{"intake":1}"#, "/intake"),
        (r#"{"intak":true}"#, "/intak"),
    ] {
        assert_eq!(pause(text).unwrap_err().errors[0].pointer, at, "{text}");
    }
    let config = QueueConfig { paused: Some(until), ..QueueConfig::default() };
    let stored = serde_json::to_string(&config).unwrap();
    assert_eq!(stored, r#"{"paused":{"intake":false,"dispatch":true,"until":"2026-01-01T00:00:00.000Z"}}"#);
    assert_eq!(serde_json::from_str::<QueueConfig>(&stored).unwrap(), config);
    assert!(config.dispatch_closed(now).is_some() && config.intake_closed(now).is_none());
    assert!(config.dispatch_closed(Millis::MAX).is_none());
}

#[test]
fn a_library_knows_the_queues_that_say_something() {
    let stored = [
        (Ns(1), "plain", r#"{"created_at":"2026-01-01T00:00:00.000Z"}"#),
        (Ns(1), "bounded", r#"{"created_at":"2026-01-01T00:00:00.000Z","max_length":3}"#),
        (Ns(2), "broken", r#"{"order":"lifo"}"#),
    ];
    let mut told = Vec::new();
    let stored = stored.iter().map(|(ns, name, text)| (*ns, *name, text.as_bytes()));
    let library = QueueLibrary::read(stored, |ns, name, _| told.push((ns, name.to_owned())));
    assert_eq!(library.get(Ns(1), "bounded").unwrap().max_length, Some(3));
    assert!(library.get(Ns(1), "plain").is_none() && library.of(Ns(2)).is_none() && library.get(Ns(2), "bounded").is_none());
    assert_eq!(told, [(Ns(2), "broken".to_owned())]);
}

fn queues(name: &str, text: &str) -> Queues {
    std::iter::once((name.into(), Arc::new(put(text).unwrap()))).collect()
}

fn draft(queues: &Queues, types: Option<&crate::TaskTypes>, text: &str) -> crate::Draft {
    let mut errors = crate::fields::Errors::default();
    let signature = crate::signature::read(text, &mut errors).unwrap();
    let rules = crate::Rules { queues: Some(queues), types, ..crate::signature::tests::RULES };
    rules.check(signature, errors).unwrap()
}

#[test]
fn signature_then_type_then_queue() {
    let queues = queues(
        "q",
        r#"{"time_limit":"10s","soft_time_limit":"5s","max_run":"1h","retention":"2h","retry":{"max_attempts":7},"order":"fair"}"#,
    );
    let one = crate::TaskType::read("t", r#"{"queue":"q","time_limit":"20s"}"#).unwrap();
    let types = crate::TaskTypes::new([Arc::new(one)]);
    let spec = draft(&queues, Some(&types), r#"{"task":"t","max_run":"1m"}"#).spec;
    let millis = |dur: Option<Dur>| dur.map(Dur::millis);
    assert_eq!((millis(spec.time_limit), millis(spec.soft_time_limit)), (Some(20_000), Some(5_000)));
    assert_eq!((millis(spec.max_run), millis(spec.retention)), (Some(60_000), Some(7_200_000)));
    assert_eq!((spec.max_attempts(), spec.order, spec.queue()), (7, LaneOrder::Fair, "q"));
    let elsewhere = draft(&queues, None, r#"{"task":"t","link":{"task":"u","queue":"q"}}"#).spec;
    assert_eq!((elsewhere.time_limit, elsewhere.order), (None, LaneOrder::Priority));
    assert_eq!(elsewhere.link[0].spec.max_attempts(), 7);
    let retry = crate::retry::RetryPolicy { max_attempts: 2, ..crate::retry::RetryPolicy::DEFAULT };
    let own = draft(&queues, None, r#"{"task":"t","queue":"q","retry":{"max_attempts":2}}"#).spec;
    assert_eq!(own.retry, Some(retry));
}

#[test]
fn no_task_waits_longer_than_its_queue_lets_it() {
    let queues = queues("default", r#"{"max_age":"10s"}"#);
    let expires = |text: &str| draft(&queues, None, text).expires(Millis(1_000));
    assert_eq!(expires(r#"{"task":"t"}"#), Some(Millis(11_000)));
    assert_eq!(expires(r#"{"task":"t","expires_in":"5s"}"#), Some(Millis(6_000)));
    assert_eq!(expires(r#"{"task":"t","expires_in":"1h"}"#), Some(Millis(11_000)));
    // What is to be late is not old.
    assert_eq!(expires(r#"{"task":"t","delay":"1m"}"#), Some(Millis(71_000)));
    assert_eq!(expires(r#"{"task":"t","eta":"1970-01-01T00:00:00Z"}"#), Some(Millis(11_000)));
}

#[test]
fn a_task_that_moves_waits_as_its_new_queue_says() {
    let queues = queues("q", r#"{"order":"fair","retry":{"max_attempts":7}}"#);
    let rules = crate::Rules { queues: Some(&queues), ..crate::signature::tests::RULES };
    let patch = |text: &str, from: &str| rules.reset(&rules.patch(text).unwrap(), Some("t"), from);
    let moved = patch(r#"{"queue":"q","retry":null}"#, "default");
    assert_eq!((moved.order, moved.retry.unwrap().unwrap().max_attempts), (Some(LaneOrder::Fair), 7));
    assert_eq!(patch(r#"{"queue":null}"#, "q").order, Some(LaneOrder::Priority));
    assert_eq!(patch(r#"{"queue":"q"}"#, "q").order, None);
    assert_eq!(patch(r#"{"retry":null}"#, "q").retry.unwrap().unwrap().max_attempts, 7);
    assert_eq!(patch(r#"{"priority":1}"#, "q").order, None);
}
