//! Ends the process when a loop of the dispatcher hangs: its connections close with it, before another process starts the tasks
//! again. The loop would do so itself if it could.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;

/// Between two looks. A process that was halted looks before its loops have turned: it takes two looks to be sure.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest that the last line of the log may take: what hangs may be the log.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Watches until dropped.
pub(crate) struct Watchdog {
    over: Arc<AtomicBool>,
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Aborts the process when `silent_for` says more than `limit` twice in a row.
pub(crate) fn start(silent_for: impl Fn() -> Duration + Send + 'static, limit: Duration) -> anyhow::Result<Watchdog> {
    start_with(silent_for, limit, LOOK_EVERY, move || {
        let told = std::thread::spawn(move || {
            tracing::error!(?limit, "the dispatcher hangs; the process ends, so that others can go on with its tasks");
        });
        for _ in 0..20 {
            if told.is_finished() {
                break;
            }
            std::thread::sleep(LAST_WORDS / 20);
        }
        std::process::abort();
    })
}

fn start_with(
    silent_for: impl Fn() -> Duration + Send + 'static,
    limit: Duration,
    every: Duration,
    end: impl FnOnce() + Send + 'static,
) -> anyhow::Result<Watchdog> {
    let watchdog = Watchdog { over: Arc::default() };
    let over = Arc::clone(&watchdog.over);
    let watch = move || {
        let mut suspicious = false;
        while !over.load(Ordering::Relaxed) {
            let silent = silent_for() > limit;
            if silent && suspicious {
                return end();
            }
            suspicious = silent;
            std::thread::sleep(every);
        }
    };
    std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch).context("cannot start the watchdog's thread")?;
    Ok(watchdog)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    use super::*;

    /// Whether these looks, in seconds of silence, end the process.
    fn ends(looks: &[u64]) -> bool {
        let (tell, told) = channel();
        let left: Mutex<VecDeque<u64>> = Mutex::new(looks.iter().copied().collect());
        let survived = tell.clone();
        let silent_for = move || {
            let look = left.lock().unwrap().pop_front();
            if look.is_none() {
                let _ = survived.send(false);
            }
            Duration::from_secs(look.unwrap_or_default())
        };
        let _watchdog = start_with(silent_for, Duration::from_secs(12), Duration::from_millis(1), move || {
            let _ = tell.send(true);
        });
        told.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    #[test]
    fn it_takes_two_silent_looks_in_a_row() {
        assert!(!ends(&[0, 2, 13, 1, 12, 2, 13]));
        assert!(ends(&[0, 13, 14, 0]));
    }
}
