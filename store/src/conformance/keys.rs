//! Keys: one task at a time, until their end, and for some until the record goes.

use std::time::Duration;

use bytes::Bytes;
use lovage_core::{Ns, State, TaskKey};

use super::Fixture;
use super::kit::{Kit, LONG, SESSION, Task, ended, key_put, lane};
use crate::{
    Commit, Committed, Effect, Error, Insert, Inserted, KeyEntry, KeyKind, KeyPut, KeyTake, MAX_KEYS, Mode, OnExists, Sync,
};

/// The kinds that go with the record of their task.
const OF_RECORDS: [KeyKind; 2] = [KeyKind::Unique, KeyKind::Debounce];

fn with(item: Insert, put: &KeyPut) -> Insert {
    Insert { keys: vec![put.clone()], ..item }
}

fn stealing(put: &KeyPut, from: &Task) -> KeyPut {
    KeyPut { steal: Some((from.key.clone(), from.head.version)), ..put.clone() }
}

fn spawn(child: &Insert) -> Effect {
    Effect::Spawn(Box::new(child.clone()))
}

fn free(put: &KeyPut) -> Effect {
    Effect::FreeKey { kind: put.kind, key: put.key.clone() }
}

fn take(put: &KeyPut, task: &TaskKey, seen: Option<KeyEntry>) -> KeyTake {
    KeyTake { kind: put.kind, key: put.key.clone(), entry: put.entry(task), seen }
}

fn conflict(put: &KeyPut, holder: &Task) -> Inserted {
    Inserted::Conflict { kind: put.kind, entry: put.entry(&holder.key), head: Some(holder.head.clone()) }
}

impl Task {
    /// The change to the next version with these effects.
    fn with_effects(&self, effects: Vec<Effect>) -> Commit {
        Commit { effects, ..self.change(|_| {}) }
    }
}

async fn lookup(kit: &Kit<'_>, ns: Ns, put: &KeyPut) -> Option<KeyEntry> {
    kit.store.lookup(kit.p, ns, put.kind, &put.key).await.unwrap()
}

async fn holder(kit: &Kit<'_>, put: &KeyPut) -> Option<TaskKey> {
    lookup(kit, Ns::DEFAULT, put).await.map(|entry| entry.task)
}

/// A key of every kind is found with its task and value until its end.
pub async fn found_until_their_end(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let lasts = Duration::from_secs(2);
    let puts = KeyKind::ALL.map(|kind| KeyPut { key: Bytes::from_static(b"k\0\xff:"), ..key_put(&kit, kind, "", Some(lasts)) });
    for put in &puts {
        assert_eq!(lookup(&kit, Ns::DEFAULT, put).await, None);
    }
    for put in &puts {
        let task = kit.put(with(kit.task(), put)).await;
        assert_eq!(lookup(&kit, Ns::DEFAULT, put).await, Some(put.entry(&task.key)));
    }
    kit.pass(lasts).await;
    for put in &puts {
        assert_eq!(lookup(&kit, Ns::DEFAULT, put).await, None);
        let again = KeyPut { until: None, ..put.clone() };
        let task = kit.put(with(kit.task(), &again)).await;
        assert_eq!(lookup(&kit, Ns::DEFAULT, put).await, Some(again.entry(&task.key)));
    }
    kit.pass_if_free(LONG);
    for put in &puts {
        let answers = kit.insert(vec![with(kit.task(), put)]).await;
        assert!(matches!(answers[..], [Inserted::Conflict { .. }]), "{answers:?}");
    }
}

