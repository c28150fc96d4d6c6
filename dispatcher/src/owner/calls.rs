//! The calls of the store: how they are started and what their answers change.

use std::sync::Arc;
use std::time::Duration;

use lovage_core::{Head, Millis, SessionId, State, TaskKey};
use lovage_store::{Claimed, Committed, Error, FeedBatch, FeedPos, FeedRow, Index, OwnReply, Result, Stored, Want};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::accepted::Found;
use super::updates::Update;
use super::view::Seen;
use super::{AUDIT_EVERY, DUE_CALLS, FEED_WAIT, Owner, Plan, STORE_PAUSE, Settlement, background};
use crate::timers;

/// What a call of the store came back with.
pub(super) enum Done {
    /// A renewal: when it began, what was asked, and the answer.
    Owned(Duration, Want, Result<OwnReply>),
    /// It is this partition's turn to be let go of.
    Handing(Option<OwnedSemaphorePermit>),
    /// Where the feed is to be followed from.
    Loaded(Result<FeedPos>),
    /// What was read for the lanes, in which life of theirs.
    Seen(u64, Seen),
    Feed(FeedPos, Result<FeedBatch>),
    Timers(u64, Millis, Option<(Vec<(Millis, TaskKey)>, bool)>),
    /// There is room for one more attempt.
    Room(Option<OwnedSemaphorePermit>),
    /// The right to claim; `None`: there is none any more.
    Turn(Option<OwnedSemaphorePermit>),
    Claimed(Vec<Box<Plan>>, Result<Vec<Claimed>>),
    /// The outcome of a claim was unknown; this is what is stored.
    Found(Vec<Box<Plan>>, Vec<Option<Stored>>),
    /// The heads of what runs here.
    Running(Vec<FeedRow>),
    /// Attempts of this session as stored.
    Audited(Result<Vec<(TaskKey, Head)>>),
    Accepted(u64, Found),
    Settled(Vec<Box<Settlement>>, Result<Vec<Committed>>),
    Updated(Vec<Update>, Result<Vec<Committed>>),
    Due,
    /// Whether there is more to delete.
    Swept(bool),
    /// Whether the store knows.
    GivenBack(bool),
    Recovered(SessionId, bool),
    /// Whether messages for other partitions are left.
    Delivered(bool),
}

impl Owner {
    pub(super) fn on_done(&mut self, done: Done) {
        match done {
            Done::Owned(started, asked, reply) => self.on_owned(started, asked, reply),
            Done::Handing(turn) => self.on_turn_to_let_go(turn),
            Done::Loaded(Ok(tail)) => {
                self.lanes.begin(tail);
                if !self.feeding && !self.is_done_here() {
                    self.read_feed(tail);
                }
                // What was sent before is nowhere else.
                self.outbox.look();
            }
            Done::Loaded(Err(error)) => {
                self.store_failed("find the end of the feed", &error);
                self.load(None);
            }
            Done::Seen(life, seen) => self.on_seen(life, seen),
            Done::Feed(_, Ok(batch)) => self.on_feed(batch),
            Done::Feed(at, Err(error)) => {
                self.store_failed("read the feed", &error);
                self.read_feed(at);
            }
            Done::Timers(life, until, page) => self.timers.loaded(life, until, page),
            Done::Room(room) => (self.waits_for_room, self.room) = (false, room),
            Done::Turn(turn) => (self.waits_for_turn, self.turn) = (false, turn),
            Done::Claimed(plans, outcome) => self.on_claimed(plans, outcome),
            Done::Found(plans, found) => self.on_found(plans, found),
            Done::Running(rows) => {
                for row in rows.iter().filter(|row| row.head.as_ref().is_some_and(|head| head.state == State::Running)) {
                    self.on_row(row, SessionId::default());
                }
            }
            Done::Audited(found) => self.on_audited(found),
            Done::Accepted(life, found) => self.on_accepted_found(life, found),
            Done::GivenBack(known) => {
                if !known {
                    self.audit_at = Instant::now();
                }
            }
            Done::Settled(items, outcome) => self.on_settled(items, outcome),
            Done::Updated(items, outcome) => self.on_updated(items, outcome),
            Done::Due => self.due_calls -= 1,
            Done::Swept(more) => {
                self.sweeping = false;
                // Whatever ends has to be deleted once: a janitor that only came with the ticks would fall behind for good.
                if more && self.token.is_some() {
                    self.sweep();
                }
            }
            Done::Delivered(left) => self.on_delivered(left),
            Done::Recovered(session, all) => {
                self.recovering.remove(&session);
                if all {
                    self.recovered.push(session);
                    self.forget_node(session);
                }
            }
        }
    }

