#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::callback::{Callback, Callbacks};
use crate::head::tests::any_head;
use crate::placement::placement;
use crate::retry::RetryPolicy;

const NOW: Millis = Millis(1_800_000_000_000);

fn error() -> TaskError {
    TaskError::new("HttpStatus", "HTTP 500")
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    let after = || proptest::option::of((0u64..100_000).prop_map(Duration::from_millis));
    prop_oneof![
        any::<bool>().prop_map(|some| Outcome::Success { content_type: None, body: some.then(|| Bytes::from_static(b"1")) }),
        after().prop_map(|after| Outcome::Retry { after, error: error() }),
        after().prop_map(|after| Outcome::Throttled { after, error: error() }),
        Just(Outcome::TimedOut { error: error() }),
        Just(Outcome::Endpoint { error: error() }),
        Just(Outcome::Permanent { error: error() }),
        (0u64..100_000).prop_map(|ms| Outcome::Snooze { after: Duration::from_millis(ms) }),
        Just(Outcome::Cancel),
    ]
}

/// Events as they arrive: mostly about the open attempt, sometimes about another.
fn any_event(head: &Head) -> impl Strategy<Value = Event> + use<> {
    let open = head.open_attempt();
    let attempt = move |stale: bool| if stale { Attempt { number: open.number.wrapping_add(1), ..open } } else { open };
    prop_oneof![
        any::<u64>().prop_map(|s| Event::Claim { session: SessionId(s), worker: 7 }),
        (any::<bool>(), any_outcome()).prop_map(move |(stale, outcome)| Event::Answered { attempt: attempt(stale), outcome }),
        any::<bool>().prop_map(move |stale| Event::GivenBack { attempt: attempt(stale) }),
        Just(Event::Lost { session: open.session }),
        Just(Event::Due),
        any::<bool>().prop_map(|hard| Event::Cancel { hard }),
        any::<bool>().prop_map(move |stale| Event::Aborted { attempt: attempt(stale) }),
        Just(Event::Sweep),
        Just(Event::Delete),
    ]
}

/// Heads that the state machine itself can make.
fn sane_head() -> impl Strategy<Value = Head> {
    any_head().prop_map(|mut head| {
        head.version = head.version.min(u64::MAX / 2);
        head.attempt = head.attempt.min(1_000_000);
        head.flags = head.flags.without(Flags::HELD);
        if head.state != State::Running {
            head.session = SessionId(0);
            head.flags = head.flags.without(Flags::CANCEL).without(Flags::HARD);
        } else if head.session.0 == 0 {
            head.session = SessionId(1);
        }
        head
    })
}

