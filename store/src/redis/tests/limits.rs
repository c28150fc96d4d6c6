//! What limits leave in Redis: nothing.

use std::time::Duration;

use bytes::Bytes;
use lovage_core::units::{Period, Rate};
use lovage_core::{LimitRule, Ns, SessionId};

use super::*;
use crate::conformance::kit::eventually;
use crate::{Hold, Holder, LimitRequest, SlotWish, TokenWish};

fn keys_of(fixture: &OnRedis, what: &str) -> Vec<String> {
    let found = fixture.server.command(&["KEYS", &format!("{}{what}", fixture.options.prefix)]).unwrap();
    found.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_key_is_forgotten() {
    let fixture = OnRedis::new(1);
    let store = fixture.fresh().await;
    let rule = LimitRule { rate: Rate::new(10, Period::Second), burst: Some(5), concurrency: Some(3) };
    let request = |n: u64| LimitRequest {
        submitted: Some((store.clock().now(), rule)),
        tokens: Some(TokenWish { least: 1, most: 5, ahead: Duration::ZERO }),
        slots: Some(SlotWish {
            holder: Holder::Session(SessionId(n % 3)),
            most: 5,
            lease: Duration::from_millis(500),
            wait: Some(SessionId(n % 3)),
        }),
        ..LimitRequest::look(Ns(0), format!("tenant-{n}"), rule)
    };
    for n in 0..10 {
        store.limit((0..100).map(|k| request(n * 100 + k)).collect()).await.unwrap();
    }
    assert!(!keys_of(&fixture, "{l*").is_empty());
    eventually("redis forgets them all", async || keys_of(&fixture, "{l*").is_empty()).await;

    // What is idle at once is not even written.
    let look = |key: &str| LimitRequest::look(Ns(0), key, rule);
    let hold = |count| Hold { holder: Holder::Session(SessionId(1)), count, lease: Duration::from_secs(60) };
    store.limit(vec![look("a"), LimitRequest { holds: vec![hold(0)], ..look("a") }]).await.unwrap();
    assert_eq!(keys_of(&fixture, "{l*"), [] as [String; 0]);
    store.limit(vec![LimitRequest { holds: vec![hold(2)], ..look("a") }]).await.unwrap();
    assert_eq!(keys_of(&fixture, "{l*").len(), 1);
    store.limit(vec![LimitRequest { holds: vec![hold(0)], ..look("a") }]).await.unwrap();
    assert_eq!(keys_of(&fixture, "{l*"), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boards_and_notes_end_by_themselves() {
    let fixture = OnRedis::new(1);
    let store = fixture.fresh().await;
    store.publish(SessionId(1), Some(Bytes::from_static(b"a"))).await.unwrap();
    store.wake(SessionId(1), &[(Ns(0), "a".into())]).await.unwrap();
    for key in keys_of(&fixture, "{doc}board*").into_iter().chain(keys_of(&fixture, "{s1}*")) {
        let left: i64 = fixture.server.command(&["PTTL", &key]).unwrap().trim().parse().unwrap();
        assert!((1..=10_000).contains(&left), "{key}: {left}");
    }
    store.publish(SessionId(1), None).await.unwrap();
    store.woken(SessionId(1), Duration::ZERO).await.unwrap();
    assert_eq!(keys_of(&fixture, "{doc}board*"), [] as [String; 0]);
    assert_eq!(keys_of(&fixture, "{s1}*"), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_holders_are_looked_at_only_when_one_expires() {
    let fixture = OnRedis::new(1);
    let store = fixture.fresh().await;
    let rule = LimitRule { concurrency: Some(2_000), ..LimitRule::default() };
    let hold = |n: u32, lease| Hold { holder: Holder::Attempt(format!("t{n}")), count: 1, lease };
    let holds = (0..1_000).map(|n| hold(n, Duration::from_secs(if n < 500 { 1 } else { 600 }))).collect();
    let mut reply = store.limit(vec![LimitRequest { holds, ..LimitRequest::look(Ns(0), "many", rule) }]).await.unwrap();
    assert_eq!(reply.remove(0).unwrap().in_use, 1_000);
    eventually("half of them expire", async || {
        let look = LimitRequest::look(Ns(0), "many", rule);
        store.limit(vec![look]).await.unwrap().remove(0).unwrap().in_use == 500
    })
    .await;
    let all = (0..1_000).map(|n| Hold { count: 0, ..hold(n, Duration::ZERO) }).collect();
    let mut reply = store.limit(vec![LimitRequest { holds: all, ..LimitRequest::look(Ns(0), "many", rule) }]).await.unwrap();
    assert_eq!((reply.remove(0).unwrap().in_use, keys_of(&fixture, "{l*").len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_key_stops_no_other() {
    let fixture = OnRedis::new(1);
    let store = fixture.fresh().await;
    let rule = LimitRule { concurrency: Some(2), ..LimitRule::default() };
    let hold = Hold { holder: Holder::Session(SessionId(1)), count: 1, lease: Duration::from_secs(60) };
    let request = |key: &str| LimitRequest { holds: vec![hold.clone()], ..LimitRequest::look(Ns(0), key, rule) };
    store.limit(vec![request("a")]).await.unwrap();
    let name = keys_of(&fixture, "{l*").remove(0);
    fixture.server.command(&["SET", &name, "something else"]).unwrap();
    let replies = store.limit(vec![request("b"), request("a"), request("c")]).await.unwrap();
    let in_use: Vec<_> = replies.iter().map(|reply| reply.as_ref().map(|reply| reply.in_use)).collect();
    assert!(matches!(in_use[..], [Ok(1), Err(crate::Error::Corrupt(_)), Ok(1)]), "{in_use:?}");
    // Alone it is a fault of the call.
    assert!(matches!(store.limit(vec![request("a")]).await, Err(crate::Error::Corrupt(_))));
}
