//! The feeds that somebody reads: a blocking read over those that share a server, fanned out in this process.
//!
//! A single server is read by one [`Hub`] with all streams on one connection. In a cluster a blocking read takes one slot,
//! so each stream has a hub of its own.
//!
//! A reader is served from a ring of late entries. A place that the ring does not cover is looked up in Redis, where it
//! is also decided whether the reader is *behind*: its own entry must still be there (the owner never trims the last
//! one), so an entry that a failover dropped or housekeeping trimmed is noticed. After a lost connection all rings
//! start anew, which sends every reader through that check.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{ServerErrorKind, Value};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::dial::Dialed;
use super::link::{Kind, Link, is_forbidden, translate};
use super::node::next_pause;
use super::stream::{PAGE, batch, look_up, read_entries};
use super::value;
use crate::{Error, FeedBatch, FeedEntry, FeedPos, Result};

/// Rows that a ring keeps.
const RING_ROWS: usize = 10_000;
/// How long one blocking read lasts when nothing happens.
const BLOCK: Duration = Duration::from_secs(5);
/// The same on a server that does not let us end a blocking read early.
const SHORT_BLOCK: Duration = Duration::from_millis(100);
/// An answer that is later than the end of the blocking read by this much does not come any more.
const GRACE: Duration = Duration::from_secs(3);
/// A stream that nobody asked about for so long is not read any more.
const IDLE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Ring {
    live: bool,
    /// Everything after `from` up to `to` is in `entries`.
    from: FeedPos,
    to: FeedPos,
    entries: VecDeque<Arc<FeedEntry>>,
    rows: usize,
    asked: Option<Instant>,
}

impl Ring {
    /// Entries after `at`; `None` if the ring does not cover them.
    fn after(&mut self, at: FeedPos) -> Option<Vec<Arc<FeedEntry>>> {
        self.asked = Some(Instant::now());
        if !self.live || at < self.from {
            return None;
        }
        let start = self.entries.partition_point(|entry| entry.pos <= at);
        Some(self.entries.iter().skip(start).take(PAGE).cloned().collect())
    }

    fn push(&mut self, entries: Vec<Arc<FeedEntry>>) {
        for entry in entries {
            self.to = entry.pos;
            self.rows += entry.rows.len();
            self.entries.push_back(entry);
        }
        while self.rows > RING_ROWS
            && let Some(oldest) = self.entries.pop_front()
        {
            self.rows -= oldest.rows.len();
            self.from = oldest.pos;
        }
    }
}

#[derive(Debug)]
struct Stream {
    key: Vec<u8>,
    ring: Mutex<Ring>,
    grown: Notify,
}

/// All streams by number.
pub(super) struct Feeds {
    places: Vec<(Arc<Hub>, usize)>,
    readers: Vec<JoinHandle<()>>,
}

impl Drop for Feeds {
    fn drop(&mut self) {
        self.readers.iter().for_each(JoinHandle::abort);
    }
}

impl Feeds {
    /// Starts to read, each stream as soon as somebody asks for it.
    pub(super) fn start(streams: Vec<(Link, Vec<u8>)>) -> Self {
        let mut hubs: Vec<Hub> = Vec::new();
        let mut places = Vec::new();
        for (link, key) in streams {
            let shared = hubs.len() == 1 && !link.nodes().is_cluster();
            if !shared {
                hubs.push(Hub { link, streams: Vec::new(), changed: Notify::new() });
            }
            let hub = hubs.len() - 1;
            hubs[hub].streams.push(Stream { key, ring: Mutex::default(), grown: Notify::new() });
            places.push((hub, hubs[hub].streams.len() - 1));
        }
        let hubs: Vec<_> = hubs.into_iter().map(Arc::new).collect();
        let readers = hubs.iter().map(|hub| tokio::spawn(Arc::clone(hub).run())).collect();
        Self { places: places.into_iter().map(|(hub, place)| (Arc::clone(&hubs[hub]), place)).collect(), readers }
    }

    /// What comes after `at` in a stream; waits up to `wait` for the first entry.
    pub(super) async fn read(&self, number: usize, at: FeedPos, wait: Duration) -> Result<FeedBatch> {
        let (hub, place) = &self.places[number];
        hub.read(*place, at, wait).await
    }
}

/// The streams of one connection.
struct Hub {
    /// The way to all of them.
    link: Link,
    streams: Vec<Stream>,
    /// A stream was added to those that are read.
    changed: Notify,
}

