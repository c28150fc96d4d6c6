//! A worker, its instances, and which of them a task goes to now.

use std::sync::Arc;

use http::HeaderMap;
use lovage_core::Millis;
use lovage_core::board::{InstanceBoard, InstanceCounts};
use lovage_core::classify::StatusMap;
use lovage_core::instance::{Balance, Recycling};
use lovage_core::worker::WorkerConfig;
use smallvec::SmallVec;

use crate::egress::Target;
use crate::gate::{Gate, Held, Slot, Slots};
use crate::instances::InstanceState;
use crate::line::Asker;
use crate::signing::Signer;

/// Where a task can be pushed to.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Its name; for a bare URL the origin.
    pub name: Arc<str>,
    /// `worker_mark` of the name; 0 for a bare URL.
    pub mark: u32,
    /// What it was registered with.
    pub config: WorkerConfig,
    /// What its statuses mean.
    pub status_map: StatusMap,
    /// Signs deliveries; `None` if there is no usable secret.
    pub signer: Option<Signer>,
    /// Headers added to every delivery.
    pub headers: HeaderMap,
    /// Its gate.
    pub gate: Arc<Gate>,
    /// Which of its instances is being started anew.
    pub recycling: Recycling,
    pub(super) instances: Vec<Instance>,
}

/// One place where a worker is called.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its name among those of its worker: the one that it registered with, or its URL.
    pub name: Arc<str>,
    /// Its URL as registered.
    pub url: Arc<str>,
    /// The parsed URL, judged by the address policy; `None`: it may not be called.
    pub target: Option<Arc<Target>>,
    /// What is known of it beside its document.
    pub state: Arc<InstanceState>,
    /// The others that get the same task at once.
    pub others: Vec<Instance>,
    /// When it registered, if it did so itself.
    pub since: Millis,
    pub(super) capacity: u32,
    pub(super) until: Option<Millis>,
}

/// What the admission of a task found.
pub enum Admission {
    /// This slot of this instance.
    Slot(Slot, Instance),
    /// All instances are busy.
    Busy,
    /// The free slots are for others; ask again then, or when one is free.
    Behind(Millis),
    /// It wants to be left alone until then.
    Paused(Millis),
    /// There is no live instance.
    NoInstance,
}

impl Instance {
    pub(super) fn is_live(&self, now: Millis) -> bool {
        self.until.is_none_or(|until| until > now)
    }

    /// Whether a task may go there if a slot is free.
    fn is_usable(&self, now: Millis) -> bool {
        self.is_live(now) && self.state.is_well() && !self.state.is_drained()
    }

    /// How it is doing here.
    pub fn board(&self) -> InstanceBoard {
        let (born, counters) = self.state.counted();
        let probes = self.state.probes();
        InstanceBoard {
            url: self.url.to_string(),
            name: if self.name == self.url { String::new() } else { self.name.to_string() },
            // Before the open ones: what starts after the drain is seen is none of those that were counted.
            drained: self.state.drained(),
            open: self.state.slots.open(),
            slots: self.capacity,
            healthy: self.state.is_well(),
            unreachable: self.state.slots.unreachable(),
            failures: probes.failures,
            probed: probes.last,
            born,
            since: counters.since,
            counts: InstanceCounts { tasks: counters.tasks, errors: counters.errors, memory: counters.memory },
        }
    }

    fn free(&self) -> u32 {
        self.capacity.saturating_sub(self.state.slots.open())
    }

    /// How many tasks may go there now, one that is to be tried included.
    fn free_if_reachable(&self, now: Millis) -> u32 {
        if !self.state.slots.fails() {
            return self.free();
        }
        match self.state.slots.unreachable() {
            Millis(0) => self.free(),
            until if until <= now => self.free().min(1),
            _ => 0,
        }
    }

    /// A slot, unless all are taken or it was drained this very moment: the slot is taken first and the drain looked at
    /// afterwards, and whoever drains does it the other way round, so one of the two sees the other.
    fn take(&self, take: impl FnOnce(&Arc<Slots>) -> Option<Slot>) -> Option<Slot> {
        let slot = take(&self.state.slots)?;
        (!self.state.is_drained()).then_some(slot)
    }
}

