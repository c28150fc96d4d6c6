use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use lovage_core::retry::RetryPolicy;
use lovage_core::worker::{SigningKey, SigningSecret, WorkerConfig};
use lovage_core::{AttemptEntry, Callback, Callbacks, Flags, Ns, Reason, ResultValue, Spec, State};
use lovage_dispatcher::Options;
use lovage_dispatcher::egress::FaultKind;
use lovage_store::wrap::Faulty;
use lovage_store::{Cursor, DocKind, ListQuery, Store};
use tokio::time::{Instant, sleep};

use crate::world::{EPOCH, Reply, Seen, World, call, memory};

#[allow(clippy::unnecessary_wraps)] // the field it goes into is an option
fn quick_retry(max_attempts: u16) -> Option<RetryPolicy> {
    Some(RetryPolicy { max_attempts, jitter: lovage_core::retry::Jitter::None, ..RetryPolicy::default() })
}

#[tokio::test(start_paused = true)]
async fn a_task_is_pushed_and_its_result_is_kept() {
    let world = World::new(|_| Reply::Status(200, "[1,2]"));
    world.worker("w", "demo.*", 10).await;
    let node = world.start();
    let key = world.submit(call("demo.add")).await;
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.attempt, head.version), (State::Succeeded, 1, 3));
    let stored = world.stored(&key).await;
    let value = ResultValue::decode(&stored.result.unwrap()).unwrap();
    assert!(matches!(value, ResultValue::Value { bytes, .. } if bytes == "[1,2]"));
    assert!(stored.attempts.is_empty(), "a first-try success writes no entry");
    let seen = &world.pushes()[&key.id.to_string()][0];
    let id = key.id.to_string();
    for (name, value) in
        [("lovage-task", "demo.add"), ("lovage-queue", "default"), ("lovage-max-attempts", "10"), ("idempotency-key", &id)]
    {
        assert_eq!(seen.headers[name], value);
    }
    assert_eq!(seen.headers["lovage-deadline"], EPOCH.after(Duration::from_secs(60)).rfc3339());
    assert_eq!(seen.body, format!(r#"{{"task":"demo.add","id":"{id}","args":[],"kwargs":{{}}}}"#));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn failed_attempts_back_off_and_are_told() {
    let world = World::new(|seen| {
        if seen.attempt < 3 { Reply::Status(500, "{\"type\":\"Oops\",\"message\":\"no\"}") } else { Reply::Status(204, "") }
    });
    world.worker("w", "*", 10).await;
    let node = world.start();
    let key = world.submit(Spec { retry: quick_retry(5), ..call("t") }).await;
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.attempt, head.budget), (State::Succeeded, 3, 2));
    let pushes = &world.pushes()[&key.id.to_string()];
    let waits: Vec<_> = pushes.windows(2).map(|w| w[1].start - w[0].start).collect();
    for (wait, at_least) in waits.iter().zip([1, 2]) {
        assert!(*wait >= Duration::from_secs(at_least) && *wait < Duration::from_millis(at_least * 1000 + 50), "{waits:?}");
    }
    let entries: Vec<_> = world.stored(&key).await.attempts.iter().map(|e| AttemptEntry::decode(e).unwrap()).collect();
    let told: Vec<_> = entries.iter().map(|e| (e.number, e.outcome.as_str(), e.status)).collect();
    assert_eq!(told, [(1, "backoff", Some(500)), (2, "backoff", Some(500)), (3, "succeeded", Some(204))]);
    assert_eq!(entries[0].error.as_ref().unwrap().kind, "Oops");
    assert!(entries[0].excerpt.as_ref().unwrap().contains("Oops"));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_never_works_is_exhausted() {
    let world = World::new(|_| Reply::Fault(FaultKind::Reset));
    world.worker("w", "*", 10).await;
    let node = world.start();
    let key = world.submit(Spec { retry: quick_retry(3), ..call("t") }).await;
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.reason, head.attempt), (State::Failed, Reason::Exhausted, 3));
    let other = world.submit(Spec { retry: quick_retry(1), time_limit: Some("2s".parse().unwrap()), ..call("t") }).await;
    assert_eq!(world.until_final(&other).await.reason, Reason::Exhausted);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_time_limit_ends_an_attempt() {
    let world = World::new(|_| Reply::Slow(Duration::from_secs(3600)));
    world.worker("w", "*", 10).await;
    let node = world.start();
    let start = Instant::now();
    let key = world.submit(Spec { retry: quick_retry(1), time_limit: Some("2s".parse().unwrap()), ..call("t") }).await;
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.reason), (State::Failed, Reason::Timeout));
    assert!(start.elapsed() < Duration::from_millis(2_100));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_says_not_now_is_left_alone() {
    let world =
        World::new(
            |seen| if seen.session_order == 0 { Reply::Header(503, "retry-after", "30") } else { Reply::Status(200, "1") },
        );
    world.worker("w", "*", 1).await;
    let node = world.start();
    let first = world.submit(call("t")).await;
    world.until_state(&first, State::Retrying).await;
    let second = world.submit(call("t")).await;
    let start = Instant::now();
    for key in [&first, &second] {
        assert_eq!(world.until_final(key).await.state, State::Succeeded);
    }
    assert!(start.elapsed() > Duration::from_secs(29), "the whole worker waits, not only the task");
    assert_eq!(world.head(&first).await.budget, 0);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_without_a_worker_waits_for_one() {
    let world = World::new(|_| Reply::Status(200, "1"));
    let node = world.start();
    let key = world.submit(call("later.x")).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(world.head(&key).await.state, State::Queued);
    world.worker("w", "later.*", 1).await;
    assert_eq!(world.until_final(&key).await.state, State::Succeeded);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_open_pushes_than_the_worker_takes() {
    let world = World::new(|_| Reply::Slow(Duration::from_millis(100)));
    world.worker("w", "*", 3).await;
    let node = world.start();
    let mut keys = Vec::new();
    for i in 0..30 {
        keys.push(world.submit(call(&format!("t{}", i % 4))).await);
    }
    let start = Instant::now();
    for key in &keys {
        world.until_final(key).await;
    }
    assert!(start.elapsed() < Duration::from_millis(1_200), "{:?}", start.elapsed());
    let all = world.transport.seen.lock().clone();
    for seen in &all {
        let open = all.iter().filter(|o| o.start <= seen.start && o.end.unwrap() > seen.start).count();
        assert!(open <= 3, "{open} open at once");
    }
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_open_attempts_holds_for_all_partitions_together() {
    let world = World::over(memory(4), |_| Reply::Slow(Duration::from_millis(100)));
    world.worker("w", "*", 100).await;
    let mut keys = Vec::new();
    for _ in 0..60 {
        keys.push(world.submit(call("t")).await);
    }
    let options = Options { max_in_flight: 3, ..Options::default() };
    let node = world.start_with(Arc::clone(&world.store), options);
    let start = Instant::now();
    for key in &keys {
        assert_eq!(world.until_final(key).await.state, State::Succeeded);
    }
    // Three at a time, and no time lost in between.
    assert!(start.elapsed() < Duration::from_millis(2_500), "{:?}", start.elapsed());
    let pushes: Vec<Seen> = world.pushes().into_values().flatten().collect();
    let open_at = |at| pushes.iter().filter(|push| push.start <= at && push.end.is_none_or(|end| end > at)).count();
    let most = pushes.iter().map(|push| open_at(push.start)).max();
    assert_eq!(most, Some(3));
    // No partition waits until another has nothing left.
    let mut by_start = pushes.clone();
    by_start.sort_by_key(|push| push.session_order);
    let partition = |push: &Seen| keys.iter().find(|key| key.id.to_string() == push.id).map(|key| world.partition(key));
    let early: HashSet<_> = by_start[..20].iter().map(partition).collect();
    assert_eq!(early.len(), 4);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn higher_priority_goes_first() {
    let world = World::new(|_| Reply::Slow(Duration::from_millis(10)));
    world.worker("w", "*", 1).await;
    let low = world.submit_with(call("a"), 1, None, None).await;
    let high = world.submit_with(call("b"), 9, None, None).await;
    let node = world.start();
    world.until_final(&low).await;
    world.until_final(&high).await;
    let order: Vec<String> = world.transport.seen.lock().iter().map(|s| s.id.clone()).collect();
    assert_eq!(order, [high.id.to_string(), low.id.to_string()]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn delays_and_expiries_are_kept() {
    let world = World::new(|_| Reply::Status(200, "1"));
    world.worker("w", "served", 1).await;
    let node = world.start();
    let at = EPOCH.after(Duration::from_secs(3 * 3600));
    let delayed = world.submit_with(call("served"), 4, Some(at), None).await;
    let expiring = world.submit_with(call("unserved"), 4, None, Some(EPOCH.after(Duration::from_secs(50)))).await;
    let never = world.submit_with(call("served"), 4, Some(at), Some(EPOCH.after(Duration::from_secs(90)))).await;
    assert_eq!(world.until_final(&expiring).await.state, State::Expired);
    assert_eq!(world.until_final(&never).await.state, State::Expired);
    let head = world.until_final(&delayed).await;
    assert!(head.started >= at && head.started.since(at) < Duration::from_millis(50), "{head:?}");
    assert!(!world.pushes().contains_key(&never.id.to_string()));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_running_task_is_canceled_after_its_grace_or_at_once() {
    let world = World::new(|_| Reply::Slow(Duration::from_secs(50)));
    world.worker("w", "*", 5).await;
    let node = world.start();
    for (hard, least, most) in [(false, 9_900, 10_200), (true, 0, 100)] {
        let key = world.submit(call("t")).await;
        world.until_state(&key, State::Running).await;
        let start = Instant::now();
        world.cancel(&key, hard).await;
        let head = world.until_final(&key).await;
        assert_eq!((head.state, head.reason), (State::Canceled, Reason::Requested));
        let waited = start.elapsed().as_millis();
        assert!((least..most).contains(&waited), "{waited} ms");
        assert!(world.pushes()[&key.id.to_string()][0].end.is_some(), "the connection is closed");
    }
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_gives_back_without_a_charge() {
    let world = World::new(|_| Reply::Slow(Duration::from_secs(50)));
    world.worker("w", "*", 5).await;
    let node = world.start();
    let key = world.submit(call("t")).await;
    world.until_state(&key, State::Running).await;
    let start = Instant::now();
    node.stop().await;
    assert!(start.elapsed() >= Duration::from_secs(30));
    let head = world.head(&key).await;
    assert_eq!((head.state, head.attempt, head.budget), (State::Queued, 1, 0));
    // The next dispatcher goes on at once.
    let node = world.start();
    assert_eq!(world.until_final(&key).await.attempt, 2);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_kills_its_dispatchers_is_poison() {
    let world = World::new(|_| Reply::Slow(Duration::from_secs(3600)));
    world.worker("w", "*", 5).await;
    let key = world.submit(call("t")).await;
    for life in 1..=3 {
        let node = world.start();
        world.until(&key, "running again", |h| h.state == State::Running && h.attempt == life).await;
        node.kill();
    }
    let node = world.start();
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.reason, head.lost), (State::Failed, Reason::Poison, 3));
    let pushes = &world.pushes()[&key.id.to_string()];
    assert_eq!(pushes.iter().map(|s| s.attempt).collect::<Vec<_>>(), [1, 2, 3]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn deaths_that_follow_each_other_quickly_poison_nobody() {
    // A slow task that does nothing wrong, and a server that is killed once it is ready again.
    let world = World::new(|_| Reply::Slow(Duration::from_secs(20)));
    world.worker("w", "*", 5).await;
    let key = world.submit(call("t")).await;
    for life in 1..=2 {
        let node = world.start();
        world.until(&key, "running again", |h| h.state == State::Running && h.attempt == life).await;
        node.kill();
    }
    // Suspected now, it does not run while the others die.
    for _ in 0..3 {
        let node = world.start();
        let head = world.until(&key, "lost twice", |h| h.lost == 2).await;
        assert_eq!((head.state, head.reason), (State::Retrying, Reason::Lost));
        node.kill();
    }
    let node = world.start();
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.attempt), (State::Succeeded, 3));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_away_for_longer_than_the_lease_finds_every_task_worked_on() {
    let world = World::new(|seen| match seen.attempt {
        1 => Reply::Slow(Duration::from_secs(3600)),
        _ => Reply::Status(200, "1"),
    });
    world.worker("w", "*", 5).await;
    let faulty = Arc::new(Faulty::new(Arc::clone(&world.store)));
    let node = world.start_over(Arc::clone(&faulty) as Arc<dyn Store>);
    let key = world.submit(call("t")).await;
    world.until_state(&key, State::Running).await;
    faulty.set_away(true);
    tokio::time::sleep(Duration::from_secs(20)).await;
    faulty.set_away(false);
    // The session is the same as before and lives: it has to notice by itself that nobody pushes this task any more.
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.attempt, head.lost), (State::Succeeded, 2, 1));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn callbacks_are_tasks_of_their_own() {
    let world = World::new(|seen| {
        if seen.headers.contains_key("lovage-task") { Reply::Status(200, "{\"sum\":5}") } else { Reply::Status(204, "") }
    });
    world.worker("w", "*", 5).await;
    let node = world.start();
    let to = |path: &str| {
        Some(Callback {
            url: format!("http://127.0.0.1:9/{path}"),
            headers: vec![("X-Mine".into(), "1".into())],
            retry: None,
            time_limit: None,
        })
    };
    let callbacks = Callbacks { on_success: to("ok"), on_failure: to("bad"), on_terminal: to("end"), ..Callbacks::default() };
    let key = world.submit(Spec { callbacks, ..call("t") }).await;
    world.until_final(&key).await;
    let query = ListQuery { ns: Ns::DEFAULT, ..ListQuery::default() };
    let mut children = Vec::new();
    while children.len() < 2 {
        let page = world.store.list(world.partition(&key), &query, Cursor::default(), 10).await.unwrap();
        children = page.items.into_iter().filter(|(k, h)| *k != key && h.state == State::Succeeded).collect();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(children.len(), 2, "success and terminal, not failure");
    for (child, head) in &children {
        assert!(head.flags.has(Flags::HAS_PARENT));
        let seen = &world.pushes()[&child.id.to_string()][0];
        assert_eq!(
            (&seen.headers["lovage-parent"], &seen.headers["x-mine"]),
            (&key.id.to_string().parse().unwrap(), &"1".parse().unwrap())
        );
        let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
        assert_eq!(body["worker"], "w");
        assert_eq!(
            (body["type"].as_str(), body["result"]["sum"].as_u64(), body["id"].as_str()),
            (Some("task.succeeded"), Some(5), Some(&*key.id.to_string()))
        );
    }
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn records_are_deleted_when_their_time_is_over() {
    let world = World::new(|_| Reply::Status(200, "1"));
    world.worker("w", "*", 5).await;
    let node = world.start();
    let spec = Spec { result_ttl: Some("1m".parse().unwrap()), retention: Some("5m".parse().unwrap()), ..call("t") };
    let key = world.submit(spec).await;
    world.until_final(&key).await;
    tokio::time::sleep(Duration::from_secs(90)).await;
    let stored = world.stored(&key).await;
    assert!(stored.result.is_none() && stored.head.flags.has(Flags::RESULT_GONE));
    tokio::time::sleep(Duration::from_secs(300)).await;
    let parts = lovage_store::Parts::default();
    assert_eq!(world.store.get(world.partition(&key), &key, parts).await.unwrap(), None);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_backlog_longer_than_the_window_is_worked_off_in_order() {
    let world = World::new(|_| Reply::Status(200, "1"));
    world.worker("w", "*", 1).await;
    let mut keys = Vec::new();
    for _ in 0..3_000 {
        keys.push(world.submit(call("t")).await);
    }
    let world = Arc::new(world);
    let node = world.start();
    for key in &keys {
        world.until_final(key).await;
    }
    let order: Vec<String> = world.transport.seen.lock().iter().map(|s| s.id.clone()).collect();
    assert_eq!(order, keys.iter().map(|k| k.id.to_string()).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_not_used_after_its_time() {
    let world = World::new(|_| Reply::Status(200, ""));
    let secret = |letter: &str, until| SigningSecret { secret: format!("whsec_{}", letter.repeat(32)), until };
    let minute = Some(world.store.clock().now().after(Duration::from_secs(60)));
    let config = WorkerConfig {
        urls: vec!["http://127.0.0.1:9/".into()],
        tasks: vec!["*".into()],
        signing: vec![secret("A", None), secret("B", minute)],
        ..WorkerConfig::default()
    };
    world.put(DocKind::Worker, "w", &config).await;
    let key = SigningKey { secrets: vec![secret("C", minute), secret("D", None)] };
    world.put(DocKind::SigningKey, "default", &key).await;
    let node = world.start();
    let signatures = async || {
        let bare = Spec { url: Some("http://127.0.0.1:9/x".into()), ..Spec::default() };
        let mut counts = [0; 2];
        for (count, spec) in counts.iter_mut().zip([call("t"), bare]) {
            let key = world.submit(spec).await;
            world.until_final(&key).await;
            let header = &world.pushes()[&key.id.to_string()][0].headers["webhook-signature"];
            *count = header.to_str().unwrap().split(' ').count();
        }
        counts
    };
    assert_eq!(signatures().await, [2, 2]);
    sleep(Duration::from_secs(61)).await;
    assert_eq!(signatures().await, [1, 1]);
    node.stop().await;
}