    /// Asks nothing of the store for a moment.
    pub(super) fn store_failed(&mut self, what: &str, error: &Error) {
        let now = Instant::now();
        if now >= self.pause_until {
            error.log(what);
            metrics::counter!("lovage_store_faults_total").increment(1);
        }
        self.pause_until = now + STORE_PAUSE;
    }

    /// Follows the feed from a place taken before the lanes are read.
    pub(super) fn load(&mut self, tail: Option<FeedPos>) {
        let (shared, p) = (Arc::clone(&self.shared), self.partition);
        let delay = self.pause_until;
        self.calls.push(Box::pin(async move {
            tokio::time::sleep_until(delay).await;
            Done::Loaded(match tail {
                Some(tail) => Ok(tail),
                None => shared.store.tail(p).await,
            })
        }));
    }

    pub(super) fn read_feed(&mut self, at: FeedPos) {
        self.feeding = true;
        let (shared, p) = (Arc::clone(&self.shared), self.partition);
        let delay = self.pause_until;
        self.calls.push(Box::pin(async move {
            tokio::time::sleep_until(delay).await;
            Done::Feed(at, shared.store.feed(p, at, FEED_WAIT).await)
        }));
    }

    /// Hands due tasks to the rules and reads further ahead.
    pub(super) fn look_at_timers(&mut self) {
        if self.token.is_none() {
            return;
        }
        let now = self.now();
        self.lanes.open_until(now);
        while self.due_calls < DUE_CALLS {
            let keys = self.timers.take(now, self.shared.store.caps().max_batch);
            if keys.is_empty() {
                break;
            }
            self.due_calls += 1;
            let (shared, p) = (Arc::clone(&self.shared), self.partition);
            self.calls.push(Box::pin(async move {
                background::due(&shared, p, keys).await;
                Done::Due
            }));
        }
        if self.due_calls == 0
            && let Some(until) = self.timers.read_on(now)
        {
            let (shared, p, life) = (Arc::clone(&self.shared), self.partition, self.timers.life());
            self.calls.push(Box::pin(async move {
                match background::first(&shared, p, &Index::Timer { until }, timers::PAGE).await {
                    Ok((found, more)) => {
                        let timer = |(key, head): (TaskKey, Head)| Some((lovage_core::placement(&head).timer?, key));
                        Done::Timers(life, until, Some((found.into_iter().filter_map(timer).collect(), more)))
                    }
                    Err(error) => {
                        error.log("read the timers");
                        tokio::time::sleep(STORE_PAUSE).await;
                        Done::Timers(life, until, None)
                    }
                }
            }));
        }
    }

    pub(super) fn sweep(&mut self) {
        if std::mem::replace(&mut self.sweeping, true) {
            return;
        }
        let (shared, p) = (Arc::clone(&self.shared), self.partition);
        self.calls.push(Box::pin(async move { Done::Swept(background::sweep(&shared, p).await) }));
    }

    /// Changes of what runs here may have been missed, cancels for one.
    pub(super) fn look_at_running(&mut self) {
        let keys: Vec<TaskKey> = self.running.keys().chain(self.claiming.keys()).cloned().collect();
        if keys.is_empty() {
            return;
        }
        let (shared, p) = (Arc::clone(&self.shared), self.partition);
        self.calls.push(Box::pin(async move { Done::Running(background::rows(&shared, p, &keys).await) }));
    }

    /// Looks for attempts of this session that nobody here knows: claims that were carried out after their answer was given up.
    pub(super) fn audit(&mut self) {
        if self.auditing || Instant::now() < self.audit_at {
            return;
        }
        self.auditing = true;
        let (shared, p) = (Arc::clone(&self.shared), self.partition);
        self.calls.push(Box::pin(async move { Done::Audited(background::own_attempts(&shared, p).await) }));
    }

    fn on_audited(&mut self, found: Result<Vec<(TaskKey, Head)>>) {
        self.auditing = false;
        // What could not be read is read with the next tick.
        let Ok(found) = found else { return };
        self.audit_at = Instant::now() + AUDIT_EVERY;
        // One that ended while this was read has another version by now.
        let given_up = self.shared.given_up.lock();
        let unknown =
            |key: &TaskKey| !self.running.contains_key(key) && !self.claiming.contains_key(key) && !given_up.contains(key);
        let found: Vec<_> = found.into_iter().filter(|(key, _)| unknown(key)).collect();
        drop(given_up);
        if found.is_empty() {
            return;
        }
        let (shared, p) = (Arc::clone(&self.shared), self.partition);
        self.calls.push(Box::pin(async move { Done::GivenBack(background::give_back(&shared, p, found).await) }));
    }
}
