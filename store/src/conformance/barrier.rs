//! Barriers: a blocked task is woken once, by the last of its members, whatever comes in between.

use lovage_core::{Head, Millis, Reason, State, TaskKey};

use super::Fixture;
use super::audit::{Known, audit};
use super::kit::{Kit, LONG, SESSION, Task, ended, lane, next};
use crate::{Commit, Committed, Effect, Error, FeedRow, Index, MAX_MEMBERS, Mode, OnExists, Sync};

fn waits(task: &Task, members: u32) -> Commit {
    let commit = task.change(|head| {
        head.state = State::Blocked;
        head.reason = Reason::Children;
    });
    Commit { effects: vec![Effect::Barrier { members }], ..commit }
}

fn arrive(barrier: &TaskKey, index: u32) -> Effect {
    Effect::Arrive { barrier: barrier.clone(), index }
}

/// A task that waits for so many.
async fn waiting(kit: &Kit<'_>, members: u32) -> Task {
    let task = kit.put(kit.task()).await;
    kit.committed(&task, waits(&task, members)).await
}

/// The end of a new task that arrives at these places.
async fn arrivals(kit: &Kit<'_>, effects: Vec<Effect>) {
    let task = kit.put(kit.task()).await;
    let end = task.commit(Some(ended(&task.head, State::Succeeded, kit.now(), LONG)));
    kit.committed(&task, Commit { effects, ..end }).await;
}

async fn arrived(kit: &Kit<'_>, barrier: &TaskKey, indexes: impl IntoIterator<Item = u32>) {
    for index in indexes {
        arrivals(kit, vec![arrive(barrier, index)]).await;
    }
}

/// That the store has woken the task after `from` and changed nothing else; answers its head.
async fn woken(kit: &Kit<'_>, task: &Task, from: Millis) -> Head {
    let head = kit.head(&task.key).await.unwrap();
    assert!((from..=kit.now()).contains(&head.deadline), "{head:?} was not woken after {from:?}");
    let expected = Head { version: task.head.version + 1, deadline: head.deadline, ..task.head.clone() };
    assert_eq!(head, expected);
    head
}

async fn asleep(kit: &Kit<'_>, task: &Task) {
    assert_eq!(kit.head(&task.key).await, Some(task.head.clone()));
}

/// The last arrival moves the deadline to now and the version by one, in the feed entry and the step of the arrival.
pub async fn the_last_arrival_wakes(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let known = Known::new([lane(lovage_core::Ns::DEFAULT, "default", "demo")], kit.store.tail(kit.p).await.unwrap());
    let task = waiting(&kit, 3).await;
    arrived(&kit, &task.key, [2, 0]).await;
    asleep(&kit, &task).await;
    assert_eq!(kit.scan_keys(&Index::Timer { until: Millis::MAX }, 10).await, []);

    let (from, start) = (kit.now(), kit.store.tail(kit.p).await.unwrap());
    let last = kit.put(kit.task()).await;
    let end = last.commit(Some(ended(&last.head, State::Succeeded, kit.now(), LONG)));
    let done = end.head.clone();
    kit.committed(&last, Commit { effects: vec![arrive(&task.key, 1)], ..end }).await;
    let head = woken(&kit, &task, from).await;
    let entries = kit.entries(start, 2).await;
    let rows = [FeedRow { key: last.key, head: done }, FeedRow { key: task.key.clone(), head: Some(head.clone()) }];
    assert_eq!(entries[1].rows, rows);
    assert_eq!(kit.scan(&Index::Timer { until: kit.now() }, 10).await, [(task.key.clone(), head.clone())]);
    audit(&*kit.store, kit.p, &known).await.unwrap();

    // It is woken once: the barrier is gone.
    arrived(&kit, &task.key, [0, 1, 2, 3]).await;
    let task = Task { head, ..task };
    asleep(&kit, &task).await;
    kit.committed(&task, task.change(|head| head.state = State::Queued)).await;
}

/// Members that arrive twice, that nobody waits for, or at nothing at all do not count.
pub async fn only_new_members_count(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let task = waiting(&kit, 2).await;
    let nobody = kit.task().key;
    arrived(&kit, &task.key, [0, 0, 2, u32::MAX]).await;
    arrivals(&kit, vec![arrive(&task.key, 0), arrive(&task.key, 0), arrive(&nobody, 0), arrive(&task.key, 7)]).await;
    asleep(&kit, &task).await;
    let never = kit.put(kit.task()).await;
    arrived(&kit, &never.key, [0, 1]).await;
    asleep(&kit, &never).await;
    let from = kit.now();
    arrived(&kit, &task.key, [1]).await;
    woken(&kit, &task, from).await;
}

