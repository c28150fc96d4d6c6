//! Lanes: their definitions come back as they were given, by page and by id, and say in which order their tasks stand.

use std::sync::Arc;

use lovage_core::units::{Dur, Period, Rate};
use lovage_core::{Batching, LaneDef, LaneId, LaneOrder, Ns, Route, TaskLimit};

use super::Fixture;
use super::kit::{Kit, lane};
use crate::{Cursor, Index, Insert, all_lanes};

/// Lanes with everything that a definition can say.
fn all_kinds() -> Vec<Arc<LaneDef>> {
    let plain = LaneDef::of(Ns(1), "q", Route::Task("t".into()));
    let mixed = LaneDef::of(Ns(1), "q", Route::Mixed);
    let limit = |key: &str, rate| TaskLimit { key: key.into(), rate, burst: None, concurrency: None, cost: 1 };
    let limits = vec![
        TaskLimit { burst: Some(7), cost: 3, ..limit("a:\u{e9}", Rate::new(30, Period::Minute)) },
        TaskLimit { concurrency: Some(0), ..limit("b", None) },
        limit("c", None),
    ];
    let batch = Some(Batching { key: "b".into(), max: 3, max_wait: Dur::from_millis(5) });
    let defs = [
        LaneDef::of(Ns(1), "q", Route::Origin("https://a.example:8443".into())),
        LaneDef { priority: Some(9), ..plain.clone() },
        LaneDef { limits, priority: Some(0), ..plain.clone() },
        LaneDef { fair_key: Some("tenant \0".into()), order: LaneOrder::Fair, ..plain.clone() },
        LaneDef { batch, fair_key: Some(String::new()), ..plain.clone() },
        LaneDef { order_key: Some("account-1".into()), ..mixed.clone() },
        LaneDef { order: LaneOrder::Fifo, ..mixed },
        plain,
    ];
    defs.into_iter().map(Arc::new).collect()
}

/// Every part of a definition comes back, also after a restart.
pub async fn definitions_come_back(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let lanes = all_kinds();
    let mut expected: Vec<_> = lanes.iter().map(|lane| (lane.id(), (**lane).clone())).collect();
    expected.sort_by_key(|(lane, _)| *lane);
    kit.put_all(lanes.iter().map(|lane| flagged(&kit, lane)).collect()).await;
    assert_eq!(all_lanes(&*kit.store, kit.p).await.unwrap(), expected);
    let Kit { store, .. } = kit;
    let kit = Kit::over(fixture, fixture.reopen(store).await);
    assert_eq!(all_lanes(&*kit.store, kit.p).await.unwrap(), expected);
    let ids: Vec<_> = expected.iter().map(|(lane, _)| *lane).chain([LaneId(77), expected[0].0]).collect();
    let found = kit.store.lane_defs(kit.p, &ids).await.unwrap();
    let known = expected.iter().map(|(_, def)| Some(def.clone()));
    let known: Vec<_> = known.chain([None, Some(expected[0].1.clone())]).collect();
    assert_eq!(found, known);
    assert_eq!(kit.store.lane_defs(kit.p, &[]).await.unwrap(), []);
}

/// A task as its lane wants it.
fn flagged(kit: &Kit<'_>, lane: &Arc<LaneDef>) -> Insert {
    let mut item = kit.task_in(lane.clone());
    item.head.flags = lane.flags();
    item
}

/// Many lanes are read in pages; each has its number of tasks.
pub async fn many_lanes_in_pages(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let lanes: Vec<_> = (0..190).map(|n| lane(Ns(0), "q", &format!("task-{n}"))).collect();
    kit.put_all(lanes.iter().map(|lane| kit.task_in(lane.clone())).collect()).await;
    let more = kit.put_all((0..5).map(|_| kit.task_in(lanes[3].clone())).collect()).await;
    let mut expected: Vec<_> = lanes.iter().map(|lane| lane.id()).collect();
    expected.sort_unstable();
    for limit in [1, 7, 64, 500] {
        let (mut found, mut from, mut pages) = (Vec::new(), Cursor::default(), 0);
        loop {
            let page = kit.store.lanes(kit.p, from, limit).await.unwrap();
            assert!(page.items.len() <= limit, "a page of {} for a limit of {limit}", page.items.len());
            found.extend(page.items.into_iter().map(|(lane, _)| lane));
            pages += 1;
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, expected, "in pages of {limit}");
        assert!(pages >= 190 / limit, "{pages} pages of {limit}");
    }
    let sizes = kit.store.lane_sizes(kit.p, &[lanes[3].id(), LaneId(77), lanes[4].id()]).await.unwrap();
    assert_eq!(sizes, [6, 0, 1]);
    kit.commit(more.iter().take(2).map(|task| task.commit(None)).collect()).await;
    assert_eq!(kit.store.lane_sizes(kit.p, &[lanes[3].id()]).await.unwrap(), [4]);
    assert_eq!(kit.store.lane_sizes(kit.p, &[]).await.unwrap(), [] as [u64; 0]);
}

/// In lanes that are kept in order a priority changes nothing.
pub async fn order_goes_before_priority(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    for lane in all_kinds() {
        let in_order = lane.flags() != lovage_core::Flags::default();
        let item = |priority| {
            let mut item = flagged(&kit, &lane);
            item.head.priority = priority;
            item
        };
        let tasks = kit.put_all([3, 9, 0, 5].map(item).into()).await;
        let found = kit.scan_keys(&Index::Lane { lane: lane.id(), after: None }, 3).await;
        let order = if in_order { [0, 1, 2, 3] } else { [1, 3, 0, 2] };
        assert_eq!(found, order.map(|n| tasks[n].key.clone()), "{lane:?}");
        let after = Some(tasks[order[1]].head.score());
        let rest = kit.scan_keys(&Index::Lane { lane: lane.id(), after }, 9).await;
        assert_eq!(rest, [order[2], order[3]].map(|n| tasks[n].key.clone()));
    }
}