/// An idempotency key outlives its task: a repeated request is not carried out anew because its task was cleaned away.
pub async fn kept_after_the_task(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    for kind in [KeyKind::Idempotency, KeyKind::Directory] {
        let put = key_put(&kit, kind, "k", Some(LONG));
        let task = kit.put(with(kit.task(), &put)).await;
        let task = kit.committed(&task, task.change(|head| head.state = State::Succeeded)).await;
        kit.committed(&task, task.commit(None)).await;
        let entry = put.entry(&task.key);
        assert_eq!(lookup(&kit, Ns::DEFAULT, &put).await, Some(entry.clone()));
        let gone = Inserted::Conflict { kind, entry, head: None };
        assert_eq!(kit.insert(vec![with(kit.task(), &put)]).await, [gone]);
        // What is gone may be stolen from, whatever its version was.
        kit.put(with(kit.task(), &stealing(&put, &task))).await;
    }
}

/// A unique or debounce key is free when the record of its task is gone, and a later task of the same id does not have it.
pub async fn gone_with_the_record(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    for kind in OF_RECORDS {
        for lasts in [None, Some(LONG)] {
            let put = key_put(&kit, kind, "k", lasts);
            let task = kit.put(with(kit.client_task(0), &put)).await;
            let task = kit.committed(&task, task.commit(Some(ended(&task.head, State::Failed, kit.now(), LONG)))).await;
            assert_eq!(kit.insert(vec![with(kit.task(), &put)]).await, [conflict(&put, &task)]);
            kit.committed(&task, task.commit(None)).await;
            assert_eq!(holder(&kit, &put).await, None);
            let again = kit.put(kit.client_task(0)).await;
            assert_eq!(holder(&kit, &put).await, None);
            let other = kit.put(with(kit.task(), &put)).await;
            kit.committed(&again, again.commit(None)).await;
            assert_eq!(holder(&kit, &put).await.as_ref(), Some(&other.key));
            // The general path of deletions frees them as well.
            kit.committed(&other, Commit { effects: vec![spawn(&kit.client_task(1))], ..other.commit(None) }).await;
            assert_eq!(holder(&kit, &put).await, None);
            let last = kit.put(with(kit.task(), &put)).await;
            kit.committed(&last, last.commit(None)).await;
            let first = Task { key: kit.client_task(1).key, head: kit.head(&kit.client_task(1).key).await.unwrap(), ..task };
            kit.committed(&first, first.commit(None)).await;
        }
    }
}

/// The same key in another namespace or of another kind is another key.
pub async fn apart_by_namespace(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let puts = KeyKind::ALL.map(|kind| key_put(&kit, kind, "k", Some(LONG)));
    let mut tasks = Vec::new();
    for ns in [Ns(0), Ns(1), Ns(256)] {
        for put in &puts {
            tasks.push((ns, put, kit.put(with(kit.task_in(lane(ns, "default", "demo")), put)).await));
        }
    }
    for (ns, put, task) in tasks {
        assert_eq!(lookup(&kit, ns, put).await.unwrap().task, task.key);
    }
    for put in &puts {
        assert_eq!(lookup(&kit, Ns(2), put).await, None);
    }
}

/// A task takes all its keys or none, and the answer names the first that it cannot have.
pub async fn all_keys_of_a_task_or_none(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let puts = KeyKind::ALL.map(|kind| key_put(&kit, kind, "k", Some(LONG)));
    assert_eq!(puts.len(), MAX_KEYS);
    for held in &puts {
        let first = kit.put(with(kit.task(), held)).await;
        let all = Insert { keys: puts.to_vec(), ..kit.task() };
        assert_eq!(kit.insert(vec![all.clone()]).await, [conflict(held, &first)]);
        assert_eq!(kit.head(&all.key).await, None);
        for put in puts.iter().filter(|put| put.kind != held.kind) {
            assert_eq!(holder(&kit, put).await, None);
        }
        kit.committed(&first, first.with_effects(vec![free(held)])).await;
    }
    let all = kit.put(Insert { keys: puts.to_vec(), ..kit.task() }).await;
    for put in &puts {
        assert_eq!(holder(&kit, put).await.as_ref(), Some(&all.key));
    }
    let many = Insert { keys: vec![puts[0].clone(); MAX_KEYS + 1], ..kit.task() };
    let answer = kit.store.insert(kit.p, vec![many.clone()], Mode::Each).await;
    assert!(matches!(answer, Err(Error::Invalid(_))), "{answer:?}");
    let commit = all.with_effects(vec![spawn(&many)]);
    let answer = kit.store.commit(kit.p, SESSION, vec![commit], Mode::Each, Sync::Durable).await;
    assert!(matches!(answer, Err(Error::Invalid(_))), "{answer:?}");
}