/// A refused commit does not arrive, in an atomic batch none does.
pub async fn a_refused_commit_does_not_arrive(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let task = waiting(&kit, 1).await;
    let members = kit.put_all(vec![kit.task(), kit.task()]).await;
    let arriving = |n: usize| Commit { effects: vec![arrive(&task.key, 0)], ..members[n].change(|_| {}) };
    let stale = Commit { was: next(&members[0].head, |_| {}), ..arriving(0) };
    assert_eq!(kit.commit(vec![stale.clone()]).await, [Committed::Stale(Some(members[0].head.clone()))]);
    let answers = kit.store.commit(kit.p, SESSION, vec![arriving(1), stale], Mode::Atomic, Sync::Durable).await.unwrap();
    assert_eq!(answers, [Committed::Aborted, Committed::Stale(Some(members[0].head.clone()))]);
    asleep(&kit, &task).await;
    let from = kit.now();
    let answers = kit.store.commit(kit.p, SESSION, vec![arriving(0), arriving(1)], Mode::Atomic, Sync::Durable).await.unwrap();
    assert_eq!(answers, [Committed::Ok, Committed::Ok]);
    woken(&kit, &task, from).await;
}

/// Members, their barrier and whoever waits may be in one batch; later items see what the earlier ones did.
pub async fn all_in_one_batch(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let (task, member) = (kit.put(kit.task()).await, kit.put(kit.task()).await);
    let child = crate::Insert { exists: OnExists::Return, ..kit.task() };
    let mut wait = waits(&task, 2);
    let blocked = Task { head: wait.head.clone().unwrap(), ..task.clone() };
    // A member that was there first does not count: there was no barrier yet.
    wait.effects.insert(0, arrive(&task.key, 0));
    wait.effects.push(Effect::Spawn(Box::new(child.clone())));
    wait.effects.push(arrive(&task.key, 1));
    let early = Commit { effects: vec![arrive(&task.key, 0)], ..member.change(|_| {}) };
    let member_then = Task { head: early.head.clone().unwrap(), ..member.clone() };
    let last = Commit { effects: vec![arrive(&task.key, 0), arrive(&task.key, 0)], ..member_then.change(|_| {}) };
    // Decided before the last arrival: refused with what that made of it.
    let cancel = blocked.commit(Some(ended(&blocked.head, State::Canceled, kit.now(), LONG)));
    let (from, start) = (kit.now(), kit.store.tail(kit.p).await.unwrap());
    let answers = kit.commit(vec![early, wait, last, cancel]).await;
    let head = woken(&kit, &blocked, from).await;
    assert_eq!(answers, [Committed::Ok, Committed::Ok, Committed::Ok, Committed::Stale(Some(head.clone()))]);
    let rows: Vec<_> = kit.entries(start, 1).await[0].rows.iter().map(|row| row.key.clone()).collect();
    assert_eq!(rows, [member.key.clone(), task.key.clone(), child.key, member.key, task.key.clone()]);
    // One that was decided on it passes.
    let task = Task { head, ..task };
    kit.committed(&task, task.commit(Some(ended(&task.head, State::Canceled, kit.now(), LONG)))).await;
}

/// Who waits for nobody is woken at once.
pub async fn without_members_it_wakes_at_once(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let from = kit.now();
    let task = waiting(&kit, 0).await;
    woken(&kit, &task, from).await;
}

/// A barrier is for a blocked task, goes when its task is not blocked any more, and with the record.
pub async fn gone_with_the_wait(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let token = kit.token().await;
    let queued = kit.put(kit.task()).await;
    let queued = kit.committed(&queued, Commit { effects: vec![Effect::Barrier { members: 1 }], ..queued.change(|_| {}) }).await;
    arrived(&kit, &queued.key, [0]).await;
    asleep(&kit, &queued).await;

    for state in [State::Queued, State::Canceled, State::Running] {
        for general in [false, true] {
            let task = waiting(&kit, 1).await;
            // A change within the wait keeps it.
            let task = kit.committed(&task, task.change(|head| head.priority = 9)).await;
            let effects = if general { vec![arrive(&kit.task().key, 0)] } else { Vec::new() };
            let task = if state == State::Running && !general {
                kit.claimed(&token, &task).await
            } else {
                kit.committed(&task, Commit { effects, ..task.change(|head| head.state = state) }).await
            };
            let task = kit.committed(&task, task.change(|head| head.state = State::Blocked)).await;
            arrived(&kit, &task.key, [0]).await;
            asleep(&kit, &task).await;
        }
    }
    for general in [false, true] {
        let task = kit.put(kit.client_task(0)).await;
        let task = kit.committed(&task, waits(&task, 1)).await;
        let effects = if general { vec![arrive(&task.key, 0)] } else { Vec::new() };
        kit.committed(&task, Commit { effects, ..task.commit(None) }).await;
        let again = kit.put(kit.client_task(0)).await;
        let again = kit.committed(&again, again.change(|head| head.state = State::Blocked)).await;
        arrived(&kit, &again.key, [0]).await;
        asleep(&kit, &again).await;
        kit.committed(&again, again.commit(None)).await;
    }
}

