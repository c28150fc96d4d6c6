//! How long to rest after a piece of work that others may cause without end, so that most of the time is left for the rest: now and
//! then, or a few times in a row, it costs nothing; again and again it takes a tenth of the time.

use std::time::Duration;

/// Work that is done without a rest.
const BURST: Duration = Duration::from_secs(1);
/// So many times as long as the work is the time that it takes up.
const SHARE: u32 = 10;
/// The longest rest: what changes meanwhile is seen after it.
const LONGEST: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rest {
    left: Duration,
}

impl Default for Rest {
    fn default() -> Self {
        Self { left: BURST }
    }
}

impl Rest {
    /// The rest after work that `took` so long; `passed`: since the end of the last one.
    pub(crate) fn after(&mut self, took: Duration, passed: Duration) -> Duration {
        let left = (self.left + passed / SHARE).min(BURST);
        self.left = left.saturating_sub(took);
        (took.saturating_sub(left) * SHARE).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_now_and_then_is_done_at_once_and_what_never_ends_takes_a_tenth() {
        let ms = Duration::from_millis;
        let mut rest = Rest::default();
        for _ in 0..1_000 {
            assert_eq!(rest.after(ms(20), ms(200)), ms(0), "now and then");
        }
        assert!((0..49).all(|_| rest.after(ms(20), ms(0)) == ms(0)), "a burst");
        let (mut worked, mut passed) = (ms(0), ms(0));
        for _ in 0..1_000 {
            let rested = rest.after(ms(20), ms(0));
            worked += ms(20);
            passed += ms(20) + rested;
        }
        assert!(worked * 9 <= passed, "{worked:?} of {passed:?}");
        assert_eq!(rest.after(ms(10_000), ms(0)), LONGEST);
    }
}
