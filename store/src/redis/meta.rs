//! The facts about a store, and the look whether they still hold.
//!
//! Redis may come back empty, or as another one, under a process that runs: after a restart without persistence, a `FLUSHALL`,
//! a backup that was put back. What is gone is written again and told loudly; a store that is another one is not used, since
//! all that this process knows is about the first. The look costs one read every [`EVERY`], and calls only the look at a flag.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lovage_core::Millis;
use tokio::task::JoinHandle;

use super::clock::RedisClock;
use super::keys::DocKeys;
use super::link::{Kind, Link};
use super::script::META;
use super::value;
use crate::{Error, Result, StoreClock};

/// The newest layout that this version knows; `docs/decisions/003-redis-layout.md` describes it.
pub(super) const FORMAT: u32 = 1;
/// How often the facts are looked at; and when there is a new connection.
const EVERY: Duration = Duration::from_secs(2);

/// What does not change as long as a store is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) partitions: u16,
    /// A random number.
    pub(super) id: u64,
}

/// A random number that is not 0, and small enough for Lua and JSON to keep it exactly.
pub(super) fn random() -> Result<u64> {
    let random = getrandom::u64().map_err(|error| Error::Unavailable(format!("no random numbers: {error}")))?;
    Ok((random >> 12).max(1))
}

/// Reads the facts, and writes down what is missing.
pub(super) async fn open(link: &Link, keys: &DocKeys, partitions: u16) -> Result<Facts> {
    if let Found::Whole(facts) = read(link, keys).await? {
        return Ok(facts);
    }
    write(link, keys, Facts { partitions, id: random()? }, Millis(0)).await?;
    match read(link, keys).await? {
        Found::Whole(facts) => Ok(facts),
        Found::Part | Found::Nothing => Err(Error::Unavailable("redis has lost what was just written".into())),
    }
}

enum Found {
    Whole(Facts),
    /// An older version made the store.
    Part,
    Nothing,
}

async fn read(link: &Link, keys: &DocKeys) -> Result<Found> {
    let mut cmd = redis::cmd("HMGET");
    cmd.arg(keys.meta()).arg("format").arg("partitions").arg("id");
    let [format, partitions, id] = value::exactly(link.send(Kind::Read, &cmd).await?)?;
    let (format, id) = (value::number(format)? as u32, value::number(id)?);
    if format > FORMAT {
        return Err(Error::Format { found: format, known: FORMAT });
    }
    match (format, u16::try_from(value::number(partitions)?)) {
        (0, _) => Ok(Found::Nothing),
        (_, Ok(1..)) if id == 0 => Ok(Found::Part),
        (_, Ok(partitions @ 1..)) => Ok(Found::Whole(Facts { partitions, id })),
        _ => Err(Error::Corrupt("the number of partitions in the store makes no sense".into())),
    }
}

/// Writes what is missing. `now`, unless 0, makes readers of documents look again.
async fn write(link: &Link, keys: &DocKeys, facts: Facts, now: Millis) -> Result<()> {
    let names = [keys.meta(), keys.changes(), keys.feed()];
    let mut cmd = META.call(names.iter());
    cmd.arg(FORMAT).arg(facts.partitions).arg(facts.id).arg(now.0);
    link.run(Kind::Write, &META, cmd, None).await.map(drop)
}

/// Looks at the facts until it is dropped.
pub(super) struct Watch {
    wrong: Arc<OnceLock<String>>,
    looking: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

impl Watch {
    pub(super) fn start(link: Link, keys: DocKeys, facts: Facts, clock: Arc<RedisClock>) -> Self {
        let wrong = Arc::new(OnceLock::new());
        let looking = tokio::spawn(look(link, keys, facts, clock, Arc::clone(&wrong)));
        Self { wrong, looking }
    }

    /// Fails if this is not the store any more that was opened.
    pub(super) fn check(&self) -> Result<()> {
        self.wrong.get().map_or(Ok(()), |why| Err(Error::Unavailable(why.clone())))
    }
}

async fn look(link: Link, keys: DocKeys, facts: Facts, clock: Arc<RedisClock>, wrong: Arc<OnceLock<String>>) {
    let mut told = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = link.nodes().connected() => {}
        }
        let why = match read(&link, &keys).await {
            Ok(Found::Whole(found)) if found == facts => {
                told = false;
                continue;
            }
            Ok(Found::Whole(found)) => {
                format!("redis has another store now ({} partitions, id {}) than this process opened", found.partitions, found.id)
            }
            Ok(lost) => {
                if matches!(lost, Found::Nothing) && !std::mem::replace(&mut told, true) {
                    tracing::error!(
                        "redis has lost the data of the store: it was emptied, or restarted without persistence; tasks that were \
                         stored are gone, and work goes on with an empty store"
                    );
                }
                // What fails is tried again at the next look.
                if let Err(error) = write(&link, &keys, facts, clock.now()).await {
                    error.log("write the facts about the store again");
                }
                continue;
            }
            Err(error) if error.is_transient() => continue,
            Err(error) => format!("the store in redis cannot be used any more ({error})"),
        };
        tracing::error!("{why}; restart this process");
        let _ = wrong.set(format!("{why}; restart the process"));
        return;
    }
}
