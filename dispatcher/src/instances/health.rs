//! Asks the instances of workers that have `health` whether they are well.
//!
//! Every dispatcher asks for itself: what matters is whether it reaches them from where it is. Questions are spread over their
//! interval, so that many dispatchers do not ask at the same time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::USER_AGENT;
use lovage_core::Ns;
use lovage_core::instance::Health;
use metrics::{counter, gauge};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::InstanceState;
use crate::egress::{HeaderLines, PushRequest, Target};
use crate::owner::Shared;
use crate::registry::{Instance, Worker};

/// The first question comes within this, so that what is down at the start is seen soon.
const FIRST: Duration = Duration::from_secs(1);
/// When there is no room for one more question.
const LATER: Duration = Duration::from_millis(100);
/// What is read of an answer: more closes the connection.
const READ: usize = 4096;

/// An instance, wherever it stands in the documents.
type Key = (Ns, Arc<str>, Arc<str>);

/// Probes until `stop`.
pub(crate) async fn watch(shared: Arc<Shared>, stop: CancellationToken) {
    let mut next: HashMap<Key, Instant> = HashMap::new();
    let mut changed = shared.registry.changed();
    let room = Arc::new(Semaphore::new(shared.options.probes));
    let mut probes = JoinSet::new();
    loop {
        let (now, mut unwell) = (Instant::now(), 0_u32);
        let mut known = HashMap::with_capacity(next.len());
        for (ns, worker) in shared.registry.called() {
            let Some(health) = &worker.config.health else { continue };
            for instance in worker.live_instances(shared.store.clock().now()) {
                unwell += u32::from(!instance.state.is_well());
                let key = (ns, Arc::clone(&worker.name), Arc::clone(&instance.url));
                let interval = health.interval.get();
                let mut at = next.remove(&key).unwrap_or_else(|| now + share(&shared, FIRST.min(interval)));
                if at <= now {
                    if let Ok(permit) = Arc::clone(&room).try_acquire_owned() {
                        let probe = probe(Arc::clone(&shared), Arc::clone(&worker), instance.clone(), health.clone());
                        probes.spawn(async move {
                            probe.await;
                            drop(permit);
                        });
                        // From nine to eleven tenths of it.
                        at = now + interval * 9 / 10 + share(&shared, interval / 5);
                    } else {
                        at = now + LATER;
                    }
                }
                known.insert(key, at);
            }
        }
        next = known;
        gauge!("lovage_instances_unwell").set(f64::from(unwell));
        let wake = next.values().min().copied();
        tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = changed.changed() => {}
            Some(_) = probes.join_next() => {}
            () = tokio::time::sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
        }
    }
}

/// A random part of a time.
fn share(shared: &Shared, time: Duration) -> Duration {
    time.mul_f64((shared.random)() as f64 / u64::MAX as f64)
}

async fn probe(shared: Arc<Shared>, worker: Arc<Worker>, instance: Instance, health: Health) {
    // The next question finds the answer to this one.
    let limit = shared.options.probe_timeout.min(health.interval.get() * 9 / 10);
    let well = match request(&shared, &worker, &instance, &health.path, limit) {
        Some(request) => shared.transport.push(request).await.outcome.is_ok_and(|answer| answer.status.is_success()),
        // The rules became stricter since it was registered.
        None => false,
    };
    counter!("lovage_health_probes_total", "outcome" => if well { "well" } else { "failed" }).increment(1);
    if note(&instance.state, well, &shared) {
        let (worker, instance) = (&*worker.name, &*instance.name);
        if well {
            tracing::info!(worker, instance, "an instance is well again");
        } else {
            tracing::warn!(worker, instance, "an instance does not answer its health probes; it gets no tasks");
        }
        // Who waits for it, or for all of them, looks again.
        shared.registry.tell_changed();
    }
}

fn note(state: &InstanceState, well: bool, shared: &Shared) -> bool {
    state.probed(well, shared.store.clock().now())
}

/// A GET of `path` at the origin of an instance, with the worker's headers; `None`: it may not be called.
pub(super) fn request(shared: &Shared, worker: &Worker, instance: &Instance, path: &str, limit: Duration) -> Option<PushRequest> {
    let origin = instance.target.as_ref()?.origin();
    let target = Target::parse(&format!("{origin}{path}"), shared.registry.policy()).ok()?;
    let mut lines = HeaderLines::with_capacity(256);
    for (name, value) in &worker.headers {
        lines.push(name, value.as_bytes());
    }
    lines.push(&USER_AGENT, shared.options.user_agent.as_bytes());
    let mut request = PushRequest::new(Arc::new(target), Method::GET, lines, Bytes::new());
    request.timeout = limit;
    request.connect_timeout = shared.options.connect_timeout.min(limit);
    request.max_body = READ;
    Some(request)
}