fn spec_with(max_attempts: u16, callbacks: bool) -> Spec {
    let callback = || Some(Callback { url: "http://a/".into(), headers: vec![], retry: None, time_limit: None });
    let callbacks = if callbacks {
        Callbacks {
            on_success: callback(),
            on_failure: callback(),
            on_retry: callback(),
            on_progress: None,
            on_terminal: callback(),
        }
    } else {
        Callbacks::default()
    };
    Spec {
        task: Some("t".into()),
        retry: Some(RetryPolicy { max_attempts, ..RetryPolicy::default() }),
        callbacks,
        ..Spec::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_transition_is_sound((head, event) in sane_head().prop_flat_map(|h| { let e = any_event(&h); (Just(h), e) }),
                                 now in 0u64..1 << 47, random: u64, max in 1u16..20, callbacks: bool) {
        let spec = spec_with(max, callbacks);
        let Ok(transition) = decide(&head, &spec, event.clone(), Millis(now), random) else { return Ok(()) };
        let Some(next) = &transition.head else {
            // Only final records are ever deleted.
            prop_assert!(head.state.is_final());
            return Ok(());
        };
        // One step of the version, whatever happens.
        prop_assert_eq!(next.version, head.version + 1);
        // Attempt numbers only grow, and only a claim makes one.
        let claims = matches!(event, Event::Claim { .. });
        prop_assert_eq!(next.attempt, head.attempt + u32::from(claims));
        // Order of acceptance, creation and lane belong to the task for ever.
        prop_assert_eq!((next.seq, next.created, next.lane, next.priority), (head.seq, head.created, head.lane, head.priority));
        // A final state is never left by itself.
        if head.state.is_final() { prop_assert_eq!(next.state, head.state); }
        // An open attempt has a session, and only an open attempt has one.
        prop_assert_eq!(next.state == State::Running, next.session.0 != 0 || claims && next.state == State::Running);
        // A task that ends says when, keeps no lease, and tells the terminal callback once; no other change does.
        let ends = next.state.is_final() && !head.state.is_final();
        prop_assert_eq!(ends && callbacks, transition.notices.contains(&CallbackKind::Terminal));
        if ends { prop_assert_eq!(next.ended, Millis(now)); }
        // A retry is told as a retry only if it was an attempt that failed.
        prop_assert_eq!(transition.notices.contains(&CallbackKind::Retry),
            callbacks && next.state == State::Retrying && next.reason != Reason::Snoozed);
        // Somebody looks at every record that is left (I2).
        let place = placement(next);
        prop_assert!(place.lane.is_some() || place.timer.is_some() || place.running || place.done.is_some() || next.state == State::Blocked);
        // The budget never passes the policy, unless it was passed before.
        prop_assert!(next.budget <= max.max(head.budget.saturating_add(1)));
        if next.state == State::Retrying && head.state == State::Running { prop_assert!(next.due >= Millis(now)); }
    }

    #[test]
    fn a_late_answer_changes_nothing(head in sane_head(), outcome in any_outcome(), session: u64) {
        let spec = spec_with(3, false);
        for attempt in [
            Attempt { number: head.attempt.wrapping_sub(1), ..head.open_attempt() },
            Attempt { session: SessionId(session ^ head.session.0 ^ 1), ..head.open_attempt() },
            Attempt { generation: head.generation.wrapping_add(1), ..head.open_attempt() },
        ] {
            if attempt == head.open_attempt() { continue; }
            prop_assert_eq!(decide(&head, &spec, Event::Answered { attempt, outcome: outcome.clone() }, NOW, 0), Err(Refusal::Superseded));
        }
    }

    /// A task always ends: whatever its worker answers, at most `max_attempts` attempts are charged.
    #[test]
    fn failing_for_ever_ends(max in 1u16..15, random: u64) {
        let spec = spec_with(max, false);
        let lane = spec.lane(crate::Ns(0));
        let mut head = crate::submit::NewTask::first_head(&lane, 4, None, None, NOW);
        let mut now = NOW;
        for _ in 0..u32::from(max) * 3 {
            head = claim(&head, SessionId(1), 1, now).unwrap();
            let event = Event::Answered { attempt: head.open_attempt(), outcome: Outcome::Retry { after: None, error: error() } };
            head = decide(&head, &spec, event, now, random).unwrap().head.unwrap();
            if head.state.is_final() { break; }
            now = head.due;
            head = decide(&head, &spec, Event::Due, now, random).unwrap().head.unwrap();
        }
        prop_assert_eq!((head.state, head.reason, head.attempt), (State::Failed, Reason::Exhausted, u32::from(max)));
    }
}

fn fresh(spec: &Spec) -> Head {
    crate::submit::NewTask::first_head(&spec.lane(crate::Ns(0)), 4, None, None, NOW)
}

#[test]
fn three_dead_dispatchers_are_poison() {
    let spec = spec_with(10, true);
    let mut head = fresh(&spec);
    for life in 1..=3u64 {
        head = claim(&head, SessionId(life), 1, NOW).unwrap();
        let transition = decide(&head, &spec, Event::Lost { session: SessionId(life) }, NOW, 0).unwrap();
        head = transition.head.unwrap();
        if life < 3 {
            assert_eq!((head.state, head.reason, head.budget), (State::Retrying, Reason::Lost, 0));
            head = decide(&head, &spec, Event::Due, NOW, 0).unwrap().head.unwrap();
        } else {
            assert_eq!(transition.notices, [CallbackKind::Failure, CallbackKind::Terminal]);
        }
    }
    assert_eq!((head.state, head.reason, head.attempt), (State::Failed, Reason::Poison, 3));
}

#[test]
fn a_success_before_the_cut_wins_over_a_cancel() {
    let spec = spec_with(10, false);
    let running = claim(&fresh(&spec), SessionId(1), 1, NOW).unwrap();
    let canceling = decide(&running, &spec, Event::Cancel { hard: false }, NOW, 0).unwrap().head.unwrap();
    assert_eq!((canceling.state, canceling.reason), (State::Running, Reason::Canceling));
    let success =
        Event::Answered { attempt: canceling.open_attempt(), outcome: Outcome::Success { content_type: None, body: None } };
    assert_eq!(decide(&canceling, &spec, success, NOW, 0).unwrap().head.unwrap().state, State::Succeeded);
    let failure = Event::Answered { attempt: canceling.open_attempt(), outcome: Outcome::Retry { after: None, error: error() } };
    assert_eq!(decide(&canceling, &spec, failure, NOW, 0).unwrap().head.unwrap().state, State::Canceled);
    assert!(decide(&canceling, &spec, Event::Cancel { hard: false }, NOW, 0).is_err());
    let hard = decide(&canceling, &spec, Event::Cancel { hard: true }, NOW, 0).unwrap().head.unwrap();
    let cut = decide(&hard, &spec, Event::Aborted { attempt: hard.open_attempt() }, NOW, 0).unwrap().head.unwrap();
    assert_eq!((cut.state, cut.reason), (State::Canceled, Reason::Requested));
}

#[test]
fn the_result_goes_first_then_the_record() {
    let spec = Spec { result_ttl: Some("1m".parse().unwrap()), retention: Some("1h".parse().unwrap()), ..spec_with(1, false) };
    let running = claim(&fresh(&spec), SessionId(1), 1, NOW).unwrap();
    let success = Event::Answered {
        attempt: running.open_attempt(),
        outcome: Outcome::Success { content_type: None, body: Some(Bytes::from_static(b"1")) },
    };
    let done = decide(&running, &spec, success, NOW, 0).unwrap().head.unwrap();
    assert_eq!(done.due, NOW.after(Duration::from_secs(60)));
    assert_eq!(decide(&done, &spec, Event::Sweep, NOW, 0), Err(Refusal::NotDue));
    let swept = decide(&done, &spec, Event::Sweep, done.due, 0).unwrap();
    assert_eq!(swept.result, Some(None));
    let swept = swept.head.unwrap();
    assert!(swept.flags.has(Flags::RESULT_GONE) && !swept.flags.has(Flags::HAS_RESULT));
    assert_eq!(swept.due, NOW.after(Duration::from_secs(3600)));
    assert_eq!(decide(&swept, &spec, Event::Sweep, swept.due, 0).unwrap().head, None);
}

#[test]
fn throttling_and_endpoint_faults_never_burn_the_budget() {
    let spec = spec_with(1, false);
    let running = claim(&fresh(&spec), SessionId(1), 1, NOW).unwrap();
    for (outcome, reason) in [
        (Outcome::Throttled { after: None, error: error() }, Reason::Throttled),
        (Outcome::Endpoint { error: error() }, Reason::Endpoint),
    ] {
        let event = Event::Answered { attempt: running.open_attempt(), outcome };
        let next = decide(&running, &spec, event.clone(), NOW, 9).unwrap().head.unwrap();
        assert_eq!((next.state, next.reason, next.budget), (State::Retrying, reason, 0));
        // … but the age bounds them.
        let late = NOW.after(Duration::from_secs(25 * 3600));
        let next = decide(&running, &spec, event, late, 9).unwrap().head.unwrap();
        assert_eq!((next.state, next.reason), (State::Failed, Reason::Exhausted));
    }
}

#[test]
fn nothing_starts_at_or_after_its_expiry() {
    let spec = spec_with(1, false);
    let head =
        crate::submit::NewTask::first_head(&spec.lane(crate::Ns(0)), 4, None, Some(NOW.after(Duration::from_secs(1))), NOW);
    let at = head.expires;
    assert!(claim(&head, SessionId(1), 1, Millis(at.0 - 1)).is_ok());
    assert!(claim(&head, SessionId(1), 1, at).is_err());
    assert_eq!(decide(&head, &spec, Event::Due, at, 0).unwrap().head.unwrap().state, State::Expired);
}

/// `docs/states.md` says what `decide` does, no more and no less. `LOVAGE_BLESS=1 cargo test -p lovage-core` rewrites it.
#[test]
fn the_table_of_states_is_the_truth() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/states.md");
    let made = states_page();
    if std::env::var_os("LOVAGE_BLESS").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(kept, made, "docs/states.md differs from decide(); run LOVAGE_BLESS=1 cargo test -p lovage-core");
}

