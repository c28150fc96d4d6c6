#![allow(clippy::unwrap_used)]

mod protocol;
mod table;
mod verbs;

use proptest::prelude::*;

use super::*;
use crate::callback::{Callback, Callbacks};
use crate::event::{Patch, When};
use crate::head::SessionId;
use crate::head::tests::any_head;
use crate::id::{IdRun, Ns, Slot, TaskId};
use crate::outcome::{DEFAULT_LEASE, Outcome, Then};
use crate::placement::placement;
use crate::retry::RetryPolicy;
use crate::signature::Draft;

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
        after().prop_map(|lease| Outcome::Accepted { lease }),
        (prop::collection::vec(prop::option::of("[ab]"), 1..4), any::<bool>()).prop_map(|(keys, wait)| {
            let then = if wait { Then::Wait } else { Then::Detach };
            Outcome::Spawn { tasks: keys.into_iter().map(ordered).collect(), then, result: None }
        }),
        Just(Outcome::Replace { replacement: Box::new(draft("other")) }),
    ]
}

fn draft(task: &str) -> Draft {
    let spec = Spec { task: Some(task.into()), ..Spec::default() };
    Draft { spec, payload: crate::spec::call_payload(Some("[1]"), None), ..Draft::default() }
}

fn ordered(order_key: Option<String>) -> Draft {
    let draft = draft("child");
    Draft { spec: Spec { order_key, retention: Some(crate::units::Dur::ZERO), ..draft.spec }, ..draft }
}

fn key() -> TaskKey {
    TaskKey::new(Ns(0), IdRun::new(NOW, Slot::new(7), 1).nth(0))
}

fn ask(head: &Head, spec: &Spec, event: Event, now: Millis) -> Result<Transition, Refusal> {
    decide(&key(), head, spec, event, now, 0)
}

