//! Placements as the owner sees them through scans, and lists as people see them.

use std::collections::BTreeSet;
use std::time::Duration;

use lovage_core::{Flags, Millis, Ns, Reason, State, TaskKey};

use super::Fixture;
use super::audit::{Known, audit};
use super::kit::{Kit, LONG, OTHER, SESSION, Task, ended, lane, next};
use crate::{Claimed, Commit, Cursor, Effect, Index, Insert, ListQuery, Want, all_lanes};

fn keys(tasks: &[Task]) -> Vec<TaskKey> {
    tasks.iter().map(|task| task.key.clone()).collect()
}

fn sorted(mut keys: Vec<TaskKey>) -> Vec<TaskKey> {
    keys.sort();
    keys
}

/// Higher priority first, then order of acceptance, whatever the page size.
pub async fn lanes_by_priority_then_age(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let items = (0..23u8).map(|n| {
        let mut item = kit.task();
        item.head.priority = n * 7 % 10;
        item
    });
    let mut tasks = kit.put_all(items.collect()).await;
    let other = kit.put(kit.task_in(lane(Ns::DEFAULT, "default", "other"))).await;
    tasks.sort_by_key(|task| task.head.score());
    let index = Index::Lane { lane: tasks[0].head.lane, after: None };
    for limit in [1, 5, 100] {
        let found = kit.scan(&index, limit).await;
        assert_eq!(found, tasks.iter().map(|task| (task.key.clone(), task.head.clone())).collect::<Vec<_>>());
    }
    assert_eq!(kit.scan_keys(&Index::Lane { lane: other.head.lane, after: None }, 10).await, [other.key]);
}

/// A lane can be read from behind a score, so that its owner can go on where it stopped.
pub async fn a_lane_is_read_from_a_score(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let items = (0..9u8).map(|n| {
        let mut item = kit.task();
        item.head.priority = n % 3;
        item
    });
    let mut tasks = kit.put_all(items.collect()).await;
    tasks.sort_by_key(|task| task.head.score());
    for (n, task) in tasks.iter().enumerate() {
        let after = Some(task.head.score());
        let index = Index::Lane { lane: task.head.lane, after };
        assert_eq!(kit.scan_keys(&index, 2).await, keys(&tasks[n + 1..]));
    }
}

/// Timers come earliest first, up to and with the time asked for.
pub async fn timers_earliest_first(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let now = kit.now();
    let due = |n: u64| now.after(Duration::from_secs(n));
    let items = [5, 1, 9, 3, 7].into_iter().map(|n| {
        let mut item = kit.task();
        item.head.state = if n % 3 == 0 { State::Retrying } else { State::Scheduled };
        item.head.due = due(n);
        item
    });
    let mut tasks = kit.put_all(items.collect()).await;
    kit.put(kit.task()).await;
    tasks.sort_by_key(|task| task.head.due);
    for limit in [1, 2, 10] {
        assert_eq!(kit.scan_keys(&Index::Timer { until: due(9) }, limit).await, keys(&tasks));
        assert_eq!(kit.scan_keys(&Index::Timer { until: due(5) }, limit).await, keys(&tasks[..3]));
        assert_eq!(kit.scan_keys(&Index::Timer { until: due(0) }, limit).await, []);
    }
}

/// Pages split between tasks of the same time lose none and repeat none.
pub async fn equal_times_are_paged(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let due = kit.now().after(LONG);
    let waiting = (0..17).map(|n| {
        let mut item = if n % 2 == 0 { kit.task() } else { kit.client_task(n) };
        item.head.state = State::Scheduled;
        item.head.due = due;
        item
    });
    let done = (17..34).map(|n| {
        let mut item = if n % 2 == 0 { kit.task() } else { kit.client_task(n) };
        item.head.state = State::Succeeded;
        item.head.due = due;
        item
    });
    let waiting = kit.put_all(waiting.collect()).await;
    let done = kit.put_all(done.collect()).await;
    for limit in [1, 3, 17, 50] {
        assert_eq!(sorted(kit.scan_keys(&Index::Timer { until: due }, limit).await), sorted(keys(&waiting)));
        assert_eq!(sorted(kit.scan_keys(&Index::Done { until: due }, limit).await), sorted(keys(&done)));
    }
}

