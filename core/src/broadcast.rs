//! The answers of all instances to one task, as one.
//!
//! Where all succeed the task does, and its result lists theirs. Where one does not, the worst decides: a task that is to be
//! done everywhere is not done while it is missing somewhere. The next attempt calls all of them again.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::answer::TaskError;
use crate::outcome::{Outcome, RawOutcome};
use crate::readable;
use crate::resume::as_json;

/// The error type of a task whose worker, at one of its instances, does what only a single one may: accept, spawn, replace.
pub const BROADCAST_REFUSED: &str = "BroadcastRefused";

/// What one instance answered.
#[derive(Clone, Debug)]
pub struct Part {
    /// Where it is.
    pub instance: String,
    /// Its status, if there was an answer.
    pub status: Option<u16>,
    /// What the answer means.
    pub outcome: RawOutcome,
}

#[derive(Serialize)]
struct Shown<'a> {
    instance: &'a str,
    status: Option<u16>,
    /// JSON that every reader can read, or text; else null.
    result: Option<Box<RawValue>>,
}

/// How bad an outcome is: what cannot be tried again, what is charged, what is not.
fn rank(outcome: &RawOutcome) -> u8 {
    match outcome {
        Outcome::Success { .. } => 0,
        Outcome::Snooze { .. } => 1,
        Outcome::Throttled { .. } => 2,
        Outcome::Endpoint { .. } => 3,
        Outcome::TimedOut { .. } => 4,
        Outcome::Retry { .. } => 5,
        Outcome::Cancel => 6,
        Outcome::Permanent { .. } => 7,
        Outcome::Accepted { .. } | Outcome::Spawn { .. } | Outcome::Replace { .. } => 8,
    }
}

/// What the answers mean together, and whose it is; a result has at most `longest` bytes. Of several that are equally bad the
/// first counts, with the longest wait that any of them wants. Without parts it is a success with an empty list.
pub fn join(parts: &[Part], longest: usize) -> (RawOutcome, usize) {
    let worst = parts.iter().map(|part| rank(&part.outcome)).max().unwrap_or_default();
    let at = parts.iter().position(|part| rank(&part.outcome) == worst).unwrap_or_default();
    let Some(part) = parts.get(at).filter(|_| worst > 0) else { return (succeeded(parts, longest), at) };
    let told = |error: &TaskError| {
        let named = TaskError::new(error.kind.clone(), format!("{}: {}", part.instance, error.message));
        TaskError { stack: error.stack.clone(), status: error.status, ..named }
    };
    let alike = || parts.iter().filter(|part| rank(&part.outcome) == worst);
    let outcome = match &part.outcome {
        Outcome::Retry { error, .. } => Outcome::Retry { after: longest_wait(alike()), error: told(error) },
        Outcome::Throttled { error, .. } => Outcome::Throttled { after: longest_wait(alike()), error: told(error) },
        Outcome::TimedOut { error } => Outcome::TimedOut { error: told(error) },
        Outcome::Endpoint { error } => Outcome::Endpoint { error: told(error) },
        Outcome::Permanent { error } => Outcome::Permanent { error: told(error) },
        Outcome::Snooze { after } => Outcome::Snooze { after: longest_wait(alike()).unwrap_or(*after) },
        Outcome::Cancel => Outcome::Cancel,
        Outcome::Accepted { .. } => refused(&part.instance, "accept the task and report later"),
        Outcome::Spawn { .. } => refused(&part.instance, "start other tasks"),
        Outcome::Replace { .. } => refused(&part.instance, "replace the task"),
        Outcome::Success { .. } => succeeded(parts, longest),
    };
    (outcome, at)
}

fn longest_wait<'a>(parts: impl Iterator<Item = &'a Part>) -> Option<std::time::Duration> {
    let wait = |part: &Part| match part.outcome {
        Outcome::Retry { after, .. } | Outcome::Throttled { after, .. } => after,
        Outcome::Snooze { after } => Some(after),
        _ => None,
    };
    parts.filter_map(wait).max()
}

fn refused(instance: &str, what: &str) -> RawOutcome {
    let message = format!("{instance}: one of several instances that are called at once cannot {what}");
    Outcome::Permanent { error: TaskError::new(BROADCAST_REFUSED, message) }
}