impl Worker {
    /// Its live instances, whether they can be called or not.
    pub fn live_instances(&self, now: Millis) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(move |instance| instance.is_live(now))
    }

    /// The instance with this URL.
    pub fn instance(&self, url: &str) -> Option<&Instance> {
        self.instances.iter().find(|instance| &*instance.url == url)
    }

    /// A slot of the instance whose turn it is, if it is the turn of this asker.
    pub fn admit(&self, now: Millis, asker: &Asker) -> Admission {
        if let Some(pause) = self.config.paused(now) {
            // The end of one without an end is a change of the document, which opens all lanes.
            return Admission::Paused(pause.until.unwrap_or(Millis::MAX));
        }
        if !self.instances.iter().any(|instance| instance.is_usable(now)) {
            return Admission::NoInstance;
        }
        let ask = || self.gate.admit(now, asker, || self.load(now), || self.free(now), || self.choose(now));
        let mut answer = ask();
        if matches!(answer, Err(Held::Busy | Held::Behind(_))) {
            // A slot that is freed between looking and asking would be missed: ask, then look once more.
            self.gate.want();
            answer = ask();
        }
        match answer {
            Ok((slot, instance)) => Admission::Slot(slot, instance),
            Err(Held::Until(until)) => Admission::Paused(until),
            Err(Held::Behind(again)) => Admission::Behind(again),
            Err(Held::Busy) => Admission::Busy,
        }
    }

    /// Whether anybody was there lately, at any of its instances.
    pub fn is_any_reached(&self, now: Millis) -> bool {
        self.instances.iter().any(|instance| instance.is_usable(now) && !instance.state.slots.fails())
    }

    /// The instances that tasks may go to. Those that cannot be reached are passed over as long as others can be; if none
    /// can, the breaker of the worker says what is tried.
    fn usable(&self, now: Millis) -> (impl Iterator<Item = &Instance>, bool) {
        let usable = self.instances.iter().filter(|instance| instance.is_usable(now));
        // Each breaker is looked at once.
        let usable: SmallVec<[(&Instance, Millis); 4]> = usable.map(|it| (it, it.state.slots.unreachable())).collect();
        let passes = usable.iter().any(|(_, until)| until.0 == 0);
        let may = move |(instance, until)| (!passes || until <= now).then_some(instance);
        (usable.into_iter().filter_map(may), passes)
    }

    /// Open pushes, and how many there may be.
    pub fn load(&self, now: Millis) -> (u32, u32) {
        let (usable, _) = self.usable(now);
        usable.fold((0, 0), |(open, slots), i| (open + i.state.slots.open(), slots.saturating_add(i.capacity)))
    }

    /// Open pushes.
    pub fn open(&self, now: Millis) -> u32 {
        self.load(now).0
    }

    fn choose(&self, now: Millis) -> Option<(Slot, Instance)> {
        if self.config.balance == Balance::Broadcast {
            return self.take_all(now);
        }
        let (usable, passes) = self.usable(now);
        let mut free: Vec<&Instance> = usable.filter(|i| i.free() > 0).collect();
        match self.config.balance {
            // The one that had its turn longest ago: so it stays even however the instances come and go.
            Balance::RoundRobin => free.sort_by_key(|instance| instance.state.last_turn()),
            Balance::LeastLoaded | Balance::Broadcast => {
                free.sort_by_key(|instance| (instance.state.slots.open(), instance.state.last_turn()));
            }
        }
        let take = |instance: &Instance| {
            let most = instance.capacity;
            instance.take(|slots| if passes { slots.take_reachable(most, now) } else { slots.take(most) })
        };
        let (slot, instance) = free.into_iter().find_map(|instance| Some((take(instance)?, instance.clone())))?;
        instance.state.take_turn();
        Some((slot, instance))
    }

    /// A slot of each instance that is well, if all have one. One that is being drained is waited for.
    fn take_all(&self, now: Millis) -> Option<(Slot, Instance)> {
        let all: Vec<&Instance> = self.called_at_once(now).collect();
        // Looked at before any is taken: what is given back wakes whoever waits, who would look in vain again and again.
        if all.iter().any(|instance| instance.free() == 0 || instance.state.is_drained()) {
            return None;
        }
        let mut slots = Vec::with_capacity(all.len());
        for instance in &all {
            slots.push(instance.take(|slots| slots.take(instance.capacity))?);
        }
        let mut instances = all.into_iter().cloned();
        let first = instances.next()?;
        let slot = slots.remove(0).with(slots);
        Some((slot, Instance { others: instances.collect(), ..first }))
    }

    fn called_at_once(&self, now: Millis) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(move |instance| instance.is_live(now) && instance.state.is_well())
    }

    /// How many tasks may start now.
    pub fn free(&self, now: Millis) -> u32 {
        if self.config.balance == Balance::Broadcast {
            let free = |instance: &Instance| if instance.state.is_drained() { 0 } else { instance.free() };
            return self.called_at_once(now).map(free).min().unwrap_or_default();
        }
        let (usable, passes) = self.usable(now);
        usable.map(|instance| if passes { instance.free_if_reachable(now) } else { instance.free() }).sum()
    }

    /// Live instances, whether they can be called or not.
    pub fn board(&self, now: Millis) -> Vec<InstanceBoard> {
        self.live_instances(now).map(Instance::board).collect()
    }
}
