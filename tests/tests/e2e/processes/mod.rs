//! Gateways and dispatchers as processes of their own: what is begun at one is seen, went on with and ended at another.

mod nodes;
mod queues;
mod waits;
mod workers;

use lovage_tests::{Client, Fleet, Redis, Worker};

/// Two gateways, one dispatcher, one worker.
struct Site {
    here: Client,
    there: Client,
    worker: Worker,
    fleet: Fleet,
    _redis: Redis,
}

impl Site {
    async fn start() -> Self {
        let redis = Redis::start();
        let fleet = Fleet::of(2, 1).start(&redis).await;
        let [here, there] = [0, 1].map(|gateway: usize| fleet.gateways[gateway].client().clone());
        Self { here, there, worker: Worker::start(), fleet, _redis: redis }
    }
}