fn states_page() -> String {
    let mut rows = BTreeSet::new();
    for (label, head, event) in samples() {
        for max in [1, 10] {
            let Ok(transition) = decide(&head, &spec_with(max, false), event.clone(), NOW, 5) else { continue };
            let (to, reason) = match &transition.head {
                Some(next) => (next.state.as_str(), next.reason.as_str()),
                None => ("deleted", "none"),
            };
            rows.insert((head.state, to, reason, label));
        }
    }
    let mut page = String::from(
        "# States\n\nMade from `decide` by `LOVAGE_BLESS=1 cargo test -p lovage-core`; a test compares. Do not edit.\n\n```mermaid\nstateDiagram-v2\n    [*] --> queued\n    [*] --> scheduled\n",
    );
    let edges: BTreeSet<_> = rows
        .iter()
        .filter(|(from, to, ..)| from.as_str() != *to && *to != "deleted")
        .map(|(from, to, ..)| (*from, *to))
        .collect();
    for (from, to) in edges {
        writeln!(page, "    {from} --> {to}").unwrap();
    }
    page.push_str("```\n\n| from | event | to | reason |\n|---|---|---|---|\n");
    for (from, to, reason, label) in rows {
        writeln!(page, "| {from} | {label} | {to} | {} |", if reason == "none" { "" } else { reason }).unwrap();
    }
    page
}

