//! The calls of the store: how they are started and what their answers change.

use std::sync::Arc;
use std::time::Duration;

use lovage_core::{Head, LaneDef, LaneId, Millis, SessionId, TaskKey};
use lovage_store::{Claimed, Committed, Cursor, Error, FeedBatch, FeedPos, Index, OwnReply, OwnRequest, OwnToken, Result, Want};
use tokio::time::Instant;

use super::{DUE_CALLS, FEED_WAIT, Owner, Plan, STORE_PAUSE, Settlement, background};
use crate::lanes::Waiting;
use crate::timers;

/// Lanes whose windows are read at the same time.
const LOADS: usize = 8;

/// What a call of the store came back with.
pub(super) enum Done {
    Owned(Instant, Result<OwnReply>),
    Loaded(Result<(FeedPos, Vec<LaneDef>)>),
    Lanes(Result<Vec<LaneDef>>),
    Feed(FeedPos, Result<FeedBatch>),
    Window(LaneId, Option<(Vec<Waiting>, bool)>),
    Timers(Millis, Option<(Vec<(Millis, TaskKey)>, bool)>),
    Claimed(Vec<Plan>, Result<Vec<Claimed>>),
    /// The outcome of a claim was unknown; these turned out to be ours.
    Found(Vec<Plan>, Vec<Claimed>),
    Settled(Vec<Settlement>, Result<Vec<Committed>>),
    Due,
    Swept,
    Recovered(SessionId, bool),
    /// What runs in the store as attempts of this session.
    Mine(Result<Vec<(TaskKey, Head)>>),
    StraysRecovered,
}

impl Owner {
    pub(super) fn on_done(&mut self, done: Done) {
        match done {
            Done::Owned(started, reply) => self.on_owned(started, reply),
            Done::Loaded(Ok((tail, defs))) => {
                for def in defs {
                    self.lanes.add(Arc::new(def), true);
                }
                if !self.feeding {
                    self.read_feed(tail);
                }
            }
            Done::Loaded(Err(error)) => {
                self.store_failed("read the lanes", &error);
                self.load(None);
            }
            Done::Lanes(Ok(defs)) => {
                self.learning = false;
                for def in defs {
                    // The store may hold more of it than the task that made it known.
                    self.lanes.add(Arc::new(def), true);
                }
                if std::mem::take(&mut self.learn_again) {
                    self.learn_lanes();
                }
            }
            Done::Lanes(Err(error)) => {
                self.store_failed("read the lanes", &error);
                self.learning = false;
                self.learn_lanes();
            }
            Done::Feed(_, Ok(batch)) => self.on_feed(batch),
            Done::Feed(at, Err(error)) => {
                self.store_failed("read the feed", &error);
                self.read_feed(at);
            }
            Done::Window(lane, page) => {
                let page = page.map(|(tasks, more)| (self.not_mine(tasks), more));
                self.lanes.loaded(lane, page);
            }
            Done::Timers(until, page) => self.timers.loaded(until, page),
            Done::Claimed(plans, outcome) => self.on_claimed(plans, outcome),
            Done::Found(plans, claimed) => self.on_claimed(plans, Ok(claimed)),
            Done::Settled(items, outcome) => self.on_settled(items, outcome),
            Done::Due => self.due_calls -= 1,
            Done::Swept => self.sweeping = false,
            Done::Recovered(session, all) => {
                self.recovering.remove(&session);
                if all {
                    self.recovered.push(session);
                }
            }
            Done::Mine(Ok(found)) => self.on_strays(found),
            Done::Mine(Err(error)) => {
                self.store_failed("look for stray attempts", &error);
                self.seeking = false;
                self.stray = true;
            }
            Done::StraysRecovered => self.seeking = false,
        }
    }

    /// Logs once per pause and asks nothing of the store for a moment.
    pub(super) fn store_failed(&mut self, what: &str, error: &Error) {
        let now = Instant::now();
        if now >= self.pause_until {
            tracing::warn!(partition = self.partition.0, %error, "cannot {what}; trying again");
            metrics::counter!("lovage_store_faults_total").increment(1);
        }
        self.pause_until = now + STORE_PAUSE;
    }

    /// Renews the partition and the session, or lets go of them.
    pub(super) fn renew(&mut self) {
        if self.renewing {
            return;
        }
        self.renewing = true;
        let (shared, p) = (Arc::clone(&self.shared), self.partition);
        let want = if self.stopping.is_some() { Want::Release } else { Want::Own };
        let drop = std::mem::take(&mut self.recovered);
        let started = Instant::now();
        self.calls.push(Box::pin(async move {
            let request = OwnRequest { session: shared.session, want, lease: shared.options.lease, drop };
            Done::Owned(started, shared.store.own(p, request).await)
        }));
    }

