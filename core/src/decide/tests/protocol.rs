//! Acceptance, reports, children and links.

use super::*;
use crate::answer::BAD_OUTCOME;
use crate::id::SlotKind;
use crate::lane::LaneOrder;
use crate::spec::{Far, Form};

fn running(spec: &Spec) -> Head {
    claim(&fresh(spec), SessionId(1), 1, NOW).unwrap()
}

fn answer(head: &Head, outcome: Outcome) -> Event {
    Event::Answered { attempt: head.open_attempt(), outcome }
}

fn accept(head: &Head, spec: &Spec, lease: Option<Duration>) -> Head {
    ask(head, spec, answer(head, Outcome::Accepted { lease }), NOW).unwrap().head.unwrap()
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn spec_of(task: &NewTask) -> (Spec, Bytes) {
    let body = crate::Body::decode(&task.body).unwrap();
    (Spec::decode(&body.spec).unwrap(), body.payload)
}

#[test]
fn an_accepted_attempt_lives_from_its_lease() {
    let spec = spec_with(10, false);
    let head = accept(&running(&spec), &spec, None);
    assert_eq!((head.state, head.reason, head.deadline), (State::Running, Reason::Accepted, NOW.after(DEFAULT_LEASE)));
    assert_eq!(placement(&head).timer, Some(head.deadline));
    assert_eq!(ask(&head, &spec, Event::Due, NOW), Err(Refusal::NotDue));
    // Neither the end of its session nor a clean stop touches it.
    assert_eq!(ask(&head, &spec, Event::Lost { session: SessionId(1) }, NOW), Err(Refusal::Superseded));
    assert!(ask(&head, &spec, Event::GivenBack { attempt: head.open_attempt() }, NOW).is_err());
    // A heartbeat renews by the lease that was granted, or by the one it names.
    let head = accept(&running(&spec), &spec, Some(secs(30)));
    let later = NOW.after(secs(20));
    let beat = |lease| ask(&head, &spec, Event::Heartbeat { attempt: head.open_attempt(), lease }, later).unwrap().head.unwrap();
    assert_eq!(beat(None).deadline, later.after(secs(30)));
    assert_eq!(beat(Some(secs(90))).deadline, later.after(secs(90)));
    let done =
        ask(&head, &spec, answer(&head, Outcome::Success { content_type: None, body: None }), later).unwrap().head.unwrap();
    assert_eq!((done.state, done.deadline), (State::Succeeded, Millis(0)));
}

#[test]
fn silence_loses_the_attempt_and_max_run_times_it_out() {
    let spec = spec_with(10, true);
    let mut head = running(&spec);
    for life in 1..=3 {
        head = accept(&head, &spec, Some(secs(5)));
        let over = ask(&head, &spec, Event::Due, head.deadline).unwrap();
        assert_eq!(over.attempt.unwrap().outcome, "lost");
        let next = over.head.unwrap();
        if life == 3 {
            assert_eq!((next.state, next.reason), (State::Failed, Reason::Poison));
            break;
        }
        assert_eq!((next.state, next.reason, next.budget, next.lost), (State::Retrying, Reason::Lost, 0, life));
        let queued = ask(&next, &spec, Event::Due, next.due).unwrap().head.unwrap();
        head = claim(&queued, SessionId(1), 1, NOW).unwrap();
    }
    let spec = Spec { max_run: Some("60s".parse().unwrap()), ..spec_with(1, false) };
    let head = accept(&running(&spec), &spec, Some(secs(600)));
    assert_eq!(head.deadline, NOW.after(secs(60)));
    let over = ask(&head, &spec, Event::Due, head.deadline).unwrap().head.unwrap();
    assert_eq!((over.state, over.reason), (State::Failed, Reason::Timeout));
}

#[test]
fn a_cancel_gives_an_accepted_attempt_its_grace_and_no_more() {
    let spec = spec_with(10, false);
    let head = accept(&running(&spec), &spec, None);
    let soft = Event::Cancel { hard: false, reason: Reason::Replaced, grace: secs(7) };
    let canceling = ask(&head, &spec, soft, NOW).unwrap().head.unwrap();
    assert_eq!((canceling.reason, canceling.deadline), (Reason::Canceling, NOW.after(secs(7))));
    assert_eq!(placement(&canceling).timer, Some(canceling.deadline));
    let beat = Event::Heartbeat { attempt: canceling.open_attempt(), lease: None };
    assert_eq!(ask(&canceling, &spec, beat, NOW), Err(Refusal::Unchanged));
    let over = ask(&canceling, &spec, Event::Due, canceling.deadline).unwrap().head.unwrap();
    assert_eq!((over.state, over.reason), (State::Canceled, Reason::Replaced));
    let hard = ask(&canceling, &spec, cancel(true), NOW).unwrap().head.unwrap();
    assert_eq!((hard.state, hard.reason), (State::Canceled, Reason::Replaced));
    assert_eq!(ask(&head, &spec, cancel(true), NOW).unwrap().head.unwrap().state, State::Canceled);
}

#[test]
fn progress_and_errors_are_shown_until_the_end() {
    let spec = spec_with(2, true);
    let head = running(&spec);
    let told =
        ask(&head, &spec, Event::Progress { attempt: head.open_attempt(), value: Bytes::from_static(b"0.5") }, NOW).unwrap();
    assert_eq!(told.notices, [CallbackKind::Progress]);
    assert_eq!(told.result, Some(Some(ResultValue::Progress(Bytes::from_static(b"0.5")))));
    let head = told.head.unwrap();
    assert!(head.flags.has(Flags::INTERIM) && !head.flags.has(Flags::HAS_RESULT));
    // A null result removes what stands in its place.
    let done = ask(&head, &spec, answer(&head, Outcome::Success { content_type: None, body: None }), NOW).unwrap();
    assert_eq!(done.result, Some(None));
    assert!(!done.head.unwrap().flags.has(Flags::INTERIM));
    let retried = ask(&head, &spec, answer(&head, Outcome::Retry { after: None, error: error() }), NOW).unwrap();
    assert_eq!(retried.result, Some(Some(error_value(&error()))));
    let gone = ask(&retried.head.unwrap(), &spec, cancel(false), NOW).unwrap();
    assert_eq!(gone.result, Some(None));
}

#[test]
fn logs_are_parts_of_the_entry_and_bounded() {
    let spec = spec_with(2, false);
    let head = running(&spec);
    let event = |lines: Vec<String>, room| Event::Logs { attempt: head.open_attempt(), lines, room };
    assert_eq!(ask(&head, &spec, event(vec!["a".into()], 0), NOW), Err(Refusal::Unchanged));
    let first = ask(&head, &spec, event(vec!["one".into(), String::new(), "two".into()], 6), NOW).unwrap().attempt.unwrap();
    assert_eq!(first.logs, ["one", "", "t"]);
    let second = ask(&head, &spec, event(vec!["x".repeat(9000)], 9000), NOW).unwrap().attempt.unwrap();
    assert_eq!(second.logs[0].len(), crate::attempt::LOG_BYTES);
    let end = ask(&head, &spec, answer(&head, Outcome::Permanent { error: error() }), NOW).unwrap().attempt.unwrap();
    assert_eq!(AttemptEntry::log_room(&[first.clone(), second.clone()], 1), 0);
    assert_eq!(AttemptEntry::log_room(&[first.clone(), second.clone()], 2), crate::attempt::LOG_BYTES);
    let merged = AttemptEntry::merged(vec![first, second, end]);
    assert_eq!((merged.len(), merged[0].outcome.as_str(), merged[0].logs.len()), (1, "failed", 4));
    assert!(merged[0].logs.iter().map(String::len).sum::<usize>() <= crate::attempt::LOG_BYTES);
    // Small entries come to an end as well.
    let mut entries = Vec::new();
    while AttemptEntry::log_room(&entries, 1) > 0 {
        entries.push(AttemptEntry::open(&head).with_logs(vec!["x".into()], 10));
    }
    assert!(entries.len() < 200, "{}", entries.len());
}

#[test]
fn children_are_awaited_and_the_parent_is_called_again() {
    let mut spec = woven(3, false);
    spec.labels.insert("customer".into(), "42".into());
    spec.redact = vec!["/kwargs/password".into(), "/labels".into()];
    let head = running(&spec);
    let tasks = vec![draft("a"), Draft { delay: Some("5s".parse().unwrap()), ..draft("b") }];
    let wait = Outcome::Spawn { tasks, then: Then::Wait, result: None };
    let blocked = ask(&head, &spec, answer(&head, wait), NOW).unwrap();
    assert_eq!((blocked.barrier, blocked.spawns.len()), (Some(2), 2));
    assert_eq!(blocked.spawns[1].head.state, State::Scheduled);
    let (child, payload) = spec_of(&blocked.spawns[0]);
    assert_eq!((child.parent.as_ref(), child.root.as_ref()), (Some(&key().id), Some(&key().id)));
    assert_eq!(child.labels["customer"], "42");
    assert_eq!(child.redact, ["/labels", "/kwargs/password"]);
    assert_eq!(child.arrives, Some(Arrival { barrier: key().id, index: 0, far: None }));
    assert_eq!(&payload[..], br#"{"args":[1],"kwargs":{}}"#);
    let entry = blocked.attempt.unwrap();
    assert_eq!((entry.outcome.as_str(), &entry.children[1]), ("spawned", &blocked.spawns[1].key.id));
    let mut parent = blocked.head.unwrap();
    assert_eq!((parent.state, parent.reason, parent.deadline), (State::Blocked, Reason::Children, Millis(0)));
    assert_eq!(ask(&parent, &spec, Event::Due, NOW), Err(Refusal::NotDue));
    // The store sets the deadline when the last one has arrived.
    let late = NOW.after(secs(48 * 3600));
    parent.deadline = late;
    let resumed = ask(&parent, &spec, Event::Due, late).unwrap().head.unwrap();
    assert!(resumed.state == State::Queued && resumed.flags.has(Flags::RESUMED));
    let again = claim(&resumed, SessionId(2), 1, late).unwrap();
    assert_eq!((again.attempt, again.first_started, again.deadline), (2, late, Millis(0)));
    let failed = ask(&again, &spec, answer(&again, Outcome::Retry { after: None, error: error() }), late).unwrap().head.unwrap();
    assert!(failed.state == State::Retrying && failed.flags.has(Flags::RESUMED), "the age counts from the resumption");
}

#[test]
fn what_belongs_to_an_order_lives_where_that_belongs() {
    let bound = |task: &NewTask| spec_of(task).0.bound(Ns(0)).map(|slot| (slot, task.key.slot()));
    let here = |kind, name: &str| Slot::of(Ns(0), kind, name.as_bytes());
    let fifo = Draft { spec: Spec { queue: "line".into(), order: LaneOrder::Fifo, ..draft("b").spec }, ..draft("b") };
    // A client chose the id, and an order key the place.
    let away = TaskKey::new(Ns(0), TaskId::parse("order-1").unwrap());
    let spec = Spec { order_key: Some("mine".into()), link: vec![ordered(Some("theirs".into())), fifo], ..spec_with(3, false) };
    let head = running(&spec);
    let done = Outcome::Success { content_type: None, body: None };
    let done = decide(&away, &head, &spec, answer(&head, done), NOW, 0).unwrap();
    let (theirs, line) = (here(SlotKind::Order, "theirs"), here(SlotKind::Queue, "line"));
    assert_eq!(done.spawns.iter().map(bound).collect::<Vec<_>>(), [Some((theirs, theirs)), Some((line, line))]);
    let spawn = |tasks: Vec<Draft>, then| {
        let outcome = Outcome::Spawn { tasks, then, result: None };
        decide(&away, &head, &spec, answer(&head, outcome), NOW, 0).unwrap()
    };
    // What has no order stays in the place of the task, whatever its id says: another store may have more partitions.
    let mine = here(SlotKind::Order, "mine");
    let blocked = spawn(vec![draft("a"), ordered(Some("theirs".into()))], Then::Wait);
    assert_eq!(blocked.spawns.iter().map(|task| task.key.slot()).collect::<Vec<_>>(), [mine, theirs]);
    let far = |task: &NewTask| spec_of(task).0.arrives.unwrap().far;
    let parent = Far { slot: mine.number(), attempt: 1, generation: 0 };
    assert_eq!((far(&blocked.spawns[0]), far(&blocked.spawns[1])), (None, Some(parent)));
    // It would wait for a task that waits for its end.
    let stuck = || vec![draft("a"), ordered(Some("mine".into()))];
    let refused = spawn(stuck(), Then::Wait);
    let error = refused.attempt.unwrap().error.unwrap();
    assert_eq!((refused.spawns.len(), refused.head.unwrap().state, &*error.kind), (0, State::Retrying, BAD_OUTCOME));
    assert!(error.message.starts_with("/tasks/1/order_key: "), "{}", error.message);
    assert_eq!(spawn(stuck(), Then::Detach).spawns.last().unwrap().key.slot(), mine);
}

#[test]
fn a_detached_spawn_finishes_as_an_answer_and_goes_on_as_a_report() {
    let spec = spec_with(3, false);
    let head = running(&spec);
    let result = Some(Bytes::from_static(b"7"));
    let detach = Outcome::Spawn { tasks: vec![draft("a")], then: Then::Detach, result };
    let done = ask(&head, &spec, answer(&head, detach), NOW).unwrap();
    assert_eq!((done.head.unwrap().state, done.spawns.len(), done.barrier), (State::Succeeded, 1, None));
    let value = ResultValue::Value { content_type: "application/json".into(), bytes: Bytes::from_static(b"7") };
    assert_eq!(done.result, Some(Some(value)));
    assert_eq!(spec_of(&done.spawns[0]).0.arrives, None);
    let on = ask(&head, &spec, Event::Spawned { attempt: head.open_attempt(), tasks: vec![draft("a")] }, NOW).unwrap();
    let next = on.head.clone().unwrap();
    assert_eq!((next.state, next.open_attempt()), (State::Running, head.open_attempt()));
    // The next report of the same kind makes other tasks.
    let more = ask(&next, &spec, Event::Spawned { attempt: next.open_attempt(), tasks: vec![draft("a")] }, NOW).unwrap();
    assert_ne!(on.spawns[0].key, more.spawns[0].key);
}

#[test]
fn links_get_what_came_before() {
    let given = Draft { payload: Bytes::from_static(b"[0]"), ..draft("c") };
    let given = Draft { spec: Spec { form: Form::Verbatim, ..given.spec }, ..given };
    let immutable = draft("b");
    let immutable = Draft { spec: Spec { immutable: true, ..immutable.spec }, ..immutable };
    let empty = Draft { payload: crate::spec::call_payload(None, None), ..draft("d") };
    let spec = Spec { link: vec![draft("a"), immutable, given, empty], ignore_result: true, ..woven(1, false) };
    let head = running(&spec);
    let payloads = |content_type: &str, body: &'static [u8]| -> Vec<String> {
        let outcome = Outcome::Success { content_type: Some(content_type.into()), body: Some(Bytes::from_static(body)) };
        let done = ask(&head, &spec, answer(&head, outcome), NOW).unwrap();
        assert_eq!(done.result, None, "the result itself is not kept");
        done.spawns.iter().map(|task| String::from_utf8(spec_of(task).1.to_vec()).unwrap()).collect()
    };
    let expected = [
        r#"{"args":[{"n": 1.50},1],"kwargs":{}}"#,
        r#"{"args":[1],"kwargs":{}}"#,
        "[0]",
        r#"{"args":[{"n": 1.50}],"kwargs":{}}"#,
    ];
    assert_eq!(payloads("application/json", br#"{"n": 1.50}"#), expected);
    assert_eq!(payloads("text/plain", b"a\"b")[0], r#"{"args":["a\"b",1],"kwargs":{}}"#);
    assert_eq!(payloads("image/png", b"\xff")[0], r#"{"args":[null,1],"kwargs":{}}"#);
    assert_eq!(payloads("application/json", b"{broken")[0], r#"{"args":[null,1],"kwargs":{}}"#);
    let failed = ask(&head, &spec, answer(&head, Outcome::Permanent { error: error() }), NOW).unwrap();
    let (rescue, payload) = spec_of(&failed.spawns[0]);
    assert_eq!((failed.spawns.len(), rescue.task.as_deref(), rescue.parent), (2, Some("rescue"), Some(key().id)));
    let told: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    let first =
        serde_json::json!({"id": key().id.to_string(), "task": "t", "error": {"type": "HttpStatus", "message": "HTTP 500"}});
    assert_eq!(told["args"], serde_json::json!([first, 1]));
    assert!(ask(&head, &spec, cancel(false), NOW).unwrap().spawns.is_empty());
}

#[test]
fn a_replacement_keeps_id_and_family_and_starts_anew() {
    let mut spec = woven(3, false);
    spec.request_hash = Some(5);
    let mut head = running(&spec);
    (head.budget, head.lost) = (2, 1);
    let other = Draft { delay: Some("1m".parse().unwrap()), priority: Some(8), ..draft("other") };
    let other = Draft { spec: Spec { queue: "slow".into(), ..other.spec }, ..other };
    let next = ask(&head, &spec, answer(&head, Outcome::Replace { replacement: Box::new(other) }), NOW).unwrap();
    let body = crate::Body::decode(next.body.as_ref().unwrap()).unwrap();
    let new = Spec::decode(&body.spec).unwrap();
    assert_eq!((new.task.as_deref(), new.request_hash, &new.arrives), (Some("other"), Some(5), &spec.arrives));
    assert_eq!(next.lane, Some(new.lane(Ns(0), 8)));
    assert_eq!(next.attempt.unwrap().outcome, "replaced");
    let head = next.head.unwrap();
    assert_eq!((head.state, head.priority, head.due), (State::Scheduled, 8, NOW.after(secs(60))));
    assert_eq!((head.generation, head.budget, head.lost, head.attempt), (1, 0, 0, 1));
    assert!(next.arrive.is_none() && next.notices.is_empty());
}

#[test]
fn a_replacement_keeps_its_order_key() {
    let spec = Spec { order_key: Some("a".into()), ..spec_with(3, false) };
    let head = running(&spec);
    let replace = |order_key: Option<&str>| {
        let replacement = Box::new(ordered(order_key.map(Into::into)));
        ask(&head, &spec, answer(&head, Outcome::Replace { replacement }), NOW).unwrap()
    };
    for same in [None, Some("a")] {
        let next = replace(same);
        let body = crate::Body::decode(next.body.as_ref().unwrap()).unwrap();
        assert_eq!((Spec::decode(&body.spec).unwrap().order_key.as_deref(), next.head.unwrap().generation), (Some("a"), 1));
    }
    let refused = replace(Some("b"));
    let error = refused.attempt.unwrap().error.unwrap();
    assert_eq!((refused.body, refused.head.unwrap().state, &*error.kind), (None, State::Retrying, BAD_OUTCOME));
    assert!(error.message.starts_with("/replacement/order_key: "), "{}", error.message);
}

#[test]
fn the_last_generation_has_no_next_one() {
    let spec = spec_with(3, false);
    let mut head = running(&spec);
    head.generation = u8::MAX;
    let other = || Outcome::Replace { replacement: Box::new(draft("other")) };
    let failed = ask(&head, &spec, answer(&head, other()), NOW).unwrap();
    assert_eq!(failed.attempt.unwrap().error.unwrap().kind, "TooOftenReplaced");
    let mut failed = failed.head.unwrap();
    assert_eq!((failed.state, failed.reason), (State::Failed, Reason::Permanent));
    assert_eq!(ask(&failed, &spec, Event::Retry, NOW), Err(Refusal::LastGeneration));
    failed.generation -= 1;
    let last = ask(&failed, &spec, Event::Retry, NOW).unwrap().head.unwrap();
    assert_eq!(last.generation, u8::MAX);
    head.generation -= 1;
    assert_eq!(ask(&head, &spec, answer(&head, other()), NOW).unwrap().head.unwrap().generation, u8::MAX);
}

#[test]
fn a_child_arrives_once() {
    let spec = woven(3, false);
    assert!(spec.arrives.is_some());
    let permanent = |head: &Head| ask(head, &spec, answer(head, Outcome::Permanent { error: error() }), NOW).unwrap();
    let failed = permanent(&running(&spec));
    assert_eq!(failed.arrive, spec.arrives);
    let mut again = failed.head.unwrap();
    for _ in 0..2 {
        again = ask(&again, &spec, Event::Retry, NOW).unwrap().head.unwrap();
        let second = permanent(&claim(&again, SessionId(2), 1, NOW).unwrap());
        assert_eq!(second.arrive, None, "its parent may wait for others by now");
        again = second.head.unwrap();
    }
    // One that was not final has told nobody.
    let head = running(&spec);
    let waits = ask(&head, &spec, answer(&head, Outcome::Retry { after: None, error: error() }), NOW).unwrap().head.unwrap();
    let sooner = ask(&waits, &spec, Event::Retry, NOW).unwrap().head.unwrap();
    assert_eq!(permanent(&claim(&sooner, SessionId(2), 1, NOW).unwrap()).arrive, spec.arrives);
}

#[test]
fn endless_attempts_do_not_make_a_parent_forget_its_children() {
    let ids: Vec<TaskId> = (0..3).map(|n| IdRun::new(NOW, Slot::new(7), 2).nth(n)).collect();
    let mut entries = vec![AttemptEntry { outcome: "spawned".into(), children: ids.clone(), ..AttemptEntry::default() }];
    for _ in 0..5 * crate::attempt::KEPT_ENTRIES {
        let (waited_for, again) = AttemptEntry::waited_for(&entries);
        assert_eq!(waited_for, ids);
        let waited_for = if again { waited_for.to_vec() } else { Vec::new() };
        entries.push(AttemptEntry { outcome: "snoozed".into(), waited_for, ..AttemptEntry::default() });
        let most = entries.len().min(crate::attempt::KEPT_ENTRIES);
        entries.drain(..entries.len() - most);
    }
    assert!(entries.iter().filter(|entry| !entry.waited_for.is_empty()).count() < 3, "not in every entry");
    entries.push(AttemptEntry { outcome: "spawned".into(), children: ids[..1].to_vec(), ..AttemptEntry::default() });
    assert_eq!(AttemptEntry::waited_for(&entries), (&ids[..1], false));
}

#[test]
fn a_report_marks_its_attempt() {
    let spec = spec_with(3, false);
    let head = running(&spec);
    let done = ask(&head, &spec, answer(&head, Outcome::Success { content_type: None, body: None }), NOW).unwrap();
    assert!(done.attempt.is_none());
    let marked = done.marked(&head, NOW, 9);
    let entry = marked.attempt.unwrap();
    assert_eq!((entry.report, entry.outcome.as_str(), entry.number), (Some(9), "succeeded", 1));
    assert!(marked.head.unwrap().flags.has(Flags::HAS_ATTEMPTS));
    let beat = ask(&head, &spec, Event::Progress { attempt: head.open_attempt(), value: Bytes::new() }, NOW).unwrap();
    assert_eq!(beat.marked(&head, NOW, 9).attempt.unwrap().outcome, "");
}

#[test]
fn a_long_wish_waits_until_the_age_ends_instead_of_ending_the_task() {
    let spec = spec_with(10, false);
    let head = running(&spec);
    let day = Some(secs(24 * 3600));
    let end = NOW.after(secs(24 * 3600));
    let later = NOW.after(secs(1));
    for outcome in [Outcome::Retry { after: day, error: error() }, Outcome::Throttled { after: day, error: error() }] {
        let next = ask(&head, &spec, answer(&head, outcome.clone()), later).unwrap().head.unwrap();
        assert_eq!((next.state, next.due), (State::Retrying, end));
        let last = Head { first_started: NOW, ..claim(&Head { state: State::Queued, ..next }, SessionId(1), 1, end).unwrap() };
        let over = decide(&key(), &last, &spec, answer(&last, outcome), end, u64::MAX).unwrap().head.unwrap();
        assert_eq!((over.state, over.reason), (State::Failed, Reason::Exhausted));
    }
}