/// Running tasks are found for all sessions and for one.
pub async fn running_by_session(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let token = kit.token().await;
    let tasks = kit.put_all((0..9).map(|_| kit.task()).collect()).await;
    for (n, task) in tasks[..8].iter().enumerate() {
        let session = if n < 3 { SESSION } else { OTHER };
        let answers = kit.store.claim(kit.p, &token, session, vec![task.claim(session)]).await.unwrap();
        assert!(matches!(answers[..], [Claimed::Ok(_)]));
    }
    for limit in [1, 2, 20] {
        assert_eq!(sorted(kit.scan_keys(&Index::Running { session: None }, limit).await), sorted(keys(&tasks[..8])));
        assert_eq!(sorted(kit.scan_keys(&Index::Running { session: Some(SESSION) }, limit).await), sorted(keys(&tasks[..3])));
        assert_eq!(sorted(kit.scan_keys(&Index::Running { session: Some(OTHER) }, limit).await), sorted(keys(&tasks[3..8])));
        assert_eq!(kit.scan_keys(&Index::Running { session: Some(lovage_core::SessionId(1)) }, limit).await, []);
    }
    kit.own(SESSION, Want::Release, LONG).await;
    assert_eq!(kit.scan_keys(&Index::Running { session: None }, 20).await.len(), 8);
}

/// Final tasks come in the order in which the janitor has to look at them.
pub async fn done_by_time(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let now = kit.now();
    let keep = |n: u64| Duration::from_secs(n);
    let mut tasks = Vec::new();
    let finals = [State::Succeeded, State::Failed, State::Canceled, State::Expired];
    for (state, n) in finals.into_iter().zip([30, 10, 40, 20]) {
        let task = kit.put(kit.task()).await;
        tasks.push(kit.committed(&task, task.commit(Some(ended(&task.head, state, now, keep(n))))).await);
    }
    tasks.sort_by_key(|task| task.head.due);
    for limit in [1, 3, 10] {
        assert_eq!(kit.scan_keys(&Index::Done { until: now.after(keep(40)) }, limit).await, keys(&tasks));
        assert_eq!(kit.scan_keys(&Index::Done { until: now.after(keep(20)) }, limit).await, keys(&tasks[..2]));
    }
    assert_eq!(kit.scan_keys(&Index::Done { until: now }, 10).await, []);
}

/// A tree is found by its root, through every state of its members.
pub async fn members_of_a_tree(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let roots = kit.put_all(vec![kit.task(), kit.client_task(0)]).await;
    for root in &roots {
        let items = (0..7).map(|_| Insert { root: Some(root.key.clone()), ..kit.task() });
        let mut tasks = kit.put_all(items.collect()).await;
        for (n, state) in [State::Running, State::Succeeded, State::Scheduled].into_iter().enumerate() {
            let item = tasks[n].commit(Some(next(&tasks[n].head, |head| head.state = state)));
            tasks[n] = kit.committed(&tasks[n], item).await;
        }
        for limit in [1, 3, 10] {
            let found = kit.scan(&Index::Members { root: root.key.clone() }, limit).await;
            let heads: Vec<_> = found.iter().map(|(_, head)| head.version).collect();
            assert_eq!(heads.iter().filter(|version| **version == 2).count(), 3, "{heads:?}");
            assert_eq!(sorted(found.into_iter().map(|(key, _)| key).collect()), sorted(keys(&tasks)));
        }
        kit.committed(&tasks[0], tasks[0].commit(None)).await;
        assert_eq!(sorted(kit.scan_keys(&Index::Members { root: root.key.clone() }, 3).await), sorted(keys(&tasks[1..])));
    }
}