fn cancel(hard: bool) -> Event {
    Event::Cancel { hard, reason: Reason::Requested, grace: Duration::from_secs(10) }
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
        (any::<bool>(), 16usize..23).prop_map(|(hard, reason)| Event::Cancel {
            hard,
            reason: Reason::ALL[reason],
            grace: Duration::from_secs(5)
        }),
        any::<bool>().prop_map(move |stale| Event::Heartbeat { attempt: attempt(stale), lease: None }),
        any::<bool>().prop_map(move |stale| Event::Progress { attempt: attempt(stale), value: Bytes::from_static(b"1") }),
        any::<bool>().prop_map(move |stale| Event::Logs { attempt: attempt(stale), lines: vec!["x".into()], room: 9 }),
        any::<bool>().prop_map(move |stale| Event::Spawned { attempt: attempt(stale), tasks: vec![draft("a"), draft("b")] }),
        prop::sample::select(vec![Event::Retry, Event::RunNow, Event::Hold, Event::Release, Event::Forget]),
        prop::option::of(0u64..1 << 47).prop_map(|due| Event::Patch {
            changes: Box::new(Patch { due: due.map(|due| When::At(Millis(due))), priority: Some(9), ..Patch::default() }),
            content_type: Bytes::new(),
            payload: Bytes::from_static(b"1"),
        }),
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
        let passing = if head.state.is_final() { Flags::INTERIM } else { Flags::HAS_RESULT.with(Flags::RESULT_GONE) };
        head.flags = head.flags.without(passing);
        head.deadline = match (head.state, head.reason) {
            (State::Running, Reason::Accepted) => head.deadline.max(Millis(1)),
            (State::Running, Reason::Canceling) | (State::Blocked, _) => head.deadline,
            _ => Millis(0),
        };
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
            on_progress: callback(),
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

/// One that somebody waits for, with links.
fn woven(max_attempts: u16, callbacks: bool) -> Spec {
    Spec {
        link: vec![draft("after")],
        link_error: vec![draft("rescue"), draft("mail")],
        arrives: Some(Arrival { barrier: TaskId::parse("parent").unwrap(), index: 3, far: None }),
        ..spec_with(max_attempts, callbacks)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_transition_is_sound((head, event) in sane_head().prop_flat_map(|h| { let e = any_event(&h); (Just(h), e) }),
                                 now in 0u64..1 << 47, random: u64, max in 1u16..20, callbacks: bool) {
        let spec = woven(max, callbacks);
        let now = Millis(now);
        let Ok(transition) = decide(&key(), &head, &spec, event.clone(), now, random) else { return Ok(()) };
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
        // Order of acceptance and creation belong to the task for ever, lane and priority until somebody asks for others.
        prop_assert_eq!((next.seq, next.created), (head.seq, head.created));
        let replaces = matches!(event, Event::Answered { outcome: Outcome::Replace { .. }, .. })
            && !head.flags.has(Flags::CANCEL)
            && head.generation < u8::MAX;
        let edits = matches!(event, Event::Patch { .. }) || replaces;
        prop_assert!(edits || next.priority == head.priority);
        // What is told to run has another lane until an attempt has ended.
        let moves = event == Event::RunNow || head.flags.has(Flags::NOW) && head.state == State::Running;
        prop_assert!(edits || moves || next.lane == head.lane);
        let keeps_now = event == Event::RunNow || head.flags.has(Flags::NOW);
        prop_assert!(keeps_now || !next.flags.has(Flags::NOW));
        prop_assert_eq!(transition.lane.is_some(), next.lane != head.lane);
        prop_assert_eq!(transition.body.is_some(), edits);
        // A final state is never left by itself; a new generation begins only with a retry or a replacement.
        let retries = event == Event::Retry;
        if head.state.is_final() && !retries { prop_assert_eq!(next.state, head.state); }
        prop_assert_eq!(next.generation, head.generation + u8::from(retries || replaces));
        // An open attempt has a session, and only an open attempt has one.
        prop_assert_eq!(next.state == State::Running, next.session.0 != 0 || claims && next.state == State::Running);
        // Only what is accepted (or waits for others) has a deadline.
        prop_assert!(next.deadline.0 == 0 || next.is_accepted() || next.state == State::Blocked);
        if claims { prop_assert!(!next.is_accepted()); }
        // A task that ends says when, keeps no lease, tells the terminal callback and whoever still waits for it; no other
        // change does.
        let ends = next.state.is_final() && !head.state.is_final();
        prop_assert_eq!(ends && callbacks, transition.notices.contains(&CallbackKind::Terminal));
        prop_assert_eq!(ends && !head.flags.has(Flags::TOLD), transition.arrive.is_some());
        if ends { prop_assert_eq!(next.ended, now); }
        // What is stored in the place of the result is what the flags say.
        let shown = Flags::HAS_RESULT.0 | Flags::INTERIM.0;
        if ends { prop_assert_eq!(next.flags.0 & Flags::INTERIM.0, 0); }
        match &transition.result {
            Some(Some(_)) => prop_assert!(next.flags.0 & shown != 0),
            Some(None) => prop_assert_eq!(next.flags.0 & shown, 0),
            None => prop_assert!(ends || retries || replaces || next.flags.0 & shown == head.flags.0 & shown),
        }
        // A retry is told as a retry only if it was an attempt that failed.
        let failed = head.state == State::Running && next.state == State::Retrying && next.reason != Reason::Snoozed;
        prop_assert_eq!(transition.notices.contains(&CallbackKind::Retry), callbacks && failed);
        // Who waits for children waits for as many as there are, and only they tell it.
        let arriving = |task: &NewTask| Spec::decode(&crate::Body::decode(&task.body).unwrap().spec).unwrap().arrives;
        let indexes: Vec<_> = transition.spawns.iter().filter_map(arriving).map(|arrival| arrival.index).collect();
        let expected: Vec<u32> = (0..transition.barrier.unwrap_or(0)).collect();
        prop_assert_eq!(indexes, expected);
        prop_assert_eq!(transition.barrier.is_some(), next.state == State::Blocked && head.state == State::Running);
        // New tasks live beside this one or where their order belongs, under ids that no other version makes; those that live
        // elsewhere know where this one waits for them.
        for task in &transition.spawns {
            let child = Spec::decode(&crate::Body::decode(&task.body).unwrap().spec).unwrap();
            let slot = child.bound(key().ns).unwrap_or(key().slot());
            prop_assert_eq!(task.key.slot(), slot);
            prop_assert_eq!(task.root.as_ref(), Some(&key()));
            let is_far = slot != key().slot();
            prop_assert!(!is_far || child.retention.is_none_or(|kept| !kept.is_zero()));
            let far = crate::spec::Far { slot: key().slot().number(), attempt: next.attempt, generation: next.generation };
            prop_assert_eq!(child.arrives.and_then(|arrival| arrival.far), (is_far && transition.barrier.is_some()).then_some(far));
        }
        let ids: std::collections::BTreeSet<_> = transition.spawns.iter().map(|task| &task.key).collect();
        prop_assert_eq!(ids.len(), transition.spawns.len());
        let again = decide(&key(), &head, &spec, event.clone(), now, random).unwrap();
        prop_assert_eq!(&again, &transition);
        // Somebody looks at every record that is left (I2).
        let place = placement(next);
        prop_assert!(place.lane.is_some() || place.timer.is_some() || place.running || place.done.is_some() || next.state == State::Blocked);
        // The budget never passes the policy, unless it was passed before.
        prop_assert!(next.budget <= max.max(head.budget.saturating_add(1)));
        if next.state == State::Retrying && head.state == State::Running { prop_assert!(next.due >= now); }
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
            for event in [
                Event::Answered { attempt, outcome: outcome.clone() },
                Event::Heartbeat { attempt, lease: None },
                Event::Progress { attempt, value: Bytes::new() },
                Event::Logs { attempt, lines: vec!["x".into()], room: 9 },
                Event::Spawned { attempt, tasks: vec![draft("a")] },
            ] {
                prop_assert_eq!(ask(&head, &spec, event, NOW), Err(Refusal::Superseded));
            }
        }
    }

    /// A task always ends: whatever its worker answers, at most `max_attempts` attempts are charged.
    #[test]
    fn failing_for_ever_ends(max in 1u16..15, random: u64) {
        let spec = spec_with(max, false);
        let lane = spec.lane(crate::Ns(0), 4);
        let mut head = crate::submit::NewTask::first_head(&lane, 4, None, None, NOW);
        let mut now = NOW;
        for _ in 0..u32::from(max) * 3 {
            head = claim(&head, SessionId(1), 1, now).unwrap();
            let event = Event::Answered { attempt: head.open_attempt(), outcome: Outcome::Retry { after: None, error: error() } };
            head = decide(&key(), &head, &spec, event, now, random).unwrap().head.unwrap();
            if head.state.is_final() { break; }
            now = head.due;
            head = decide(&key(), &head, &spec, Event::Due, now, random).unwrap().head.unwrap();
        }
        prop_assert_eq!((head.state, head.reason, head.attempt), (State::Failed, Reason::Exhausted, u32::from(max)));
    }
}

fn fresh(spec: &Spec) -> Head {
    crate::submit::NewTask::first_head(&spec.lane(crate::Ns(0), 4), 4, None, None, NOW)
}

#[test]
fn three_dead_dispatchers_are_poison() {
    let spec = spec_with(10, true);
    let mut head = fresh(&spec);
    for life in 1..=3u64 {
        head = claim(&head, SessionId(life), 1, NOW).unwrap();
        let transition = ask(&head, &spec, Event::Lost { session: SessionId(life) }, NOW).unwrap();
        head = transition.head.unwrap();
        if life < 3 {
            assert_eq!((head.state, head.reason, head.budget), (State::Retrying, Reason::Lost, 0));
            // The second time it is kept apart from those that were lost with it.
            assert_eq!(head.due, if life == 1 { NOW } else { NOW.after(SUSPECT_PAUSE / 2) });
            head = ask(&head, &spec, Event::Due, head.due).unwrap().head.unwrap();
        } else {
            assert_eq!(transition.notices, [CallbackKind::Failure, CallbackKind::Terminal]);
        }
    }
    assert_eq!((head.state, head.reason, head.attempt), (State::Failed, Reason::Poison, 3));
}

#[test]
fn only_losses_in_a_row_are_poison() {
    let spec = spec_with(10, false);
    let run = |head: &Head| claim(&Head { state: State::Queued, ..head.clone() }, SessionId(1), 1, NOW).unwrap();
    let lose = |head: &Head| ask(&run(head), &spec, Event::Lost { session: SessionId(1) }, NOW).unwrap().head.unwrap();
    let twice = lose(&lose(&fresh(&spec)));
    assert_eq!(twice.lost, 2);
    let running = run(&twice);
    let answered = |outcome| {
        let event = Event::Answered { attempt: running.open_attempt(), outcome };
        ask(&running, &spec, event, NOW).unwrap().head.unwrap()
    };
    for outcome in [
        Outcome::Retry { after: None, error: error() },
        Outcome::Snooze { after: Duration::ZERO },
        Outcome::Spawn { tasks: vec![draft("a")], then: Then::Wait, result: None },
    ] {
        let next = answered(outcome);
        assert_eq!((next.lost, lose(&next).state), (0, State::Retrying));
    }
    let attempt = running.open_attempt();
    let back = ask(&running, &spec, Event::GivenBack { attempt }, NOW).unwrap().head.unwrap();
    assert_eq!((back.lost, lose(&back).reason), (2, Reason::Poison), "a clean stop says nothing of the task");
}

#[test]
fn attempts_that_nothing_is_charged_for_do_not_follow_each_other_at_once() {
    let spec = spec_with(1, false);
    let running = claim(&fresh(&spec), SessionId(1), 1, NOW).unwrap();
    let zero = Duration::ZERO;
    for (outcome, least) in [
        (Outcome::Snooze { after: zero }, SNOOZE_PAUSE),
        (Outcome::Throttled { after: Some(zero), error: error() }, THROTTLE_PAUSE),
        (Outcome::Endpoint { error: error() }, ENDPOINT_PAUSE),
    ] {
        let event = Event::Answered { attempt: running.open_attempt(), outcome };
        let next = ask(&running, &spec, event, NOW).unwrap().head.unwrap();
        assert_eq!((next.state, next.due), (State::Retrying, NOW.after(least)));
    }
}

#[test]
fn a_success_before_the_cut_wins_over_a_cancel() {
    let spec = spec_with(10, false);
    let running = claim(&fresh(&spec), SessionId(1), 1, NOW).unwrap();
    let canceling = ask(&running, &spec, cancel(false), NOW).unwrap().head.unwrap();
    assert_eq!((canceling.state, canceling.reason), (State::Running, Reason::Canceling));
    let success =
        Event::Answered { attempt: canceling.open_attempt(), outcome: Outcome::Success { content_type: None, body: None } };
    assert_eq!(ask(&canceling, &spec, success, NOW).unwrap().head.unwrap().state, State::Succeeded);
    let failure = Event::Answered { attempt: canceling.open_attempt(), outcome: Outcome::Retry { after: None, error: error() } };
    assert_eq!(ask(&canceling, &spec, failure, NOW).unwrap().head.unwrap().state, State::Canceled);
    assert!(ask(&canceling, &spec, cancel(false), NOW).is_err());
    let hard = ask(&canceling, &spec, cancel(true), NOW).unwrap().head.unwrap();
    let cut = ask(&hard, &spec, Event::Aborted { attempt: hard.open_attempt() }, NOW).unwrap().head.unwrap();
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
    let done = ask(&running, &spec, success, NOW).unwrap().head.unwrap();
    assert_eq!(done.due, NOW.after(Duration::from_secs(60)));
    assert_eq!(ask(&done, &spec, Event::Sweep, NOW), Err(Refusal::NotDue));
    let swept = ask(&done, &spec, Event::Sweep, done.due).unwrap();
    assert_eq!(swept.result, Some(None));
    let swept = swept.head.unwrap();
    assert!(swept.flags.has(Flags::RESULT_GONE) && !swept.flags.has(Flags::HAS_RESULT));
    assert_eq!(swept.due, NOW.after(Duration::from_secs(3600)));
    assert_eq!(ask(&swept, &spec, Event::Sweep, swept.due).unwrap().head, None);
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
        let next = ask(&running, &spec, event.clone(), NOW).unwrap().head.unwrap();
        assert_eq!((next.state, next.reason, next.budget), (State::Retrying, reason, 0));
        // … but the age bounds them.
        let late = NOW.after(Duration::from_secs(25 * 3600));
        let next = ask(&running, &spec, event, late).unwrap().head.unwrap();
        assert_eq!((next.state, next.reason), (State::Failed, Reason::Exhausted));
    }
}

#[test]
fn nothing_starts_at_or_after_its_expiry() {
    let spec = spec_with(1, false);
    let head =
        crate::submit::NewTask::first_head(&spec.lane(crate::Ns(0), 4), 4, None, Some(NOW.after(Duration::from_secs(1))), NOW);
    let at = head.expires;
    assert!(claim(&head, SessionId(1), 1, Millis(at.0 - 1)).is_ok());
    assert!(claim(&head, SessionId(1), 1, at).is_err());
    assert_eq!(ask(&head, &spec, Event::Due, at).unwrap().head.unwrap().state, State::Expired);
}