/// A conflict shows the holder as it is now, also one of the same batch.
pub async fn a_conflict_shows_the_holder(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    for kind in KeyKind::ALL {
        let put = key_put(&kit, kind, "k", Some(LONG));
        let first = with(kit.task(), &put);
        let answers = kit.insert(vec![kit.task(), first.clone(), with(kit.task(), &put)]).await;
        let [Inserted::Ok { .. }, Inserted::Ok { seq }, ref refused] = answers[..] else { panic!("{answers:?}") };
        let head = lovage_core::Head { seq, ..first.head };
        let task = Task { key: first.key, head, queue: "default".into() };
        assert_eq!(*refused, conflict(&put, &task));
        let task = kit.committed(&task, task.change(|head| head.state = State::Retrying)).await;
        assert_eq!(kit.insert(vec![with(kit.task(), &put)]).await, [conflict(&put, &task)]);
    }
}

/// A key is stolen from the named task at the named version and from no other.
pub async fn stolen_at_a_version(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    for kind in KeyKind::ALL {
        let put = key_put(&kit, kind, "k", Some(LONG));
        let (holds, other) = (kit.put(with(kit.task(), &put)).await, kit.put(kit.task()).await);
        assert_eq!(holds.head.version, other.head.version);
        assert_eq!(kit.insert(vec![with(kit.task(), &stealing(&put, &other))]).await, [conflict(&put, &holds)]);
        let newer = kit.committed(&holds, holds.change(|_| {})).await;
        assert_eq!(kit.insert(vec![with(kit.task(), &stealing(&put, &holds))]).await, [conflict(&put, &newer)]);
        // Two want it at once: the second is shown the first.
        let rivals = [with(kit.task(), &stealing(&put, &newer)), with(kit.task(), &stealing(&put, &newer))];
        let answers = kit.insert(rivals.to_vec()).await;
        assert!(matches!(answers[..], [Inserted::Ok { .. }, Inserted::Conflict { .. }]), "{answers:?}");
        assert_eq!(holder(&kit, &put).await.as_ref(), Some(&rivals[0].key));
        // The end of the one that lost it does not touch it.
        kit.committed(&newer, Commit { effects: vec![free(&put)], ..newer.commit(None) }).await;
        assert_eq!(holder(&kit, &put).await.as_ref(), Some(&rivals[0].key));
    }
}

/// A commit frees the keys of its own task alone, and a key that is freed can be taken.
pub async fn freed_by_their_task(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    for kind in KeyKind::ALL {
        let put = key_put(&kit, kind, "k", None);
        let task = kit.put(with(kit.task(), &put)).await;
        let other = kit.put(kit.task()).await;
        kit.committed(&other, other.with_effects(vec![free(&put)])).await;
        assert_eq!(holder(&kit, &put).await.as_ref(), Some(&task.key));
        let stale = Task { head: super::kit::next(&task.head, |_| {}), ..task.clone() };
        let answers = kit.commit(vec![stale.with_effects(vec![free(&put)])]).await;
        assert_eq!(answers, [Committed::Stale(Some(task.head.clone()))]);
        assert_eq!(holder(&kit, &put).await.as_ref(), Some(&task.key));
        kit.committed(&task, task.with_effects(vec![free(&put)])).await;
        assert_eq!(holder(&kit, &put).await, None);
        kit.put(with(kit.task(), &put)).await;
    }
}

