//! Delivers the messages that changes of this partition have sent to others ([`lovage_store::Message`]).
//!
//! A round walks through the outbox and hands the messages on, those for one partition in the order in which they were sent; what
//! was answered is deleted, together. A partition that cannot be reached keeps its messages waiting and nobody else's. If the owner
//! ends in between, the next one begins anew: what it repeats does nothing.
//!
//! Rounds begin when the feed says that something was sent, when the partition was taken, and after a pause while something is
//! left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{FutureExt, join_all};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use lovage_core::worker::DEFAULT_CANCEL_GRACE;
use lovage_core::{Body, Event, Head, Millis, Partition, Reason, SessionId, Spec, State, TaskKey, decide};
use lovage_store::{Commit, Committed, Effect, Error, FeedPos, Inserted, Message, Mode, Result, Sent, Sync, directory};
use tokio::time::Instant;

use super::calls::Done;
use super::{Owner, STORE_PAUSE, Shared};

/// Messages read and deleted at once.
const PAGE: usize = 200;
/// The longest pause between two rounds while something is left.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// Somebody should look at messages that wait for so long.
const OLD: Duration = Duration::from_secs(60);
/// Directory entries struck out at the same time.
const AT_ONCE: usize = 16;
/// How often a task is changed anew because it moved.
const TRIES: usize = 8;

/// When the next round begins.
pub(super) struct Outbox {
    /// Something was sent that no round has seen.
    news: bool,
    busy: bool,
    /// Not before this, whatever was sent.
    rest: Instant,
    /// When to try again what was left.
    retry: Option<Instant>,
    pause: Duration,
    waiting: Arc<Waiting>,
    /// When to complain next.
    warn_at: Instant,
}

/// What waits, as far as the latest round knows.
#[derive(Default)]
pub(super) struct Waiting {
    messages: AtomicU64,
    /// When the oldest was sent; 0: there is none.
    oldest: AtomicU64,
}

impl Waiting {
    fn note(&self, messages: u64, oldest: Option<Millis>) {
        self.messages.store(messages, Ordering::Relaxed);
        self.oldest.store(oldest.map_or(0, |at| at.0), Ordering::Relaxed);
    }
}

impl Outbox {
    pub(super) fn new(now: Instant) -> Self {
        let waiting = Arc::default();
        Self { news: false, busy: false, rest: now, retry: None, pause: STORE_PAUSE, waiting, warn_at: now }
    }

    /// Something may have been sent.
    pub(super) fn look(&mut self) {
        self.news = true;
    }

    /// When the next round begins.
    pub(super) fn next(&self) -> Option<Instant> {
        let at = if self.news { Some(self.rest) } else { self.retry };
        at.filter(|_| !self.busy)
    }

    fn begin(&mut self) {
        (self.busy, self.news, self.retry) = (true, false, None);
    }

    fn end(&mut self, left: bool, now: Instant) {
        self.busy = false;
        if left {
            // What is sent meanwhile to somebody else waits for a moment only.
            (self.rest, self.retry) = (now + STORE_PAUSE, Some(now + self.pause));
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        } else {
            (self.rest, self.pause) = (now, STORE_PAUSE);
        }
    }
}

impl Owner {
    /// Begins a round if it is time.
    pub(super) fn deliver(&mut self) {
        if self.token.is_none() || self.outbox.next().is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.outbox.begin();
        let (shared, p, waiting) = (Arc::clone(&self.shared), self.partition, Arc::clone(&self.outbox.waiting));
        self.calls.push(Box::pin(async move { Done::Delivered(round(&shared, p, &waiting).await) }));
    }

    pub(super) fn on_delivered(&mut self, left: bool) {
        self.outbox.end(left, Instant::now());
    }

    /// Shows how long messages have been waiting; those of a partition that is not ours are another's to show.
    pub(super) fn show_outbox(&mut self) {
        if self.token.is_none() {
            self.outbox.waiting.note(0, None);
        }
        let (messages, oldest) =
            (self.outbox.waiting.messages.load(Ordering::Relaxed), self.outbox.waiting.oldest.load(Ordering::Relaxed));
        let age = if oldest == 0 { Duration::ZERO } else { self.now().since(Millis(oldest)) };
        self.meters.outbox_messages.set(messages as f64);
        self.meters.outbox_oldest.set(age.as_secs_f64());
        let now = Instant::now();
        if age > OLD && now >= self.outbox.warn_at {
            self.outbox.warn_at = now + OLD;
            let (p, seconds) = (self.partition.0, age.as_secs());
            tracing::warn!(partition = p, messages, oldest_seconds = seconds, "messages for other partitions are not delivered");
        }
    }
}