fn succeeded(parts: &[Part], longest: usize) -> RawOutcome {
    let shown = |part: &Part| {
        let Outcome::Success { content_type, body } = &part.outcome else { return None };
        let json = body.as_ref().and_then(|body| as_json(content_type.as_deref().unwrap_or_default(), body));
        json.filter(|raw| readable::check(raw.get().as_bytes()).is_ok())
    };
    let all: Vec<Shown<'_>> =
        parts.iter().map(|part| Shown { instance: &part.instance, status: part.status, result: shown(part) }).collect();
    // Plain data into a Vec cannot fail.
    let body = serde_json::to_vec(&all).unwrap_or_default();
    if body.len() > longest {
        return RawOutcome::too_large(longest);
    }
    Outcome::Success { content_type: Some("application/json".to_owned()), body: Some(body.into()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::outcome::Then;

    fn part(n: usize, outcome: RawOutcome) -> Part {
        Part { instance: format!("http://i{n}"), status: Some(200), outcome }
    }

    fn error(kind: &str) -> TaskError {
        TaskError::new(kind, "it broke").with_status(500).with_stack("at main")
    }

    fn success(content_type: &str, body: &'static [u8]) -> RawOutcome {
        Outcome::Success { content_type: Some(content_type.into()), body: Some(Bytes::from_static(body)) }
    }

    fn any_outcome() -> impl Strategy<Value = RawOutcome> {
        let after = || proptest::option::of((0_u64..100).prop_map(Duration::from_secs));
        prop_oneof![
            Just(success("application/json", b"{\"n\":1.50}")),
            Just(Outcome::Success { content_type: None, body: None }),
            after().prop_map(|after| Outcome::Retry { after, error: error("R") }),
            after().prop_map(|after| Outcome::Throttled { after, error: error("T") }),
            (1_u64..100).prop_map(|after| Outcome::Snooze { after: Duration::from_secs(after) }),
            Just(Outcome::TimedOut { error: error("O") }),
            Just(Outcome::Endpoint { error: error("E") }),
            Just(Outcome::Permanent { error: error("P") }),
            Just(Outcome::Cancel),
            Just(Outcome::Accepted { lease: None }),
            Just(Outcome::Spawn { tasks: Vec::new(), then: Then::Wait, result: None }),
            Just(Outcome::Replace { replacement: Box::new(Bytes::new()) }),
        ]
    }

    proptest! {
        #[test]
        fn the_worst_decides_wherever_it_is(outcomes in proptest::collection::vec(any_outcome(), 1..9), by in 0_usize..9) {
            let parts: Vec<Part> = outcomes.iter().cloned().enumerate().map(|(n, outcome)| part(n, outcome)).collect();
            let (joined, at) = join(&parts, 1 << 20);
            let worst = parts.iter().map(|part| rank(&part.outcome)).max().unwrap();
            prop_assert_eq!(rank(&parts[at].outcome), worst);
            prop_assert!(parts[..at].iter().all(|part| rank(&part.outcome) < worst));
            let alone = matches!(joined, Outcome::Accepted { .. } | Outcome::Spawn { .. } | Outcome::Replace { .. });
            prop_assert!(!alone, "only a single instance may do that");
            prop_assert_eq!(matches!(joined, Outcome::Success { .. }), worst == 0);
            if let Outcome::Success { body: Some(body), .. } = &joined {
                let list: Vec<Value> = serde_json::from_slice(body).unwrap();
                prop_assert_eq!(list.len(), parts.len());
                for (n, item) in list.iter().enumerate() {
                    prop_assert_eq!(&item["instance"], &json!(format!("http://i{n}")));
                }
            }
            // The order says which of the worst is told, and nothing about what becomes of the task.
            let mut turned = parts.clone();
            turned.rotate_left(by % parts.len());
            let (again, _) = join(&turned, 1 << 20);
            prop_assert_eq!(std::mem::discriminant(&again), std::mem::discriminant(&joined));
            let wait = |outcome: &RawOutcome| match outcome {
                Outcome::Retry { after, .. } | Outcome::Throttled { after, .. } => *after,
                Outcome::Snooze { after } => Some(*after),
                _ => None,
            };
            prop_assert_eq!(wait(&again), wait(&joined));
        }
    }

    #[test]
    fn results_are_listed_as_they_were_written() {
        let parts = [
            part(0, success("application/json", b"{\"n\":1.50}")),
            part(1, success("text/plain", b"done")),
            part(2, Outcome::Success { content_type: None, body: None }),
            part(3, success("image/png", b"\x89PNG\xff")),
        ];
        let (Outcome::Success { content_type, body: Some(body) }, 0) = join(&parts, 1000) else { unreachable!() };
        assert_eq!(content_type.as_deref(), Some("application/json"));
        let wanted = r#"[{"instance":"http://i0","status":200,"result":{"n":1.50}},{"instance":"http://i1","status":200,"result":"done"},"#;
        assert!(body.starts_with(wanted.as_bytes()), "{body:?}");
        let list: Vec<Value> = serde_json::from_slice(&body).unwrap();
        assert_eq!((&list[2]["result"], &list[3]["result"]), (&Value::Null, &Value::Null));
        let (Outcome::Permanent { error }, _) = join(&parts, 100) else { unreachable!() };
        assert_eq!(error.kind, "ResultTooLarge");
    }

    #[test]
    fn an_error_says_where_it_was() {
        let parts = [part(0, success("text/plain", b"x")), part(1, Outcome::Retry { after: None, error: error("R") })];
        let (Outcome::Retry { error, .. }, 1) = join(&parts, 1000) else { unreachable!() };
        assert_eq!((error.message.as_str(), error.status), ("http://i1: it broke", Some(500)));
        assert_eq!(error.stack.as_deref(), Some("at main"));
        let (Outcome::Permanent { error }, 1) = join(&[parts[0].clone(), part(1, Outcome::Accepted { lease: None })], 1000)
        else {
            unreachable!()
        };
        assert_eq!(error.kind, BROADCAST_REFUSED);
    }
}