/// A second barrier starts anew: who had arrived at the first has not arrived at this one.
pub async fn a_second_barrier_replaces_the_first(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let task = waiting(&kit, 2).await;
    arrived(&kit, &task.key, [0]).await;
    let task = kit.committed(&task, waits(&task, 3)).await;
    arrived(&kit, &task.key, [1]).await;
    asleep(&kit, &task).await;
    let task = kit.committed(&task, waits(&task, 2)).await;
    arrived(&kit, &task.key, [0]).await;
    asleep(&kit, &task).await;
    let from = kit.now();
    arrived(&kit, &task.key, [1]).await;
    let head = woken(&kit, &task, from).await;
    // And after it has woken it may wait again.
    let task = Task { head, ..task };
    let task = kit.committed(&task, waits(&task, 1)).await;
    let from = kit.now();
    arrived(&kit, &task.key, [0]).await;
    woken(&kit, &task, from).await;
}

/// An earlier expiry stays what the task is looked at for, and the longest barrier works.
pub async fn places_and_sizes(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let known = Known::new([lane(lovage_core::Ns::DEFAULT, "default", "demo")], kit.store.tail(kit.p).await.unwrap());
    let late = Millis(kit.now().0 - 60_000);
    for (expires, deadline) in [(late, Millis(0)), (kit.now().after(LONG), late), (Millis(0), kit.now().after(LONG))] {
        let task = kit.put(kit.task()).await;
        let mut wait = waits(&task, 1);
        wait.head = wait.head.map(|head| Head { expires, deadline, ..head });
        let task = kit.committed(&task, wait).await;
        let from = kit.now();
        arrived(&kit, &task.key, [0]).await;
        woken(&kit, &task, from).await;
    }
    audit(&*kit.store, kit.p, &known).await.unwrap();

    let task = waiting(&kit, MAX_MEMBERS).await;
    arrived(&kit, &task.key, [MAX_MEMBERS - 1, 8_191, 8_192, MAX_MEMBERS]).await;
    asleep(&kit, &task).await;
    let large = waits(&task, MAX_MEMBERS + 1);
    let answer = kit.store.commit(kit.p, SESSION, vec![large], Mode::Each, Sync::Durable).await;
    assert!(matches!(answer, Err(Error::Invalid(_))), "{answer:?}");
    // More than one page of bits, in batches, each member twice.
    let task = kit.committed(&task, waits(&task, 20_000)).await;
    let member = kit.put(kit.task()).await;
    let mut at = member.clone();
    let indexes: Vec<u32> = (0..20_000).rev().collect();
    for chunk in indexes[..19_999].chunks(2_000) {
        let effects = chunk.iter().flat_map(|index| [arrive(&task.key, *index), arrive(&task.key, *index)]).collect();
        at = kit.committed(&at, Commit { effects, ..at.change(|_| {}) }).await;
    }
    asleep(&kit, &task).await;
    let from = kit.now();
    arrived(&kit, &task.key, [0]).await;
    woken(&kit, &task, from).await;
}

/// Barriers and arrivals survive a new start; every member arriving from several sides at once wakes once.
pub async fn survives_a_restart_and_a_rush(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let task = waiting(&kit, 41).await;
    arrived(&kit, &task.key, [40]).await;
    let Kit { store, .. } = kit;
    let kit = Kit::over(fixture, fixture.reopen(store).await);
    let (from, start) = (kit.now(), kit.store.tail(kit.p).await.unwrap());
    // Generated ids of before would be made again.
    let members = kit.put_all((0..80).map(|n| kit.client_task(n)).collect()).await;
    let calls = members.iter().zip(0u32..).map(|(member, n)| {
        let commit = Commit { effects: vec![arrive(&task.key, n % 40)], ..member.change(|_| {}) };
        kit.store.commit(kit.p, SESSION, vec![commit], Mode::Each, Sync::Ordered)
    });
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap(), [Committed::Ok]);
    }
    let last = kit.put(kit.client_task(80)).await;
    woken(&kit, &task, from).await;
    let (mut at, mut times, mut through) = (start, 0, false);
    while !through {
        let entry = kit.entries(at, 1).await.remove(0);
        at = entry.pos;
        times += entry.rows.iter().filter(|row| row.key == task.key).count();
        through = entry.rows.iter().any(|row| row.key == last.key);
    }
    assert_eq!(times, 1);
}
