//! Inserts: what is taken, what is refused, and in which order that is decided.

use std::time::Duration;

use bytes::Bytes;
use lovage_core::{Head, Ns, Partition, Slot, State, TaskId, TaskKey};

use super::Fixture;
use super::kit::{Kit, LONG, key_put};
use crate::{Error, Insert, Inserted, KeyKind, Mode};

fn with_key(kit: &Kit<'_>, item: Insert, key: &'static str, lasts: Duration) -> Insert {
    Insert { keys: vec![key_put(kit, KeyKind::Idempotency, key, Some(lasts))], ..item }
}

/// Head and body come back as given, with the `seq` that was answered.
pub async fn stores_what_was_given(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    for (n, state) in State::ALL.iter().enumerate() {
        for mut item in [kit.task(), kit.client_task(n)] {
            item.head.state = *state;
            item.head.priority = n as u8;
            item.head.worker = n as u32;
            item.head.due = kit.now().after(Duration::from_secs(n as u64));
            item.head.expires = kit.now().after(LONG);
            item.body = Bytes::from(vec![0, 255, n as u8]);
            let task = kit.put(item.clone()).await;
            let stored = kit.whole(&task.key).await.unwrap();
            assert_eq!(stored.head, Head { seq: task.head.seq, ..item.head });
            assert_eq!(stored.body, Some(item.body.clone()));
            assert_eq!((stored.result, stored.attempts.len()), (None, 0));
            let missing = TaskKey::new(Ns(77), task.key.id.clone());
            let keys = [task.key.clone(), missing, task.key.clone()];
            let bodies = kit.store.bodies(kit.p, &keys).await.unwrap();
            assert_eq!(bodies, [Some(item.body.clone()), None, Some(item.body)]);
            let heads = kit.store.heads(kit.p, &keys).await.unwrap();
            assert_eq!(heads, [Some(task.head.clone()), None, Some(task.head.clone())]);
        }
    }
}

/// Each task accepted gets a larger `seq` than all before it in its partition.
pub async fn seq_rises_in_order(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let mut last = 0;
    for size in [1, 5, 1, 20] {
        for task in kit.put_all((0..size).map(|_| kit.task()).collect()).await {
            assert!(task.head.seq > last, "{} after {last}", task.head.seq);
            last = task.head.seq;
        }
    }
}

/// A client's id is taken once; the second is shown the stored head.
pub async fn an_id_is_taken_once(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let first = kit.put(kit.client_task(0)).await;
    let mut again = kit.client_task(0);
    again.body = Bytes::from_static(b"another body");
    again.head.priority = 9;
    assert_eq!(kit.insert(vec![again]).await, [Inserted::Exists(first.head.clone())]);
    let stored = kit.whole(&first.key).await.unwrap();
    assert_eq!(stored.head, first.head);
    assert_ne!(stored.body.unwrap(), "another body");
}

/// Items see the ones before them in the batch.
pub async fn a_batch_sees_its_own_items(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let keyed = with_key(&kit, kit.task(), "k", LONG);
    let rival = with_key(&kit, kit.task(), "k", LONG);
    let answers = kit.insert(vec![kit.client_task(0), kit.client_task(0), keyed.clone(), rival]).await;
    let [Inserted::Ok { seq }, Inserted::Exists(head), Inserted::Ok { .. }, Inserted::Conflict { entry, .. }] = &answers[..]
    else {
        panic!("{answers:?}")
    };
    assert_eq!(head.seq, *seq);
    assert_eq!(entry.task, keyed.key);
}

/// A task whose last moment has passed is refused.
pub async fn late_is_refused(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let before = kit.now();
    kit.pass(Duration::from_millis(5)).await;
    let late = Insert { not_after: Some(before), ..kit.task() };
    let in_time = Insert { not_after: Some(kit.now().after(LONG)), ..kit.task() };
    let answers = kit.insert(vec![late.clone(), in_time]).await;
    assert!(matches!(answers[..], [Inserted::Late, Inserted::Ok { .. }]), "{answers:?}");
    assert_eq!(kit.head(&late.key).await, None);
}

/// A key belongs to the first task that took it, with the value put beside it.
pub async fn a_key_is_taken_once(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let first = with_key(&kit, kit.task(), "k", LONG);
    let unique = first.keys[0].clone();
    let task = kit.put(first).await;
    let second = with_key(&kit, kit.task(), "k", LONG + LONG);
    let conflict = Inserted::Conflict { kind: unique.kind, entry: unique.entry(&task.key), head: Some(task.head) };
    assert_eq!(kit.insert(vec![second.clone()]).await, [conflict]);
    assert_eq!(kit.head(&second.key).await, None);
    kit.put(with_key(&kit, kit.task(), "another", LONG)).await;
}

