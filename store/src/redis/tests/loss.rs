//! What the store does when Redis loses data, is emptied, full, or holds the data of somebody else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lovage_core::{Ns, Partition, SessionId};
use lovage_testkit::redis::RedisOptions as ServerOptions;
use lovage_testkit::{Fsync, Redis, eventually};

use super::{OnRedis, RedisOptions, RedisStore};
use crate::conformance::kit::{Kit, LONG, PATIENCE};
use crate::redis::RedisWait;
use crate::{Claimed, DocGuard, DocKind, DocOutcome, DocPut, Error, FeedPos, ListQuery, Mode, OwnRequest, OwnToken, Store, Want};

const P: Partition = Partition(0);

fn server() -> Redis {
    Redis::start_with(ServerOptions::default().fsync(Fsync::NoFile))
}

async fn open(server: &Redis) -> Arc<RedisStore> {
    let options = RedisOptions { timeout: Duration::from_secs(1), partitions: 2, ..RedisOptions::new(server.url()) };
    RedisStore::open(options).await.unwrap()
}

fn document(name: &str) -> DocPut {
    DocPut { kind: DocKind::Node, ns: Ns::DEFAULT, name: name.into(), guard: DocGuard::Any, bytes: Some("{}".into()) }
}

async fn owned(store: &RedisStore, session: SessionId) -> Option<OwnToken> {
    let request = OwnRequest { session, want: Want::Own, lease: LONG, drop: Vec::new() };
    store.own(P, request).await.unwrap().token
}

/// Redis may lose its last writes; who asked for a session before must not share it with who asks after.
#[tokio::test]
async fn sessions_are_never_the_same() {
    let server = server();
    let store = open(&server).await;
    let mut sessions = Vec::new();
    for _ in 0..20 {
        sessions.push(store.next_session().unwrap());
        server.flush();
        sessions.push(open(&server).await.next_session().unwrap());
    }
    assert!(sessions.iter().all(|session| (1..1 << 52).contains(&session.0)), "{sessions:?}");
    sessions.sort_unstable();
    sessions.dedup();
    assert_eq!(sessions.len(), 40);
}

