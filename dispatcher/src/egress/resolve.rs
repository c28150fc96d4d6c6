//! Names to addresses, without flooding the resolver.
//!
//! The system's resolver blocks one thread per lookup, so lookups are bounded in number, one lookup serves all
//! that ask for the same name at the same time, and answers are kept for a few seconds. Nothing is judged here:
//! a cached answer is judged anew at every attempt, by whoever dials.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use futures_util::future::{BoxFuture, FutureExt, Shared};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Looks up a host name. Tests bring a scripted one.
pub trait Resolve: Send + Sync {
    /// All addresses of `host`, in the order of preference.
    fn lookup(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The operating system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn lookup(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let host = host.to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(found.map(|socket| socket.ip()).collect())
        })
    }
}

/// Addresses of one name; nearly always few.
pub(crate) type Addresses = Arc<SmallVec<[IpAddr; 4]>>;
/// `Err` holds the resolver's words, for the log.
pub(crate) type Answer = Result<Addresses, Arc<str>>;

type Lookup = Shared<BoxFuture<'static, Answer>>;

enum Entry {
    Kept { answer: Answer, until: Instant },
    Running(Lookup),
}

/// How long answers are kept and how many lookups may run.
#[derive(Debug, Clone)]
pub(crate) struct ResolveLimits {
    pub(crate) keep: Duration,
    pub(crate) keep_failure: Duration,
    pub(crate) concurrent: usize,
    pub(crate) names: usize,
}

/// The cache in front of a [`Resolve`].
pub(crate) struct Names {
    shared: Arc<SharedNames>,
}

struct SharedNames {
    resolver: Arc<dyn Resolve>,
    limits: ResolveLimits,
    running: Semaphore,
    entries: Mutex<AHashMap<Box<str>, Entry>>,
}

impl Names {
    pub(crate) fn new(resolver: Arc<dyn Resolve>, limits: ResolveLimits) -> Self {
        let running = Semaphore::new(limits.concurrent.max(1));
        Self { shared: Arc::new(SharedNames { resolver, limits, running, entries: Mutex::default() }) }
    }

    /// The kept answer, if it is still fresh. The fast path: one lock, no future.
    pub(crate) fn kept(&self, host: &str) -> Option<Answer> {
        match self.shared.entries.lock().get(host) {
            Some(Entry::Kept { answer, until }) if *until > Instant::now() => Some(answer.clone()),
            _ => None,
        }
    }

    /// The answer for `host`, from the cache, from a running lookup, or from a new one.
    ///
    /// The lookup runs in a task of its own: a caller that gives up neither stops it for the others nor frees its
    /// place while the thread behind it is still blocked.
    pub(crate) async fn resolve(&self, host: &str) -> Answer {
        let lookup = {
            let mut entries = self.shared.entries.lock();
            match entries.get(host) {
                Some(Entry::Kept { answer, until }) if *until > Instant::now() => return answer.clone(),
                // A lookup that ended without leaving an answer was cut short: start over.
                Some(Entry::Running(lookup)) if lookup.peek().is_none() => lookup.clone(),
                _ => {
                    let lookup = Arc::clone(&self.shared).start(host);
                    self.shared.make_room(&mut entries);
                    entries.insert(host.into(), Entry::Running(lookup.clone()));
                    lookup
                }
            }
        };
        lookup.await
    }
}

impl SharedNames {
    fn start(self: Arc<Self>, host: &str) -> Lookup {
        let host: Box<str> = host.into();
        let names = self;
        let task = tokio::spawn(async move {
            let answer = names.ask(&host).await;
            let keep = if answer.is_ok() { names.limits.keep } else { names.limits.keep_failure };
            let until = Instant::now() + keep;
            names.entries.lock().insert(host, Entry::Kept { answer: answer.clone(), until });
            answer
        });
        async move { task.await.unwrap_or_else(|_| Err(Arc::from("the lookup was cut short"))) }.boxed().shared()
    }

    async fn ask(&self, host: &str) -> Answer {
        let Ok(_place) = self.running.acquire().await else {
            return Err(Arc::from("the resolver is closed"));
        };
        let found = self.resolver.lookup(host).await.map_err(|error| Arc::from(error.to_string()))?;
        // One family's address in the other's clothes would be judged, dialled and compared as something else.
        let mut addresses = SmallVec::<[IpAddr; 4]>::new();
        for address in found.into_iter().map(|address| address.to_canonical()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() { Err(Arc::from("the name has no address")) } else { Ok(Arc::new(addresses)) }
    }

    /// Keeps the table bounded: stale answers go first, then all answers. Running lookups stay.
    fn make_room(&self, entries: &mut AHashMap<Box<str>, Entry>) {
        if entries.len() < self.limits.names {
            return;
        }
        let now = Instant::now();
        entries.retain(|_, entry| !matches!(entry, Entry::Kept { until, .. } if *until <= now));
        if entries.len() >= self.limits.names {
            entries.retain(|_, entry| matches!(entry, Entry::Running(_)));
        }
    }
}
