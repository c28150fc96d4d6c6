//! Random numbers for ids, request ids and jitter, from one injected source.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Evenly distributed numbers; they decide nothing that must be secret.
#[derive(Clone)]
pub struct Random(Arc<AtomicU64>);

impl Random {
    /// The sequence of this seed: equal seeds give equal runs.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seed)))
    }

    /// A sequence that the operating system seeds.
    pub fn from_os() -> Result<Self, getrandom::Error> {
        getrandom::u64().map(Self::seeded)
    }

    /// The next number (`SplitMix64`: one atomic addition and a mix, so callers on several threads never meet).
    pub fn next(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Random")
    }
}