/// A message on its way.
#[derive(Debug)]
struct Item {
    pos: FeedPos,
    at: Millis,
    message: Message,
}

/// Hands on all that can be. True: something is left.
async fn round(shared: &Shared, p: Partition, waiting: &Waiting) -> bool {
    let caps = shared.store.caps();
    let limit = PAGE.min(caps.max_batch).max(1);
    let mut after = FeedPos::default();
    let mut unreachable: BTreeSet<Partition> = BTreeSet::new();
    let (mut left, mut oldest, mut unknown) = (0, None, false);
    loop {
        let page = match shared.store.outbox(p, after, limit).await {
            Ok(page) => page,
            Err(error) => {
                error.log("read the outbox");
                return true;
            }
        };
        let Some((first, last)) = page.messages.first().zip(page.messages.last()) else { break };
        if after == FeedPos::default() {
            waiting.note(page.waiting, Some(first.at));
        }
        after = last.pos;
        let sent: Vec<(FeedPos, Millis)> = page.messages.iter().map(|sent| (sent.pos, sent.at)).collect();
        let (lines, damaged) = sort(page.messages, caps.partitions);
        for pos in &damaged {
            drop_message("damaged");
            tracing::error!(partition = p.0, place = %pos, "a message for another partition cannot be read; it is dropped");
        }
        let mut done: BTreeSet<FeedPos> = damaged.into_iter().collect();
        let lines = lines.into_iter().filter(|(to, _)| !unreachable.contains(to));
        // Boxed: the compiler cannot see through borrowing futures in an iterator that they are `Send`.
        let calls: Vec<_> = lines.map(|(to, line)| deliver_line(shared, to, line).boxed()).collect();
        for (to, delivered, reached) in join_all(calls).await {
            done.extend(delivered);
            if !reached {
                unreachable.insert(to);
            }
        }
        let places: Vec<FeedPos> = done.iter().copied().collect();
        if !places.is_empty()
            && let Err(error) = shared.store.delivered(p, &places).await
        {
            error.log("delete delivered messages");
            unknown = true;
        }
        for (_, at) in sent.into_iter().filter(|(pos, _)| !done.contains(pos)) {
            left += 1;
            oldest = oldest.or(Some(at));
        }
    }
    waiting.note(left, oldest);
    left > 0 || unknown
}

/// The messages by destination, in order, and those that nobody can read.
fn sort(messages: Vec<Sent>, partitions: u16) -> (BTreeMap<Partition, Vec<Item>>, Vec<FeedPos>) {
    let (mut lines, mut damaged) = (BTreeMap::<_, Vec<Item>>::new(), Vec::new());
    for Sent { pos, at, content } in messages {
        match content {
            Some((to, message)) => lines.entry(to.partition(partitions)).or_default().push(Item { pos, at, message }),
            None => damaged.push(pos),
        }
    }
    (lines, damaged)
}

/// Cuts messages where their kind changes: those of a kind go in one call.
fn runs(line: Vec<Item>) -> Vec<Vec<Item>> {
    let mut runs: Vec<Vec<Item>> = Vec::new();
    for item in line {
        let kind = std::mem::discriminant(&item.message);
        match runs.last_mut() {
            Some(run) if run.last().is_some_and(|last| std::mem::discriminant(&last.message) == kind) => run.push(item),
            _ => runs.push(vec![item]),
        }
    }
    runs
}

/// Hands messages to their partition in order until it cannot be reached. Answers which need not be sent again, and whether
/// that is all of them.
async fn deliver_line(shared: &Shared, to: Partition, line: Vec<Item>) -> (Partition, Vec<FeedPos>, bool) {
    let mut done = Vec::with_capacity(line.len());
    let mut runs = runs(line);
    runs.reverse();
    while let Some(mut run) = runs.pop() {
        match deliver_run(shared, to, &run).await {
            Ok(()) => done.extend(run.iter().map(|item| item.pos)),
            Err(error) if error.is_of_the_items() => {
                if let [bad] = &run[..] {
                    // Whatever is tried: it must not keep those behind it.
                    drop_message("refused");
                    tracing::error!(partition = to.0, message = ?bad.message, %error, "a message cannot be delivered; it is dropped");
                    done.push(bad.pos);
                    continue;
                }
                let rest = run.split_off(run.len() / 2);
                runs.extend([rest, run]);
            }
            Err(error) => {
                error.log("deliver messages to another partition");
                return (to, done, false);
            }
        }
    }
    (to, done, true)
}

