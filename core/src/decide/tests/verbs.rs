//! What people ask for.

use super::*;
use crate::keys::{Debounce, OnConflict, Unique, UniqueScope};

fn in_state(state: State) -> Head {
    Head { state, ended: if state.is_final() { NOW } else { Millis(0) }, ..fresh(&spec_with(3, false)) }
}

#[test]
fn a_manual_retry_begins_a_new_generation() {
    let spec = spec_with(1, false);
    let running = claim(&fresh(&spec), SessionId(1), 1, NOW).unwrap();
    let event = Event::Answered { attempt: running.open_attempt(), outcome: Outcome::Permanent { error: error() } };
    let mut failed = ask(&running, &spec, event, NOW).unwrap().head.unwrap();
    failed.expires = NOW;
    let again = ask(&failed, &spec, Event::Retry, NOW).unwrap();
    assert_eq!(again.result, Some(None));
    let next = again.head.unwrap();
    assert_eq!((next.state, next.generation, next.budget, next.attempt), (State::Queued, 1, 0, 1));
    assert!(next.first_started.0 == 0 && next.ended.0 == 0 && !next.flags.has(Flags::HAS_RESULT) && !next.is_expired(NOW));
    assert_eq!(claim(&next, SessionId(2), 1, NOW).unwrap().attempt, 2);
    for state in State::ALL {
        let allowed = matches!(state, State::Failed | State::Retrying);
        assert_eq!(ask(&in_state(*state), &spec, Event::Retry, NOW).is_ok(), allowed, "{state}");
    }
}

#[test]
fn run_now_hold_and_release() {
    let spec = spec_with(3, false);
    for state in State::ALL {
        let head = in_state(*state);
        match (state, ask(&head, &spec, Event::RunNow, NOW)) {
            (State::Scheduled | State::Retrying | State::Queued, Ok(run)) => {
                let next = run.head.unwrap();
                assert_eq!((next.state, next.flags.has(Flags::NOW)), (State::Queued, true));
                assert_eq!(ask(&next, &spec, Event::RunNow, NOW), Err(Refusal::Unchanged));
            }
            (_, refused) => assert_eq!(refused, Err(Refusal::WrongState(*state))),
        }
        assert!(ask(&head, &spec, Event::Release, NOW).is_err());
        let held = ask(&head, &spec, Event::Hold, NOW);
        assert_eq!(held.is_ok(), !state.is_final());
        let Ok(held) = held else { continue };
        let held = held.head.unwrap();
        assert!(claim(&held, SessionId(1), 1, NOW).is_err());
        assert_eq!(ask(&held, &spec, Event::Hold, NOW), Err(Refusal::Unchanged));
        assert!(!ask(&held, &spec, Event::Release, NOW).unwrap().head.unwrap().flags.has(Flags::HELD));
    }
}

#[test]
fn what_runs_now_has_a_lane_of_its_own_until_an_attempt_has_ended() {
    let spec = spec_with(3, false);
    let own = spec.lane(Ns::DEFAULT, 4);
    let head = Head { lane: own.id(), ..in_state(State::Queued) };
    let run = ask(&head, &spec, Event::RunNow, NOW).unwrap();
    let now = run.head.unwrap();
    assert_eq!((run.lane.as_ref().map(LaneDef::id), now.lane), (Some(now.lane), own.clone().at_once().id()));
    let open = claim(&now, SessionId(1), 1, NOW).unwrap();
    let attempt = open.open_attempt();
    let back = ask(&open, &spec, Event::GivenBack { attempt }, NOW).unwrap().head.unwrap();
    assert_eq!((back.lane, back.flags.has(Flags::NOW)), (now.lane, true));
    let retry = Outcome::Retry { after: None, error: TaskError::new("E", "m") };
    let again = ask(&open, &spec, Event::Answered { attempt, outcome: retry }, NOW).unwrap();
    let next = again.head.unwrap();
    assert_eq!((again.lane, next.lane, next.flags.has(Flags::NOW)), (Some(own.clone()), own.id(), false));
    // What waits in an order keeps its place there.
    let ordered = Spec { order_key: Some("k".into()), ..spec };
    let lane = ordered.lane(Ns::DEFAULT, 4);
    let head = Head { lane: lane.id(), flags: lane.flags(), ..in_state(State::Queued) };
    let run = ask(&head, &ordered, Event::RunNow, NOW).unwrap();
    let next = run.head.unwrap();
    assert_eq!((run.lane, next.lane, next.flags.has(Flags::NOW.with(Flags::ORDERED))), (None, lane.id(), true));
}

fn patch(changes: Patch) -> Event {
    Event::Patch {
        changes: Box::new(changes),
        content_type: Bytes::from_static(b"text/plain"),
        payload: Bytes::from_static(b"p"),
    }
}

