//! What is lacking is asked of the store, by one task of the process: for all keys that lack something, in batches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use lovage_core::SessionId;
use lovage_store::{LimitKey, LimitReply, LimitRequest, Result};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::rules::Kind;
use super::{Book, FORGET_EVERY, Limits};

/// Keys that are asked for in one call.
const BATCH: usize = 200;
/// Calls that are on their way at once, each for other keys.
const CALLS: usize = 2;
/// How long a call waits for somebody who gives slots back.
const LISTEN: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(500);
/// How long the last calls may take.
const LAST: Duration = Duration::from_secs(2);

struct Call {
    began: Instant,
    asked: Vec<(u64, LimitRequest)>,
    outcome: Result<Vec<Result<LimitReply>>>,
}

impl Limits {
    /// Asks and wakes until `stop`; then tells the store what is not needed any more.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut rules = self.registry.changed();
        self.take_rules();
        let mut calls: FuturesUnordered<BoxFuture<'static, Call>> = FuturesUnordered::new();
        let mut forget = tokio::time::interval(FORGET_EVERY);
        forget.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let heard = Arc::clone(&self).listen();
        tokio::pin!(heard);
        let mut last = None;
        loop {
            let (asked, next) = self.due(calls.len());
            if let Some(asked) = asked {
                calls.push(Box::pin(Arc::clone(&self).call(asked)));
                continue;
            }
            if next.is_some_and(|next| next <= Instant::now()) {
                // More keys are to be looked at; owners have their turn first.
                tokio::task::yield_now().await;
            }
            if last.is_some_and(|last| calls.is_empty() || last <= Instant::now()) {
                return;
            }
            tokio::select! {
                biased;
                () = stop.cancelled(), if last.is_none() => {
                    last = Some(Instant::now() + LAST);
                    self.give_all_back();
                }
                Some(call) = calls.next() => self.answered(call),
                () = self.work.notified() => {}
                Ok(()) = rules.changed() => self.take_rules(),
                () = &mut heard, if last.is_none() => {}
                _ = forget.tick() => {
                    let mut book = self.book.lock();
                    book.forget_idle();
                    self.meters.keys.set(book.keys.len() as f64);
                }
                () = tokio::time::sleep_until(next.unwrap_or_else(|| Instant::now() + FORGET_EVERY)) => {}
            }
        }
    }

    /// Judges by the documents as they are in the registry now. Whoever lets lanes try anew because of a change does this first:
    /// a lane that was judged by what was before would be told of nothing more.
    pub(crate) fn take_rules(&self) {
        let edition = self.registry.edition();
        let mut book = self.book.lock();
        if self.registry.is_loaded() && book.ruled_by != Some(edition) {
            book.rule(&self.registry, Instant::now());
            book.ruled_by = Some(edition);
        }
    }

    /// What to ask for now, if anything; else when to look again.
    fn due(&self, calls: usize) -> (Option<Vec<(u64, LimitRequest)>>, Option<Instant>) {
        let (now, store_now) = (Instant::now(), self.store.clock().now());
        let mut book = self.book.lock();
        let next = book.look(now);
        if calls >= CALLS || book.queue.is_empty() {
            return (None, next);
        }
        let most = BATCH.min(self.store.caps().max_batch.max(1));
        let mut asked = Vec::new();
        while asked.len() < most
            && let Some(number) = book.queue.pop_front()
        {
            let Book { keys, complete, .. } = &mut *book;
            let Some(key) = keys.get_mut(&number) else { continue };
            key.queued = false;
            if !key.calling() {
                asked.push((number, key.request(self.session, self.lease, complete, now, store_now)));
            }
        }
        ((!asked.is_empty()).then_some(asked), next)
    }

    async fn call(self: Arc<Self>, asked: Vec<(u64, LimitRequest)>) -> Call {
        let began = Instant::now();
        self.meters.calls.increment(1);
        let unused: u32 = asked.iter().filter_map(|(_, request)| Some(request.unused?.0)).sum();
        self.meters.unused.increment(unused.into());
        let requests = asked.iter().map(|(_, request)| request.clone()).collect();
        let outcome = self.store.limit(requests).await;
        Call { began, asked, outcome }
    }

    fn answered(self: &Arc<Self>, call: Call) {
        let now = Instant::now();
        let mut wake: BTreeMap<SessionId, Vec<LimitKey>> = BTreeMap::new();
        let mut book = self.book.lock();
        match call.outcome {
            Ok(replies) => {
                for ((number, asked), reply) in call.asked.into_iter().zip(replies) {
                    let reply = match reply {
                        Ok(reply) => reply,
                        Err(error) => {
                            error.log("ask for a limit");
                            if let Some(key) = book.keys.get_mut(&number) {
                                key.fault(&asked, now);
                                book.visit(number, now);
                            }
                            continue;
                        }
                    };
                    for session in &reply.wake {
                        wake.entry(*session).or_default().push((asked.ns, asked.key.clone()));
                    }
                    let Some(key) = book.keys.get_mut(&number) else { continue };
                    if key.answer(&asked, reply, call.began, now) {
                        book.changed(number, now);
                    } else {
                        book.visit(number, now);
                    }
                }
            }
            Err(error) => {
                error.log("ask for the limits of tasks");
                for (number, asked) in call.asked {
                    if let Some(key) = book.keys.get_mut(&number) {
                        key.fault(&asked, now);
                        book.visit(number, now);
                    }
                }
            }
        }
        drop(book);
        if let Some(keys) = wake.remove(&self.session) {
            self.woken(&keys);
        }
        if !wake.is_empty() {
            let store = Arc::clone(&self.store);
            tokio::spawn(async move {
                for (session, keys) in wake {
                    // Who is not told asks again by itself.
                    if let Err(error) = store.wake(session, &keys).await {
                        error.log("wake who waits for a limit");
                    }
                }
            });
        }
    }

    /// Somebody gave back what this process waits for.
    fn woken(&self, keys: &[LimitKey]) {
        let now = Instant::now();
        let mut book = self.book.lock();
        for (ns, key) in keys {
            let (kind, name) = Kind::of(key);
            let Some(number) = book.names.get(&(*ns, kind)).and_then(|names| names.get(name)).copied() else { continue };
            if let Some(key) = book.keys.get_mut(&number) {
                key.woken();
                book.visit(number, now);
            }
        }
        self.work.notify_one();
    }

    /// Listens to others who give back.
    async fn listen(self: Arc<Self>) {
        loop {
            match self.store.woken(self.session, LISTEN).await {
                Ok(keys) if keys.is_empty() => {}
                Ok(keys) => self.woken(&keys),
                Err(error) => {
                    error.log("listen to who gives slots back");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Nothing starts here any more.
    fn give_all_back(&self) {
        let now = Instant::now();
        let mut book = self.book.lock();
        let numbers: Vec<u64> = book.keys.keys().copied().collect();
        for number in numbers {
            if let Some(key) = book.keys.get_mut(&number) {
                key.give_back();
                book.visit(number, now);
            }
        }
    }
}
