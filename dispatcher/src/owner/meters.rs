//! What an owner counts. Handles are made once: looking one up costs more than counting.

use lovage_core::{Outcome, Partition};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

pub(super) struct Meters {
    pub lanes: Gauge,
    pub lanes_evicted: Counter,
    pub open: Gauge,
    pub owned: Gauge,
    pub lease_age: Gauge,
    pub taken: Counter,
    pub let_go: Counter,
    pub outbox_messages: Gauge,
    pub outbox_oldest: Gauge,
    pub claim_batch: Histogram,
    pub settle_batch: Histogram,
    pub batch_items: Histogram,
    pub attempt_seconds: Histogram,
    pub batch_items_unknown: Counter,
    pub claims_refused: Counter,
    pub answers_fenced: Counter,
    attempts: [Counter; 11],
}

const OUTCOMES: [&str; 11] =
    ["success", "retry", "timed_out", "throttled", "endpoint", "permanent", "snooze", "cancel", "accepted", "spawn", "replace"];

impl Meters {
    pub(super) fn new(partition: Partition) -> Self {
        let p = partition.0.to_string();
        Self {
            lanes: gauge!("lovage_lanes", "partition" => p.clone()),
            lanes_evicted: counter!("lovage_lanes_evicted_total", "partition" => p.clone()),
            open: gauge!("lovage_attempts_open", "partition" => p.clone()),
            owned: gauge!("lovage_partition_owned", "partition" => p.clone()),
            lease_age: gauge!("lovage_lease_age_seconds", "partition" => p.clone()),
            taken: counter!("lovage_partitions_taken_total"),
            let_go: counter!("lovage_partitions_let_go_total"),
            outbox_messages: gauge!("lovage_outbox_messages", "partition" => p.clone()),
            outbox_oldest: gauge!("lovage_outbox_oldest_seconds", "partition" => p),
            claim_batch: histogram!("lovage_claim_batch"),
            settle_batch: histogram!("lovage_settle_batch"),
            batch_items: histogram!("lovage_batch_items"),
            batch_items_unknown: counter!("lovage_batch_items_unknown_total"),
            attempt_seconds: histogram!("lovage_attempt_seconds"),
            claims_refused: counter!("lovage_claims_refused_total"),
            answers_fenced: counter!("lovage_answers_fenced_total"),
            attempts: OUTCOMES.map(|outcome| counter!("lovage_attempts_total", "outcome" => outcome)),
        }
    }

    /// Counts an attempt that came back.
    pub(super) fn attempt(&self, outcome: &Outcome) {
        let index = match outcome {
            Outcome::Success { .. } => 0,
            Outcome::Retry { .. } => 1,
            Outcome::TimedOut { .. } => 2,
            Outcome::Throttled { .. } => 3,
            Outcome::Endpoint { .. } => 4,
            Outcome::Permanent { .. } => 5,
            Outcome::Snooze { .. } => 6,
            Outcome::Cancel => 7,
            Outcome::Accepted { .. } => 8,
            Outcome::Spawn { .. } => 9,
            Outcome::Replace { .. } => 10,
        };
        self.attempts[index].increment(1);
    }
}
