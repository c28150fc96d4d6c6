//! Documents.

use std::time::Duration;

use bytes::Bytes;
use lovage_core::{Ns, Version};

use super::Fixture;
use super::kit::{Kit, PATIENCE};
use crate::{DocGuard, DocKind, DocOutcome, DocPut, Document};

fn put(ns: u32, name: &str, guard: DocGuard, text: Option<&str>) -> DocPut {
    let bytes = text.map(|text| Bytes::copy_from_slice(text.as_bytes()));
    DocPut { kind: DocKind::Queue, ns: Ns(ns), name: name.into(), guard, bytes }
}

async fn one(kit: &Kit<'_>, item: DocPut) -> DocOutcome {
    kit.store.put_docs(vec![item]).await.unwrap().remove(0)
}

async fn done(kit: &Kit<'_>, item: DocPut) -> (Version, bool) {
    match one(kit, item).await {
        DocOutcome::Ok { version, created } => (version, created),
        refused @ DocOutcome::Refused(_) => panic!("{refused:?}"),
    }
}

/// Each guard holds when it says so, and a refusal shows the document that is stored.
pub async fn guards(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    assert_eq!(one(&kit, put(0, "a", DocGuard::Version(1), Some("x"))).await, DocOutcome::Refused(None));
    let (first, created) = done(&kit, put(0, "a", DocGuard::Absent, Some("one"))).await;
    assert!(first >= 1 && created);
    let stored = Document { kind: DocKind::Queue, ns: Ns(0), name: "a".into(), version: first, bytes: Some("one".into()) };
    assert_eq!(kit.store.doc(DocKind::Queue, Ns(0), "a").await.unwrap(), Some(stored.clone()));
    for guard in [DocGuard::Absent, DocGuard::Version(first + 1), DocGuard::Version(0)] {
        for text in [Some("never"), None] {
            assert_eq!(one(&kit, put(0, "a", guard, text)).await, DocOutcome::Refused(Some(stored.clone())));
        }
    }
    let (second, created) = done(&kit, put(0, "a", DocGuard::Version(first), Some("two"))).await;
    assert!(second > first && !created);
    let (third, created) = done(&kit, put(0, "a", DocGuard::Any, Some("three"))).await;
    assert!(third > second && !created);
    assert_eq!(kit.store.doc(DocKind::Queue, Ns(0), "a").await.unwrap().unwrap().bytes.unwrap(), "three");
    let (_, created) = done(&kit, put(0, "b", DocGuard::Any, Some("new"))).await;
    assert!(created);
}

/// A document that is made again after its deletion goes on counting.
pub async fn versions_are_never_reused(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let mut last = 0;
    for round in 0..4 {
        let (version, created) = done(&kit, put(0, "a", DocGuard::Absent, Some("x"))).await;
        assert!(version > last && created, "{version} after {last}");
        last = version;
        let guard = if round % 2 == 0 { DocGuard::Any } else { DocGuard::Version(version) };
        let (_, created) = done(&kit, put(0, "a", guard, None)).await;
        assert!(!created);
        assert_eq!(kit.store.doc(DocKind::Queue, Ns(0), "a").await.unwrap(), None);
        assert_eq!(one(&kit, put(0, "a", DocGuard::Version(last), Some("x"))).await, DocOutcome::Refused(None));
        assert_eq!(kit.store.docs(DocKind::Queue, None, None, 10).await.unwrap().items, []);
    }
    assert!(matches!(one(&kit, put(0, "never", DocGuard::Any, None)).await, DocOutcome::Ok { created: false, .. }));
    assert_eq!(kit.store.doc(DocKind::Queue, Ns(0), "never").await.unwrap(), None);
}

/// A refused item hinders no other, and later items see earlier ones.
pub async fn each_applies_alone(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let items = vec![
        put(0, "a", DocGuard::Absent, Some("one")),
        put(0, "a", DocGuard::Absent, Some("two")),
        put(0, "b", DocGuard::Absent, Some("three")),
        put(0, "a", DocGuard::Any, Some("four")),
    ];
    let answers = kit.store.put_docs(items).await.unwrap();
    let [
        DocOutcome::Ok { version: first, created: true },
        DocOutcome::Refused(Some(seen)),
        DocOutcome::Ok { created: true, .. },
        DocOutcome::Ok { version: last, created: false },
    ] = &answers[..]
    else {
        panic!("{answers:?}")
    };
    assert_eq!((seen.version, seen.bytes.as_deref()), (*first, Some(&b"one"[..])));
    assert!(last > first);
    assert_eq!(kit.store.doc(DocKind::Queue, Ns(0), "a").await.unwrap().unwrap().bytes.unwrap(), "four");
}

