//! Bodies of just inserted tasks, kept for the claim that usually follows at once.

use std::collections::VecDeque;

use ahash::AHashMap;
use bytes::Bytes;

/// A bounded cache by order of acceptance: the oldest go first, a claim takes its body out.
pub(super) struct Bodies {
    limit: usize,
    used: usize,
    by_seq: AHashMap<u64, Bytes>,
    order: VecDeque<u64>,
}

impl Bodies {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, used: 0, by_seq: AHashMap::new(), order: VecDeque::new() }
    }

    /// Keeps a body for a while.
    pub(super) fn put(&mut self, seq: u64, body: Bytes) {
        if body.len() > self.limit / 8 {
            return;
        }
        self.used += body.len();
        self.order.push_back(seq);
        if let Some(old) = self.by_seq.insert(seq, body) {
            self.used -= old.len();
        }
        // Bodies that were taken leave their number behind, so the numbers are bounded too.
        while self.used > self.limit || self.order.len() > self.limit / 64 {
            let Some(oldest) = self.order.pop_front() else { break };
            self.take(oldest);
        }
    }

    /// Takes a body out.
    pub(super) fn take(&mut self, seq: u64) -> Option<Bytes> {
        let body = self.by_seq.remove(&seq)?;
        self.used -= body.len();
        if self.by_seq.is_empty() {
            self.order.clear();
        }
        Some(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_within_its_limit_and_forgets_the_oldest() {
        let mut bodies = Bodies::new(1024);
        for seq in 0..100 {
            bodies.put(seq, Bytes::from(vec![0; 100]));
            assert!(bodies.used <= 1024 && bodies.order.len() <= 16, "{} bytes", bodies.used);
        }
        assert_eq!(bodies.take(5), None);
        assert_eq!(bodies.take(99).map(|b| b.len()), Some(100));
        assert_eq!(bodies.take(99), None);
        bodies.put(100, Bytes::from(vec![0; 1000]));
        assert_eq!(bodies.take(100), None, "a body that would empty the cache is not kept");
    }
}
