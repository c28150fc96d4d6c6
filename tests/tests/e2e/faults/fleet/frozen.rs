//! A dispatcher that is halted past its lease and then goes on: others have its work, and what it still says is refused.

use lovage_tests::{Answered, Call, Fleet, Redis, Reply, Worker, eventually};
use serde_json::{Value, json};

use super::PATIENCE;
use crate::faults::is_full;

/// Tasks that are open when the dispatcher is halted; their ids spread over all partitions.
const TASKS: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dispatcher_frozen_past_its_lease_is_refused() {
    let redis = Redis::start();
    // Short leases, but not so short that a busy machine ends that of the other one too.
    let setup = super::leases(Fleet::of(2, 2));
    let setup = if is_full() { setup } else { setup.set("dispatcher.lease", "6s").set("dispatcher.close_after", "5s") };
    let fleet = setup.start(&redis).await;
    super::all_have_shares(&fleet).await;
    let worker = Worker::start();
    let (answers, gate) = (json!("first"), lovage_tests::Gate::new());
    // First attempts are held; of half of them the answer comes while the dispatcher is halted, of the others it never comes.
    let held = gate.clone();
    worker.on_call("frozen.*", move |call| match (call.attempt, &call.task[..]) {
        (1, "frozen.late") => Reply::json(&answers).behind(&held),
        (1, _) => Reply::never(),
        _ => Reply::json(&json!("again")),
    });
    let client = fleet.gateways[1].client();
    client.register_worker("frozen", &worker.url(), &["frozen.*"]).await;
    let task = |number: usize| {
        let name = if number.is_multiple_of(2) { "frozen.late" } else { "frozen.silent" };
        json!({"task": name, "id": format!("frozen-{number}")})
    };
    let tasks: Vec<Value> = (0..TASKS).map(task).collect();
    let ids = client.submit_batch(&tasks).await.ids();
    worker.wait_for(TASKS).await;

    // The one that has more of them.
    let open = async || {
        let open = [super::metric(&fleet.dispatchers[0], OPEN).await, super::metric(&fleet.dispatchers[1], OPEN).await];
        ((open[0] + open[1]) as usize == TASKS).then_some(open)
    };
    let open = eventually("all tasks to run", PATIENCE, open).await;
    let number = usize::from(open[1] > open[0]);
    let (frozen, count) = (&fleet.dispatchers[number], open[number] as usize);
    frozen.pause();

    // The other one starts them again, once the lease has run out and not before the frozen one has lost it.
    let again = |calls: &[Call]| calls.iter().filter(|call| call.attempt == 2 && call.answered != Answered::Open).count();
    worker.wait_until("second attempts", PATIENCE, |calls| again(calls) >= count).await;
    gate.open();
    let late: Vec<String> = ids.iter().step_by(2).cloned().collect();
    client.wait_all_final(&late, PATIENCE).await;
    assert_eq!(worker.count(), TASKS + count, "only what the frozen one had is started again");

    frozen.unpause();
    // Now it closes what never got an answer, and the answers that it finds are refused.
    let left = |calls: &[Call]| calls.iter().filter(|call| call.answered == Answered::Open).count();
    worker.wait_until("its connections to be closed", PATIENCE, |calls| left(calls) <= TASKS / 2).await;
    let refused = async || (super::metric(frozen, "lovage_answers_fenced_total").await >= count as f64).then_some(());
    eventually("its answers to be refused", PATIENCE, refused).await;

    // What it had is as the other one has ended it.
    let records = client.wait_all_final(&again_of(&worker), PATIENCE).await;
    assert_eq!(records.len(), count);
    for (id, record) in &records {
        let seen = (&record["state"], &record["result"], &record["attempt"]);
        assert_eq!(seen, (&json!("succeeded"), &json!("again"), &json!(2)), "{id}");
    }
    // It works again, and nothing that it held is started a third time.
    worker.on("frozen.*", Reply::json(&json!("after")));
    let after: Vec<Value> = (0..TASKS).map(|number| json!({"task": "frozen.after", "id": format!("after-{number}")})).collect();
    let after = client.submit_batch(&after).await.ids();
    assert!(client.wait_all_final(&after, PATIENCE).await.values().all(|record| record["result"] == "after"));
    assert_eq!(worker.count(), TASKS + count + TASKS);
    // The worker saw two calls at once only where the first was one that the frozen process could not close.
    for (first, second) in worker.overlaps() {
        assert_eq!((first.attempt, second.attempt), (1, 2), "{first:?} {second:?}");
    }
    println!("{count} of {TASKS} attempts were frozen; all were done by the other dispatcher, and {count} late ends refused");
}

const OPEN: &str = "lovage_attempts_open";

/// The tasks that were started a second time.
fn again_of(worker: &Worker) -> Vec<String> {
    worker.received().into_iter().filter(|call| call.attempt == 2).map(|call| call.id).collect()
}