fn samples() -> Vec<(&'static str, Head, Event)> {
    let mut out = Vec::new();
    for state in State::ALL {
        for canceling in [false, true] {
            for lost_before in [0, 2] {
                let mut head = fresh(&spec_with(1, false));
                head.state = *state;
                head.lost = lost_before;
                head.first_started = NOW;
                if *state == State::Running {
                    head.session = SessionId(1);
                    head.attempt = 1;
                    head.reason = if canceling { Reason::Canceling } else { Reason::Dispatched };
                    head.flags = if canceling { Flags::CANCEL } else { Flags::default() };
                } else if canceling {
                    continue;
                }
                if matches!(state, State::Scheduled | State::Retrying) {
                    head.due = NOW;
                }
                head.flags = head.flags.with(Flags::HAS_RESULT);
                let expired = Head { expires: NOW, ..head.clone() };
                let swept = Head { ended: NOW, ..head.clone() };
                let attempt = head.open_attempt();
                let answer = |outcome| Event::Answered { attempt, outcome };
                out.extend([
                    ("claim", head.clone(), Event::Claim { session: SessionId(1), worker: 1 }),
                    ("answer: success", head.clone(), answer(Outcome::Success { content_type: None, body: None })),
                    ("answer: retry", head.clone(), answer(Outcome::Retry { after: None, error: error() })),
                    ("answer: time limit", head.clone(), answer(Outcome::TimedOut { error: error() })),
                    ("answer: throttled", head.clone(), answer(Outcome::Throttled { after: None, error: error() })),
                    ("answer: endpoint fault", head.clone(), answer(Outcome::Endpoint { error: error() })),
                    ("answer: permanent", head.clone(), answer(Outcome::Permanent { error: error() })),
                    ("answer: snooze", head.clone(), answer(Outcome::Snooze { after: Duration::from_secs(1) })),
                    ("answer: cancel", head.clone(), answer(Outcome::Cancel)),
                    ("given back at shutdown", head.clone(), Event::GivenBack { attempt }),
                    ("dispatcher died", head.clone(), Event::Lost { session: SessionId(1) }),
                    ("due", head.clone(), Event::Due),
                    ("due, past its expiry", expired, Event::Due),
                    ("cancel", head.clone(), Event::Cancel { hard: false }),
                    ("connection cut after a cancel", head.clone(), Event::Aborted { attempt }),
                    ("delete", head.clone(), Event::Delete),
                    ("janitor, result's time over", swept, Event::Sweep),
                    ("janitor, retention over", head.clone(), Event::Sweep),
                ]);
            }
        }
    }
    out
}
