//! Who owns a partition: `own.lua`, whose answer also sets the store's clock.

use std::time::Instant;

use lovage_core::{Millis, SessionId};
use redis::Value;

use super::clock::RedisClock;
use super::keys::PartitionKeys;
use super::link::{Kind, Link};
use super::script::OWN;
use super::value;
use crate::{Error, Lease, OwnReply, OwnRequest, OwnToken, Ownership, Result, Stake, Want};

/// What housekeeping leaves of a feed.
#[derive(Clone, Copy, Debug)]
pub(super) struct FeedBounds {
    pub(super) keep_ms: u64,
    pub(super) keep_bytes: u64,
}

pub(super) async fn renew(
    link: &Link,
    clock: &RedisClock,
    names: &PartitionKeys,
    request: &OwnRequest,
    bounds: FeedBounds,
) -> Result<OwnReply> {
    let random = getrandom::u64().map_err(|error| Error::Unavailable(format!("no random numbers: {error}")))?;
    let keys = [names.own().to_vec(), names.until(), names.sessions(), names.feed().to_vec()];
    let want = match request.want {
        Want::Own => "own",
        Want::Stand => "stand",
        Want::Release => "release",
        Want::Leave => "leave",
        Want::Fence => "fence",
    };
    let mut cmd = OWN.call(keys.iter());
    cmd.arg(request.session.0).arg(want).arg(request.lease.as_millis() as u64).arg(format!("{random:016x}"));
    cmd.arg(bounds.keep_ms).arg(bounds.keep_bytes);
    for session in &request.drop {
        cmd.arg(session.0);
    }
    let sent = Instant::now();
    let answer = link.run(Kind::Write, &OWN, cmd, None).await?.pop().unwrap_or_default();
    let mut answer = value::list(answer)?.into_iter();
    let mut next = || answer.next().unwrap_or_default();
    let micros = value::number(next())? * 1_000_000 + value::number(next())?;
    clock.sample(sent, micros);
    if value::number(next())? == 1 {
        return Err(Error::Fenced);
    }
    let (own, until, sessions) = (value::text(next())?, value::number(next())?, next());
    let seen = ownership(Millis(micros / 1_000), &own, Millis(until), sessions)?;
    // Whose lease is over may claim until somebody else takes the partition.
    let mine = holder(&own) == Some(request.session);
    Ok(seen.reply(mine.then_some(OwnToken(own))))
}

/// Who owns a partition and which sessions there are in it.
pub(super) async fn seen(link: &Link, names: &PartitionKeys, now: Millis) -> Result<Ownership> {
    let command = |name: &str, key: &[u8]| {
        let mut cmd = redis::cmd(name);
        cmd.arg(key);
        cmd
    };
    let own = value::text(link.send(Kind::Read, &command("GET", names.own())).await?)?;
    let until = value::number(link.send(Kind::Read, &command("GET", &names.until())).await?)?;
    let sessions = link.send(Kind::Read, &command("HGETALL", &names.sessions())).await?;
    ownership(now, &own, Millis(until), sessions)
}

fn holder(own: &str) -> Option<SessionId> {
    let session = own.split(':').nth(1)?.parse().ok().filter(|session| *session != 0)?;
    Some(SessionId(session))
}

fn ownership(now: Millis, own: &str, until: Millis, sessions: Value) -> Result<Ownership> {
    let mut leases = Vec::new();
    for (session, lease) in value::pairs(sessions)? {
        let lease = value::text(lease)?;
        let time = lease.trim_end_matches(char::is_alphabetic);
        let stake = match &lease[time.len()..] {
            "" => Stake::Presence,
            "c" => Stake::Candidate,
            "f" => Stake::Fenced,
            "b" => Stake::Buried,
            _ => return Err(unreadable()),
        };
        let until = time.parse().map(Millis).map_err(|_| unreadable())?;
        leases.push(Lease { session: value::number(session).map(SessionId)?, until, stake });
    }
    leases.sort_unstable_by_key(|lease| lease.session);
    let owner = holder(own).filter(|_| until > now).map(|session| (session, until));
    Ok(Ownership { now, owner, sessions: leases })
}

fn unreadable() -> Error {
    Error::Corrupt("the lease of a session cannot be read".into())
}

/// Reads Redis's time into the clock.
pub(super) async fn set_clock(link: &Link, clock: &RedisClock) -> Result<()> {
    let sent = Instant::now();
    let [seconds, micros] = value::exactly(link.send(Kind::Read, &redis::cmd("TIME")).await?)?;
    clock.sample(sent, value::number(seconds)? * 1_000_000 + value::number(micros)?);
    Ok(())
}
