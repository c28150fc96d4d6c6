//! What the store does when Redis misbehaves: forgets scripts, restarts, hangs, is full, or holds something else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lovage_core::{Partition, State};
use lovage_testkit::redis::RedisOptions as ServerOptions;
use lovage_testkit::{Fsync, Redis, eventually};

use super::super::batch::FLIGHT;
use super::{OnRedis, RedisOptions, RedisStore, fresh_prefix, shared_server};
use crate::conformance::kit::{Kit, LONG, PATIENCE, SESSION, Task, ended, key_put};
use crate::{
    Claimed, Commit, Committed, Effect, Error, FeedBatch, FeedPos, KeyKind, Message, Mode, OwnRequest, Store, Sync, Want,
};

/// The promise: working again this soon after Redis is back.
const RECOVERY: Duration = Duration::from_secs(5);

async fn open(server: &Redis) -> Arc<RedisStore> {
    let options = RedisOptions { timeout: Duration::from_secs(1), partitions: 1, ..RedisOptions::new(server.url()) };
    RedisStore::open(options).await.unwrap()
}

fn kit<'a>(fixture: &'a OnRedis, store: &Arc<RedisStore>) -> Kit<'a> {
    Kit::over(fixture, store.clone())
}

/// The life of one task from its insert to its end.
async fn one_life(kit: &Kit<'_>) -> Task {
    let token = kit.token().await;
    let task = kit.claimed(&token, &kit.put(kit.task()).await).await;
    let end = task.commit(Some(ended(&task.head, State::Succeeded, kit.now(), LONG)));
    kit.committed(&task, end).await
}

async fn recovered(store: &RedisStore) {
    eventually("the store works again", RECOVERY, async || store.ping().await.ok()).await;
}

#[tokio::test]
async fn forgotten_scripts_are_told_again() {
    let server = Redis::start_with(ServerOptions::default().fsync(Fsync::NoFile));
    let store = open(&server).await;
    let fixture = OnRedis::new(1);
    let kit = kit(&fixture, &store);
    one_life(&kit).await;
    for _ in 0..3 {
        server.command(&["SCRIPT", "FLUSH"]).unwrap();
        let task = one_life(&kit).await;
        server.command(&["SCRIPT", "FLUSH"]).unwrap();
        assert_eq!(kit.whole(&task.key).await.unwrap().head, task.head);
    }
}