#[test]
fn a_patch_changes_signature_head_and_lane_together() {
    let spec = spec_with(3, false);
    let head = fresh(&spec);
    let hour = When::In("1h".parse().unwrap());
    let changes = Patch {
        due: Some(hour),
        priority: Some(9),
        queue: Some("mail".into()),
        expires: Some(hour),
        labels: Some([("a".to_owned(), "b".to_owned())].into()),
        retry: Some(None),
        ..Patch::default()
    };
    let changed = ask(&head, &spec, patch(changes), NOW).unwrap();
    let next = changed.head.unwrap();
    let at = NOW.after(Duration::from_secs(3600));
    assert_eq!((next.state, next.due, next.expires, next.priority), (State::Scheduled, at, at, 9));
    let body = crate::Body::decode(&changed.body.unwrap()).unwrap();
    let new = Spec::decode(&body.spec).unwrap();
    assert_eq!((new.queue(), new.eta, new.retry.clone(), &new.labels["a"][..]), ("mail", Some(at), None, "b"));
    assert_eq!((&body.payload[..], &body.content_type[..]), (&b"p"[..], &b"text/plain"[..]));
    assert_eq!((changed.lane.clone(), next.lane), (Some(new.lane(Ns(0), next.priority)), new.lane(Ns(0), next.priority).id()));
    let now = ask(&next, &new, patch(Patch { due: Some(When::Never), ..Patch::default() }), NOW).unwrap();
    assert_eq!((now.head.unwrap().state, now.lane), (State::Queued, None));
    for state in State::ALL {
        let allowed = state.is_waiting();
        let urgent = patch(Patch { priority: Some(9), ..Patch::default() });
        assert_eq!(ask(&in_state(*state), &spec, urgent, NOW).is_ok(), allowed, "{state}");
        // What is so already is no change.
        let same = Patch { priority: Some(in_state(*state).priority), labels: Some(spec.labels.clone()), ..Patch::default() };
        for nothing in [Patch::default(), same] {
            let refusal = ask(&in_state(*state), &spec, patch(nothing), NOW).unwrap_err();
            assert_eq!(refusal, if allowed { Refusal::Unchanged } else { Refusal::WrongState(*state) });
        }
    }
    let blocked = in_state(State::Blocked);
    assert!(ask(&blocked, &spec, patch(Patch { due: Some(hour), ..Patch::default() }), NOW).is_err());
}

#[test]
fn a_forgotten_result_is_gone_and_an_error_stays() {
    let spec = spec_with(3, false);
    let with = |state, flags| Head { flags, ..in_state(state) };
    let done = ask(&with(State::Succeeded, Flags::HAS_RESULT), &spec, Event::Forget, NOW).unwrap();
    assert_eq!(done.result, Some(None));
    assert!(done.head.unwrap().flags.has(Flags::RESULT_GONE));
    assert_eq!(ask(&with(State::Failed, Flags::HAS_RESULT), &spec, Event::Forget, NOW), Err(Refusal::Unchanged));
    assert_eq!(ask(&with(State::Succeeded, Flags::default()), &spec, Event::Forget, NOW), Err(Refusal::Unchanged));
    assert_eq!(ask(&with(State::Queued, Flags::default()), &spec, Event::Forget, NOW), Err(Refusal::WrongState(State::Queued)));
}

#[test]
fn keys_are_given_up_with_the_record() {
    let unique = |scope| Some(Unique { key: "k".into(), scope, ttl: None, on_conflict: OnConflict::default() });
    let debounce = Some(Debounce { key: "d".into(), wait: "1s".parse().unwrap(), max_wait: None });
    let frees = |state, spec: &Spec| ask(&in_state(state), spec, Event::Delete, NOW).unwrap().frees;
    let spec = Spec { unique: unique(UniqueScope::Active), debounce, ..spec_with(1, false) };
    assert_eq!(frees(State::Succeeded, &spec), [HeldKey::Unique("k".into()), HeldKey::Debounce("d".into())]);
    // A key with a time of its own outlives the record of a success.
    let spec = Spec { unique: unique(UniqueScope::Ttl), ..spec_with(1, false) };
    assert_eq!(frees(State::Succeeded, &spec), []);
    assert_eq!(frees(State::Failed, &spec), [HeldKey::Unique("k".into())]);
}

#[test]
fn the_reason_of_a_cancel_is_remembered() {
    let spec = spec_with(3, false);
    for reason in &Reason::ALL[16..] {
        let event = Event::Cancel { hard: false, reason: *reason, grace: Duration::ZERO };
        let waiting = ask(&in_state(State::Queued), &spec, event.clone(), NOW).unwrap().head.unwrap();
        assert_eq!((waiting.state, waiting.reason), (State::Canceled, *reason));
        let running = claim(&fresh(&spec), SessionId(1), 1, NOW).unwrap();
        let canceling = ask(&running, &spec, event, NOW).unwrap().head.unwrap();
        let hard = ask(&canceling, &spec, cancel(true), NOW).unwrap().head.unwrap();
        let cut = ask(&hard, &spec, Event::Aborted { attempt: hard.open_attempt() }, NOW).unwrap().head.unwrap();
        assert_eq!(cut.reason, *reason);
    }
}
