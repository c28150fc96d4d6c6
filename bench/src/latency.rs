//! Percentiles over every sample: no histogram, no rounding, since a run has thousands of samples and not billions.

use serde::{Deserialize, Serialize};

/// Latencies in milliseconds. All zero when there was no sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many samples.
    pub samples: usize,
    /// Median.
    pub p50: f64,
    /// 90 of 100 are at most this.
    pub p90: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// The worst one.
    pub max: f64,
}

impl Latency {
    /// From nanoseconds, in any order.
    pub fn from_nanoseconds(mut samples: Vec<u64>) -> Self {
        samples.sort_unstable();
        let at = |share: f64| {
            // Nearest rank: the smallest sample that at least this share does not exceed.
            let rank = (share * samples.len() as f64).ceil() as usize;
            let sample = samples.get(rank.saturating_sub(1)).copied().unwrap_or(0);
            sample as f64 / 1e6
        };
        Self { samples: samples.len(), p50: at(0.50), p90: at(0.90), p99: at(0.99), max: at(1.0) }
    }
}

/// The middle value, or the mean of the two middle ones; 0 for none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let latency = Latency::from_nanoseconds((1..=100).rev().map(|ms| ms * 1_000_000).collect());
        assert_eq!(latency, Latency { samples: 100, p50: 50.0, p90: 90.0, p99: 99.0, max: 100.0 });
        assert_eq!(Latency::from_nanoseconds(Vec::new()), Latency::default());
    }

    #[test]
    fn median_of_odd_even_and_none() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(&[]).abs() < f64::EPSILON);
    }
}
