//! Clients that submit and read for as long as a fault lasts, and check that all they get is work done or an honest 503.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lovage_tests::{Answer, Client, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::seen::Journal;

/// Clients at once.
const CLIENTS: usize = 3;

/// Pause of a client between two rounds: load, but no flood.
const PACE: Duration = Duration::from_millis(40);

/// Longest time from the return of what was away until tasks are accepted and delivered again.
pub(super) const RECOVERY: Duration = Duration::from_secs(5);

/// Load that goes on until it is stopped.
pub(super) struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

struct Shared {
    client: Client,
    journal: Journal,
    refused: AtomicUsize,
    over: AtomicBool,
}

impl Load {
    /// Starts the clients; they submit tasks of this name.
    pub fn start(client: &Client, task: &'static str) -> Self {
        let shared = Arc::new(Shared {
            client: client.clone(),
            journal: Journal::default(),
            refused: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        });
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let shared = Arc::clone(&shared);
            clients.spawn(async move {
                while !shared.over.load(Ordering::Relaxed) {
                    shared.round(task).await;
                    tokio::time::sleep(PACE).await;
                }
            });
        }
        Self { shared, clients }
    }

    /// What the clients were shown.
    pub fn journal(&self) -> &Journal {
        &self.shared.journal
    }

    /// Waits until tasks are acknowledged, this many more than now.
    pub async fn flows(&self, count: usize) {
        let goal = self.journal().len() + count;
        eventually("acknowledged tasks", Duration::from_secs(30), async || (self.journal().len() >= goal).then_some(())).await;
    }

    /// Waits until requests are refused, this many more than now.
    pub async fn is_refused(&self, count: usize) {
        let refused = || self.shared.refused.load(Ordering::Relaxed);
        let goal = refused() + count;
        eventually("refused requests", Duration::from_secs(60), async || (refused() >= goal).then_some(())).await;
    }

    /// To be called when what was away is back: a new task is accepted, delivered and shown as done in time.
    pub async fn recovers(&self, task: &str) {
        let start = Instant::now();
        let request = || self.shared.client.request(Method::POST, "/v1/tasks").json(&json!({"task": task}));
        let id = super::insist(&self.shared.client, request).await.id();
        let accepted = start.elapsed();
        let record = self.shared.client.wait_final(&id).await;
        let delivered = start.elapsed();
        assert_eq!(record["state"], json!("succeeded"), "{record}");
        assert!(delivered <= RECOVERY, "accepted after {accepted:?}, delivered after {delivered:?}");
        println!("recovered: accepted after {accepted:?}, delivered after {delivered:?}");
    }

    /// Lets the clients end.
    pub async fn stop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
    }

    /// Lets the clients end; every acknowledged task has to be there and to have succeeded.
    pub async fn end(&mut self) {
        self.stop().await;
        let records = super::all_final(&self.shared.client, Duration::from_secs(60)).await;
        for id in self.journal().ids() {
            let record = records.get(&id).unwrap_or_else(|| panic!("task {id} was acknowledged and is lost"));
            assert_eq!(record["state"], json!("succeeded"), "{record}");
        }
        let refused = self.shared.refused.load(Ordering::Relaxed);
        println!("{} tasks acknowledged, {} there, {refused} requests refused", self.journal().len(), records.len());
    }
}

impl Shared {
    async fn round(&self, task: &str) {
        let signature = json!({"task": task});
        let single = self.send(self.client.request(Method::POST, "/v1/tasks").json(&signature)).await;
        let batch: Vec<&Value> = (0..10).map(|_| &signature).collect();
        let batch = self.send(self.client.request(Method::POST, "/v1/tasks:batch").json(&batch)).await;
        for item in batch.iter().flat_map(Answer::items) {
            match item["status"].as_u64() {
                Some(202) => self.journal.saw_item(&item, batch.as_ref().unwrap().received_ns),
                Some(503) => _ = self.refused.fetch_add(1, Ordering::Relaxed),
                _ => panic!("an item of a batch got {item}"),
            }
        }
        if let Some(single) = single {
            self.send(self.client.request(Method::GET, &format!("/v1/tasks/{}", single.id()))).await;
        }
    }

    /// The answer if the request was carried out; anything but that and an honest 503 is a failure.
    async fn send(&self, request: reqwest::RequestBuilder) -> Option<Answer> {
        let answer = self.client.send(request).await;
        if matches!(answer.status, 200 | 202) {
            self.journal.saw(&answer);
            return Some(answer);
        }
        super::assert_honest_503(&answer);
        self.refused.fetch_add(1, Ordering::Relaxed);
        None
    }
}
