//! Clients that submit to each partition by itself: they show which partitions go on while a part of the store is away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lovage_core::{Ns, TaskId};
use lovage_tests::clock::now_ns;
use lovage_tests::{Answer, Client, eventually};
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use tokio::task::JoinSet;

/// Pause of a client between two tasks: load, but no flood.
const PACE: Duration = Duration::from_millis(20);

/// An acknowledged task: when the request was sent that was acknowledged, and when the answer was there.
#[derive(Debug, Clone)]
pub(super) struct Ack {
    pub id: String,
    pub sent_ns: u64,
    pub received_ns: u64,
}

/// Load that goes on until it is stopped; one client for each partition.
pub(super) struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

struct Shared {
    gateways: Vec<Client>,
    task: &'static str,
    acks: Vec<Mutex<Vec<Ack>>>,
    refused: AtomicUsize,
    /// Acknowledged tasks that a gateway did not know right after.
    missing: AtomicUsize,
    longest_ns: Mutex<u64>,
    over: AtomicBool,
}

/// The partition in which the task of this id lives.
pub(super) fn partition_of(id: &str, partitions: u16) -> usize {
    usize::from(TaskId::parse(id).unwrap().slot(Ns::DEFAULT).partition(partitions).0)
}

impl Load {
    /// Starts the clients; they submit tasks of this name, each at one gateway after the other.
    pub fn start(gateways: &[Client], task: &'static str, partitions: u16) -> Self {
        let shared = Arc::new(Shared {
            gateways: gateways.to_vec(),
            task,
            acks: (0..partitions).map(|_| Mutex::default()).collect(),
            refused: AtomicUsize::new(0),
            missing: AtomicUsize::new(0),
            longest_ns: Mutex::new(0),
            over: AtomicBool::new(false),
        });
        let mut clients = JoinSet::new();
        for partition in 0..partitions {
            clients.spawn(Arc::clone(&shared).submits(partition));
        }
        clients.spawn(Arc::clone(&shared).waits());
        clients.spawn(Arc::clone(&shared).lists());
        Self { shared, clients }
    }

    /// Waits until each of these partitions has acknowledged this many more tasks.
    pub async fn flows(&self, partitions: &[usize], count: usize, limit: Duration) {
        let acks = |partition: usize| self.shared.acks[partition].lock().unwrap().len();
        let goals: Vec<_> = partitions.iter().map(|partition| (*partition, acks(*partition) + count)).collect();
        let what = format!("{count} more tasks in each of the partitions {partitions:?}");
        eventually(&what, limit, async || goals.iter().all(|(partition, goal)| acks(*partition) >= *goal).then_some(())).await;
    }

    /// When the first request that was sent to a partition after an instant was acknowledged.
    pub fn first_ack_ns(&self, partition: usize, after_ns: u64) -> Option<u64> {
        let acks = self.shared.acks[partition].lock().unwrap();
        acks.iter().find(|ack| ack.sent_ns > after_ns).map(|ack| ack.received_ns)
    }

    /// Requests that were refused, each with an honest 503.
    pub fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Acknowledged tasks that a gateway did not know right after.
    pub fn missing(&self) -> usize {
        self.shared.missing.load(Ordering::Relaxed)
    }

    /// The longest time that any request took to be answered.
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(*self.shared.longest_ns.lock().unwrap())
    }

    /// Lets the clients end; the acknowledged tasks by id.
    pub async fn end(self) -> HashMap<String, Ack> {
        self.shared.over.store(true, Ordering::Relaxed);
        self.clients.join_all().await;
        let acks = self.shared.acks.iter().flat_map(|acks| acks.lock().unwrap().clone());
        acks.map(|ack| (ack.id.clone(), ack)).collect()
    }
}

impl Shared {
    async fn submits(self: Arc<Self>, partition: u16) {
        let count = self.acks.len() as u16;
        let mut ticks = tokio::time::interval(PACE);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let ids = (0..).map(|number| format!("{}-{number}", self.task));
        let mine = ids.filter(|id| partition_of(id, count) == usize::from(partition));
        for (turn, id) in mine.enumerate() {
            let body = json!({"task": self.task, "id": id});
            // Repeated under its id until it is acknowledged, as the refusal says.
            for turn in turn.. {
                if self.is_over() {
                    return;
                }
                ticks.tick().await;
                let gateway = &self.gateways[turn % self.gateways.len()];
                let request = gateway.request(Method::POST, "/v1/tasks").json(&body);
                let sent_ns = now_ns();
                if let Some(answer) = self.send(gateway, request, &[200, 202]).await {
                    let ack = Ack { id: id.clone(), sent_ns, received_ns: answer.received_ns };
                    self.acks[usize::from(partition)].lock().unwrap().push(ack);
                    break;
                }
            }
            let other = &self.gateways[(turn + 1) % self.gateways.len()];
            let look = other.request(Method::GET, &format!("/v1/tasks/{id}"));
            if self.send(other, look, &[200, 404]).await.is_some_and(|answer| answer.status == 404) {
                self.missing.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Submits tasks wherever they fall, and waits for their ends.
    async fn waits(self: Arc<Self>) {
        for turn in 0.. {
            if self.is_over() {
                return;
            }
            let gateway = &self.gateways[turn % self.gateways.len()];
            let request = gateway.request(Method::POST, "/v1/tasks?wait=5s").json(&json!({"task": self.task}));
            self.send(gateway, request, &[200, 202]).await;
            tokio::time::sleep(PACE).await;
        }
    }

    /// Asks for what lies in all partitions.
    async fn lists(self: Arc<Self>) {
        for turn in 0.. {
            if self.is_over() {
                return;
            }
            let gateway = &self.gateways[turn % self.gateways.len()];
            self.send(gateway, gateway.request(Method::GET, "/v1/tasks?limit=3"), &[200]).await;
            tokio::time::sleep(PACE).await;
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// The answer if it has one of these statuses; anything but that and an honest 503 is a failure.
    async fn send(&self, client: &Client, request: RequestBuilder, fine: &[u16]) -> Option<Answer> {
        let start_ns = now_ns();
        let answer = client.send(request).await;
        let mut longest_ns = self.longest_ns.lock().unwrap();
        *longest_ns = (*longest_ns).max(answer.received_ns - start_ns);
        drop(longest_ns);
        if fine.contains(&answer.status) {
            return Some(answer);
        }
        super::super::assert_honest_503(&answer);
        self.refused.fetch_add(1, Ordering::Relaxed);
        None
    }
}