/// Pages come in order of namespace and name, of one namespace or of all.
pub async fn pages_in_order(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let names = ["b", "a", "a/b", "a.b", "Z", "ä", "10", "9"];
    let mut expected = Vec::new();
    for ns in [300, 0, 7] {
        for name in names {
            done(&kit, put(ns, name, DocGuard::Absent, Some(name))).await;
            expected.push((Ns(ns), name.to_owned()));
        }
    }
    expected.sort();
    for wanted in [None, Some(Ns(0)), Some(Ns(7)), Some(Ns(300)), Some(Ns(8))] {
        for limit in [1, 5, 100] {
            let mut found = Vec::new();
            let mut after = None;
            loop {
                let page = kit.store.docs(DocKind::Queue, wanted, after, limit).await.unwrap();
                assert!(page.items.len() <= limit);
                for doc in page.items {
                    assert_eq!(doc.bytes.as_deref(), Some(doc.name.as_bytes()));
                    found.push((doc.ns, doc.name));
                }
                let Some(next) = page.next else { break };
                after = Some(next);
            }
            let of_ns: Vec<_> = expected.iter().filter(|(ns, _)| wanted.is_none_or(|w| w == *ns)).cloned().collect();
            assert_eq!(found, of_ns, "{wanted:?} by {limit}");
        }
    }
}

/// Whoever waits for a change of documents is woken by it, and only told a number that rises.
pub async fn a_change_wakes(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let mut seen = kit.store.doc_version(u64::MAX, Duration::ZERO).await.unwrap();
    assert_eq!(kit.store.doc_version(seen, Duration::from_millis(20)).await.unwrap(), seen);
    for text in [Some("one"), Some("two"), None] {
        let store = kit.store.clone();
        // Far longer than the test may take: only a wake-up ends it.
        let waiting = tokio::spawn(async move { store.doc_version(seen, PATIENCE * 10).await.unwrap() });
        tokio::task::yield_now().await;
        done(&kit, put(0, "a", DocGuard::Any, text)).await;
        let version = tokio::time::timeout(PATIENCE, waiting).await.expect("the waiter is woken").unwrap();
        assert!(version > seen, "{version} after {seen}");
        seen = version;
        assert_eq!(kit.store.doc_version(seen - 1, PATIENCE).await.unwrap(), seen);
    }
}

/// Equal names of other namespaces and kinds are other documents.
pub async fn apart_by_namespace_and_kind(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    for kind in DocKind::ALL {
        for ns in [0, 1, 256] {
            let item = DocPut { kind, ..put(ns, "same", DocGuard::Absent, Some(&format!("{kind:?} {ns}"))) };
            assert!(matches!(one(&kit, item).await, DocOutcome::Ok { created: true, .. }));
        }
    }
    for kind in DocKind::ALL {
        for ns in [0, 1, 256] {
            let doc = kit.store.doc(kind, Ns(ns), "same").await.unwrap().unwrap();
            assert_eq!((doc.kind, doc.ns), (kind, Ns(ns)));
            assert_eq!(doc.bytes.unwrap(), format!("{kind:?} {ns}"));
        }
        assert_eq!(kit.store.docs(kind, None, None, 10).await.unwrap().items.len(), 3);
        let gone = DocPut { kind, ..put(1, "same", DocGuard::Any, None) };
        assert!(matches!(one(&kit, gone).await, DocOutcome::Ok { .. }));
        assert_eq!(kit.store.doc(kind, Ns(2), "same").await.unwrap(), None);
    }
    for kind in DocKind::ALL {
        assert_eq!(kit.store.docs(kind, None, None, 10).await.unwrap().items.len(), 2);
    }
}

/// Content and names come back byte for byte, also empty and large ones.
pub async fn bytes_are_untouched(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let long_name = "n".repeat(300);
    let contents = [Vec::new(), vec![0], (0..=255).collect(), vec![7; 200_000]];
    for (name, bytes) in ["worker/instance 1", "ünï", "a:b{c}", &long_name].into_iter().zip(contents) {
        let item = DocPut { bytes: Some(bytes.clone().into()), ..put(0, name, DocGuard::Absent, None) };
        done(&kit, item).await;
        let doc = kit.store.doc(DocKind::Queue, Ns(0), name).await.unwrap().unwrap();
        assert_eq!((doc.name.as_str(), doc.bytes.unwrap()), (name, Bytes::from(bytes)));
    }
}