/// A newer task takes the place and the key of the older in one step.
pub async fn replaced_in_one_step(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    for kind in KeyKind::ALL {
        let put = key_put(&kit, kind, "k", None);
        let old = kit.put(with(kit.task(), &put)).await;
        let new = with(kit.task(), &stealing(&put, &old));
        let cancel = old.commit(Some(ended(&old.head, State::Canceled, kit.now(), LONG)));
        let canceled = kit.committed(&old, Commit { effects: vec![spawn(&new)], ..cancel }).await;
        assert_eq!(holder(&kit, &put).await.as_ref(), Some(&new.key));
        assert_eq!(kit.whole(&new.key).await.unwrap().body, Some(new.body));
        assert_eq!(kit.head(&old.key).await, Some(canceled.head.clone()));
        // Freed and taken in the order of the effects.
        let new = Task { head: kit.head(&new.key).await.unwrap(), key: new.key, queue: old.queue };
        let third = with(kit.task(), &put);
        kit.committed(&new, new.with_effects(vec![free(&put), spawn(&third)])).await;
        assert_eq!(holder(&kit, &put).await.as_ref(), Some(&third.key));
    }
}

/// A commit whose spawned task cannot have its key changes nothing at all.
pub async fn a_taken_key_refuses_the_commit(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    for kind in KeyKind::ALL {
        let (put, free_one) = (key_put(&kit, kind, "k", None), key_put(&kit, kind, "free", None));
        let holds = kit.put(with(kit.task(), &put)).await;
        let task = kit.put(with(kit.task(), &key_put(&kit, kind, "mine", None))).await;
        let (child, second) = (with(kit.task(), &free_one), with(kit.task(), &put));
        let mut commit = task.with_effects(vec![free(&key_put(&kit, kind, "mine", None)), spawn(&child), spawn(&second)]);
        commit.result = Some(Some(Bytes::from_static(b"never")));
        let refused = Committed::Conflict { kind, entry: put.entry(&holds.key) };
        for mode in [Mode::Each, Mode::Atomic] {
            let other = kit.put(kit.task()).await;
            let start = kit.store.tail(kit.p).await.unwrap();
            let items = vec![commit.clone(), other.change(|_| {})];
            let answers = kit.store.commit(kit.p, SESSION, items, mode, Sync::Durable).await.unwrap();
            let aside = if mode == Mode::Atomic { Committed::Aborted } else { Committed::Ok };
            assert_eq!(answers, [refused.clone(), aside]);
            if mode == Mode::Each {
                assert_eq!(kit.entries(start, 1).await[0].rows.len(), 1);
            }
            let stored = kit.whole(&task.key).await.unwrap();
            assert_eq!((stored.head, stored.result), (task.head.clone(), None));
            assert_eq!((kit.head(&child.key).await, kit.head(&second.key).await), (None, None));
            assert_eq!(holder(&kit, &free_one).await, None);
            assert_eq!(holder(&kit, &key_put(&kit, kind, "mine", None)).await.as_ref(), Some(&task.key));
        }
    }
}

/// A task takes a key with a change of its own, from nobody or from whom it may; else nothing changes.
pub async fn taken_with_a_change(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    for kind in KeyKind::ALL {
        let put = key_put(&kit, kind, "k", Some(LONG));
        let take = |put: &KeyPut| vec![Effect::TakeKey(put.clone())];
        let mut holds = kit.put(kit.task()).await;
        for _ in 0..2 {
            holds = kit.committed(&holds, holds.with_effects(take(&put))).await;
            assert_eq!(lookup(&kit, Ns::DEFAULT, &put).await, Some(put.entry(&holds.key)));
        }
        let other = kit.put(kit.task()).await;
        let newer = kit.committed(&holds, holds.change(|_| {})).await;
        for refused in [put.clone(), stealing(&put, &holds), stealing(&put, &other)] {
            let answers = kit.commit(vec![other.with_effects(take(&refused))]).await;
            assert_eq!(answers, [Committed::Conflict { kind, entry: put.entry(&holds.key) }]);
            assert_eq!(kit.head(&other.key).await.as_ref(), Some(&other.head));
        }
        let other = kit.committed(&other, other.with_effects(take(&stealing(&put, &newer)))).await;
        assert_eq!(holder(&kit, &put).await.as_ref(), Some(&other.key));
        kit.committed(&newer, Commit { effects: vec![free(&put)], ..newer.commit(None) }).await;
        assert_eq!(holder(&kit, &put).await.as_ref(), Some(&other.key));
        // It goes as one that was taken at the insert would.
        kit.committed(&other, other.commit(None)).await;
        assert_eq!(holder(&kit, &put).await, (!kind.ends_with_record()).then_some(other.key));
    }
}

