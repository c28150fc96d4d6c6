//! From a draft to an insert.

use std::sync::Arc;

use lovage_core::{Draft, LaneDef, Millis, Ns, Route, Spec, TaskKey};
use lovage_store::{Insert, OnExists};

/// The lane of the draft before, kept because most tasks of a batch share one.
#[derive(Default)]
pub(crate) struct LaneCache(Option<Arc<LaneDef>>);

impl LaneCache {
    fn lane(&mut self, ns: Ns, spec: &Spec, priority: u8) -> Arc<LaneDef> {
        let same = self.0.as_ref().filter(|lane| {
            let task = if spec.url.is_none() { spec.task.as_deref() } else { None };
            let route = matches!(&lane.route, Route::Task(name) if Some(&**name) == task);
            let plain = spec.order_key.is_none() && spec.order == lane.order;
            let gates = lane.queue == spec.queue() && lane.batch == spec.batch && lane.limits == spec.limits;
            let turn = lane.fair_key == spec.fair_key && lane.priority.is_none_or(|own| own == priority);
            route && lane.ns == ns && plain && gates && turn
        });
        if let Some(lane) = same {
            return lane.clone();
        }
        let lane = Arc::new(spec.lane(ns, priority));
        self.0 = Some(lane.clone());
        lane
    }

    /// The insert of this task under `key`.
    pub(crate) fn insert(&mut self, draft: &Draft, key: TaskKey, now: Millis) -> Insert {
        let lane = self.lane(key.ns, &draft.spec, draft.priority());
        Insert {
            head: draft.head(&lane, now),
            body: draft.body(now),
            lane,
            exists: if draft.id.is_some() { OnExists::Return } else { OnExists::Generated },
            not_after: None,
            keys: Vec::new(),
            root: None,
            key,
        }
    }
}
