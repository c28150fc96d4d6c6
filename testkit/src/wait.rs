//! Waiting for a condition with a time-out, instead of sleeping and hoping.

use std::time::{Duration, Instant};

/// How long a condition may stay unobserved after it has come true.
const PERIOD: Duration = Duration::from_millis(5);

/// Blocks until `condition` holds; panics with `what` once `timeout` has passed.
#[track_caller]
pub fn wait_until(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < timeout, "waited {timeout:?} in vain for {what}");
        std::thread::sleep(PERIOD);
    }
}

/// Waits until `probe` yields a value and returns it; panics with `what` once `timeout` has passed.
/// A probe that is still running at the time-out counts as one that yielded nothing.
pub async fn eventually<T>(what: &str, timeout: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let search = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(PERIOD).await;
        }
    };
    tokio::time::timeout(timeout, search).await.unwrap_or_else(|_| panic!("waited {timeout:?} in vain for {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut asked = 0;
        wait_until("the third question", Duration::from_secs(5), || {
            asked += 1;
            asked == 3
        });
        assert_eq!(asked, 3);
    }

    #[test]
    #[should_panic(expected = "in vain for the impossible")]
    fn a_condition_that_never_comes_true_fails() {
        wait_until("the impossible", Duration::from_millis(20), || false);
    }

    #[tokio::test]
    async fn a_probe_may_return_a_value() {
        let mut asked = 0;
        let found = eventually("a value", Duration::from_secs(5), async || {
            asked += 1;
            (asked == 3).then_some("here")
        })
        .await;
        assert_eq!(found, "here");
    }
}
