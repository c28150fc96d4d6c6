//! The outbox: what a change sends is sent with it or not at all, in order, and stays until it was delivered.

use bytes::Bytes;
use lovage_core::{Millis, Partition, Slot, State, TaskKey};

use super::Fixture;
use super::kit::{Kit, SESSION, Task, key_put, next};
use crate::{Commit, Committed, Effect, Error, FeedPos, Insert, KeyKind, Message, Mode, Sent, Sync};

fn send(to: u16, n: u32, barrier: &TaskKey) -> Effect {
    let message = Message::Arrive { barrier: barrier.clone(), index: n, attempt: 3, generation: 1 };
    Effect::Send { to: Slot::new(to), message }
}

/// A change that sends such messages.
fn sending(task: &Task, numbers: impl IntoIterator<Item = u32>) -> Commit {
    let effects = numbers.into_iter().map(|n| send(n as u16, n, &task.key)).collect();
    Commit { effects, ..task.change(|_| {}) }
}

async fn all(kit: &Kit<'_>) -> Vec<Sent> {
    let page = kit.store.outbox(kit.p, FeedPos::default(), 1_000).await.unwrap();
    assert_eq!(page.waiting, page.messages.len() as u64);
    assert!(page.messages.is_sorted_by(|a, b| a.pos < b.pos), "{page:?}");
    page.messages
}

fn numbers(messages: &[Sent]) -> Vec<u32> {
    let number = |sent: &Sent| match &sent.content {
        Some((to, Message::Arrive { index, .. })) if to.number() == *index as u16 => *index,
        other => panic!("{other:?} was not sent"),
    };
    messages.iter().map(number).collect()
}

/// Every kind of message comes back as it was sent, with its time and place, and the feed says so.
pub async fn sent_with_the_change(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let task = kit.put(kit.task()).await;
    let new = kit.client_task(0);
    let new = Insert { keys: vec![key_put(&kit, KeyKind::Idempotency, "once", None)], root: Some(task.key.clone()), ..new };
    let to = new.key.slot();
    let messages = [
        Message::Insert(Box::new(new)),
        Message::Arrive { barrier: task.key.clone(), index: 1, attempt: 2, generation: 3 },
        Message::Cancel { key: task.key.clone(), generation: 4 },
        Message::Free { task: task.key.clone(), slot: Slot::new(5), created: Millis(6) },
    ];
    let (from, start) = (kit.now(), kit.store.tail(kit.p).await.unwrap());
    let task = kit.committed(&task, task.change(|_| {})).await;
    let effects = messages.iter().map(|message| Effect::Send { to, message: message.clone() }).collect();
    kit.committed(&task, Commit { effects, ..task.change(|head| head.state = State::Blocked) }).await;

    let found = all(&kit).await;
    let what = |message: &Message| format!("{:?}", Some((to, message)));
    assert_eq!(
        found.iter().map(|sent| format!("{:?}", sent.content)).collect::<Vec<_>>(),
        messages.iter().map(what).collect::<Vec<_>>()
    );
    // Another clock may tell the time of a message than that of the store.
    let around = Millis(from.0.saturating_sub(60_000))..=kit.now().after(std::time::Duration::from_secs(60));
    assert!(found.iter().all(|sent| around.contains(&sent.at)), "{found:?}");
    let sends: Vec<bool> = kit.entries(start, 2).await.iter().map(|entry| entry.sends).collect();
    assert_eq!(sends, [false, true]);
    for p in (0..kit.store.caps().partitions).map(Partition).filter(|p| *p != kit.p) {
        assert_eq!(kit.store.outbox(p, FeedPos::default(), 10).await.unwrap().waiting, 0);
    }
}

/// Whatever refuses a change refuses what it would have sent.
pub async fn a_refused_change_sends_nothing(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let put = key_put(&kit, KeyKind::Unique, "k", None);
    let holder = kit.put(Insert { keys: vec![put.clone()], ..kit.task() }).await;
    let tasks = kit.put_all(vec![kit.task(), kit.task()]).await;
    let stale = Commit { was: next(&tasks[0].head, |_| {}), ..sending(&tasks[0], [1]) };
    assert_eq!(kit.commit(vec![stale.clone()]).await, [Committed::Stale(Some(tasks[0].head.clone()))]);
    let mut refused = sending(&tasks[0], [2]);
    refused.effects.push(Effect::TakeKey(put));
    let answers = kit.commit(vec![refused]).await;
    assert!(matches!(&answers[..], [Committed::Conflict { entry, .. }] if entry.task == holder.key), "{answers:?}");
    let batch = vec![sending(&tasks[1], [3]), stale];
    let answers = kit.store.commit(kit.p, SESSION, batch, Mode::Atomic, Sync::Durable).await.unwrap();
    assert_eq!(answers, [Committed::Aborted, Committed::Stale(Some(tasks[0].head.clone()))]);
    assert_eq!(numbers(&all(&kit).await), [0; 0]);
    // A task for a partition in which nobody would find it is a bug of the caller.
    let new = kit.client_task(0);
    let far = Slot::new(new.key.slot().number() + 2_048);
    let effects = vec![Effect::Send { to: far, message: Message::Insert(Box::new(new)) }];
    let lost = Commit { effects, ..tasks[0].change(|_| {}) };
    let answer = kit.store.commit(kit.p, SESSION, vec![lost], Mode::Each, Sync::Durable).await;
    match kit.store.caps().partitions {
        1 => assert_eq!(answer.unwrap(), [Committed::Ok]),
        _ => assert!(matches!(answer, Err(Error::Invalid(_))), "{answer:?}"),
    }
}