/// A key that was taken earlier in the same call goes with the record: a task that is spawned instead may have it.
pub async fn freed_with_a_record_of_the_same_call(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    for kind in OF_RECORDS {
        let put = key_put(&kit, kind, "k", Some(LONG));
        let task = kit.put(kit.task()).await;
        let took = task.with_effects(vec![Effect::TakeKey(put.clone())]);
        let later = Task { head: took.head.clone().unwrap(), ..task.clone() };
        let heir = with(kit.task(), &put);
        let gone = Commit { effects: vec![spawn(&heir)], ..later.commit(None) };
        assert_eq!(kit.commit(vec![took, gone]).await, [Committed::Ok, Committed::Ok]);
        assert_eq!(lookup(&kit, Ns::DEFAULT, &put).await, Some(put.entry(&heir.key)));
        assert_eq!(kit.head(&task.key).await, None);
    }
}

/// A spawned task whose id is stored already is left out, with its keys, and hinders nothing.
pub async fn spawned_once(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let (put, other) = (key_put(&kit, KeyKind::Unique, "k", None), key_put(&kit, KeyKind::Unique, "other", None));
    let mut task = kit.put(kit.task()).await;
    let child = with(Insert { exists: OnExists::Return, ..kit.task() }, &put);
    let again = Insert { body: Bytes::from_static(b"another"), keys: vec![other.clone()], ..child.clone() };
    for effects in [vec![spawn(&child)], vec![spawn(&again), spawn(&child)], vec![spawn(&again)]] {
        task = kit.committed(&task, task.with_effects(effects)).await;
        assert_eq!(kit.whole(&child.key).await.unwrap().body, Some(child.body.clone()));
        assert_eq!((holder(&kit, &put).await, holder(&kit, &other).await), (Some(child.key.clone()), None));
    }
    let twice = kit.client_task(0);
    let effects = vec![spawn(&twice), spawn(&Insert { body: Bytes::from_static(b"another"), ..twice.clone() })];
    kit.committed(&task, task.with_effects(effects)).await;
    assert_eq!(kit.whole(&twice.key).await.unwrap().body, Some(twice.body));
    assert_eq!(kit.count(Ns::DEFAULT, "default", State::Queued).await, 3);
}

/// A key taken alone is taken once; the same entry again is no conflict.
pub async fn taken_alone(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let ids = [kit.client_task(0).key, kit.client_task(1).key];
    let lasts = Duration::from_secs(2);
    for kind in [KeyKind::Directory, KeyKind::Idempotency] {
        let put = key_put(&kit, kind, "k", Some(lasts));
        let start = kit.store.tail(kit.p).await.unwrap();
        for _ in 0..2 {
            assert_eq!(kit.store.put_key(kit.p, take(&put, &ids[0], None)).await.unwrap(), None);
        }
        assert_eq!(lookup(&kit, Ns::DEFAULT, &put).await, Some(put.entry(&ids[0])));
        let answer = kit.store.put_key(kit.p, take(&put, &ids[1], None)).await.unwrap();
        assert_eq!(answer, Some(put.entry(&ids[0])));
        let answers = kit.insert(vec![with(kit.task(), &put)]).await;
        assert_eq!(answers, [Inserted::Conflict { kind, entry: put.entry(&ids[0]), head: None }]);
        assert_eq!(kit.store.tail(kit.p).await.unwrap(), start);
        kit.pass(lasts).await;
        let later = key_put(&kit, kind, "k", None);
        assert_eq!(kit.store.put_key(kit.p, take(&later, &ids[1], None)).await.unwrap(), None);
        assert_eq!(lookup(&kit, Ns::DEFAULT, &put).await, Some(later.entry(&ids[1])));
    }
    for kind in OF_RECORDS {
        let answer = kit.store.put_key(kit.p, take(&key_put(&kit, kind, "k", None), &ids[0], None)).await;
        assert!(matches!(answer, Err(Error::Invalid(_))), "{answer:?}");
    }
}

