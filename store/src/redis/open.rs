//! What is checked and learnt when a store is opened: its format, its partitions, and what Redis promises.

use redis::Value;

use super::keys::DocKeys;
use super::link::{Kind, Link, is_forbidden};
use super::value;
use crate::{Error, Result};

/// The newest layout that this version knows; `docs/decisions/003-redis-layout.md` describes it.
pub(super) const FORMAT: u32 = 1;

/// Writes down format and partitions if the store is new; answers the partitions it has.
pub(super) async fn meta(link: &Link, keys: &DocKeys, partitions: u16) -> Result<u16> {
    let meta = keys.meta();
    let mut pipe = redis::pipe();
    pipe.cmd("HSETNX").arg(&meta).arg("format").arg(FORMAT);
    pipe.cmd("HSETNX").arg(&meta).arg("partitions").arg(partitions);
    pipe.cmd("HMGET").arg(&meta).arg("format").arg("partitions");
    let facts = link.send_all(Kind::Write, &pipe).await?.pop().unwrap_or_default();
    let [format, partitions] = value::exactly(facts)?;
    let found = value::number(format)? as u32;
    if found > FORMAT {
        return Err(Error::Format { found, known: FORMAT });
    }
    match u16::try_from(value::number(partitions)?) {
        Ok(partitions @ 1..) => Ok(partitions),
        _ => Err(Error::Corrupt("the number of partitions in the store makes no sense".into())),
    }
}

/// Refuses a server that forgets keys by itself, and says in one sentence what a 2xx answer means.
pub(super) async fn server(link: &Link) -> Result<String> {
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
    Ok(match (file, sync.as_deref()) {
        (Some(true), Some("always")) => "Redis has synced the change to its append-only file (appendfsync always).",
        (Some(true), Some("everysec")) => {
            "Redis has the change and syncs its append-only file every second: a power cut may lose the last one or two seconds."
        }
        (Some(true), Some(_)) => {
            "Redis has the change and leaves syncing to the kernel (appendfsync no): a power cut may lose half a minute."
        }
        (Some(true), None) => "Redis has the change and keeps an append-only file; how often it is synced is not visible to us.",
        (Some(false), _) => "Redis has the change in memory only: a crash of Redis loses what is not in its last snapshot.",
        (None, _) => "Redis has the change; its persistence settings are not visible to us.",
    }
    .into())
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