/// What nobody can read has a place in the outbox, so that it can be deleted and keeps nothing else.
#[tokio::test]
async fn a_damaged_message_is_shown_as_such() {
    let fixture = OnRedis::new(1);
    let kit = Kit::new(&fixture).await;
    let outbox = format!("{}{{p00}}out", fixture.options.prefix);
    for fields in [["m", "nonsense"], ["m", ""]] {
        fixture.server.command(&["XADD", &outbox, "*", fields[0], fields[1]]).unwrap();
    }
    let task = kit.put(kit.task()).await;
    let message = Message::Cancel { key: task.key.clone(), generation: 0 };
    let effects = vec![Effect::Send { to: task.key.slot(), message }];
    kit.committed(&task, Commit { effects, ..task.change(|_| {}) }).await;
    let found = kit.store.outbox(kit.p, FeedPos::default(), 10).await.unwrap();
    assert_eq!(found.messages.iter().map(|sent| sent.content.is_some()).collect::<Vec<_>>(), [false, false, true]);
    kit.store.delivered(kit.p, &[found.messages[0].pos, found.messages[1].pos]).await.unwrap();
    assert_eq!(kit.store.outbox(kit.p, FeedPos::default(), 10).await.unwrap().waiting, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_tasks_owners_and_feeds() {
    let mut server = Redis::start();
    let store = open(&server).await;
    let fixture = OnRedis::new(1);
    let kit = kit(&fixture, &store);
    let token = kit.token().await;
    let task = kit.put(kit.task()).await;
    let tail = store.tail(kit.p).await.unwrap();
    let reader = tokio::spawn({
        let store = store.clone();
        async move { store.feed(Partition(0), tail, PATIENCE).await }
    });
    eventually("the feed is read", PATIENCE, async || {
        server.command(&["CLIENT", "LIST"]).unwrap().contains("xread").then_some(())
    })
    .await;

    server.kill9();
    let lost = store.insert(kit.p, vec![kit.task()], Mode::Each).await.unwrap_err();
    assert!(lost.is_transient(), "{lost}");
    let lost = store.heads(kit.p, std::slice::from_ref(&task.key)).await.unwrap_err();
    assert!(matches!(lost, Error::Unavailable(_)), "{lost}");
    let lost = reader.await.unwrap().unwrap_err();
    assert!(matches!(lost, Error::Unavailable(_)), "{lost}");

    server.restart();
    recovered(&store).await;
    assert_eq!(kit.head(&task.key).await.as_ref(), Some(&task.head));
    // Nothing was written meanwhile: the reader has missed nothing, and is told of what comes.
    let reader = tokio::spawn({
        let store = store.clone();
        async move { store.feed(Partition(0), tail, PATIENCE).await }
    });
    let claimed = store.claim(kit.p, &token, SESSION, vec![task.claim(SESSION)]).await.unwrap();
    assert!(matches!(claimed[..], [Claimed::Ok(_)]), "{claimed:?}");
    let FeedBatch::Entries { entries, .. } = reader.await.unwrap().unwrap() else { panic!("nothing was lost") };
    assert_eq!((entries[0].source, entries[0].rows.len()), (SESSION, 1));
    one_life(&kit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_feed_does_not_hold_up_the_others() {
    let fixture = OnRedis::new(2);
    let store = RedisStore::open(fixture.options.clone()).await.unwrap();
    let kit = kit(&fixture, &store);
    let other = Partition(1 - kit.p.0);
    let (failed, mut failures) = tokio::sync::watch::channel(0);
    // As an owner does: it tries again and again.
    let reading = store.clone();
    let trying = tokio::spawn(async move {
        loop {
            if reading.feed(other, FeedPos::default(), PATIENCE).await.is_err() {
                failed.send_modify(|count| *count += 1);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    eventually("the feed is read", PATIENCE, async || {
        fixture.server.command(&["CLIENT", "LIST"]).unwrap().contains("xread").then_some(())
    })
    .await;
    fixture.server.command(&["SET", &format!("{}{{p{:02}}}f", fixture.options.prefix, other.0), "no stream"]).unwrap();
    tokio::time::timeout(PATIENCE, failures.wait_for(|count| *count > 2)).await.unwrap().unwrap();
    let start = Instant::now();
    for _ in 0..20 {
        let tail = store.tail(kit.p).await.unwrap();
        let (told, _) = tokio::join!(store.feed(kit.p, tail, PATIENCE), kit.put(kit.task()));
        let FeedBatch::Entries { entries, .. } = told.unwrap() else { panic!("nothing was lost") };
        assert_eq!(entries.len(), 1);
    }
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(!trying.is_finished(), "nothing ends with an error either");
    trying.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_server_answers_nothing_and_loses_nothing() {
    let server = Redis::start();
    let store = open(&server).await;
    let fixture = OnRedis::new(1);
    let kit = kit(&fixture, &store);
    let task = kit.put(kit.task()).await;
    server.pause();
    let start = Instant::now();
    let lost = store.insert(kit.p, vec![kit.task()], Mode::Each).await.unwrap_err();
    assert!(matches!(lost, Error::Unknown(_)), "{lost}");
    // The connection is suspected now: the next calls do not wait for the time-out one after the other.
    let lost = store.heads(kit.p, std::slice::from_ref(&task.key)).await.unwrap_err();
    assert!(matches!(lost, Error::Unavailable(_)), "{lost}");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    server.resume();
    recovered(&store).await;
    one_life(&kit).await;
    // The write without an answer was carried out, and is found by reading.
    assert_eq!(kit.list(&crate::ListQuery::default(), 10).await.len(), 3);
}

#[tokio::test]
async fn a_reader_of_lost_data_is_behind() {
    let mut server = Redis::start_with(ServerOptions::default().fsync(Fsync::NoFile));
    let store = open(&server).await;
    let fixture = OnRedis::new(1);
    let kit = kit(&fixture, &store);
    kit.put(kit.task()).await;
    let at = store.tail(kit.p).await.unwrap();
    let FeedBatch::Entries { entries, .. } = store.feed(kit.p, at, Duration::ZERO).await.unwrap() else { panic!() };
    assert!(entries.is_empty());
    server.restart();
    recovered(&store).await;
    // The connection of the feeds notices the restart by itself, a moment sooner or later than the other one.
    let tail = eventually("the reader is told", RECOVERY, async || match store.feed(kit.p, at, Duration::ZERO).await {
        Ok(FeedBatch::Behind { tail }) => Some(tail),
        _ => None,
    })
    .await;
    assert_eq!(tail, FeedPos::default());
}

#[tokio::test]
async fn another_type_under_a_key_is_an_error() {
    let fixture = OnRedis::new(1);
    let store = RedisStore::open(fixture.options.clone()).await.unwrap();
    let kit = kit(&fixture, &store);
    let heads = format!("{}{{p00}}h", fixture.options.prefix);
    fixture.server.command(&["SET", &heads, "not a hash"]).unwrap();
    let task = kit.client_task(0);
    let errors = [
        store.insert(kit.p, vec![task.clone()], Mode::Each).await.unwrap_err(),
        store.heads(kit.p, std::slice::from_ref(&task.key)).await.unwrap_err(),
        store.list(kit.p, &crate::ListQuery::default(), crate::Cursor::default(), 10).await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::Corrupt(_)), "{error}");
    }
    fixture.server.command(&["DEL", &heads]).unwrap();
    fixture.server.command(&["HSET", &heads, "junk", "junk"]).unwrap();
    let error = store.list(kit.p, &crate::ListQuery::default(), crate::Cursor::default(), 10).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error}");
}

#[tokio::test]
async fn a_full_server_takes_no_tasks_but_lets_work_end() {
    let server = Redis::start_with(ServerOptions::default().fsync(Fsync::NoFile).with("maxmemory", "16mb"));
    let store = open(&server).await;
    let fixture = OnRedis::new(1);
    let kit = kit(&fixture, &store);
    let token = kit.token().await;
    let first = kit.put(kit.task()).await;
    let mut stored = vec![first];
    let full = loop {
        let mut item = kit.task();
        item.body = vec![7; 200_000].into();
        match store.insert(kit.p, vec![item.clone()], Mode::Each).await {
            Ok(answers) => {
                let [crate::Inserted::Ok { seq }] = answers[..] else { panic!("{answers:?}") };
                let head = lovage_core::Head { seq, ..item.head };
                stored.push(Task { key: item.key, head, queue: item.lane.queue.as_str().into() });
            }
            Err(error) => break error,
        }
        assert!(stored.len() < 1_000, "the server never fills up");
    };
    assert!(matches!(full, Error::Full(_)), "{full}");
    let reply = store.own(kit.p, OwnRequest { session: SESSION, want: Want::Own, lease: LONG, drop: Vec::new() }).await.unwrap();
    assert_eq!(reply.token.as_ref(), Some(&token));
    let running = kit.claimed(&token, &stored[0]).await;
    let end = running.commit(Some(ended(&running.head, State::Succeeded, kit.now(), LONG)));
    kit.committed(&running, end).await;
    let deletions = stored[1..].iter().map(|task| task.commit(None)).collect();
    let answers = store.commit(kit.p, SESSION, deletions, Mode::Each, Sync::Durable).await.unwrap();
    assert!(answers.iter().all(|answer| *answer == Committed::Ok), "{answers:?}");
    eventually("there is room again", PATIENCE, async || store.insert(kit.p, vec![kit.task()], Mode::Each).await.ok()).await;
}

#[tokio::test]
async fn a_server_that_evicts_is_refused() {
    let server = Redis::start_with(ServerOptions::default().fsync(Fsync::NoFile).with("maxmemory-policy", "allkeys-lru"));
    let refused = RedisStore::open(RedisOptions::new(server.url())).await.unwrap_err();
    assert!(matches!(&refused, Error::Unavailable(text) if text.contains("noeviction")), "{refused}");
}

#[tokio::test]
async fn a_server_that_hides_its_settings_is_used() {
    let server = shared_server();
    let rules = ["ACL", "SETUSER", "hidden", "on", ">pw", "~*", "&*", "+@all", "-config", "-client|unblock", "-memory"];
    server.command(&rules).unwrap();
    let url = server.url().replace("redis://", "redis://hidden:pw@");
    let options = RedisOptions { prefix: fresh_prefix(), partitions: 1, ..RedisOptions::new(url) };
    let store = RedisStore::open(options).await.unwrap();
    assert!(store.caps().durability.contains("append-only"), "{}", store.caps().durability);
    let fixture = OnRedis::new(1);
    let kit = kit(&fixture, &store);
    one_life(&kit).await;
    // Readers are woken although nobody may end the blocking read.
    let at = store.tail(kit.p).await.unwrap();
    let (batch, _) = tokio::join!(store.feed(kit.p, at, PATIENCE), async {
        let seen = store.doc_version(0, Duration::from_millis(50)).await.unwrap();
        assert_eq!(seen, 0);
        kit.put(kit.task()).await
    });
    assert!(matches!(batch.unwrap(), FeedBatch::Entries { entries, .. } if entries.len() == 1));
}

#[tokio::test]
async fn a_store_keeps_its_partitions_and_refuses_a_newer_format() {
    let fixture = OnRedis::new(4);
    let store = RedisStore::open(fixture.options.clone()).await.unwrap();
    assert_eq!(store.caps().partitions, 4);
    let again = RedisStore::open(RedisOptions { partitions: 8, ..fixture.options.clone() }).await.unwrap();
    assert_eq!(again.caps().partitions, 4);
    assert_eq!(again.id(), store.id());
    let meta = format!("{}{{doc}}meta", fixture.options.prefix);
    fixture.server.command(&["HSET", &meta, "format", "99"]).unwrap();
    let error = RedisStore::open(fixture.options.clone()).await.unwrap_err();
    assert!(matches!(error, Error::Format { found: 99, known: 1 }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_call_goes_together_in_the_next() {
    let server = Redis::start_with(ServerOptions::default().fsync(Fsync::NoFile));
    let options = RedisOptions { timeout: Duration::from_secs(20), partitions: 1, ..RedisOptions::new(server.url()) };
    let store = RedisStore::open(options).await.unwrap();
    let fixture = OnRedis::new(1);
    let kit = kit(&fixture, &store);
    kit.put(kit.task()).await;
    let at = store.tail(kit.p).await.unwrap();
    server.pause();
    let tasks: Vec<_> = (0..60).map(|_| kit.task()).collect();
    let mut calls = Vec::new();
    for (n, task) in tasks.into_iter().enumerate() {
        let (store, p) = (store.clone(), kit.p);
        // Every tenth is atomic and goes alone.
        let mode = if n % 10 == 9 { Mode::Atomic } else { Mode::Each };
        calls.push(tokio::spawn(async move { store.insert(p, vec![task], mode).await }));
        tokio::task::yield_now().await;
    }
    // The first few calls are on their way or about to be, each with whatever was there when it began; none is answered.
    let batcher = &store.parts[0].inserts;
    eventually("all tasks are taken", PATIENCE, async || (batcher.taken() == 60).then_some(())).await;
    server.resume();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let mut entries = Vec::new();
    let mut next = at;
    while let FeedBatch::Entries { entries: more, next: end } = store.feed(kit.p, next, Duration::ZERO).await.unwrap() {
        if more.is_empty() {
            break;
        }
        next = end;
        entries.extend(more);
    }
    assert_eq!(entries.iter().map(|entry| entry.rows.len()).sum::<usize>(), 60);
    // The calls come in any order, so an atomic one need not be the last.
    let most = FLIGHT + 7 + 6;
    assert!(entries.len() <= most, "{} calls for the first few, runs between the atomic ones, and 6 atomic ones", entries.len());
}

#[tokio::test]
async fn housekeeping_bounds_the_feed() {
    let fixture = OnRedis::new(1);
    let options = RedisOptions { feed_bytes: 20_000, ..fixture.options.clone() };
    let store = RedisStore::open(options).await.unwrap();
    let kit = kit(&fixture, &store);
    let start = store.tail(kit.p).await.unwrap();
    for _ in 0..40 {
        kit.put_all((0..20).map(|_| kit.task()).collect()).await;
    }
    let feed = format!("{}{{p00}}f", fixture.options.prefix);
    let length = || fixture.server.command(&["XLEN", &feed]).unwrap().parse::<u64>().unwrap();
    assert_eq!(length(), 40);
    // Who does not own the partition leaves the feed alone.
    kit.own(SESSION, Want::Release, LONG).await;
    assert_eq!(length(), 40);
    kit.token().await;
    assert!(length() < 40, "{}", length());
    let answer = store.feed(kit.p, start, Duration::ZERO).await.unwrap();
    let FeedBatch::Behind { tail } = answer else { panic!("{answer:?}") };
    assert_eq!(tail, store.tail(kit.p).await.unwrap());
    // However little is kept, the last entry is: a reader at the end goes on.
    let none = RedisOptions { feed_bytes: 1, feed_keep: Duration::ZERO, ..fixture.options.clone() };
    let strict = RedisStore::open(none).await.unwrap();
    strict.own(kit.p, OwnRequest { session: SESSION, want: Want::Own, lease: LONG, drop: Vec::new() }).await.unwrap();
    assert!(matches!(store.feed(kit.p, tail, Duration::ZERO).await.unwrap(), FeedBatch::Entries { .. }));
}

#[tokio::test]
async fn nothing_is_left_of_a_deleted_task() {
    let fixture = OnRedis::new(1);
    let store = RedisStore::open(fixture.options.clone()).await.unwrap();
    let kit = kit(&fixture, &store);
    let root = kit.put(kit.task()).await;
    let wait = root.change(|head| head.state = State::Blocked);
    let root = kit.committed(&root, crate::Commit { effects: vec![Effect::Barrier { members: 2 }], ..wait }).await;
    let put = |kind| key_put(&kit, kind, "k", None);
    let keys = vec![put(KeyKind::Unique), put(KeyKind::Debounce)];
    let child = kit.put(crate::Insert { root: Some(root.key.clone()), keys, ..kit.task() }).await;
    let mut change = child.change(|head| head.priority = 9);
    change.effects = vec![Effect::Arrive { barrier: root.key.clone(), index: 0 }];
    change.result = Some(Some("a result".into()));
    change.attempt = Some("an attempt".into());
    let child = kit.committed(&child, change).await;
    for task in [root, child] {
        kit.committed(&task, task.commit(None)).await;
    }
    let all = fixture.server.command(&["KEYS", &format!("{}{{p00}}*", fixture.options.prefix)]).unwrap();
    let mut names: Vec<_> = all.lines().map(|name| name.rsplit('}').next().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["f", "seq"]);
}
