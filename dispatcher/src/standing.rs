//! What the registry tells those who explain why a task waits.

use lovage_core::board::WorkerBoard;
use lovage_core::standing::{BreakerState, Standings};
use lovage_core::{Millis, Ns};

use crate::registry::{Registry, Worker};

impl Standings for Registry {
    fn worker(&self, ns: Ns, name: &str, origin: bool, now: Millis) -> Option<WorkerBoard> {
        // Of one that takes its tasks itself nothing is known here.
        let worker = if origin { self.known_origin(ns, name) } else { self.named(ns, name).filter(|worker| !worker.config.pull) };
        worker.map(|worker| board(ns, &worker, now))
    }
}

/// How a worker is doing here.
fn board(ns: Ns, worker: &Worker, now: Millis) -> WorkerBoard {
    let left_alone = worker.gate.breaker_until();
    let breaker = match left_alone {
        Millis(0) => BreakerState::Closed,
        until if until > now => BreakerState::Open,
        _ => BreakerState::HalfOpen,
    };
    WorkerBoard {
        ns,
        name: worker.name.to_string(),
        origin: worker.mark == 0,
        instances: worker.board(now),
        breaker,
        paused_until: worker.gate.paused(now).into_iter().chain(Some(left_alone).filter(|until| *until > now)).max(),
        ..WorkerBoard::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use lovage_core::standing::Standing;
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
        let Admission::Slot(slot, _) = worker.admit(now) else { panic!("no slot") };
        assert_eq!(seen(now), Standing { open: 1, ..free });
        drop(slot);
        worker.gate.throttle(now, Some(Duration::from_secs(3)));
        assert_eq!(seen(now), Standing { paused_until: Some(Millis(13_000)), ..free });
        let settings = Breaker { failures: 1, open_for: lovage_core::units::Dur::from_secs(10) };
        worker.gate.fault(now, settings);
        let open = Standing { breaker: BreakerState::Open, paused_until: Some(Millis(20_000)), ..free };
        assert_eq!(seen(now), open);
        assert_eq!(seen(Millis(20_000)), Standing { breaker: BreakerState::HalfOpen, paused_until: None, ..free });
        assert_eq!(Standings::worker(&*registry, Ns::DEFAULT, "w", false, now), None);
    }
}
