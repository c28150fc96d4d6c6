//! Bounded numbers of requests that stay open: each has a place, and gives it back when it ends, however it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lovage_core::problem::{Code, Problem};
use metrics::{counter, gauge};

/// The places for one kind of request.
pub(crate) struct Places {
    taken: AtomicUsize,
    limit: usize,
    /// Metric: how many are taken.
    gauge: &'static str,
    /// Metric: how many requests found none.
    refused: &'static str,
    /// What one that found none is told.
    advice: &'static str,
}

/// A taken place.
pub(crate) struct Place(Arc<Places>);

impl Places {
    /// For requests that wait for something to happen (`limits.waiters`).
    pub(crate) fn of_waiters(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            limit,
            gauge: "lovage_waiters",
            refused: "lovage_waiters_refused_total",
            advice: "too many requests wait; ask again without `wait`",
        })
    }

    /// For streams of events (`limits.event_streams`).
    pub(crate) fn of_streams(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            limit,
            gauge: "lovage_event_streams",
            refused: "lovage_event_streams_refused_total",
            advice: "too many streams of events are open; try again, or ask without `Accept: text/event-stream`",
        })
    }

    /// For cancels that go on behind their answers (`limits.cascades`).
    pub(crate) fn of_cascades(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            limit,
            gauge: "lovage_cascades",
            refused: "lovage_cascades_refused_total",
            advice: "too many large trees are being canceled; the task is canceled, repeat it for what it has started",
        })
    }

    /// Takes one; `overloaded` if there is none.
    pub(crate) fn take(self: &Arc<Self>) -> Result<Place, Problem> {
        if self.taken.fetch_add(1, Ordering::Relaxed) >= self.limit {
            self.taken.fetch_sub(1, Ordering::Relaxed);
            counter!(self.refused).increment(1);
            return Err(Problem::new(Code::Overloaded, self.advice));
        }
        gauge!(self.gauge).increment(1.0);
        Ok(Place(self.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
        gauge!(self.0.gauge).decrement(1.0);
    }
}