fn drop_message(reason: &'static str) {
    metrics::counter!("lovage_outbox_dropped_total", "reason" => reason).increment(1);
}

/// Delivers messages of one kind. What fails may be repeated as a whole.
async fn deliver_run(shared: &Shared, to: Partition, run: &[Item]) -> Result<()> {
    match run.first().map(|item| &item.message) {
        Some(Message::Insert(_)) => insert(shared, to, run).await,
        Some(Message::Arrive { .. } | Message::Cancel { .. }) => change(shared, to, run).await,
        Some(Message::Free { .. }) => free(shared, run).await,
        None => Ok(()),
    }
}

async fn insert(shared: &Shared, to: Partition, run: &[Item]) -> Result<()> {
    let task = |item: &Item| match &item.message {
        Message::Insert(task) => Some((**task).clone()),
        _ => None,
    };
    let tasks: Vec<_> = run.iter().filter_map(task).collect();
    let keys: Vec<TaskKey> = tasks.iter().map(|task| task.key.clone()).collect();
    for (key, answer) in keys.iter().zip(shared.store.insert(to, tasks, Mode::Each).await?) {
        let reason = match answer {
            Inserted::Ok { .. } | Inserted::Exists(_) => continue,
            Inserted::Conflict { .. } => "key",
            Inserted::Late | Inserted::Aborted => "late",
        };
        drop_message(reason);
        tracing::warn!(task.id = %key.id, reason, "a task that was sent to another partition is not stored");
    }
    Ok(())
}

/// Changes the tasks of which these messages speak; those that move meanwhile are looked at again.
async fn change(shared: &Shared, to: Partition, run: &[Item]) -> Result<()> {
    let mut about: BTreeMap<&TaskKey, Vec<&Item>> = BTreeMap::new();
    for item in run {
        if let Message::Arrive { barrier: key, .. } | Message::Cancel { key, .. } = &item.message {
            about.entry(key).or_default().push(item);
        }
    }
    for _ in 0..TRIES {
        let keys: Vec<TaskKey> = about.keys().map(|key| (*key).clone()).collect();
        let (heads, bodies) = (shared.store.heads(to, &keys).await?, shared.store.bodies(to, &keys).await?);
        let mut commits = Vec::with_capacity(keys.len());
        for ((key, head), body) in keys.iter().zip(heads).zip(bodies) {
            let spec = body.and_then(|body| Spec::decode(&Body::decode(&body)?.spec)).unwrap_or_default();
            let items = about.get(key).map(Vec::as_slice).unwrap_or_default();
            commits.extend(head.and_then(|head| commit(shared, key, &head, &spec, items)));
        }
        if commits.is_empty() {
            return Ok(());
        }
        let changed: Vec<TaskKey> = commits.iter().map(|commit| commit.key.clone()).collect();
        // As somebody else's: an owner passes over what its own session changes.
        let done = shared.store.commit(to, SessionId(0), commits, Mode::Each, Sync::Durable).await?;
        let moved: BTreeSet<TaskKey> =
            changed.into_iter().zip(done).filter(|(_, done)| *done != Committed::Ok).map(|(key, _)| key).collect();
        about.retain(|key, _| moved.contains(*key));
        if about.is_empty() {
            return Ok(());
        }
    }
    Err(Error::Unavailable("a task changes too fast".into()))
}

