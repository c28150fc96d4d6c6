//! Notes that sessions leave each other: a short list for each, which is gone when nobody reads it.
//!
//! Whoever waits for notes blocks a connection, so each reader has one of its own, kept for its next call.

use std::time::Duration;

use lovage_core::Ns;
use parking_lot::Mutex;
use redis::Value;

use super::address::Endpoint;
use super::dial::Dialed;
use super::link::{Kind, Link, translate};
use super::slot::slot_of;
use super::value;
use crate::local::MAX_NOTES;
use crate::{Error, LimitKey, Result};

/// For so long notes are kept that nobody reads.
const KEPT: Duration = Duration::from_secs(10);
/// An answer that is later than the end of the wait by this much does not come any more.
const GRACE: Duration = Duration::from_secs(3);
/// Connections that are kept between calls.
const IDLE: usize = 2;

/// Leaves notes for the session of this list.
pub(super) async fn leave(link: &Link, list: &[u8], keys: &[LimitKey]) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut pipe = redis::pipe();
    let push = pipe.cmd("RPUSH").arg(list);
    for (ns, key) in keys {
        push.arg([&ns.0.to_be_bytes()[..], key.as_bytes()].concat());
    }
    pipe.cmd("LTRIM").arg(list).arg(0).arg(MAX_NOTES - 1);
    pipe.cmd("PEXPIRE").arg(list).arg(KEPT.as_millis() as u64);
    // Not as a write: no replica has to confirm it.
    link.to(slot_of(list)).send_all(Kind::Read, &pipe).await.map(drop)
}

/// Connections of those who wait for notes.
#[derive(Default)]
pub(super) struct Ears {
    idle: Mutex<Vec<(Endpoint, Dialed)>>,
}

impl Ears {
    /// The notes of this list; waits up to `wait` for the first. A call that is dropped ends its connection.
    pub(super) async fn listen(&self, link: &Link, list: &[u8], wait: Duration) -> Result<Vec<LimitKey>> {
        let slot = slot_of(list);
        let nodes = link.nodes();
        let endpoint = nodes.place(slot)?;
        let known = {
            let mut idle = self.idle.lock();
            let place = idle.iter().position(|(at, _)| *at == endpoint);
            place.map(|place| idle.swap_remove(place).1)
        };
        let (mut connection, mut ended) = match known {
            Some(dialed) => dialed,
            None => nodes.dialer().dial(&endpoint, None).await.map_err(|error| {
                nodes.report();
                translate(Kind::Read, &error)
            })?,
        };
        let mut cmd = redis::cmd("BLMPOP");
        // 0 would be for ever.
        cmd.arg(wait.as_secs_f64().max(0.001)).arg(1).arg(list).arg("LEFT").arg("COUNT").arg(MAX_NOTES);
        let gone = || Error::Unavailable(format!("the connection for notes to redis at {endpoint} was lost"));
        let answer = tokio::select! {
            biased;
            answer = connection.send_packed_command(&cmd) => answer.and_then(value::no_error).map_err(|e| translate(Kind::Read, &e)),
            _ = ended.recv() => Err(gone()),
            () = tokio::time::sleep(wait + GRACE) => Err(gone()),
            // Nobody writes there any more, and nothing else may tell: the server may be halted.
            () = nodes.moved_from(slot, &endpoint) => Err(gone()),
        };
        let answer = answer.inspect_err(|_| nodes.report())?;
        let mut idle = self.idle.lock();
        if idle.len() < IDLE {
            idle.push((endpoint, (connection, ended)));
        }
        drop(idle);
        read(answer)
    }
}

/// Reads `[list, [note, …]]`.
fn read(answer: Value) -> Result<Vec<LimitKey>> {
    if answer == Value::Nil {
        return Ok(Vec::new());
    }
    let [_, notes] = value::exactly(answer)?;
    let mut keys = Vec::new();
    for note in value::list(notes)? {
        let note = value::bytes(note)?.unwrap_or_default();
        let parts = note.split_first_chunk::<4>().and_then(|(ns, key)| Some((ns, std::str::from_utf8(key).ok()?)));
        let (ns, key) = parts.ok_or_else(|| Error::Corrupt("a note cannot be read".into()))?;
        let key = (Ns(u32::from_be_bytes(*ns)), key.to_owned());
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    Ok(keys)
}