impl Hub {
    async fn read(&self, number: usize, at: FeedPos, wait: Duration) -> Result<FeedBatch> {
        let stream = &self.streams[number];
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let grown = stream.grown.notified();
            tokio::pin!(grown);
            grown.as_mut().enable();
            let known = stream.ring.lock().after(at);
            match known {
                Some(entries) if !entries.is_empty() => return Ok(batch(entries, at)),
                Some(_) => {
                    if tokio::time::timeout_at(deadline, grown).await.is_err() {
                        return Ok(batch(Vec::new(), at));
                    }
                }
                None => match look_up(&self.link, &stream.key, at).await? {
                    FeedBatch::Entries { entries, .. } if entries.is_empty() => self.attach(stream, at),
                    found => return Ok(found),
                },
            }
        }
    }

    /// Reads the stream from `at`, which is its end as just seen, unless it is being read already.
    fn attach(&self, stream: &Stream, at: FeedPos) {
        let mut ring = stream.ring.lock();
        if !ring.live || at < ring.from {
            *ring = Ring { live: true, from: at, to: at, asked: Some(Instant::now()), ..Ring::default() };
            self.changed.notify_one();
        }
    }

    /// The streams to read and where to go on.
    fn live(&self) -> Vec<(usize, FeedPos)> {
        let mut list = Vec::new();
        for (number, stream) in self.streams.iter().enumerate() {
            let mut ring = stream.ring.lock();
            if ring.live && ring.asked.is_none_or(|asked| asked.elapsed() > IDLE) {
                *ring = Ring::default();
            }
            if ring.live {
                list.push((number, ring.to));
            }
        }
        list
    }

    /// Forgets everything: the connection was lost, and with it the certainty that no entry was missed.
    fn reset(&self) {
        for stream in &self.streams {
            *stream.ring.lock() = Ring::default();
            stream.grown.notify_waiters();
        }
    }

    /// Reads for ever.
    async fn run(self: Arc<Self>) {
        let mut pause = None;
        loop {
            if self.live().is_empty() {
                self.changed.notified().await;
                continue;
            }
            let start = Instant::now();
            let lost = self.connect_and_serve().await;
            if start.elapsed() > BLOCK {
                pause = None;
            }
            self.link.nodes().report();
            tracing::debug!(error = %lost, "the feeds cannot be read");
            self.reset();
            let wait = next_pause(pause);
            pause = Some(wait);
            tokio::time::sleep(wait).await;
        }
    }

    async fn connect_and_serve(&self) -> Error {
        let nodes = self.link.nodes();
        let endpoint = match nodes.place(self.link.slot()) {
            Ok(endpoint) => endpoint,
            Err(error) => return error,
        };
        let dialed = match nodes.dialer().dial(&endpoint, None).await {
            Ok(dialed) => dialed,
            Err(error) => return translate(Kind::Read, &error),
        };
        // A place that was looked up before this connection was there may be of a server that has lost its data since: only
        // from now on would the loss end the connection.
        self.reset();
        let served = tokio::select! {
            result = self.serve(dialed) => result,
            // Nobody writes there any more, and nothing else may tell: the server may be halted.
            () = nodes.moved_from(self.link.slot(), &endpoint) => Err(Error::Unavailable(format!("{endpoint} was replaced"))),
        };
        served.err().unwrap_or_else(|| Error::Unavailable("the feeds are not read any more".into()))
    }

    async fn serve(&self, (mut connection, mut ended): Dialed) -> Result<()> {
        let gone = || Error::Unavailable("the connection of the feeds was lost".into());
        let mut client_id = redis::cmd("CLIENT");
        let answer = tokio::time::timeout(GRACE, connection.send_packed_command(client_id.arg("ID"))).await;
        // Without the right to ask, a blocking read cannot be ended: it is kept short instead.
        let id = answer.map_err(|_| gone())?.ok().and_then(|id| value::number(id).ok()).filter(|id| *id > 0);
        let mut may_kick = id.is_some();
        loop {
            let live = self.live();
            if live.is_empty() {
                tokio::select! {
                    () = self.changed.notified() => {}
                    _ = ended.recv() => return Err(gone()),
                }
                continue;
            }
            let block = if may_kick { BLOCK } else { SHORT_BLOCK };
            let mut cmd = redis::cmd("XREAD");
            cmd.arg("COUNT").arg(PAGE).arg("BLOCK").arg(block.as_millis() as u64).arg("STREAMS");
            for (number, _) in &live {
                cmd.arg(&self.streams[*number].key[..]);
            }
            for (_, at) in &live {
                cmd.arg(at.to_string());
            }
            let reader = &mut connection.clone();
            let answer = reader.send_packed_command(&cmd);
            tokio::pin!(answer);
            let limit = tokio::time::sleep(block + GRACE);
            tokio::pin!(limit);
            let mut kick = false;
            let answer = loop {
                tokio::select! {
                    biased;
                    answer = &mut answer => break answer,
                    _ = ended.recv() => return Err(gone()),
                    () = &mut limit => return Err(gone()),
                    () = self.changed.notified(), if may_kick && !kick => kick = true,
                    allowed = unblock(&self.link, id), if kick => {
                        may_kick = allowed;
                        kick = allowed;
                    }
                }
            };
            match answer {
                Ok(Value::ServerError(error)) if error.kind() == Some(ServerErrorKind::ResponseError) => {
                    return Err(Error::Corrupt(error.to_string()));
                }
                Ok(answer) => self.deliver(&live, answer)?,
                Err(error) => return Err(translate(Kind::Read, &error)),
            }
        }
    }

    fn deliver(&self, live: &[(usize, FeedPos)], answer: Value) -> Result<()> {
        if let Value::ServerError(error) = answer {
            return Err(Error::Unavailable(error.to_string()));
        }
        let streams = match answer {
            Value::Map(_) => value::pairs(answer)?,
            other => value::list(other)?
                .into_iter()
                .map(value::exactly::<2>)
                .map(|pair| pair.map(|[k, v]| (k, v)))
                .collect::<Result<_>>()?,
        };
        for (key, entries) in streams {
            let key = value::bytes(key)?.unwrap_or_default();
            let Some((number, asked)) = live.iter().find(|(number, _)| self.streams[*number].key == key) else { continue };
            let stream = &self.streams[*number];
            let entries = read_entries(entries)?;
            let mut ring = stream.ring.lock();
            // Somebody may have started the ring anew while the answer was on its way.
            if ring.live && ring.to == *asked {
                ring.push(entries);
            }
            drop(ring);
            stream.grown.notify_waiters();
        }
        Ok(())
    }
}

/// Ends the blocking read, which may not have reached Redis yet: the caller asks again until it has an answer.
async fn unblock(link: &Link, id: Option<u64>) -> bool {
    let mut cmd = redis::cmd("CLIENT");
    cmd.arg("UNBLOCK").arg(id.unwrap_or_default());
    let allowed = !link.send(Kind::Read, &cmd).await.is_err_and(|error| is_forbidden(&error));
    tokio::time::sleep(Duration::from_millis(1)).await;
    allowed
}
