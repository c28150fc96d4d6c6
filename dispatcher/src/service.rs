//! The dispatcher of a process: one owner per partition, and the watch over workers.

use std::sync::Arc;
use std::time::Duration;

use lovage_core::{Partition, SessionId};
use lovage_store::Store;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::board;
use crate::control::Control;
use crate::egress::Transport;
use crate::instances;
use crate::limits::Limits;
use crate::notice::Notices;
use crate::options::Options;
use crate::owner::{Owner, Random, Shared, TURNS, Uptime};
use crate::pulse::Pulse;
use crate::registry::Registry;

/// See the module.
pub struct Dispatcher {
    shared: Arc<Shared>,
}

/// How long it may take from the end of a session's lease until the next owners of its partitions have told which attempts were
/// accepted: until then these count for the session.
const TAKEOVER: Duration = Duration::from_secs(5);

impl Dispatcher {
    /// A dispatcher for all partitions of `store`. `session` must be new to the store: a life of this process.
    pub fn new(
        store: Arc<dyn Store>,
        transport: Arc<dyn Transport>,
        registry: Arc<Registry>,
        session: SessionId,
        random: Random,
        options: Options,
    ) -> Self {
        let most = options.max_in_flight.min(Semaphore::MAX_PERMITS);
        metrics::gauge!("lovage_attempts_open_limit").set(most as f64);
        let room = Arc::new(Semaphore::new(most));
        let start = Instant::now();
        let control = Control::new(Arc::clone(&transport), &options.user_agent);
        let uptime: Uptime = Arc::new(move || start.elapsed());
        let pulse = Pulse::new(store.caps().partitions);
        let limits = Limits::new(Arc::clone(&store), Arc::clone(&registry), session, options.lease + TAKEOVER, options.limits);
        Self {
            shared: Arc::new(Shared {
                store,
                transport,
                control,
                registry,
                options,
                random,
                session,
                room,
                turns: Arc::new(Semaphore::new(TURNS)),
                handing: Arc::new(Semaphore::new(1)),
                shares: Mutex::default(),
                notices: Notices::default(),
                fenced: CancellationToken::new(),
                uptime,
                pulse,
                limits,
                given_up: Mutex::default(),
            }),
        }
    }

    /// Leases are judged by this clock: the time since some moment, which also runs while the machine is suspended. Without it
    /// the runtime's own is used, which may stand still then.
    #[must_use]
    pub fn with_uptime(mut self, uptime: Uptime) -> Self {
        // Nobody else holds it before the dispatcher runs.
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.uptime = uptime;
        }
        self
    }

    /// Tells from outside whether the loops turn.
    pub fn pulse(&self) -> Pulse {
        self.shared.pulse.clone()
    }

    /// Works until `stop`. Then nothing new is claimed, open attempts get `grace` to end, and what is left is given
    /// back without a charge. Returns when the store knows. Returns early if the session was fenced.
    pub async fn run(self, stop: CancellationToken, grace: Duration) {
        let shared = self.shared;
        let watching = CancellationToken::new();
        let watch = tokio::spawn(Arc::clone(&shared.registry).watch(Arc::clone(&shared.store), watching.clone()));
        // A process that dies gives nothing back: what it has pushed may still run.
        let limits = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&shared.limits).run(watching.clone())));
        let (listening, of_all) = (watching.clone(), Arc::clone(&shared));
        let notices = tokio::spawn(async move {
            tokio::join!(
                of_all.notices.listen(&*of_all.store, of_all.session, listening.clone()),
                of_all.notices.ring_for_all(&*of_all.store, listening)
            )
        });
        let upkeep = tokio::spawn(instances::watch(Arc::clone(&shared), watching.clone()));
        // A process that dies shows nothing more.
        let showing = AbortOnDropHandle::new(tokio::spawn(board::publish(Arc::clone(&shared), watching.clone())));
        let mut owners = JoinSet::new();
        for p in 0..shared.store.caps().partitions {
            owners.spawn(Owner::new(Arc::clone(&shared), Partition(p)).run(stop.clone(), grace));
        }
        while let Some(ended) = owners.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "the owner of a partition ended unexpectedly; its lease will run out");
            }
        }
        watching.cancel();
        let _ = tokio::join!(watch, notices, upkeep, showing, limits);
    }
}
