//! The dispatcher on a thread of its own, so that slow requests and fast deliveries do not wait for each other.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lovage_core::AttemptUrls;
use lovage_core::standing::Standings;
use lovage_dispatcher::egress::{AddressPolicy, EgressOptions, HttpTransport};
use lovage_dispatcher::{Dispatcher, Options, Random, Registry};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::storage::Storage;
use crate::watchdog;

/// What the dispatcher needs, ready to move to its thread.
pub(crate) struct Dispatch {
    storage: (Arc<dyn lovage_store::Store>, lovage_core::SessionId),
    egress: EgressOptions,
    registry: Arc<Registry>,
    options: Options,
    random: Random,
    threads: usize,
    grace: Duration,
}

impl Dispatch {
    /// Reads what the configuration names.
    pub fn new(
        config: &Config,
        policy: AddressPolicy,
        storage: &Storage,
        attempt_urls: AttemptUrls,
        random: Random,
    ) -> anyhow::Result<Self> {
        let extra_ca = match &config.egress.extra_ca_file {
            Some(path) => std::fs::read(path).with_context(|| format!("egress.extra_ca_file: cannot read {}", path.display()))?,
            None => Vec::new(),
        };
        Ok(Self {
            storage: (Arc::clone(&storage.store), storage.session),
            registry: Registry::new(policy.clone()),
            egress: EgressOptions { policy, extra_ca, ..config.egress.options() },
            options: Options {
                attempt_urls: Some(attempt_urls),
                signatures: config.limits.options().signature(),
                ..config.dispatcher.options()
            },
            random,
            threads: config.runtime.dispatcher_threads,
            grace: config.grace.get(),
        })
    }

    /// How its workers are doing.
    pub fn standings(&self) -> Arc<dyn Standings> {
        Arc::clone(&self.registry) as Arc<dyn Standings>
    }

    /// Starts the thread. The receiver is told when all is given back; it fails if the thread ended in another way.
    pub fn start(self, stop: CancellationToken) -> anyhow::Result<oneshot::Receiver<anyhow::Result<()>>> {
        let (ended, end) = oneshot::channel();
        let work = move || {
            // Nobody listens any more once the server is on its way out.
            let _ = ended.send(self.run(stop));
        };
        std::thread::Builder::new().name("dispatcher".to_owned()).spawn(work).context("cannot start the dispatcher's thread")?;
        Ok(end)
    }

    fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let (store, session) = self.storage;
        let close_after = self.options.close_after;
        runtime("dispatcher-io", self.threads)?.block_on(async {
            // Connections belong to the runtime in which the transport is made.
            let transport = HttpTransport::new(self.egress).context("egress.extra_ca_file")?;
            let dispatcher = Dispatcher::new(store, Arc::new(transport), self.registry, session, self.random, self.options)
                .with_uptime(Arc::new(uptime));
            let pulse = dispatcher.pulse();
            let _watchdog = watchdog::start(move || pulse.silent_for(uptime()), close_after)?;
            dispatcher.run(stop, self.grace).await;
            Ok(())
        })
    }
}

/// Runs on while the machine is suspended. Elsewhere than on Linux the monotonic clock does.
fn uptime() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    // Both count up from the start of the machine.
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// A runtime of this many threads; with one it runs on the thread that blocks on it, which saves hand-overs.
pub(crate) fn runtime(name: &str, threads: usize) -> anyhow::Result<Runtime> {
    let mut builder = if threads > 1 { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    builder.worker_threads(threads.max(1)).thread_name(name).enable_all();
    builder.build().context("cannot start the asynchronous runtime")
}
