//! Open-loop load at a fixed rate, for latency.
//!
//! Every submit has a planned instant, and latency counts from there, not from when the request could be sent: a server
//! that stalls is charged for the requests that had to wait meanwhile (no coordinated omission). The planned instants
//! come from a thread of its own, because the timers of the runtime are rounded to a millisecond, which is of the size of
//! what is measured.
//!
//! Two passes, since an answer that waits for the result is no acknowledgement: the first measures submit to
//! acknowledgement and to the worker's receipt, the second (`?wait=20s`) submit to result.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::{Connection, Origin};
use crate::clock::{monotonic_ns, own_cpu_seconds, seconds_between};
use crate::latency::Latency;
use crate::load::{Mode, Plan, Report};
use crate::{payload, watch};

/// Share of the tasks that only warm up connections and caches and are in no figure.
const WARM_UP: f64 = 0.1;

/// One answered submit; instants are `CLOCK_MONOTONIC` nanoseconds.
struct Submit {
    planned: u64,
    sent: u64,
    answered: u64,
    id: String,
}

/// Runs a plan of mode `rate`. Needs a [`tokio::task::LocalSet`] and a worker.
pub async fn run(plan: &Plan) -> anyhow::Result<Report> {
    let worker = plan.worker.as_ref().context("mode rate needs a worker")?;
    let signature = payload::signature(&plan.task, &payload::payload(plan.payload_bytes), plan.fields.as_deref());
    let worker_cpu = watch::worker_stats(worker, 0).await?.cpu_seconds;
    // Tasks that were open before are not this run's business.
    let standing = watch::open_tasks(&plan.server).await?;
    let cpu = own_cpu_seconds();

    watch::reset_worker(worker, true, 0).await?;
    let request = plan.server.json_request("POST", "/v1/tasks", &signature);
    let first = pass(plan, request, 202).await?;
    watch::until_received(worker, plan.tasks, plan.limit).await?;
    let receipts = watch::worker_receipts(worker).await?;
    let mut receipt = Vec::with_capacity(first.len());
    for submit in &first {
        let received = receipts.get(&submit.id).with_context(|| format!("the worker never received task {}", submit.id))?;
        receipt.push(received.saturating_sub(submit.planned));
    }

    let request = plan.server.json_request("POST", "/v1/tasks?wait=20s", &signature);
    let second = pass(plan, request, 200).await?;
    let last_final = watch::until_final(&plan.server, standing, plan.limit).await?;
    let stats = watch::worker_stats(worker, 0).await?;

    let start = first.first().map_or(0, |submit| submit.planned);
    let end = first.iter().map(|submit| submit.answered).max().unwrap_or(0);
    let planned_to_answer =
        |submits: &[Submit]| Latency::from_nanoseconds(submits.iter().map(|one| one.answered - one.planned).collect());
    let second_start = second.first().map_or(0, |submit| submit.planned);
    Ok(Report {
        mode: Mode::Rate,
        tasks: plan.tasks * 2,
        refused: 0,
        acked_per_second: first.len() as f64 / seconds_between(start, end).max(1e-9),
        received_per_second: 0.0,
        final_per_second: second.len() as f64 / seconds_between(second_start, last_final).max(1e-9),
        surplus_receipts: stats.count.saturating_sub(plan.tasks * 2),
        ack: planned_to_answer(&first),
        receipt: Latency::from_nanoseconds(receipt),
        result: planned_to_answer(&second),
        lateness: Latency::from_nanoseconds(first.iter().chain(&second).map(|one| one.sent - one.planned).collect()),
        generator_cpu_seconds: own_cpu_seconds() - cpu,
        worker_cpu_seconds: stats.cpu_seconds - worker_cpu,
    })
}

/// Submits `plan.tasks` requests at the plan's rate and answers those after the warm-up, in planned order.
async fn pass(plan: &Plan, request: Vec<u8>, expected: u16) -> anyhow::Result<Vec<Submit>> {
    let request: Rc<[u8]> = request.into();
    let idle = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..plan.connections {
        let connection = Connection::open(plan.server.address).await?;
        idle.borrow_mut().push(connection);
    }
    let mut ticks = ticker(plan.tasks, plan.rate);
    let mut running = JoinSet::new();
    let mut submits = Vec::with_capacity(plan.tasks);
    while let Some(planned) = ticks.recv().await {
        let (server, request, idle) = (plan.server.clone(), Rc::clone(&request), Rc::clone(&idle));
        running.spawn_local(async move { submit(&server, &request, &idle, planned, expected).await });
        while let Some(done) = running.try_join_next() {
            submits.push(done??);
        }
    }
    while let Some(done) = running.join_next().await {
        submits.push(done??);
    }
    submits.sort_unstable_by_key(|submit| submit.planned);
    submits.drain(..(plan.tasks as f64 * WARM_UP) as usize);
    Ok(submits)
}

async fn submit(
    server: &Origin,
    request: &[u8],
    idle: &RefCell<Vec<Connection>>,
    planned: u64,
    expected: u16,
) -> anyhow::Result<Submit> {
    #[derive(Deserialize)]
    struct Accepted {
        id: String,
    }
    // The borrow must end before the connect, which may wait.
    let kept = idle.borrow_mut().pop();
    let mut connection = match kept {
        Some(connection) => connection,
        None => Connection::open(server.address).await?,
    };
    let sent = monotonic_ns();
    let answer = connection.request(request).await?;
    let answered = monotonic_ns();
    if answer.status != expected {
        bail!("a submit was answered with {} instead of {expected}: {}", answer.status, String::from_utf8_lossy(answer.body));
    }
    let accepted: Accepted = serde_json::from_slice(answer.body).context("the answer to a submit is not understood")?;
    idle.borrow_mut().push(connection);
    Ok(Submit { planned, sent, answered, id: accepted.id })
}

/// The planned instants, each delivered as soon as it has come. The thread ends with the last one, or with its receiver.
fn ticker(count: usize, rate: f64) -> mpsc::UnboundedReceiver<u64> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let interval = 1e9 / rate.max(0.001);
        let start = monotonic_ns() + 1_000_000;
        for index in 0..count {
            let planned = start + (index as f64 * interval) as u64;
            let wait = planned.saturating_sub(monotonic_ns());
            std::thread::sleep(Duration::from_nanos(wait));
            if sender.send(planned).is_err() {
                return;
            }
        }
    });
    receiver
}
