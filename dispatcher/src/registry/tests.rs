//! What the registry remembers, and for how long.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use lovage_core::worker::WorkerConfig;
use lovage_core::{Millis, Ns};
use lovage_store::{DocGuard, DocKind, DocPut, MemoryClock, MemoryOptions, MemoryStore, Store};

use super::{Admission, PRUNE_FROM, Registry};
use crate::egress::AddressPolicy;
use crate::gate::Slot;
use crate::line::Asker;

const ASKER: Asker = Asker { number: 0, wants: 0, waits: None };
const NOW: Millis = Millis(1_800_000_000_000);

fn slot(registry: &Registry, origin: &str) -> Slot {
    match registry.origin(Ns::DEFAULT, origin, NOW).admit(NOW, &ASKER) {
        Admission::Slot(slot, _) => slot,
        _ => panic!("a new origin is free"),
    }
}

fn sizes(registry: &Registry) -> (usize, usize, usize) {
    (registry.origins.lock().workers.len(), registry.states.lock().len(), registry.gates.lock().len())
}

#[test]
fn origins_that_nobody_calls_any_more_are_forgotten() {
    let registry = Registry::new(AddressPolicy::development());
    let open = slot(&registry, "http://open");
    drop(slot(&registry, "http://slow"));
    registry.origin(Ns::DEFAULT, "http://slow", NOW).gate.throttle(NOW, NOW, Some(Duration::from_secs(300)));
    let waited_for = registry.origin(Ns::DEFAULT, "http://0", NOW).gate.number;
    for n in 0..5 * PRUNE_FROM {
        registry.origin(Ns::DEFAULT, &format!("http://{n}"), NOW);
    }
    let (origins, _, gates) = sizes(&registry);
    assert!(origins <= PRUNE_FROM && gates <= PRUNE_FROM + 1, "{origins} origins, {gates} gates");
    // What is open stays counted, and who wants to be left alone is.
    let Admission::Slot(second, instance) = registry.origin(Ns::DEFAULT, "http://open", NOW).admit(NOW, &ASKER) else {
        panic!("free")
    };
    assert_eq!(instance.state.slots.open(), 2);
    drop((open, second));
    assert!(matches!(registry.origin(Ns::DEFAULT, "http://slow", NOW).admit(NOW, &ASKER), Admission::Paused(_)));
    // A lane that waited for a gate of before does not wait for ever.
    assert_eq!(registry.free(&[waited_for], NOW), [(waited_for, usize::MAX)]);
}

#[tokio::test]
async fn workers_that_are_gone_are_forgotten_when_nothing_is_open() {
    let store = Arc::new(MemoryStore::new(MemoryOptions::new(MemoryClock::manual(NOW))));
    let registry = Registry::new(AddressPolicy::development());
    let put = async |bytes| {
        let put = DocPut { kind: DocKind::Worker, ns: Ns::DEFAULT, name: "w".into(), guard: DocGuard::Any, bytes };
        store.put_docs(vec![put]).await.unwrap();
        registry.load(&*store).await.unwrap();
    };
    let config = |url: String| WorkerConfig { urls: vec![url], tasks: vec!["t".into()], ..WorkerConfig::default() };
    for n in 0..10 {
        put(Some(serde_json::to_vec(&config(format!("http://127.0.0.1:{}/", 9_000 + n))).unwrap().into())).await;
    }
    let worker = registry.worker(Ns::DEFAULT, "default", "t").unwrap();
    let Admission::Slot(open, _) = worker.admit(NOW, &ASKER) else { panic!("a new worker is free") };
    drop(worker);
    assert_eq!(sizes(&registry), (0, 1, 1));
    put(None).await;
    assert_eq!(sizes(&registry), (0, 1, 1), "a push is open");
    drop(open);
    registry.load(&*store).await.unwrap();
    assert_eq!(sizes(&registry), (0, 0, 0));
}

#[tokio::test]
async fn limits_and_routes_come_from_their_documents() {
    let store = Arc::new(MemoryStore::new(MemoryOptions::new(MemoryClock::manual(NOW))));
    let registry = Registry::new(AddressPolicy::development());
    let put = async |kind, name: &str, text: Option<&str>| {
        let bytes = text.map(|text| text.to_owned().into());
        let put = DocPut { kind, ns: Ns::DEFAULT, name: name.into(), guard: DocGuard::Any, bytes };
        store.put_docs(vec![put]).await.unwrap();
        registry.load(&*store).await.unwrap();
    };
    put(DocKind::Limit, "customer:42", Some(r#"{"rate":"10/s","paused_until":1900000000000}"#)).await;
    let limit = registry.limit(Ns::DEFAULT, "customer:42").unwrap();
    assert_eq!((limit.rule.rate.unwrap().to_string(), limit.paused(NOW)), ("10/s".into(), Some(Millis(1_900_000_000_000))));
    assert_eq!((registry.limit(Ns::DEFAULT, "customer:43"), registry.limit(Ns(7), "customer:42")), (None, None));
    put(DocKind::Limit, "customer:42", None).await;
    assert_eq!(registry.limit(Ns::DEFAULT, "customer:42"), None);
    let worker = |tasks: &str| format!(r#"{{"urls":["http://127.0.0.1:9/"],"tasks":["{tasks}"]}}"#);
    put(DocKind::Worker, "general", Some(&worker("*"))).await;
    put(DocKind::Worker, "special", Some(&worker("other"))).await;
    let name = || registry.worker(Ns::DEFAULT, "default", "images.resize").map(|worker| worker.name.to_string());
    assert_eq!((name().as_deref(), registry.task_rule(Ns::DEFAULT, "images.resize")), (Some("general"), None));
    put(DocKind::TaskType, "images.*", Some(r#"{"rate":"5/m","worker":"special"}"#)).await;
    assert_eq!(name().as_deref(), Some("special"));
    let rule = registry.task_rule(Ns::DEFAULT, "images.resize").unwrap();
    assert_eq!((rule.rate.unwrap().to_string(), rule.concurrency), ("5/m".into(), None));
    put(DocKind::TaskType, "images.*", Some(r#"{"worker":"nobody"}"#)).await;
    assert_eq!((name(), registry.task_rule(Ns::DEFAULT, "images.resize")), (None, None), "whatever patterns say");
}