/// Messages are read in pages, deleted one by one, and no place is used twice.
pub async fn kept_until_delivered(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let tasks = kit.put_all(vec![kit.task(), kit.task(), kit.task()]).await;
    let deleted = Commit { effects: vec![send(4, 4, &tasks[2].key)], ..tasks[2].commit(None) };
    let answers = kit.commit(vec![sending(&tasks[0], [0, 1]), sending(&tasks[1], [2, 3]), deleted]).await;
    assert_eq!(answers, [Committed::Ok, Committed::Ok, Committed::Ok]);
    let first = kit.store.outbox(kit.p, FeedPos::default(), 2).await.unwrap();
    assert_eq!((numbers(&first.messages), first.waiting), (vec![0, 1], 5));
    let second = kit.store.outbox(kit.p, first.messages[1].pos, 2).await.unwrap();
    assert_eq!((numbers(&second.messages), second.waiting), (vec![2, 3], 5));
    let places = [first.messages[1].pos, second.messages[0].pos, second.messages[0].pos];
    for _ in 0..2 {
        kit.store.delivered(kit.p, &places).await.unwrap();
        kit.store.delivered(kit.p, &[]).await.unwrap();
        assert_eq!(numbers(&all(&kit).await), [0, 3, 4]);
    }
    // A page goes on behind a message that is gone.
    assert_eq!(numbers(&kit.store.outbox(kit.p, places[0], 9).await.unwrap().messages), [3, 4]);
    let rest: Vec<FeedPos> = all(&kit).await.iter().map(|sent| sent.pos).collect();
    kit.store.delivered(kit.p, &rest).await.unwrap();
    assert_eq!(numbers(&all(&kit).await), [0; 0]);
    let again = Task { head: next(&tasks[0].head, |_| {}), ..tasks[0].clone() };
    kit.committed(&again, sending(&again, [5])).await;
    kit.store.delivered(kit.p, &rest).await.unwrap();
    let found = all(&kit).await;
    assert_eq!(numbers(&found), [5]);
    assert!(found[0].pos > rest[2], "{found:?} after {rest:?}");
}

/// Messages and places survive a new start.
pub async fn survives_a_restart(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let task = kit.put(kit.client_task(0)).await;
    let task = kit.committed(&task, sending(&task, [0, 1, 2])).await;
    let before = all(&kit).await;
    kit.store.delivered(kit.p, &[before[2].pos]).await.unwrap();
    let Kit { store, .. } = kit;
    let kit = Kit::over(fixture, fixture.reopen(store).await);
    assert_eq!(numbers(&all(&kit).await), [0, 1]);
    kit.committed(&task, sending(&task, [3])).await;
    let after = all(&kit).await;
    assert_eq!(numbers(&after), [0, 1, 3]);
    assert!(after[2].pos > before[2].pos, "{after:?} after {before:?}");
}

/// Large bodies and many messages of one batch.
pub async fn many_and_large(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let count = kit.store.caps().max_batch.min(200);
    let tasks = kit.put_all((0..count).map(|_| kit.task()).collect()).await;
    let batch: Vec<Commit> = tasks.iter().zip(0u32..).map(|(task, n)| sending(task, [2 * n, 2 * n + 1])).collect();
    assert!(kit.commit(batch).await.iter().all(|answer| *answer == Committed::Ok));
    assert_eq!(numbers(&all(&kit).await), (0..2 * count as u32).collect::<Vec<_>>());
    let new = Insert { body: Bytes::from(vec![0xfe; 1 << 20]), ..kit.client_task(0) };
    let to = new.key.slot();
    let after = all(&kit).await.last().map(|sent| sent.pos).unwrap();
    let task = Task { head: next(&tasks[0].head, |_| {}), ..tasks[0].clone() };
    let effects = vec![Effect::Send { to, message: Message::Insert(Box::new(new.clone())) }];
    kit.committed(&task, Commit { effects, ..task.change(|_| {}) }).await;
    let found = kit.store.outbox(kit.p, after, 10).await.unwrap().messages;
    assert!(matches!(&found[0].content, Some((_, Message::Insert(item))) if item.body == new.body));
}
