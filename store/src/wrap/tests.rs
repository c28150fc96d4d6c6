//! The wrappers change nothing but what they promise.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lovage_core::Partition;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::Mutex;

use super::{Fault, Faulty, Traced, Verb};
use crate::conformance::Fixture;
use crate::conformance::kit::{Kit, PATIENCE};
use crate::memory::tests::Memory;
use crate::{DocKind, Error, Inserted, Mode, Store};

/// A memory store within both wrappers, nothing made to fail.
struct Wrapped(Memory);

#[async_trait]
impl Fixture for Wrapped {
    async fn fresh(&self) -> Arc<dyn Store> {
        Arc::new(Traced::new(Arc::new(Faulty::new(self.0.fresh().await))))
    }

    fn advance(&self, by: Duration) -> bool {
        self.0.advance(by)
    }

    async fn forget_feed(&self, store: &Arc<dyn Store>, p: Partition) {
        self.0.forget_feed(store, p).await;
    }
}

mod conforms {
    use super::*;

    crate::conformance_suite!(Wrapped(Memory::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agrees_with_the_model() {
    crate::model::check("wrapped memory", || Wrapped(Memory::new()), 50).await;
}

/// Notes the key of every histogram and counter that is used.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn note(&self, key: &Key) {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        self.0.lock().push(format!("{}{{{}}}", key.name(), labels.join(",")));
    }
}

impl Recorder for Seen {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.note(key);
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.note(key);
        Histogram::noop()
    }
}

#[test]
fn calls_and_errors_are_measured() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let seen = Seen::default();
    metrics::with_local_recorder(&seen, || {
        runtime.block_on(async {
            let fixture = Wrapped(Memory::new());
            let store = fixture.fresh().await;
            store.ping().await.unwrap();
            store.counts(Partition(0)).await.unwrap();
            store.doc_version(7, Duration::ZERO).await.unwrap();
            store.insert(Partition(99), Vec::new(), Mode::Each).await.unwrap_err();
        });
    });
    let expected = [
        "lovage_store_call_seconds{verb=ping}",
        "lovage_store_call_seconds{verb=counts}",
        "lovage_store_call_seconds{verb=insert}",
        "lovage_store_errors_total{verb=insert,error=invalid}",
    ];
    assert_eq!(*seen.0.lock(), expected);
}

async fn faulty(fixture: &Memory) -> (Arc<Faulty>, Kit<'_>) {
    let store = Arc::new(Faulty::new(fixture.fresh().await));
    (store.clone(), Kit::over(fixture, store))
}

#[tokio::test]
async fn a_fault_before_writes_nothing_and_one_after_has_written() {
    let fixture = Memory::new();
    let (store, kit) = faulty(&fixture).await;
    let item = kit.client_task(0);
    store.script(Verb::Insert, [Some(Fault::Before), Some(Fault::After), None]);

    let answer = store.insert(kit.p, vec![item.clone()], Mode::Each).await;
    assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
    assert_eq!(kit.head(&item.key).await, None);

    let answer = store.insert(kit.p, vec![item.clone()], Mode::Each).await;
    assert!(matches!(answer, Err(Error::Unknown(_))), "{answer:?}");
    assert!(kit.head(&item.key).await.is_some());

    let answer = store.insert(kit.p, vec![item], Mode::Each).await.unwrap();
    assert!(matches!(answer[..], [Inserted::Exists(_)]), "{answer:?}");
}

#[tokio::test]
async fn a_lost_read_is_unavailable_and_other_verbs_are_left_alone() {
    let fixture = Memory::new();
    let (store, kit) = faulty(&fixture).await;
    store.script(Verb::Counts, [Some(Fault::After)]);
    store.ping().await.unwrap();
    assert!(matches!(store.counts(kit.p).await, Err(Error::Unavailable(_))));
    store.counts(kit.p).await.unwrap();
}

#[tokio::test]
async fn a_delay_comes_before_the_call() {
    let fixture = Memory::new();
    let (store, kit) = faulty(&fixture).await;
    store.script(Verb::Ping, [Some(Fault::Delay(Duration::from_millis(30)))]);
    let started = std::time::Instant::now();
    store.ping().await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(30));
    kit.put(kit.task()).await;
}

#[tokio::test]
async fn a_store_that_is_away_comes_back_when_healed() {
    let fixture = Memory::new();
    let (store, kit) = faulty(&fixture).await;
    store.set_away(true);
    assert!(matches!(store.ping().await, Err(Error::Unavailable(_))));
    assert!(matches!(store.doc(DocKind::Queue, lovage_core::Ns(0), "a").await, Err(Error::Unavailable(_))));
    store.heal();
    kit.put(kit.task()).await;
}

#[tokio::test]
async fn a_seed_decides_the_faults() {
    let run = async |seed| {
        let fixture = Memory::new();
        let (store, _) = faulty(&fixture).await;
        store.random(seed, 300, Duration::ZERO);
        let mut failed = Vec::new();
        for n in 0..200 {
            let answer = tokio::time::timeout(PATIENCE, store.ping()).await.unwrap();
            failed.extend(answer.is_err().then_some(n));
        }
        failed
    };
    let (one, again, other) = (run(1).await, run(1).await, run(2).await);
    assert_eq!(one, again);
    assert_ne!(one, other);
    // A fifth of the calls: two of three kinds of fault are seen as errors.
    assert!((20..60).contains(&one.len()), "{}", one.len());
}
