//! Limits: a call of `limit.lua` for each request, all of them that a server has in one go.

use std::time::Duration;

use lovage_core::gcra::Lot;
use lovage_core::{LimitRule, Millis, SessionId};
use redis::{Cmd, Pipeline, Value};

use super::MAX_BATCH;
use super::address::Endpoint;
use super::keys::LimitKeys;
use super::link::{Kind, Link};
use super::script::LIMIT;
use super::slot::slot_of;
use super::value;
use crate::limit::allowed_burst;
use crate::{Error, LimitReply, LimitRequest, Result};

/// The requests that one server answers.
struct Group {
    link: Link,
    places: Vec<usize>,
    calls: Pipeline,
}

/// Carries out requests. What a server that cannot be reached should have judged fails alone.
pub(super) async fn judge(link: &Link, keys: &LimitKeys, requests: &[LimitRequest]) -> Result<Vec<Result<LimitReply>>> {
    let mut replies = Vec::with_capacity(requests.len());
    for some in requests.chunks(MAX_BATCH) {
        replies.extend(judge_some(link, keys, some).await?);
    }
    Ok(replies)
}

async fn judge_some(link: &Link, keys: &LimitKeys, requests: &[LimitRequest]) -> Result<Vec<Result<LimitReply>>> {
    let mut groups: Vec<(Endpoint, Group)> = Vec::new();
    let mut replies: Vec<_> = requests.iter().map(|_| Err(Error::Unavailable(String::new()))).collect();
    for (place, request) in requests.iter().enumerate() {
        let key = keys.state(request.ns, &request.key);
        let slot = slot_of(&key);
        let endpoint = match link.nodes().place(slot) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                replies[place] = Err(error);
                continue;
            }
        };
        let group = groups.iter().position(|(known, _)| *known == endpoint).unwrap_or_else(|| {
            groups.push((endpoint, Group { link: link.to(slot), places: Vec::new(), calls: Pipeline::new() }));
            groups.len() - 1
        });
        let group = &mut groups[group].1;
        group.places.push(place);
        group.calls.add_command(call(&key, request)?);
    }
    // Not as a write: no replica has to confirm it, and whoever asked tells all that it holds the next time.
    let answers = groups.into_iter().map(|(_, group)| async move {
        let answers = group.link.run_each(Kind::Read, &LIMIT, group.calls).await;
        (group.places, answers)
    });
    for (places, answers) in futures_util::future::join_all(answers).await {
        match answers {
            Ok(answers) => {
                for (place, answer) in places.into_iter().zip(answers) {
                    replies[place] = answer.and_then(|answer| read(answer, &requests[place].rule));
                }
            }
            Err(error) => {
                for place in places {
                    replies[place] = Err(error.again());
                }
            }
        }
    }
    // A fault that all of them met is one of the call.
    if replies.iter().any(Result::is_ok) {
        return Ok(replies);
    }
    replies.into_iter().find_map(Result::err).map_or(Ok(Vec::new()), Err)
}

fn burst(rule: &LimitRule) -> u32 {
    rule.rate.map_or(1, |rate| allowed_burst(rate, rule.burst()))
}

/// A lease, so bounded that its end is a time for Redis.
fn millis(lease: Duration) -> u64 {
    lease.as_millis().min(Millis::MAX.0.into()) as u64
}

fn call(key: &[u8], request: &LimitRequest) -> Result<Cmd> {
    const NONE: &str = "";
    let rule = &request.rule;
    let mut cmd = LIMIT.call([key].into_iter());
    cmd.arg(u8::from(request.only_looks()));
    match rule.concurrency {
        Some(most) => cmd.arg(most),
        None => cmd.arg(NONE),
    };
    match rule.rate {
        Some(rate) => cmd.arg(rate.per().secs() * 1_000_000).arg(rate.count()),
        None => cmd.arg(NONE).arg(NONE),
    };
    cmd.arg(burst(rule));
    match &request.submitted {
        Some((at, rule)) => {
            let rule = rmp_serde::to_vec_named(rule).map_err(|error| Error::Invalid(format!("a rule: {error}")))?;
            cmd.arg(at.0).arg(rule)
        }
        None => cmd.arg(NONE).arg(NONE),
    };
    match request.unused {
        Some((count, tat)) => cmd.arg(count).arg(tat),
        None => cmd.arg(NONE).arg(NONE),
    };
    match &request.slots {
        Some(wish) => {
            cmd.arg(wish.most).arg(wish.holder.to_string()).arg(millis(wish.lease));
            match wish.wait {
                Some(session) => cmd.arg(session.0),
                None => cmd.arg(NONE),
            }
        }
        None => cmd.arg(NONE).arg(NONE).arg(NONE).arg(NONE),
    };
    match &request.tokens {
        Some(wish) => cmd.arg(wish.least).arg(wish.most).arg(wish.ahead.as_micros() as u64),
        None => cmd.arg(NONE).arg(NONE).arg(NONE),
    };
    for hold in &request.holds {
        cmd.arg(hold.holder.to_string()).arg(hold.count).arg(millis(hold.lease));
    }
    Ok(cmd)
}

fn read(answer: Value, rule: &LimitRule) -> Result<LimitReply> {
    let [now, slots, count, base, tat, again, in_use, waiting, wake, submitted] = value::exactly(answer)?;
    let (count, base) = (value::number(count)? as u32, value::number(base)?);
    let lot = rule.rate.filter(|_| count > 0).map(|rate| Lot { count, base, rate, burst: burst(rule) });
    let again = if again == Value::Nil { None } else { Some(value::number(again)?) };
    Ok(LimitReply {
        now: value::number(now)?,
        slots: value::number(slots)? as u32,
        lot,
        tat: value::number(tat)?,
        retry_at: again,
        in_use: value::number(in_use)? as u32,
        waiting: value::number(waiting)? as u32,
        wake: value::list(wake)?.into_iter().map(|session| value::number(session).map(SessionId)).collect::<Result<_>>()?,
        submitted: value::bytes(submitted)?.map(|told| read_submitted(&told)).transpose()?,
    })
}

/// Reads `time:rule`.
fn read_submitted(told: &[u8]) -> Result<(Millis, LimitRule)> {
    let parts = told.iter().position(|byte| *byte == b':').and_then(|colon| {
        let at = std::str::from_utf8(&told[..colon]).ok()?.parse().ok()?;
        Some((Millis(at), rmp_serde::from_slice(&told[colon + 1..]).ok()?))
    });
    parts.ok_or_else(|| Error::Corrupt("a stored limit cannot be read".into()))
}