/// What messages of one kind make of a task; `None`: nothing (any more).
fn commit(shared: &Shared, key: &TaskKey, head: &Head, spec: &Spec, items: &[&Item]) -> Option<Commit> {
    let arrive = |item: &&Item| match item.message {
        Message::Arrive { index, attempt, generation, .. } if (attempt, generation) == (head.attempt, head.generation) => {
            Some(Effect::Arrive { barrier: key.clone(), index })
        }
        _ => None,
    };
    let effects: Vec<Effect> = items.iter().filter_map(arrive).collect();
    if !effects.is_empty() && head.state == State::Blocked {
        return Some(Commit {
            key: key.clone(),
            was: head.clone(),
            head: Some(Head { version: head.version + 1, ..head.clone() }),
            queue: spec.queue().into(),
            lane: None,
            body: None,
            result: None,
            attempt: None,
            effects,
        });
    }
    // A client's id may be that of a later task.
    let calls_off = |item: &&Item| matches!(item.message, Message::Cancel { generation, .. } if generation == head.generation && head.created <= item.at);
    if !items.iter().any(calls_off) {
        return None;
    }
    let worker = shared.registry.marked(key.ns, head.worker);
    let grace = worker.map_or(DEFAULT_CANCEL_GRACE, |worker| worker.config.cancel_grace());
    let event = Event::Cancel { hard: false, reason: Reason::Upstream, grace };
    let now = shared.store.clock().now();
    let transition = decide(key, head, spec, event, now, (shared.random)()).ok()?;
    Some(Commit::of(
        key,
        head.clone(),
        transition,
        spec,
        spec.queue().into(),
        None,
        now,
        &*shared.random,
        shared.store.caps().partitions,
    ))
}

async fn free(shared: &Shared, run: &[Item]) -> Result<()> {
    let strike = |item: &Item| {
        let freed = match &item.message {
            Message::Free { task, slot, created } => Some((task.clone(), *slot, *created)),
            _ => None,
        };
        async move {
            let Some((task, slot, created)) = freed else { return Ok(()) };
            directory::forget(&*shared.store, &task, slot, created).await
        }
        .boxed()
    };
    stream::iter(run.iter().map(strike).collect::<Vec<_>>()).buffer_unordered(AT_ONCE).try_collect::<()>().await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lovage_core::{Ns, Slot, TaskId};

    use super::*;

    fn sent(low: u64, to: u16, cancels: bool) -> Sent {
        let key = TaskKey::new(Ns(0), TaskId::parse(&format!("t{low}")).unwrap());
        let message = if cancels {
            Message::Cancel { key, generation: 0 }
        } else {
            Message::Free { task: key, slot: Slot::new(0), created: Millis(0) }
        };
        Sent { pos: FeedPos { high: 0, low }, at: Millis(low), content: Some((Slot::new(to), message)) }
    }

    #[test]
    fn each_destination_has_its_order_and_kinds_go_together() {
        let mut all = vec![sent(1, 0, true), sent(2, 4_095, true), sent(3, 0, true), sent(4, 0, false), sent(6, 1, true)];
        all.insert(4, Sent { pos: FeedPos { high: 0, low: 5 }, at: Millis(5), content: None });
        let (lines, damaged) = sort(all, 2);
        assert_eq!(damaged, [FeedPos { high: 0, low: 5 }]);
        let places = |items: &[Item]| items.iter().map(|item| item.pos.low).collect::<Vec<_>>();
        let cut: Vec<(Partition, Vec<Vec<u64>>)> =
            lines.into_iter().map(|(to, line)| (to, runs(line).iter().map(|run| places(run)).collect())).collect();
        assert_eq!(cut, [(Partition(0), vec![vec![1, 3], vec![4], vec![6]]), (Partition(1), vec![vec![2]])]);
    }

    #[tokio::test(start_paused = true)]
    async fn rounds_follow_news_and_what_is_left() {
        let start = Instant::now();
        let mut outbox = Outbox::new(start);
        assert_eq!(outbox.next(), None);
        outbox.look();
        assert_eq!(outbox.next(), Some(start));
        outbox.begin();
        outbox.look();
        assert_eq!(outbox.next(), None, "one at a time");
        outbox.end(false, start);
        assert_eq!(outbox.next(), Some(start), "what came meanwhile");
        let mut pauses = Vec::new();
        for _ in 0..7 {
            outbox.begin();
            outbox.end(true, start);
            pauses.push((outbox.next().unwrap() - start).as_millis());
        }
        assert_eq!(pauses, [200, 400, 800, 1_600, 3_200, 4_000, 4_000]);
        outbox.look();
        assert_eq!(outbox.next(), Some(start + STORE_PAUSE), "others do not wait for the unreachable");
        outbox.begin();
        outbox.end(false, start);
        assert_eq!(outbox.next(), None);
    }
}
