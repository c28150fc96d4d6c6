//! Changes of a task's lane, perhaps into one of another queue.

use std::sync::Arc;

use lovage_core::units::Dur;
use lovage_core::{Batching, Flags, LaneDef, Millis, Ns, State};

use super::Fixture;
use super::audit::{Known, audit};
use super::kit::{Kit, LONG, SESSION, Task, lane};
use crate::{Claimed, Commit, Committed, Effect, Index, Mode, Sync, all_lanes};

fn lanes() -> [Arc<LaneDef>; 3] {
    [lane(Ns::DEFAULT, "default", "demo"), lane(Ns::DEFAULT, "mail", "demo"), lane(Ns::DEFAULT, "default", "other")]
}

async fn known(kit: &Kit<'_>, lanes: &[Arc<LaneDef>]) -> Known {
    Known::new(lanes.iter().cloned(), kit.store.tail(kit.p).await.unwrap())
}

async fn check(kit: &Kit<'_>, known: &Known) {
    audit(&*kit.store, kit.p, known).await.unwrap();
}

/// From every state into every other: places, counts and feed follow, and a lane is known as long as it holds tasks.
pub async fn from_every_state(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let lanes = lanes();
    let known = known(&kit, &lanes).await;
    let mut task = kit.put(kit.task()).await;
    let mut step = 0usize;
    for from in State::ALL {
        for to in State::ALL {
            for state in [*from, *to] {
                step += 1;
                let (item, _) = task.moved(&lanes[step % 3], |head| {
                    (head.state, head.due) = (state, Millis(head.created.0 + step as u64));
                    head.flags = if step.is_multiple_of(2) { Flags::ORDERED } else { Flags(0) };
                });
                let queue = item.lane.as_ref().unwrap().queue.as_str().into();
                task = Task { queue, ..kit.committed(&task, item).await };
            }
            check(&kit, &known).await;
        }
    }
    kit.committed(&task, task.commit(None)).await;
    check(&kit, &known).await;
    assert_eq!(kit.store.counts(kit.p).await.unwrap(), []);
}

/// The same together with effects, which take another way through some stores.
pub async fn with_effects(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let lanes = lanes();
    let known = known(&kit, &lanes).await;
    let mut tasks = kit.put_all((0..3).map(|_| kit.task()).collect()).await;
    for step in 1..12usize {
        let state = State::ALL[step % State::ALL.len()];
        let mut items = Vec::new();
        for (n, task) in tasks.iter_mut().enumerate() {
            let (mut item, after) = task.moved(&lanes[(step + n) % 3], |head| head.state = state);
            if n == 0 {
                item.effects.push(Effect::Spawn(Box::new(kit.client_task(step))));
            }
            items.push(item);
            *task = after;
        }
        assert_eq!(kit.commit(items).await, [Committed::Ok, Committed::Ok, Committed::Ok]);
        check(&kit, &known).await;
    }
}

/// Several moves of a task in one call.
pub async fn there_and_back(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let [first, second, third] = lanes();
    let known = known(&kit, &lanes()).await;
    for effects in [false, true] {
        let task = kit.put(kit.task()).await;
        let mut items = Vec::new();
        let mut at = task.clone();
        for lane in [&second, &first, &third, &second] {
            let (mut item, after) = at.moved(lane, |_| {});
            if effects {
                item.effects.push(Effect::Arrive { barrier: task.key.clone(), index: 0 });
            }
            items.push(item);
            at = after;
        }
        assert_eq!(kit.commit(items).await, vec![Committed::Ok; 4]);
        check(&kit, &known).await;
        assert_eq!(kit.scan_keys(&Index::Lane { lane: second.id(), after: None }, 10).await, std::slice::from_ref(&task.key));
        assert_eq!(
            (kit.count(Ns::DEFAULT, "mail", State::Queued).await, kit.count(Ns::DEFAULT, "default", State::Queued).await),
            (1, 0)
        );
        let found = all_lanes(&*kit.store, kit.p).await.unwrap();
        assert!(found.contains(&(second.id(), (*second).clone())), "{found:?}");
        kit.committed(&at, at.commit(None)).await;
    }
}

/// A refused move changes nothing, alone and in an atomic batch.
pub async fn refused_moves(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let lanes = lanes();
    let known = known(&kit, &lanes).await;
    let task = kit.put(kit.task()).await;
    let newer = kit.committed(&task, task.change(|head| head.priority = 1)).await;
    let stale = task.moved(&lanes[1], |_| {}).0;
    assert_eq!(kit.commit(vec![stale.clone()]).await, [Committed::Stale(Some(newer.head.clone()))]);
    check(&kit, &known).await;
    let other = kit.put(kit.task()).await;
    let items: Vec<Commit> = vec![other.moved(&lanes[1], |_| {}).0, stale];
    let answers = kit.store.commit(kit.p, SESSION, items, Mode::Atomic, Sync::Durable).await.unwrap();
    assert_eq!(answers, [Committed::Aborted, Committed::Stale(Some(newer.head.clone()))]);
    check(&kit, &known).await;
    // A lane that is named although the task is in it already is no move.
    let same = newer.moved(&lanes[0], |_| {}).0;
    assert_eq!(kit.commit(vec![same]).await, [Committed::Ok]);
    check(&kit, &known).await;
}

/// The definition of a lane whose tasks are delivered together is kept, whichever way they came into it.
pub async fn a_batched_lane(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let batch = |key: &str| Some(Batching { key: key.into(), max: 100, max_wait: Dur::from_millis(50) });
    let plain = lane(Ns::DEFAULT, "default", "demo");
    let [first, second] = ["a", "b"].map(|key| Arc::new(LaneDef { batch: batch(key), ..(*plain).clone() }));
    let known = known(&kit, &[plain, first.clone(), second.clone()]).await;
    kit.put(kit.task_in(first.clone())).await;
    let task = kit.put(kit.task()).await;
    let (item, _) = task.moved(&second, |_| {});
    kit.committed(&task, item).await;
    check(&kit, &known).await;
    let found = all_lanes(&*kit.store, kit.p).await.unwrap();
    for lane in [&first, &second] {
        assert!(found.contains(&(lane.id(), (**lane).clone())), "{found:?}");
    }
}

/// A task that was moved is claimed and ended in its new lane.
pub async fn by_the_owner_too(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let lanes = lanes();
    let known = known(&kit, &lanes).await;
    let token = kit.token().await;
    let task = kit.put(kit.task()).await;
    let (item, task) = task.moved(&lanes[1], |_| {});
    assert_eq!(kit.commit(vec![item]).await, [Committed::Ok]);
    let answers = kit.store.claim(kit.p, &token, SESSION, vec![task.claim(SESSION)]).await.unwrap();
    assert!(matches!(answers[..], [Claimed::Ok(_)]), "{answers:?}");
    check(&kit, &known).await;
    let running = Task { head: task.claim(SESSION).head, ..task };
    let (item, task) =
        running.moved(&lanes[2], |head| *head = super::kit::ended(&running.head, State::Succeeded, kit.now(), LONG));
    assert_eq!(kit.commit(vec![item]).await, [Committed::Ok]);
    check(&kit, &known).await;
    assert_eq!(kit.commit(vec![task.commit(None)]).await, [Committed::Ok]);
    check(&kit, &known).await;
}
