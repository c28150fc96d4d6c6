//! Power cuts under load on the embedded store: at no instant is anything acknowledged lost or anything shown undone.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lovage_core::{Flags, Ns, Partition, ResultValue, State, TaskKey};
use lovage_store::{Cursor, EmbeddedOptions, EmbeddedStore, ListQuery, Parts, Store};
use lovage_tests::power::{Disk, Loss, PowerCut};
use lovage_tests::{Answer, Client, Flaky, Lovage, Reply, Worker};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::seen::{Facts, Journal};
use super::size;

/// Clients at once.
const CLIENTS: usize = 4;

/// Longest time to open what a cut has left.
const OPEN_LIMIT: Duration = Duration::from_secs(5);

/// Cuts after which the real server is started, too.
const STARTS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_loses_nothing_acknowledged_and_undoes_nothing_shown() {
    let disk = Disk::new();
    let worker = worker();
    // A small log, so that cuts also hit the moments in which it is moved into the database.
    let mut lovage = Lovage::dev().on_disk(&disk).option("--set", "embedded.wal_bytes=512KiB").start().await;
    lovage.client().register_worker("power", &worker.url(), &["power.*"]).await;
    let journal = Arc::new(Journal::default());
    let rounds = size(40, 200);
    let load = start_load(lovage.client(), &worker, &journal, rounds);
    for kill in 1..=2 {
        worker.wait_for(CLIENTS * rounds * 12 * kill / 3).await;
        lovage.kill9();
        disk.reconcile();
        lovage.restart().await;
    }
    load.join_all().await;
    super::none_in(lovage.client(), &["queued", "running", "retrying"], Duration::from_secs(60)).await;
    assert!(lovage.stop().await.success());
    disk.assert_complete();
    worker.received().iter().for_each(|call| journal.saw_call(call));
    assert!(journal.len() > CLIENTS * rounds * 12, "only {} tasks were seen", journal.len());

    let history = disk.history();
    let count = cuts();
    let mut longest = Duration::ZERO;
    for (number, (cut, image)) in history.images(&history.cuts(1, count)).enumerate() {
        let folder = image.restore();
        let start = Instant::now();
        let kept = kept_in(folder.path()).await.unwrap_or_else(|error| panic!("{cut:?}: the store does not open: {error}"));
        longest = longest.max(start.elapsed());
        let broken = journal.broken(cut.at_ns, &kept);
        assert!(broken.is_empty(), "{cut:?} of {} records breaks {} promises: {broken:#?}", history.len(), broken.len());
        if number % (count / STARTS) == count / STARTS - 1 {
            // From the image itself, which nobody has opened yet.
            let folder = image.restore();
            check_with_server(folder.path(), &journal, cut).await;
        }
    }
    // Includes the reading of every task.
    assert!(longest < OPEN_LIMIT, "the store opened after {longest:?}");
    println!(
        "{} tasks seen, {} writes and syncs, {count} cuts; the longest check took {longest:?}",
        journal.len(),
        history.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_ignores_syncs_is_found_out() {
    let disk = Disk::new();
    let worker = worker();
    let mut lovage = Lovage::dev().on_disk(&disk).start().await;
    lovage.client().register_worker("power", &worker.url(), &["power.*"]).await;
    disk.set_ignoring_syncs(true);
    let journal = Arc::new(Journal::default());
    start_load(lovage.client(), &worker, &journal, 5).join_all().await;
    lovage.kill9();
    disk.reconcile();
    let history = disk.history();
    let mut found: HashMap<Loss, usize> = HashMap::new();
    for (cut, image) in history.images(&history.cuts(1, 40)) {
        let folder = image.restore();
        // A database that does not open has lost everything.
        let kept = kept_in(folder.path()).await.unwrap_or_default();
        *found.entry(cut.loss).or_default() += journal.broken(cut.at_ns, &kept).len();
    }
    for loss in [Loss::Whole, Loss::Torn, Loss::Prefix] {
        assert!(found[&loss] > 0, "nothing was missed after cuts of kind {loss:?}: {found:?}");
    }
}

/// `LOVAGE_CUTS`, or as many as fit.
fn cuts() -> usize {
    std::env::var("LOVAGE_CUTS").map_or(size(60, 400), |text| text.parse().unwrap()).max(STARTS)
}

fn worker() -> Worker {
    let worker = Worker::start();
    worker.on_call("power.work", |call| Reply::json(&json!({"by": call.id, "attempt": call.attempt})));
    worker.on("power.fail", Reply::json(&json!({"type": "Broken", "message": "for good"})).with_status(422));
    worker.on("/hook", Reply::status(204));
    worker.flaky(Flaky { seed: 5, error: 0.05, reset: 0.0 });
    worker
}

/// Clients that submit in every way, read, cancel and delete, and write down what they see.
fn start_load(client: &Client, worker: &Worker, journal: &Arc<Journal>, rounds: usize) -> JoinSet<()> {
    let mut load = JoinSet::new();
    for number in 0..CLIENTS {
        let user = User { client: client.clone(), journal: Arc::clone(journal), hook: worker.url_of("/hook") };
        load.spawn(async move {
            for round in 0..rounds {
                user.round(&format!("{number}-{round}"), round).await;
            }
        });
    }
    load
}

struct User {
    client: Client,
    journal: Arc<Journal>,
    hook: String,
}

impl User {
    async fn round(&self, name: &str, round: usize) {
        // Nothing is learnt from a server that is down.
        super::insist(&self.client, || self.client.request(Method::GET, "/healthz")).await;
        let batch: Vec<Value> = (0..8).map(|_| self.task("power.work")).collect();
        self.batch(self.client.request(Method::POST, "/v1/tasks:batch").json(&batch)).await;

        let single = self.client.request(Method::POST, "/v1/tasks?wait=10s").header("idempotency-key", name);
        let awaited = self.send(single.json(&self.task(if round.is_multiple_of(8) { "power.fail" } else { "power.work" }))).await;
        if let Some(awaited) = &awaited
            && awaited.is_final()
            && round.is_multiple_of(3)
        {
            self.delete(&awaited.id()).await;
        }

        let later = json!({"task": "power.work", "id": format!("later-{name}"), "delay": "1h"});
        self.send(self.client.request(Method::POST, "/v1/tasks").json(&later)).await;
        if round.is_multiple_of(2) {
            self.send(self.client.request(Method::POST, &format!("/v1/tasks/later-{name}/cancel"))).await;
        }

        let lines: Vec<String> = (0..3).map(|_| format!("{}\n", self.task("power.work"))).collect();
        let stream = self.client.request(Method::POST, "/v1/tasks:batch").header("content-type", "application/x-ndjson");
        let mut ids = self.batch(stream.body(lines.concat())).await;
        // At whatever point of its life it is.
        if let Some(id) = ids.pop() {
            self.send(self.client.request(Method::GET, &format!("/v1/tasks/{id}"))).await;
        }
        if let Some(id) = ids.pop() {
            self.send(self.client.request(Method::GET, &format!("/v1/tasks/{id}?wait=5s"))).await;
        }
        if let Some(list) = self.send(self.client.request(Method::GET, "/v1/tasks?limit=20")).await {
            list.items().iter().for_each(|item| self.journal.saw_item(item, list.received_ns));
        }
    }

    fn task(&self, name: &str) -> Value {
        json!({
            "task": name,
            "retry": {"backoff": "fixed", "min": "10ms", "jitter": "none"},
            "callbacks": {"on_terminal": self.hook},
        })
    }

    /// Sends one request; whatever it shows is noted. A server that is down answers nothing.
    async fn send(&self, request: reqwest::RequestBuilder) -> Option<Answer> {
        let answer = self.client.try_send(request).await.ok()?;
        // Gone or never there: the submit before it may have met a dead server.
        let expected = matches!(answer.status, 200 | 202 | 204 | 404 | 503);
        assert!(expected, "{answer:?}");
        self.journal.saw(&answer);
        Some(answer)
    }

    async fn batch(&self, request: reqwest::RequestBuilder) -> Vec<String> {
        let Some(answer) = self.send(request).await.filter(|answer| answer.status == 200) else { return Vec::new() };
        let accepted: Vec<Value> = answer.items().into_iter().filter(|item| item["status"] == 202).collect();
        for item in &accepted {
            self.journal.saw_item(item, answer.received_ns);
        }
        accepted.iter().map(super::id_of).collect()
    }

    async fn delete(&self, id: &str) {
        self.journal.sends_delete(id);
        if let Some(answer) = self.send(self.client.request(Method::DELETE, &format!("/v1/tasks/{id}"))).await
            && answer.status == 204
        {
            self.journal.saw_deleted(id, &answer);
        }
    }
}

/// Opens what a cut has left, without help, and reads all tasks.
pub(super) async fn kept_in(folder: &Path) -> Result<HashMap<String, Facts>, lovage_store::Error> {
    let store = EmbeddedStore::open(EmbeddedOptions::new(folder))?;
    let mut kept = HashMap::new();
    let mut counted = [0; 9];
    let mut next = Some(Cursor::default());
    while let Some(cursor) = next {
        let query = ListQuery { ns: Ns::DEFAULT, ..ListQuery::default() };
        let page = store.list(Partition(0), &query, cursor, 1_000).await?;
        for (key, head) in page.items {
            counted[head.state as usize] += 1;
            kept.insert(key.id.to_string(), facts(&store, &key).await?);
        }
        next = page.next;
    }
    let mut counts = [0; 9];
    for queue in store.counts(Partition(0)).await? {
        counts.iter_mut().zip(queue.states).for_each(|(sum, count)| *sum += count);
    }
    assert_eq!(counts, counted, "the counts differ from the tasks that are there");
    store.close().await;
    Ok(kept)
}

async fn facts(store: &EmbeddedStore, key: &TaskKey) -> Result<Facts, lovage_store::Error> {
    let parts = Parts { result: true, ..Parts::default() };
    let stored = store.get(Partition(0), key, parts).await?.expect("a listed task is there");
    let head = stored.head;
    let result = match stored.result.as_ref().map(|bytes| ResultValue::decode(bytes).expect("a stored result can be read")) {
        Some(ResultValue::Value { bytes, .. }) => serde_json::from_slice(&bytes).ok(),
        Some(ResultValue::Error(_) | ResultValue::Progress(_)) => None,
        None => {
            assert!(head.state != State::Failed, "task {} failed without an error", key.id);
            None
        }
    };
    let reason = head.reason.as_str();
    Ok(Facts {
        version: head.version,
        state: head.state.as_str().to_owned(),
        reason: (reason != "none").then(|| reason.to_owned()),
        cancel_requested: head.flags.has(Flags::CANCEL),
        result,
    })
}

/// The same question to a real server on what a cut has left, which moreover has to finish the work.
async fn check_with_server(folder: &Path, journal: &Journal, cut: PowerCut) {
    let lovage = Lovage::dev().data_dir(folder).start().await;
    assert!(lovage.ready_after() < OPEN_LIMIT, "{cut:?}: ready after {:?}", lovage.ready_after());
    super::none_in(lovage.client(), &["queued", "running", "retrying"], Duration::from_secs(60)).await;
    let mut kept = HashMap::new();
    for id in journal.ids() {
        let answer = lovage.client().get(&format!("/v1/tasks/{id}")).await;
        if answer.status != 404 {
            kept.insert(id, Facts::of(&answer.json));
        }
    }
    let broken = journal.broken(cut.at_ns, &kept);
    assert!(broken.is_empty(), "{cut:?}: the server breaks {} promises: {broken:#?}", broken.len());
    assert!(kept.values().all(|facts| facts.state != "queued"));
}
