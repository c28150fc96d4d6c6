//! Who owns a partition: `own.lua`, whose answer also sets the store's clock.

use std::time::Instant;

use lovage_core::{Millis, SessionId};

use super::clock::RedisClock;
use super::keys::PartitionKeys;
use super::link::{Kind, Link};
use super::script::OWN;
use super::value;
use crate::{Error, OwnReply, OwnRequest, OwnToken, Result, Want};

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
        Want::Release => "release",
        Want::Leave => "leave",
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
    let token = value::text(next())?;
    let mut lapsed = answer.map(|session| value::number(session).map(SessionId)).collect::<Result<Vec<_>>>()?;
    lapsed.sort_unstable();
    Ok(OwnReply { now: Millis(micros / 1_000), token: (!token.is_empty()).then_some(OwnToken(token)), lapsed })
}

/// Reads Redis's time into the clock.
pub(super) async fn set_clock(link: &Link, clock: &RedisClock) -> Result<()> {
    let sent = Instant::now();
    let [seconds, micros] = value::exactly(link.send(Kind::Read, &redis::cmd("TIME")).await?)?;
    clock.sample(sent, value::number(seconds)? * 1_000_000 + value::number(micros)?);
    Ok(())
}