/// A key is free again at its end.
pub async fn a_key_is_free_after_its_end(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    kit.put(with_key(&kit, kit.task(), "k", Duration::from_millis(50))).await;
    kit.pass(Duration::from_millis(50)).await;
    let second = with_key(&kit, kit.task(), "k", LONG);
    kit.put(second.clone()).await;
    let third = kit.insert(vec![with_key(&kit, kit.task(), "k", LONG)]).await;
    assert!(matches!(&third[..], [Inserted::Conflict { entry, .. }] if entry.task == second.key), "{third:?}");
}

/// Late before exists before conflict.
pub async fn refusals_come_in_the_documented_order(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let before = kit.now();
    kit.pass(Duration::from_millis(5)).await;
    kit.put_all(vec![kit.client_task(0), with_key(&kit, kit.task(), "k", LONG)]).await;
    let all = with_key(&kit, Insert { not_after: Some(before), ..kit.client_task(0) }, "k", LONG);
    let two = Insert { not_after: None, ..all.clone() };
    let one = Insert { key: kit.client_task(1).key, ..two.clone() };
    let answers = kit.insert(vec![all, two, one]).await;
    assert!(matches!(answers[..], [Inserted::Late, Inserted::Exists(_), Inserted::Conflict { .. }]), "{answers:?}");
}

/// A refused item takes neither its id nor its key, and does not hinder the others.
pub async fn each_alone(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    kit.put(kit.client_task(0)).await;
    let refused = with_key(&kit, kit.client_task(0), "k", LONG);
    let answers = kit.insert(vec![kit.task(), refused, kit.task()]).await;
    assert!(matches!(answers[..], [Inserted::Ok { .. }, Inserted::Exists(_), Inserted::Ok { .. }]), "{answers:?}");
    assert_eq!(kit.store.lookup(kit.p, Ns::DEFAULT, KeyKind::Idempotency, b"k").await.unwrap(), None);
    assert_eq!(kit.count(Ns::DEFAULT, "default", State::Queued).await, 3);
}

/// An atomic batch is stored whole or not at all.
pub async fn all_or_nothing(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    kit.put(kit.client_task(0)).await;
    let good = with_key(&kit, kit.task(), "k", LONG);
    let last = kit.task();
    let items = vec![good.clone(), kit.client_task(0), kit.client_task(1), kit.client_task(1), last.clone()];
    let answers = kit.store.insert(kit.p, items, Mode::Atomic).await.unwrap();
    let expected = matches!(
        answers[..],
        [Inserted::Aborted, Inserted::Exists(_), Inserted::Aborted, Inserted::Exists(_), Inserted::Aborted]
    );
    assert!(expected, "{answers:?}");
    assert_eq!(kit.head(&good.key).await, None);
    assert_eq!(kit.head(&kit.client_task(1).key).await, None);
    assert_eq!(kit.store.lookup(kit.p, Ns::DEFAULT, KeyKind::Idempotency, b"k").await.unwrap(), None);
    assert_eq!(kit.count(Ns::DEFAULT, "default", State::Queued).await, 1);
    let answers = kit.store.insert(kit.p, vec![good, kit.client_task(1), last], Mode::Atomic).await.unwrap();
    assert!(answers.iter().all(|answer| matches!(answer, Inserted::Ok { .. })), "{answers:?}");
    assert_eq!(kit.count(Ns::DEFAULT, "default", State::Queued).await, 4);
}

/// A task whose slot belongs to another partition is a caller's bug.
pub async fn a_task_has_one_home(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let partitions = kit.store.caps().partitions;
    for p in 1..partitions {
        let slot = Slot::in_partition(Partition(p), partitions, 0).number();
        let key = TaskKey::new(Ns::DEFAULT, TaskId::Generated((0x8 << 76) | (0b10 << 62) | u128::from(slot)));
        let stray = Insert { key: key.clone(), ..kit.task() };
        let answer = kit.store.insert(kit.p, vec![stray.clone()], Mode::Each).await;
        assert!(matches!(answer, Err(Error::Invalid(_))), "{answer:?}");
        let answer = kit.store.insert(Partition(p), vec![stray], Mode::Each).await.unwrap();
        assert!(matches!(answer[..], [Inserted::Ok { .. }]), "{answer:?}");
    }
}
