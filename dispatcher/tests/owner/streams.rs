//! Answers that come line by line.

use std::time::Duration;

use lovage_core::retry::RetryPolicy;
use lovage_core::{AttemptEntry, Reason, ResultValue, Spec, State, TaskKey};
use lovage_dispatcher::egress::FaultKind;

use crate::world::{Reply, World, call};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn stream(pieces: &[(u64, &str)]) -> Reply {
    Reply::Stream(pieces.iter().map(|(pause, piece)| (ms(*pause), (*piece).to_owned())).collect(), None)
}

async fn run(reply: Reply, spec: Spec) -> (World, TaskKey) {
    let world = World::new(move |_| reply.clone());
    world.worker("w", "*", 1).await;
    // It runs until the world is gone.
    let _node = world.start();
    let key = world.submit(spec).await;
    (world, key)
}

async fn value(world: &World, key: &TaskKey) -> Option<ResultValue> {
    ResultValue::decode(&world.stored(key).await.result?)
}

fn once() -> Spec {
    Spec { retry: Some(RetryPolicy { max_attempts: 1, ..RetryPolicy::default() }), ..call("t") }
}

#[tokio::test(start_paused = true)]
async fn progress_is_seen_while_it_runs_and_the_last_line_is_the_result() {
    let lines =
        [(1_000, "{\"progress\":{\"done\":1}}\n"), (5_000, "{\"progress\":{\"done\":2}}\n{\"resu"), (5_000, "lt\":[3]}\n")];
    let (world, key) = run(stream(&lines), call("t")).await;
    for expected in [r#"{"done":1}"#, r#"{"done":2}"#] {
        world.until(&key, "further", |head| head.version >= if expected.contains('1') { 3 } else { 4 }).await;
        assert!(matches!(value(&world, &key).await, Some(ResultValue::Progress(bytes)) if bytes == expected));
    }
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.attempt, head.version), (State::Succeeded, 1, 5));
    assert!(matches!(value(&world, &key).await, Some(ResultValue::Value { bytes, .. }) if bytes == "[3]"));
}

#[tokio::test(start_paused = true)]
async fn every_line_extends_the_time_limit() {
    let beat = (8_000, "{\"heartbeat\":true}\n");
    let limit = || Spec { time_limit: Some("10s".parse().unwrap()), ..once() };
    let (world, key) = run(stream(&[beat, beat, beat, (8_000, "{\"result\":null}\n")]), limit()).await;
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.version), (State::Succeeded, 3), "heartbeats change nothing");
    // Drops that are no lines do not.
    let drip = (8_000, "{\"pro");
    let (world, key) = run(stream(&[beat, drip, drip, drip]), limit()).await;
    assert_eq!(world.until_final(&key).await.reason, Reason::Timeout);
    // Nor do lines beyond the longest run.
    let (world, key) = run(stream(&[beat; 9]), Spec { max_run: Some("20s".parse().unwrap()), ..limit() }).await;
    let head = world.until_final(&key).await;
    assert_eq!((head.reason, head.ended.since(head.started).as_secs()), (Reason::Timeout, 20));
}

#[tokio::test(start_paused = true)]
async fn however_fast_lines_come_the_store_is_asked_five_times_a_second() {
    let mut pieces: Vec<(Duration, String)> = (0..2_000).map(|n| (ms(1), format!("{{\"progress\":{n}}}\n"))).collect();
    pieces.push((ms(500), "{\"result\":1}\n".to_owned()));
    let (world, key) = run(Reply::Stream(pieces, None), call("t")).await;
    let head = world.until_final(&key).await;
    assert!((8..=16).contains(&head.version), "{}", head.version);
}

#[tokio::test(start_paused = true)]
async fn log_lines_are_kept_with_the_attempt() {
    let lines = [(1_000, "{\"log\":\"one\"}\n"), (5_000, "{\"log\":\"two\"}\n{\"error\":{\"type\":\"E\",\"message\":\"m\"}}\n")];
    let (world, key) = run(stream(&lines), once()).await;
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.reason), (State::Failed, Reason::Exhausted));
    let entries = world.stored(&key).await.attempts.iter().map(|entry| AttemptEntry::decode(entry).unwrap()).collect();
    let entries = AttemptEntry::merged(entries);
    assert_eq!((entries.len(), &entries[0].logs[..]), (1, &["one".to_owned(), "two".to_owned()][..]));
    assert_eq!(entries[0].error.as_ref().unwrap().kind, "E");
}

#[tokio::test(start_paused = true)]
async fn log_lines_of_a_quick_success_are_kept_too() {
    let (world, key) = run(stream(&[(0, "{\"log\":\"one\"}\n{\"result\":1}\n")]), once()).await;
    assert_eq!(world.until_final(&key).await.state, State::Succeeded);
    let entries: Vec<_> = world.stored(&key).await.attempts.iter().map(|e| AttemptEntry::decode(e).unwrap()).collect();
    assert_eq!(AttemptEntry::merged(entries)[0].logs, ["one"]);
}

#[tokio::test(start_paused = true)]
async fn ends_of_streams() {
    let error = |kind: &'static str| move |entry: &AttemptEntry| entry.error.as_ref().is_some_and(|e| e.kind == kind);
    let cut = Reply::Stream(vec![(ms(5), "{\"progress\":1}\n".into())], Some(FaultKind::Reset));
    let late_cut = Reply::Stream(vec![(ms(5), "{\"result\":1}\n".into())], Some(FaultKind::Reset));
    for (reply, state, reason, check) in [
        (stream(&[(5, "{\"progress\":1}\n")]), State::Failed, Reason::Exhausted, Some("ConnectionReset")),
        (cut, State::Failed, Reason::Exhausted, Some("ConnectionReset")),
        (late_cut, State::Succeeded, Reason::None, None),
        (stream(&[(5, "{\"result\":1}")]), State::Succeeded, Reason::None, None),
        (stream(&[(5, "{\"result\":1}\n{\"error\":{}}\n")]), State::Succeeded, Reason::None, None),
        (stream(&[(5, "{\"error\":{\"type\":\"P\",\"permanent\":true}}\n")]), State::Failed, Reason::Permanent, Some("P")),
        (stream(&[(5, "not a line\n")]), State::Failed, Reason::Exhausted, Some("BadOutcome")),
    ] {
        let (world, key) = run(reply.clone(), once()).await;
        let head = world.until_final(&key).await;
        assert_eq!((head.state, head.reason), (state, reason), "{reply:?}");
        if let Some(kind) = check {
            let entries: Vec<_> = world.stored(&key).await.attempts.iter().map(|e| AttemptEntry::decode(e).unwrap()).collect();
            assert!(entries.iter().any(error(kind)), "{reply:?}: {entries:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_reaches_a_stream_that_goes_on() {
    let (world, key) = run(stream(&[(300, "{\"progress\":1}\n"); 200]), call("t")).await;
    world.until(&key, "on its way", |head| head.version > 4).await;
    world.cancel(&key, false).await;
    let asked = world.store.clock().now();
    let head = world.until_final(&key).await;
    assert_eq!(head.state, State::Canceled);
    assert!(head.ended.since(asked).abs_diff(Duration::from_secs(10)) < ms(300));
}
