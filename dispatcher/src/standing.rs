//! What the registry tells those who explain why a task waits.

use lovage_core::board::WorkerBoard;
use lovage_core::standing::Standings;
use lovage_core::{Millis, Ns};

use crate::gate::Sight;
use crate::registry::{Registry, Worker};

impl Standings for Registry {
    fn worker(&self, ns: Ns, name: &str, origin: bool, now: Millis) -> Option<WorkerBoard> {
        // Of one that takes its tasks itself nothing is known here.
        let worker = if origin { self.known_origin(ns, name) } else { self.named(ns, name).filter(|worker| !worker.config.pull) };
        worker.map(|worker| board(ns, &worker, now))
    }
}

/// How a worker is doing here.
pub(crate) fn board(ns: Ns, worker: &Worker, now: Millis) -> WorkerBoard {
    let instances = worker.board(now);
    let slots = instances.iter().map(|instance| instance.slots).fold(0, u32::saturating_add);
    let Sight { breaker, paused_until, effective_rate, allowed, out_rate } = worker.gate.sight(now, slots);
    let (name, origin) = (worker.name.to_string(), worker.mark == 0);
    WorkerBoard { ns, name, origin, instances, breaker, paused_until, effective_rate, allowed, out_rate }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use lovage_core::standing::{BreakerState, Standing};
    use lovage_core::worker::Breaker;

    use super::*;
    use crate::egress::AddressPolicy;
    use crate::registry::Admission;

    #[test]
    fn a_standing_shows_slots_pauses_and_the_breaker() {
        let registry = Registry::new(AddressPolicy { allow_private: true, ..AddressPolicy::default() });
        let now = Millis(10_000);
        let origin = "http://a.example";
        assert_eq!(Standings::worker(&*registry, Ns::DEFAULT, origin, true, now), None);
        let worker = Registry::origin(&registry, Ns::DEFAULT, origin, now);
        let seen = |now| Standings::worker(&*registry, Ns::DEFAULT, origin, true, now).unwrap().standing();
        let free = Standing {
            instances: 1,
            open: 0,
            slots: 100,
            breaker: BreakerState::Closed,
            paused_until: None,
            effective_rate: None,
        };
        assert_eq!(seen(now), free);
        let asker = crate::line::Asker { number: 0, wants: 0, waits: None };
        let Admission::Slot(slot, _) = worker.admit(now, &asker) else { panic!("no slot") };
        assert_eq!(seen(now), Standing { open: 1, ..free });
        drop(slot);
        let slowed = Standing { effective_rate: Some(1.0), ..free };
        worker.gate.throttle(now, now, Some(Duration::from_secs(3)));
        assert_eq!(seen(now), Standing { paused_until: Some(Millis(13_000)), ..slowed });
        let settings = Breaker { failures: 1, open_for: lovage_core::units::Dur::from_secs(10) };
        worker.gate.fault(now, now, settings);
        let open = Standing { breaker: BreakerState::Open, paused_until: Some(Millis(20_000)), ..slowed };
        assert_eq!(seen(now), open);
        assert_eq!(seen(Millis(20_000)), Standing { breaker: BreakerState::HalfOpen, slots: 25, ..slowed });
        assert_eq!(Standings::worker(&*registry, Ns::DEFAULT, "w", false, now), None);
    }
}
