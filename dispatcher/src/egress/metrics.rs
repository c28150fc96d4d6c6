//! Counters of this folder. The handles are made once, since finding them by name costs more than counting;
//! so the recorder must be installed before the transport is made.
//!
//! No label holds a URL, a tenant or anything a tenant wrote.

use metrics::{Counter, Gauge, counter, gauge};

use super::fault::FaultKind;

pub(crate) struct EgressMetrics {
    /// By the first digit of the status; index 0 takes what is out of range.
    answers: [Counter; 6],
    faults: [Counter; FAULTS.len()],
    pub(crate) opened: Counter,
    pub(crate) reused: Counter,
    pub(crate) resent: Counter,
    pub(crate) waited: Counter,
    pub(crate) idle: Gauge,
}

const FAULTS: [(FaultKind, &str); 8] = [
    (FaultKind::Forbidden, "forbidden"),
    (FaultKind::Dns, "dns"),
    (FaultKind::Refused, "refused"),
    (FaultKind::Tls, "tls"),
    (FaultKind::ConnectTimeout, "connect_timeout"),
    (FaultKind::Reset, "reset"),
    (FaultKind::TimedOut, "timed_out"),
    (FaultKind::Malformed, "malformed"),
];

impl EgressMetrics {
    pub(crate) fn new() -> Self {
        let push = |result: &'static str| counter!("lovage_egress_pushes_total", "result" => result);
        Self {
            answers: ["other", "1xx", "2xx", "3xx", "4xx", "5xx"].map(push),
            faults: FAULTS.map(|(_, result)| push(result)),
            opened: counter!("lovage_egress_connections_opened_total"),
            reused: counter!("lovage_egress_connections_reused_total"),
            resent: counter!("lovage_egress_resent_total"),
            waited: counter!("lovage_egress_dials_waited_total"),
            idle: gauge!("lovage_egress_connections_idle"),
        }
    }

    /// Counts an answer by its status class.
    pub(crate) fn answered(&self, status: http::StatusCode) {
        let class = usize::from(status.as_u16() / 100);
        self.answers.get(class).unwrap_or(&self.answers[0]).increment(1);
    }

    /// Counts a fault; refused addresses are `result="forbidden"`.
    pub(crate) fn failed(&self, kind: FaultKind) {
        for ((listed, _), counter) in FAULTS.iter().zip(&self.faults) {
            if *listed == kind {
                counter.increment(1);
            }
        }
    }
}