    fn on_owned(&mut self, started: Instant, reply: Result<OwnReply>) {
        self.renewing = false;
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => return self.store_failed("renew the partition", &error),
        };
        self.renewed = started;
        self.seek_strays();
        if self.stopping.is_some() {
            self.token = None;
            return;
        }
        let before: Option<OwnToken> = self.token.take();
        self.token.clone_from(&reply.token);
        if before != self.token && self.token.is_some() {
            tracing::debug!(partition = self.partition.0, "owns the partition");
            // Whatever was seen before belongs to another ownership.
            self.reload(None);
        }
        if self.token.is_some() {
            for session in reply.lapsed {
                self.recover(session);
            }
        }
    }

    /// Reads which lanes there are, then follows the feed from a place taken before.
    pub(super) fn load(&mut self, tail: Option<FeedPos>) {
        let (shared, p) = (Arc::clone(&self.shared), self.partition);
        let delay = self.pause_until;
        self.calls.push(Box::pin(async move {
            tokio::time::sleep_until(delay).await;
            let read = async {
                let tail = match tail {
                    Some(tail) => tail,
                    None => shared.store.tail(p).await?,
                };
                Ok((tail, shared.store.lanes(p).await?.into_iter().map(|(_, def)| def).collect()))
            };
            Done::Loaded(read.await)
        }));
    }

    /// A task came in a lane that is not known yet.
    pub(super) fn learn_lanes(&mut self) {
        if std::mem::replace(&mut self.learning, true) {
            // The definitions under way may have been read before this lane was there.
            self.learn_again = true;
            return;
        }
        let (shared, p) = (Arc::clone(&self.shared), self.partition);
        let delay = self.pause_until;
        self.calls.push(Box::pin(async move {
            tokio::time::sleep_until(delay).await;
            let lanes = shared.store.lanes(p).await;
            Done::Lanes(lanes.map(|lanes| lanes.into_iter().map(|(_, def)| def).collect()))
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

    /// Fills windows that run low.
    pub(super) fn load_windows(&mut self) {
        if self.token.is_none() {
            return;
        }
        for (lane, after) in self.lanes.take_hungry(LOADS) {
            let (shared, p) = (Arc::clone(&self.shared), self.partition);
            let window = shared.options.lane_window / 2;
            self.calls.push(Box::pin(async move {
                let page = shared.store.scan(p, &Index::Lane { lane, after }, Cursor::default(), window).await;
                match page {
                    Ok(page) => {
                        let tasks = page.items.into_iter().map(|(key, head)| Waiting { key, head }).collect();
                        Done::Window(lane, Some((tasks, page.next.is_some())))
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot read a lane; trying again");
                        tokio::time::sleep(STORE_PAUSE).await;
                        Done::Window(lane, None)
                    }
                }
            }));
        }
    }

    /// A page may be older than a claim of ours: those tasks are not waiting any more.
    fn not_mine(&self, tasks: Vec<Waiting>) -> Vec<Waiting> {
        tasks.into_iter().filter(|t| !self.claiming.contains_key(&t.key) && !self.running.contains_key(&t.key)).collect()
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
            let (shared, p) = (Arc::clone(&self.shared), self.partition);
            self.calls.push(Box::pin(async move {
                let page = shared.store.scan(p, &Index::Timer { until }, Cursor::default(), timers::PAGE).await;
                match page {
                    Ok(page) => {
                        let timer = |(key, head): (TaskKey, Head)| Some((lovage_core::placement(&head).timer?, key));
                        Done::Timers(until, Some((page.items.into_iter().filter_map(timer).collect(), page.next.is_some())))
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot read the timers; trying again");
                        tokio::time::sleep(STORE_PAUSE).await;
                        Done::Timers(until, None)
                    }
                }
            }));
        }
    }

    fn recover(&mut self, session: SessionId) {
        if session == self.shared.session || self.recovered.contains(&session) || !self.recovering.insert(session) {
            return;
        }
        let (shared, p) = (Arc::clone(&self.shared), self.partition);
        self.calls.push(Box::pin(async move {
            let all = background::recover(&shared, p, session).await;
            Done::Recovered(session, all)
        }));
    }

    /// Looks for attempts that were let go of while the store was away, or whose claims never got an answer: this session
    /// lives, so nobody else declares them lost.
    fn seek_strays(&mut self) {
        if self.seeking || !std::mem::take(&mut self.stray) {
            return;
        }
        self.seeking = true;
        let (shared, p) = (Arc::clone(&self.shared), self.partition);
        self.calls.push(Box::pin(async move { Done::Mine(background::mine(&shared, p).await) }));
    }

    pub(super) fn recover_strays(&mut self, strays: Vec<(TaskKey, Head)>) {
        let (shared, p) = (Arc::clone(&self.shared), self.partition);
        self.calls.push(Box::pin(async move {
            background::recover_strays(&shared, p, strays).await;
            Done::StraysRecovered
        }));
    }

    pub(super) fn sweep(&mut self) {
        if std::mem::replace(&mut self.sweeping, true) {
            return;
        }
        let (shared, p) = (Arc::clone(&self.shared), self.partition);
        self.calls.push(Box::pin(async move {
            background::sweep(&shared, p).await;
            Done::Swept
        }));
    }

    /// The session is not needed here any more.
    pub(super) async fn leave(&mut self) {
        if self.stray || self.seeking || !self.running.is_empty() {
            tracing::warn!(
                partition = self.partition.0,
                "attempts could not be given back; the lease of this session will run out"
            );
            return;
        }
        let request = OwnRequest {
            session: self.shared.session,
            want: Want::Leave,
            lease: self.shared.options.lease,
            drop: std::mem::take(&mut self.recovered),
        };
        let left = tokio::time::timeout(Duration::from_secs(2), self.shared.store.own(self.partition, request)).await;
        if !matches!(left, Ok(Ok(_))) {
            tracing::warn!(
                partition = self.partition.0,
                "could not tell the store that this session ends; its lease will run out"
            );
        }
    }
}