#[tokio::test]
async fn a_partition_whose_ownership_was_lost_has_one_owner() {
    for first_is_back_first in [true, false] {
        let fixture = OnRedis::new(1);
        let [one, two] = [0; 2].map(|_| RedisStore::open(fixture.options.clone()));
        let (one, two) = (one.await.unwrap(), two.await.unwrap());
        let (first, second) = (one.next_session().unwrap(), two.next_session().unwrap());
        let before = owned(&one, first).await.unwrap();
        assert_eq!(owned(&two, second).await, None);
        let kit = Kit::over(&fixture, one.clone());
        let task = kit.put(kit.task()).await;

        let tag = format!("{}{{p00}}", fixture.options.prefix);
        fixture.server.command(&["DEL", &format!("{tag}own"), &format!("{tag}until"), &format!("{tag}ses")]).unwrap();
        let mut tokens = Vec::new();
        for is_first in [first_is_back_first, !first_is_back_first, first_is_back_first] {
            let token = if is_first { owned(&one, first).await } else { owned(&two, second).await };
            tokens.push(token);
        }
        let [Some(after), None, Some(again)] = &tokens[..] else { panic!("{tokens:?}") };
        assert!(after == again && *after != before, "{before:?} {after:?} {again:?}");
        let refused = one.claim(P, &before, first, vec![task.claim(first)]).await.unwrap_err();
        assert!(matches!(refused, Error::Fenced), "{refused}");
        let owner = if first_is_back_first { first } else { second };
        let claimed = two.claim(P, after, owner, vec![task.claim(owner)]).await.unwrap();
        assert!(matches!(claimed[..], [Claimed::Ok(_)]), "{claimed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_store_is_written_again_and_readers_of_documents_look() {
    let mut server = server();
    let store = open(&server).await;
    let other = open(&server).await;
    assert_eq!(store.id(), other.id());
    for restart in [false, true] {
        store.put_docs(vec![document("1")]).await.unwrap();
        let seen = store.doc_version(u64::MAX, Duration::ZERO).await.unwrap();
        let waiting = tokio::spawn({
            let store = Arc::clone(&store);
            // Over a restart the wait may fail, and is begun again as by everybody.
            async move {
                loop {
                    match store.doc_version(seen, PATIENCE).await {
                        Ok(version) if version != 0 => return version,
                        _ => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            }
        });
        eventually("the wait", PATIENCE, async || server.command(&["CLIENT", "LIST"]).unwrap().contains("xread").then_some(()))
            .await;
        if restart {
            server.restart();
        } else {
            server.flush();
        }
        let start = Instant::now();
        assert!(waiting.await.unwrap() > seen);
        assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
        let facts = server.command(&["HMGET", "lv{doc}meta", "format", "partitions", "id"]).unwrap();
        assert_eq!(facts.lines().collect::<Vec<_>>(), ["1", "2", &store.id().to_string()]);
        assert!(store.doc(DocKind::Node, Ns::DEFAULT, "1").await.unwrap().is_none());
        let fixture = OnRedis::unused();
        let kit = Kit::over(&fixture, store.clone());
        let task = kit.put(kit.task()).await;
        kit.claimed(&kit.token().await, &task).await;
        other.ping().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_store_in_the_place_of_ours_is_not_used() {
    for (fact, value) in [("id", "7"), ("partitions", "3"), ("format", "99")] {
        let server = server();
        let store = open(&server).await;
        let fixture = OnRedis::unused();
        let kit = Kit::over(&fixture, store.clone());
        server.command(&["HSET", "lv{doc}meta", fact, value]).unwrap();
        let why = eventually("it is noticed", PATIENCE, async || store.ping().await.err()).await;
        assert!(matches!(&why, Error::Unavailable(text) if text.contains("restart the process")), "{why}");
        let refused = [
            store.insert(kit.p, vec![kit.task()], Mode::Each).await.err(),
            store.heads(P, &[kit.client_task(0).key]).await.err(),
            store.list(P, &ListQuery::default(), crate::Cursor::default(), 10).await.err(),
            store.feed(P, FeedPos::default(), PATIENCE).await.err(),
            store.put_docs(vec![document("1")]).await.err(),
            store.doc_version(0, PATIENCE).await.err(),
        ];
        for error in refused {
            assert!(matches!(&error, Some(Error::Unavailable(_))), "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_store_without_an_id_is_given_one() {
    let server = server();
    let first = open(&server).await.id();
    server.command(&["HDEL", "lv{doc}meta", "id"]).unwrap();
    let second = open(&server).await.id();
    assert!(first != second && second != 0);
    assert_eq!(open(&server).await.id(), second);
}

#[tokio::test]
async fn a_full_store_is_opened_and_takes_documents() {
    for older in [false, true] {
        let server = server();
        let store = open(&server).await;
        let fixture = OnRedis::unused();
        let kit = Kit::over(&fixture, store.clone());
        kit.put(kit.task()).await;
        if older {
            server.command(&["HDEL", "lv{doc}meta", "id"]).unwrap();
            drop(store);
        }
        server.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
        let store = open(&server).await;
        let outcome = store.put_docs(vec![document("1")]).await.unwrap();
        assert!(matches!(outcome[..], [DocOutcome::Ok { .. }]), "{outcome:?}");
        assert!(owned(&store, store.next_session().unwrap()).await.is_some());
        let refused = store.insert(kit.p, vec![kit.task()], Mode::Each).await.unwrap_err();
        assert!(matches!(refused, Error::Full(_)), "{refused}");
    }
}

#[tokio::test]
async fn a_key_of_another_type_is_refused_at_the_start() {
    let server = server();
    drop(open(&server).await);
    for name in ["{p00}n", "{p01}f", "{p01}out", "{doc}meta", "{doc}d:q"] {
        let key = format!("lv{name}");
        server.flush();
        server.command(&["SET", &key, "x"]).unwrap();
        let options = RedisOptions { partitions: 2, ..RedisOptions::new(server.url()) };
        let why = RedisStore::open(options).await.unwrap_err().to_string();
        assert!(why.contains(&format!("the key {key} is a string and not a")), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_writes_nobody_confirms_is_not_ready() {
    let server = Redis::start();
    let replica = Redis::start_replica_of(&server);
    let wait = Some(RedisWait { replicas: 1, timeout: Duration::from_millis(300) });
    let store = RedisStore::open(RedisOptions { partitions: 1, wait, ..RedisOptions::new(server.url()) }).await.unwrap();
    store.ping().await.unwrap();
    replica.pause();
    let refused = store.put_docs(vec![document("1")]).await.unwrap_err();
    assert!(matches!(refused, Error::Unknown(_)), "{refused}");
    let refused = store.ping().await.unwrap_err();
    assert!(matches!(refused, Error::Unavailable(_)), "{refused}");
    replica.resume();
    eventually("it is ready again", PATIENCE, async || store.ping().await.ok()).await;
}
