//! Keys that inserts take.

use std::time::Duration;

use bytes::Bytes;
use lovage_core::{Ns, State};

use super::Fixture;
use super::kit::{Kit, LONG, lane};
use crate::{Insert, Inserted, KeyEntry, KeyKind, KeyPut};

fn key(kit: &Kit<'_>, lasts: Duration) -> KeyPut {
    KeyPut {
        kind: KeyKind::Idempotency,
        key: Bytes::from_static(b"k\0\xff:"),
        value: Bytes::from_static(b"\0value\xff"),
        until: kit.now().after(lasts),
    }
}

async fn lookup(kit: &Kit<'_>, ns: Ns, unique: &KeyPut) -> Option<KeyEntry> {
    kit.store.lookup(kit.p, ns, unique.kind, &unique.key).await.unwrap()
}

/// A key is found with its task and value until its end.
pub async fn found_until_their_end(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let lasts = Duration::from_secs(2);
    let unique = key(&kit, lasts);
    assert_eq!(lookup(&kit, Ns::DEFAULT, &unique).await, None);
    let task = kit.put(Insert { unique: Some(unique.clone()), ..kit.task() }).await;
    let entry = KeyEntry { task: task.key, value: unique.value.clone(), until: unique.until };
    assert_eq!(lookup(&kit, Ns::DEFAULT, &unique).await, Some(entry));
    kit.pass(lasts).await;
    assert_eq!(lookup(&kit, Ns::DEFAULT, &unique).await, None);
}

/// A key outlives its task: a repeated request is not carried out anew because its task was cleaned away.
pub async fn kept_after_the_task(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let unique = key(&kit, LONG);
    let task = kit.put(Insert { unique: Some(unique.clone()), ..kit.task() }).await;
    let task = kit.committed(&task, task.change(|head| head.state = State::Succeeded)).await;
    kit.committed(&task, task.commit(None)).await;
    let entry = KeyEntry { task: task.key, value: unique.value.clone(), until: unique.until };
    assert_eq!(lookup(&kit, Ns::DEFAULT, &unique).await, Some(entry.clone()));
    let again = Insert { unique: Some(unique), ..kit.task() };
    assert_eq!(kit.insert(vec![again]).await, [Inserted::Conflict(entry)]);
}

/// The same key in another namespace is another key.
pub async fn apart_by_namespace(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let unique = key(&kit, LONG);
    let mut tasks = Vec::new();
    for ns in [Ns(0), Ns(1), Ns(256)] {
        tasks.push((ns, kit.put(Insert { unique: Some(unique.clone()), ..kit.task_in(lane(ns, "default", "demo")) }).await));
    }
    for (ns, task) in tasks {
        assert_eq!(lookup(&kit, ns, &unique).await.unwrap().task, task.key);
    }
    assert_eq!(lookup(&kit, Ns(2), &unique).await, None);
}