/// The directory entry of a gateway that went away is taken over by one of those that have seen it, and the slow one comes
/// too late with its task.
pub async fn an_abandoned_entry_is_taken_over_once(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let id = kit.client_task(0).key;
    let entry = |value: &'static str| KeyPut { value: value.into(), ..key_put(&kit, KeyKind::Directory, "order-0", None) };
    let gives_up = kit.now().after(Duration::from_millis(20));
    let slow = Insert { not_after: Some(gives_up), ..with(kit.client_task(0), &key_put(&kit, KeyKind::Unique, "k", None)) };
    assert_eq!(kit.store.put_key(kit.p, take(&entry("slow"), &id, None)).await.unwrap(), None);

    kit.pass(Duration::from_millis(25)).await;
    let seen = lookup(&kit, Ns::DEFAULT, &entry("")).await;
    assert_eq!(seen, Some(entry("slow").entry(&id)));
    assert_eq!(kit.store.put_key(kit.p, take(&entry("first"), &id, seen.clone())).await.unwrap(), None);
    let second = kit.store.put_key(kit.p, take(&entry("second"), &id, seen.clone())).await.unwrap();
    assert_eq!(second, Some(entry("first").entry(&id)));
    assert_eq!(kit.insert(vec![slow]).await, [Inserted::Late]);
    // The slow one repeats what it began.
    let repeated = kit.store.put_key(kit.p, take(&entry("slow"), &id, None)).await.unwrap();
    assert_eq!(repeated, Some(entry("first").entry(&id)));
    assert_eq!(lookup(&kit, Ns::DEFAULT, &entry("")).await, second);

    // An end that has passed frees the id.
    let over = KeyPut { until: Some(kit.now()), ..entry("over") };
    assert_eq!(kit.store.put_key(kit.p, take(&over, &id, seen)).await.unwrap(), second);
    assert_eq!(kit.store.put_key(kit.p, take(&over, &id, second)).await.unwrap(), None);
    assert_eq!(lookup(&kit, Ns::DEFAULT, &entry("")).await, None);
}

/// A client-chosen id may live where a key of its task lives, and nowhere else.
pub async fn a_key_binds_an_id(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let partitions = kit.store.caps().partitions;
    let keys = (0u32..).map(|i| TaskKey::new(Ns::DEFAULT, lovage_core::TaskId::Client(format!("away-{i}").into())));
    let away: Vec<_> = keys.filter(|key| partitions == 1 || key.slot().partition(partitions) != kit.p).take(2).collect();
    for (kind, key) in OF_RECORDS.into_iter().zip(away) {
        let item = Insert { key, exists: OnExists::Return, ..kit.task() };
        if partitions > 1 {
            let answer = kit.store.insert(kit.p, vec![item.clone()], Mode::Each).await;
            assert!(matches!(answer, Err(Error::Invalid(_))), "{answer:?}");
        }
        let task = kit.put(with(item, &key_put(&kit, kind, "k", None))).await;
        assert_eq!(kit.head(&task.key).await, Some(task.head));
    }
}
