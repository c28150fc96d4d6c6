//! A task on its way into the store.

use bytes::Bytes;
use lovage_core::units::Dur;
use lovage_core::{Draft, Head, IdRun, Millis, Ns, Partition, Reason, Slot, Spec, TaskId, TaskKey, Version};
use lovage_store::{Insert, KeyEntry, KeyKind, KeyPut, Residence};

use super::judge::{Verdict, first_of, judge};
use crate::app::App;
use crate::intake::Idempotency;
use crate::lane_cache::LaneCache;

/// A task on its way into the store, with the keys that it takes.
pub(crate) struct Coming {
    /// Who it is.
    pub key: TaskKey,
    /// Where it will live.
    pub partition: Partition,
    pub(super) draft: Draft,
    pub(super) idempotency: Option<Idempotency>,
    /// Whether its client-chosen id belongs elsewhere.
    pub(super) away: bool,
    /// Its directory entry, and until when its insert may be sent.
    pub(super) entered: Option<(KeyEntry, Millis)>,
    /// Who may lose the key to it, at which version.
    steal: Option<(TaskKey, Version)>,
    /// When the first of its burst of debounced tasks came.
    first: Option<Millis>,
}

impl App {
    /// A task that comes now. It takes an id of its own unless it has one.
    pub(crate) fn coming(&self, ns: Ns, draft: Draft, idempotency: Option<Idempotency>, now: Millis) -> Coming {
        let id = draft.id.clone().unwrap_or_else(|| {
            let wanted = draft.spec.home(ns).or_else(|| Some(idempotency.as_ref()?.slot(ns)));
            IdRun::new(now, wanted.unwrap_or_else(|| self.next_slot(1)), self.random()).nth(0)
        });
        self.coming_as(TaskKey::new(ns, id), draft, idempotency)
    }

    /// A task that comes under this key; a generated id is one of the slot where the task has to live.
    pub(crate) fn coming_as(&self, key: TaskKey, mut draft: Draft, idempotency: Option<Idempotency>) -> Coming {
        let own = self.partition(&key);
        let slot = Self::bound(&key, &draft);
        let partition = slot.partition(self.partitions());
        let away = partition != own;
        draft.spec.away = away.then(|| slot.number());
        Coming { key, partition, draft, idempotency, away, entered: None, steal: None, first: None }
    }

    /// The slot in which this task has to live.
    pub(crate) fn bound(key: &TaskKey, draft: &Draft) -> Slot {
        match key.id {
            TaskId::Client(_) => draft.spec.bound(key.ns).unwrap_or_else(|| key.slot()),
            TaskId::Generated(_) => key.slot(),
        }
    }

    /// What keeps a client-chosen id from being stored at home while a task of that id lives elsewhere: it is never held, only
    /// looked for.
    pub(crate) fn home_check(&self, key: &TaskKey, now: Millis) -> Option<KeyPut> {
        let put =
            || KeyPut { kind: KeyKind::Directory, key: Residence::name(key), value: Bytes::new(), until: Some(now), steal: None };
        self.may_be_away(key).then(put)
    }

    /// Whether a task of this id may live elsewhere than its id says.
    pub(super) fn may_be_away(&self, key: &TaskKey) -> bool {
        self.partitions() > 1 && matches!(key.id, TaskId::Client(_))
    }
}

impl Coming {
    /// What is asked for.
    pub(crate) fn spec(&self) -> &Spec {
        &self.draft.spec
    }

    /// Whether a client chose its id.
    pub(crate) fn has_own_id(&self) -> bool {
        self.draft.id.is_some()
    }

    /// What becomes of it if another one, with this head, has its unique or debounce key.
    pub(crate) fn judge(&self, kind: KeyKind, entry: &KeyEntry, head: Option<&Head>, now: Millis) -> Verdict {
        judge(&self.draft.spec, kind, entry, head, now)
    }

    /// From now on it takes the key from this one, if that does not change.
    pub(crate) fn take_from(&mut self, entry: &KeyEntry, head: Option<&Head>) {
        self.steal = Some((entry.task.clone(), head.map_or(0, |head| head.version)));
    }

    /// From now on it takes the key from nobody.
    pub(crate) fn take_from_nobody(&mut self) {
        self.steal = None;
    }

    /// It is the next of the burst that the entry tells of, if that is why it takes a place.
    pub(crate) fn continue_burst(&mut self, entry: &KeyEntry, reason: Reason) {
        if reason == Reason::Debounced {
            self.first = self.first.or(first_of(entry));
        }
    }

    /// Its insert as of now.
    pub(crate) fn insert(&self, app: &App, now: Millis) -> Insert {
        let mut keys: Vec<KeyPut> = Vec::new();
        if !self.away {
            keys.extend(app.home_check(&self.key, now));
        }
        keys.extend(self.idempotency.as_ref().map(|idempotency| idempotency.put(app, now, 1)));
        keys.extend(self.held(now));
        let mut lanes = LaneCache::default();
        let mut insert = match &self.draft.spec.debounce {
            Some(debounce) => {
                let wait = debounce.due(self.first.unwrap_or(now), now).since(now);
                let delay = Some(Dur::from_millis(wait.as_millis() as u64));
                lanes.insert(&Draft { delay, ..self.draft.clone() }, self.key.clone(), now)
            }
            None => lanes.insert(&self.draft, self.key.clone(), now),
        };
        insert.keys = keys;
        insert.not_after = self.entered.as_ref().map(|(_, limit)| *limit);
        insert
    }

    /// The unique or debounce key that it takes.
    fn held(&self, now: Millis) -> Option<KeyPut> {
        let spec = &self.draft.spec;
        let steal = self.steal.clone();
        if let Some(unique) = KeyPut::unique(spec, now) {
            return Some(KeyPut { steal, ..unique });
        }
        let key = Bytes::copy_from_slice(spec.debounce.as_ref()?.key.as_bytes());
        let first = self.first.unwrap_or(now);
        let value = Bytes::copy_from_slice(&first.0.to_be_bytes());
        Some(KeyPut { kind: KeyKind::Debounce, key, value, until: None, steal })
    }
}
