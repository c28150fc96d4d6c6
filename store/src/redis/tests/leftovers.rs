//! Every key has an owner and an end: when the last task is gone, so is all that came with tasks; and Redis forgets nothing
//! by itself that is counted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lovage_core::{Millis, Ns, Partition, SessionId};
use redis::Value;

use super::OnRedis;
use crate::memory::tests::Memory;
use crate::moving::{Inside, Move};
use crate::redis::link::Kind;
use crate::redis::{RedisStore, value};
use crate::{Commit, Cursor, KeyEntry, KeyTake, ListQuery, Mode, OwnRequest, Store, Sync, Want};

/// What a partition keeps when it has no tasks: the last order of acceptance, the feed (trimmed by its owner), who owned it
/// last and until when, and the sessions that live.
const PARTITION: [&str; 5] = ["seq", "f", "own", "until", "ses"];
/// What belongs to the store as a whole: its format and id, the number of changes of documents, their feed, and
/// the documents with their names by kind.
const STORE: [&str; 5] = ["meta", "v", "f", "d:", "i:"];

/// All keys of the store with the milliseconds that Redis keeps them, if they have an end.
async fn keys(store: &RedisStore, prefix: &str) -> Vec<(Vec<u8>, Option<u64>)> {
    let mut all = redis::cmd("KEYS");
    let all = value::list(store.link.send(Kind::Read, all.arg(format!("{prefix}{{*"))).await.unwrap()).unwrap();
    let mut found = Vec::new();
    for key in all {
        let key = value::bytes(key).unwrap().unwrap();
        let mut left = redis::cmd("PTTL");
        let left = store.link.send(Kind::Read, left.arg(&key[..])).await.unwrap();
        found.push((key, if let Value::Int(left @ 0..) = left { Some(left as u64) } else { None }));
    }
    found
}

/// The name of a key behind `prefix{tag}`.
fn name(key: &[u8], prefix: &str) -> String {
    let text = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
    text.split_once('}').unwrap().1.to_owned()
}

async fn delete_all(store: &RedisStore, p: Partition) {
    let counts = store.counts(p).await.unwrap();
    let lanes: BTreeSet<Ns> = counts.iter().map(|counts| counts.ns).collect();
    for ns in lanes {
        let query = ListQuery { ns, ..ListQuery::default() };
        loop {
            let page = store.list(p, &query, Cursor::default(), 100).await.unwrap();
            if page.items.is_empty() {
                assert!(page.next.is_none());
                break;
            }
            let keys: Vec<_> = page.items.iter().map(|(key, _)| key.clone()).collect();
            let lanes = store.belongings(p, &keys).await.unwrap();
            let gone = page.items.into_iter().zip(lanes).map(|((key, was), belongings)| Commit {
                key,
                was,
                head: None,
                queue: belongings.unwrap().lane.queue.into(),
                lane: None,
                body: None,
                result: None,
                attempt: None,
                effects: Vec::new(),
            });
            store.commit(p, SessionId(0), gone.collect(), Mode::Each, Sync::Durable).await.unwrap();
        }
    }
    for (kind, key, entry) in store.loose_keys(p, Cursor::default(), 1_000).await.unwrap().items {
        let over = KeyEntry { until: Some(Millis(1)), ..entry.clone() };
        store.put_key(p, KeyTake { kind, key, entry: over, seen: Some(entry) }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_tasks_that_are_gone() {
    let fixture = OnRedis::new(2);
    let prefix = fixture.options.prefix.clone();
    let store = RedisStore::open(fixture.options.clone()).await.unwrap();
    let mut moved = 0;
    for seed in 0..45 {
        let past = crate::model::past(Arc::new(Memory::new()), 5_000 + seed, 50).await;
        let report = Move { from: &past, inside: &past, to: &*store, nonce: 1, told: &|_| {} }.run().await.unwrap();
        moved += report.moved.iter().sum::<u64>();
    }
    assert!(moved > 300, "{moved} tasks are too few to say anything");
    let full = keys(&store, &prefix).await;
    let kinds: BTreeSet<String> = full.iter().map(|(key, _)| name(key, &prefix).chars().take(2).collect()).collect();
    for kind in ["h", "n", "L", "lc", "mt", "mr", "t", "ru", "do", "k", "b:", "r:", "a:", "l:", "k:", "ba"] {
        assert!(kinds.contains(kind), "no key of the kind {kind} was made: {kinds:?}");
    }
    for (key, left) in &full {
        let name = name(key, &prefix);
        assert!(left.is_none() || name.starts_with("k:"), "redis drops {name} by itself in {left:?} ms");
    }

    for p in [Partition(0), Partition(1)] {
        delete_all(&store, p).await;
        for want in [Want::Own, Want::Leave] {
            let request = OwnRequest { session: SessionId(1), want, lease: Duration::from_secs(9), drop: Vec::new() };
            store.own(p, request).await.unwrap();
        }
        assert_eq!(store.counts(p).await.unwrap(), []);
        assert_eq!(crate::all_lanes(&*store, p).await.unwrap(), []);
    }
    for (key, _) in keys(&store, &prefix).await {
        let name = name(&key, &prefix);
        let of_store = key[prefix.len()..].starts_with(b"{doc}");
        let known = if of_store { STORE.iter().any(|known| name.starts_with(known)) } else { PARTITION.contains(&&*name) };
        assert!(known, "{name} is left of tasks that are gone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sample_tells_what_a_task_takes() {
    let fixture = OnRedis::new(1);
    let store: Arc<dyn Store> = RedisStore::open(fixture.options.clone()).await.unwrap();
    let kit = crate::conformance::kit::Kit::over(&fixture, store.clone());
    let body = bytes::Bytes::from(vec![b'b'; 640]);
    let items = (0..150).map(|_| crate::Insert { body: body.clone(), ..kit.task() }).collect();
    let tasks = kit.put_all(items).await;
    let task = kit.claimed(&kit.token().await, &tasks[0]).await;
    let end = crate::conformance::kit::ended(&task.head, lovage_core::State::Failed, kit.now(), Duration::from_secs(60));
    let attempt = Some(bytes::Bytes::from(vec![b'a'; 4_000]));
    kit.committed(&task, Commit { attempt, ..task.commit(Some(end)) }).await;
    let inside = RedisStore::open(fixture.options.clone()).await.unwrap();
    let footprint = inside.footprint().await.unwrap();
    assert!(footprint.bytes > 150 * 640, "{footprint:?}");
    let [(lovage_core::State::Queued, queued), (lovage_core::State::Failed, failed)] = footprint.tasks[..] else {
        panic!("{footprint:?}")
    };
    assert!((840.0..1_400.0).contains(&queued) && failed > queued + 3_500.0, "{footprint:?}");
}
