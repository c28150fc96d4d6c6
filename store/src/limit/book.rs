//! The limits of a store that one process has for itself: the states of all keys that are in use.
//!
//! A key that is idle is forgotten: each request looks at a few others, and the renewals of owners at many, so that nothing is
//! left of keys that were used once, and no call pays for all of them.

use std::hash::Hash;

use ahash::RandomState;
use indexmap::{Equivalent, IndexMap};
use lovage_core::{Millis, Ns};
use parking_lot::Mutex;

use super::state::State;
use super::{LimitKey, LimitReply, LimitRequest};

/// Keys that a request looks at besides its own.
const PER_REQUEST: usize = 2;
/// Keys that a renewal looks at, in so many at a time.
const PER_RENEWAL: usize = 65_536;
const AT_A_TIME: usize = 1_024;
/// A table is made smaller when it is larger than this and mostly empty.
const SMALL: usize = 1_024;

/// The time by the two clocks that count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Microseconds of store time, by which rates are judged.
    pub(crate) rate: u64,
    /// The clock of leases, by which holders and places in line end.
    pub(crate) lease: Millis,
}

/// All keys in use, and where the sweep goes on.
#[derive(Debug, Default)]
struct Keys {
    states: IndexMap<LimitKey, State, RandomState>,
    sweep: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Book {
    keys: Mutex<Keys>,
}

/// A key that is looked for without being copied.
#[derive(Hash)]
struct Name<'a>(Ns, &'a str);

impl Equivalent<LimitKey> for Name<'_> {
    fn equivalent(&self, key: &LimitKey) -> bool {
        (self.0, self.1) == (key.0, &*key.1)
    }
}

impl Book {
    /// Carries out requests in order.
    pub(crate) fn judge(&self, now: &Times, requests: &[LimitRequest]) -> Vec<LimitReply> {
        let mut keys = self.keys.lock();
        requests.iter().map(|request| keys.judge(now, request)).collect()
    }

    /// Forgets idle keys, in bounded time.
    pub(crate) fn tidy(&self, now: &Times) {
        for _ in 0..PER_RENEWAL / AT_A_TIME {
            let mut keys = self.keys.lock();
            keys.sweep(now, AT_A_TIME);
            if keys.states.len() < AT_A_TIME {
                break;
            }
        }
    }

    /// How many keys are kept.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.keys.lock().states.len()
    }
}

impl Keys {
    fn judge(&mut self, now: &Times, request: &LimitRequest) -> LimitReply {
        self.sweep(now, PER_REQUEST);
        let place = self.states.get_index_of(&Name(request.ns, &request.key));
        let Some(place) = place else {
            let mut state = State::default();
            let reply = state.judge(now, request);
            if !state.is_idle(now) {
                self.states.insert((request.ns, request.key.clone()), state);
            }
            return reply;
        };
        let state = &mut self.states[place];
        let reply = state.judge(now, request);
        if state.is_idle(now) {
            self.states.swap_remove_index(place);
        }
        reply
    }

    /// Looks at the next keys and forgets those that are idle.
    fn sweep(&mut self, now: &Times, keys: usize) {
        for _ in 0..keys.min(self.states.len()) {
            if self.sweep >= self.states.len() {
                self.sweep = 0;
            }
            if self.states[self.sweep].is_idle(now) {
                self.states.swap_remove_index(self.sweep);
            } else {
                self.sweep += 1;
            }
            if self.states.is_empty() {
                break;
            }
        }
        if self.states.capacity() > SMALL && self.states.len() < self.states.capacity() / 8 {
            self.states.shrink_to(self.states.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use lovage_core::LimitRule;
    use lovage_core::units::{Period, Rate};

    use super::*;
    use crate::TokenWish;

    fn at(ms: u64) -> Times {
        Times { rate: ms * 1_000, lease: Millis(ms) }
    }

    fn one_start(key: &str) -> LimitRequest {
        let rule = LimitRule { rate: Rate::new(1, Period::Second), ..LimitRule::default() };
        let tokens = Some(TokenWish { least: 1, most: 1, ahead: Duration::ZERO });
        LimitRequest { tokens, ..LimitRequest::look(Ns(0), key, rule) }
    }

    #[test]
    fn a_million_keys_that_were_used_once_leave_nothing_behind() {
        let book = Book::default();
        for n in 0..1_000_000u64 {
            let reply = book.judge(&at(1_000_000), &[one_start(&format!("tenant-{n}"))]).pop().unwrap();
            assert!(reply.lot.is_some());
        }
        assert_eq!(book.len(), 1_000_000);
        // Renewals come every two seconds, and are enough by themselves.
        for renewal in 0..20 {
            book.tidy(&at(1_002_000 + renewal * 2_000));
        }
        assert_eq!(book.len(), 0);
        assert!(book.keys.lock().states.capacity() <= SMALL);
    }

    #[test]
    fn keys_in_use_push_out_those_that_are_idle() {
        let book = Book::default();
        for n in 0..1_000u64 {
            book.judge(&at(1_000_000), &[one_start(&format!("tenant-{n}"))]);
        }
        for n in 0..1_000 {
            book.judge(&at(1_002_000 + n), &[one_start("busy")]);
        }
        assert_eq!(book.len(), 1);
    }
}
