//! What is checked and learnt when a store is opened: whether the servers are fit, and what they promise.

use redis::Value;

use super::RedisWait;
use super::dial::read_hello;
use super::link::{Kind, Link, is_forbidden};
use super::nodes::Nodes;
use super::value;
use crate::{Error, Result};

/// The oldest Redis whose scripts know the flags that ours need.
const OLDEST: u32 = 7;

/// Refuses keys that something else uses: scripts would fail half-way.
pub(super) async fn types(link: &Link, keys: &[(Vec<u8>, &str)]) -> Result<()> {
    let mut pipe = redis::pipe();
    for (key, _) in keys {
        pipe.cmd("TYPE").arg(key);
    }
    for (found, (key, wanted)) in link.send_all(Kind::Read, &pipe).await?.into_iter().zip(keys) {
        let found = value::text(found)?;
        if found != *wanted && found != "none" {
            let key = String::from_utf8_lossy(key);
            return Err(Error::Corrupt(format!("the key {key} is a {found} and not a {wanted}; something else has written it")));
        }
    }
    Ok(())
}

/// When a change is on the disk of a master, from the surest to the least sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kept {
    Always,
    EverySecond,
    Kernel,
    Somehow,
    Unknown,
    Memory,
}

impl Kept {
    fn sentence(self) -> &'static str {
        match self {
            Self::Always => "Redis has synced the change to its append-only file (appendfsync always).",
            Self::EverySecond => {
                "Redis has the change and syncs its append-only file every second: a power cut may lose the last one or two seconds."
            }
            Self::Kernel => {
                "Redis has the change and leaves syncing to the kernel (appendfsync no): a power cut may lose half a minute."
            }
            Self::Somehow => "Redis has the change and keeps an append-only file; how often it is synced is not visible to us.",
            Self::Memory => "Redis has the change in memory only: a crash of Redis loses what is not in its last snapshot.",
            Self::Unknown => "Redis has the change; its persistence settings are not visible to us.",
        }
    }
}

/// What a master promises.
struct Facts {
    kept: Kept,
    /// Connected replicas; `None` where asking is forbidden.
    replicas: Option<u64>,
    /// `min-replicas-to-write`.
    required: u64,
}

/// Refuses servers that are too old or forget keys by themselves, and says what a 2xx answer means: with several masters what
/// the weakest one promises.
pub(super) async fn servers(nodes: &std::sync::Arc<Nodes>, wait: Option<RedisWait>) -> Result<String> {
    let masters = nodes.masters();
    let mut all = Vec::with_capacity(masters.len());
    for link in &masters {
        let place = nodes.place(link.slot())?;
        let facts = server(link).await.map_err(|error| match error {
            Error::Unavailable(why) if masters.len() > 1 => Error::Unavailable(format!("{place}: {why}")),
            other => other,
        })?;
        if let (Some(wait), Some(found)) = (wait, facts.replicas)
            && found < u64::from(wait.replicas)
        {
            return Err(Error::Unavailable(format!(
                "the redis master {place} has {found} replicas, and {} have to confirm every write",
                wait.replicas
            )));
        }
        all.push(facts);
    }
    let kept = all.iter().map(|facts| facts.kept).max().unwrap_or(Kept::Unknown);
    let mut text = vec![kept.sentence().to_owned()];
    if all.iter().any(|facts| facts.kept != kept) {
        text.push("(So the weakest of the masters; others promise more.)".into());
    }
    let replicated = all.iter().any(|facts| facts.replicas.is_some_and(|count| count > 0));
    let required = all.iter().map(|facts| facts.required).min().unwrap_or_default();
    match wait {
        Some(wait) => {
            let replicas = if wait.replicas == 1 { "one replica has".into() } else { format!("{} replicas have", wait.replicas) };
            text.push(format!("And {replicas} it too: it outlives the master unless they are lost with it."));
        }
        None if replicated => text.push("A failover may lose the last moments: replicas are not waited for.".into()),
        None => {}
    }
    match required {
        0 if replicated => text.push(
            "A master that is cut off takes changes until it notices, and they are lost: min-replicas-to-write is 0.".into(),
        ),
        0 => {}
        count => text.push(format!("A master takes no changes with fewer than {count} replicas (min-replicas-to-write).")),
    }
    Ok(text.join(" "))
}

async fn server(link: &Link) -> Result<Facts> {
    let hello = read_hello(link.send(Kind::Read, &redis::cmd("HELLO")).await?);
    if hello.version.split('.').next().and_then(|major| major.parse().ok()).is_some_and(|major: u32| major < OLDEST) {
        return Err(Error::Unavailable(format!("redis {} is too old; 7.0 or newer is needed", hello.version)));
    }
    let policy = match config(link, "maxmemory-policy").await? {
        Some(policy) => Some(policy),
        None => info(link, "memory", "maxmemory_policy").await?,
    };
    if let Some(policy) = policy.filter(|policy| policy != "noeviction") {
        return Err(Error::Unavailable(format!(
            "redis drops keys when memory is full (maxmemory-policy {policy}); set maxmemory-policy to noeviction"
        )));
    }
    let file = match config(link, "appendonly").await? {
        Some(file) => Some(file == "yes"),
        None => info(link, "persistence", "aof_enabled").await?.map(|file| file == "1"),
    };
    let sync = config(link, "appendfsync").await?;
    let kept = match (file, sync.as_deref()) {
        (Some(true), Some("always")) => Kept::Always,
        (Some(true), Some("everysec")) => Kept::EverySecond,
        (Some(true), Some(_)) => Kept::Kernel,
        (Some(true), None) => Kept::Somehow,
        (Some(false), _) => Kept::Memory,
        (None, _) => Kept::Unknown,
    };
    let replicas = info(link, "replication", "connected_slaves").await?.and_then(|count| count.parse().ok());
    let required = config(link, "min-replicas-to-write").await?.and_then(|count| count.parse().ok()).unwrap_or_default();
    Ok(Facts { kept, replicas, required })
}

/// A setting; `None` where asking is forbidden.
async fn config(link: &Link, name: &str) -> Result<Option<String>> {
    let mut cmd = redis::cmd("CONFIG");
    cmd.arg("GET").arg(name);
    match allowed(link.send(Kind::Read, &cmd).await)? {
        Some(answer) => Ok(value::pairs(answer)?.into_iter().next().map(|(_, setting)| value::text(setting)).transpose()?),
        None => Ok(None),
    }
}

/// A line of INFO; `None` where asking is forbidden.
async fn info(link: &Link, section: &str, name: &str) -> Result<Option<String>> {
    let mut cmd = redis::cmd("INFO");
    cmd.arg(section);
    let Some(answer) = allowed(link.send(Kind::Read, &cmd).await)? else { return Ok(None) };
    let text = match answer {
        Value::VerbatimString { text, .. } => text,
        other => value::text(other)?,
    };
    Ok(text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|found| found.trim().to_owned())))
}

fn allowed(answer: Result<Value>) -> Result<Option<Value>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        // NOPERM by access rules; an unknown command where the provider has renamed it.
        Err(error) if is_forbidden(&error) || matches!(error, Error::Corrupt(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