/// Members are shown in order of acceptance, by whatever way they came.
pub async fn members_in_order(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let root = kit.put(kit.client_task(0)).await;
    let member = |item: Insert| Insert { root: Some(root.key.clone()), ..item };
    let mut expected = Vec::new();
    let mut parent = root.clone();
    for n in 1..8 {
        let items = [member(kit.client_task(20 - n)), member(kit.task()), member(kit.client_task(20 + n))];
        expected.extend(items.iter().map(|item| item.key.clone()));
        if n % 2 == 0 {
            kit.put_all(items.to_vec()).await;
        } else {
            let effects = items.into_iter().map(|item| Effect::Spawn(Box::new(item))).collect();
            parent = kit.committed(&parent, Commit { effects, ..parent.change(|_| {}) }).await;
        }
    }
    for limit in [1, 4, 100] {
        assert_eq!(kit.scan_keys(&Index::Members { root: root.key.clone() }, limit).await, expected);
    }
    // A page goes on rightly where a task was deleted.
    let first = kit.store.scan(kit.p, &Index::Members { root: root.key.clone() }, Cursor::default(), 3).await.unwrap();
    let gone = Task { key: expected[2].clone(), head: kit.head(&expected[2]).await.unwrap(), queue: "default".into() };
    kit.committed(&gone, gone.commit(None)).await;
    let second = kit.store.scan(kit.p, &Index::Members { root: root.key.clone() }, first.next.unwrap(), 100).await.unwrap();
    assert_eq!(second.items.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), expected[3..]);
}

/// From every state into every other the task leaves its old places and is found in the new ones.
pub async fn every_state_has_its_places(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let known = Known::new([lane(Ns::DEFAULT, "default", "demo")], kit.store.tail(kit.p).await.unwrap());
    let later = kit.now().after(LONG);
    let mut step = 0u64;
    let mut heads = Vec::new();
    for state in State::ALL {
        for flags in [Flags(0), Flags::ORDERED] {
            for (expires, deadline) in
                [(Millis(0), Millis(0)), (later, Millis(0)), (Millis(later.0 + 7), later), (Millis(0), later)]
            {
                heads.push((*state, flags, expires, deadline));
            }
        }
    }
    let mut task = kit.put(kit.task()).await;
    // A stride that is coprime to the number of heads visits them all, with neighbours of many kinds.
    for n in 0..heads.len() {
        let (state, flags, expires, deadline) = heads[n * 29 % heads.len()];
        step += 1;
        let item = task.change(|head| {
            (head.state, head.flags, head.expires, head.deadline) = (state, flags, expires, deadline);
            head.reason = if step.is_multiple_of(2) { Reason::Accepted } else { Reason::None };
            head.due = Millis(later.0 + step);
            head.priority = (step % 10) as u8;
            head.session = if step.is_multiple_of(3) { SESSION } else { OTHER };
        });
        task = kit.committed(&task, item).await;
        audit(&*kit.store, kit.p, &known).await.unwrap();
    }
}

/// An ordered task keeps its place in its lane while it runs or waits for a retry.
pub async fn ordered_tasks_keep_their_place(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let token = kit.token().await;
    let items = (0..3).map(|_| {
        let mut item = kit.task();
        item.head.flags = Flags::ORDERED;
        item
    });
    let tasks = kit.put_all(items.collect()).await;
    let index = Index::Lane { lane: tasks[0].head.lane, after: None };
    let first = kit.claimed(&token, &tasks[0]).await;
    assert_eq!(kit.scan_keys(&index, 10).await, keys(&tasks));
    let first = kit.committed(&first, first.change(|head| head.state = State::Retrying)).await;
    assert_eq!(kit.scan_keys(&index, 10).await, keys(&tasks));
    kit.committed(&first, first.commit(Some(ended(&first.head, State::Succeeded, kit.now(), LONG)))).await;
    assert_eq!(kit.scan_keys(&index, 10).await, keys(&tasks[1..]));
}

/// A lane that was empty for a while is defined again as soon as a task comes back to it, although nobody said its
/// definition again.
pub async fn lanes_are_known_again(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let token = kit.token().await;
    let def = lane(Ns(4), "mail", "send");
    let mut later = kit.task_in(def.clone());
    later.head.state = State::Scheduled;
    let later = kit.put(later).await;
    let housekeeping = async || {
        for _ in 0..3 {
            kit.pass_if_free(Duration::from_secs(600));
            kit.own(SESSION, Want::Own, LONG).await;
        }
    };
    let defined = async || {
        let lanes = all_lanes(&*kit.store, kit.p).await.unwrap();
        assert!(lanes.contains(&(def.id(), (*def).clone())), "{lanes:?}");
    };
    housekeeping().await;
    let later = kit.committed(&later, later.change(|head| head.state = State::Queued)).await;
    defined().await;
    let later = kit.claimed(&token, &later).await;
    housekeeping().await;
    let later = kit.committed(&later, later.change(|head| head.state = State::Queued)).await;
    defined().await;
    let later = kit.committed(&later, later.commit(Some(ended(&later.head, State::Failed, kit.now(), LONG)))).await;
    housekeeping().await;
    kit.committed(&later, later.change(|head| head.state = State::Queued)).await;
    defined().await;
}

/// A listing shows each task once, whatever the page size, while nothing changes.
pub async fn listed_once_in_pages(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let tasks = kit.put_all((0..53).map(|n| if n % 3 == 0 { kit.client_task(n) } else { kit.task() }).collect()).await;
    for limit in [1, 7, 53, 200] {
        let found = kit.list(&ListQuery::default(), limit).await;
        assert_eq!(found.len(), 53);
        assert_eq!(sorted(found.into_iter().map(|(key, _)| key).collect()), sorted(keys(&tasks)));
        let first: Vec<_> = kit.list(&ListQuery::default(), limit).await;
        assert_eq!(first, kit.list(&ListQuery::default(), limit).await);
    }
}

/// Filters by state and by the time of acceptance, apart and together.
pub async fn lists_are_filtered(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let now = kit.now();
    let at = |n: usize| now.after(Duration::from_secs(n as u64));
    let items = (0..36).map(|n| {
        let mut item = kit.task();
        item.head.state = State::ALL[n % 9];
        item.head.created = at(n);
        item
    });
    let tasks = kit.put_all(items.collect()).await;
    let mut queries = vec![ListQuery::default()];
    for states in [vec![], vec![State::Queued], vec![State::Failed, State::Canceled, State::Running]] {
        for (from, until) in
            [(None, None), (Some(9), None), (None, Some(20)), (Some(5), Some(6)), (Some(30), Some(90)), (Some(9), Some(9))]
        {
            let (created_after, created_before) = (from.map(at), until.map(at));
            queries.push(ListQuery { ns: Ns::DEFAULT, states: states.clone(), created_after, created_before });
        }
    }
    for query in queries {
        let fits = |task: &&Task| {
            let created = task.head.created;
            (query.states.is_empty() || query.states.contains(&task.head.state))
                && query.created_after.is_none_or(|from| from <= created)
                && query.created_before.is_none_or(|until| created < until)
        };
        let expected: BTreeSet<_> = tasks.iter().filter(fits).map(|task| task.key.clone()).collect();
        for limit in [2, 50] {
            let found = kit.list(&query, limit).await;
            assert_eq!(found.len(), expected.len(), "{query:?}");
            assert_eq!(found.into_iter().map(|(key, _)| key).collect::<BTreeSet<_>>(), expected, "{query:?}");
        }
    }
}

/// The counts are those of a recount, in order of namespace and queue.
pub async fn counts_equal_a_recount(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let lanes: Vec<_> = [(2, "b"), (0, "mail"), (2, "a"), (0, "default"), (1, "ünï code")]
        .into_iter()
        .flat_map(|(ns, queue)| [lane(Ns(ns), queue, "x"), lane(Ns(ns), queue, "y")])
        .collect();
    let known = Known::new(lanes.clone(), kit.store.tail(kit.p).await.unwrap());
    let items = (0..60).map(|n| {
        let mut item = kit.task_in(lanes[n % lanes.len()].clone());
        item.head.state = State::ALL[n % 9];
        item
    });
    kit.put_all(items.collect()).await;
    audit(&*kit.store, kit.p, &known).await.unwrap();
    let counts = kit.store.counts(kit.p).await.unwrap();
    assert!(counts.is_sorted() && counts.len() == 5, "{counts:?}");
    assert_eq!(counts.iter().flat_map(|count| count.states).sum::<u64>(), 60);
}
