//! The way of a partition's commands to whoever serves it now.
//!
//! All keys of a partition share a slot, so a link is a slot. A server that does not serve the slot says who does and has
//! run nothing: the command goes there. What may have run is never sent again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, ErrorKind, Pipeline, RedisError, Value};

use super::address::Endpoint;
use super::node::PATIENCE;
use super::nodes::{Nodes, Peer};
use super::script::Lua;
use super::value;
use crate::{Error, Result};

/// How long a part of a slot that is on its way to another server is waited for before it is asked for again.
const MOVE_PAUSE: Duration = Duration::from_millis(20);

/// Whether a command changes anything: it decides what a lost answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
}

/// The way to the server of a slot.
#[derive(Clone)]
pub(super) struct Link {
    nodes: Arc<Nodes>,
    slot: u16,
}

/// Why a server has not run a command that can be run somehow else.
enum Refusal {
    Moved(String),
    Ask(String),
    TryAgain,
    NoScript,
}

impl Link {
    pub(super) fn new(nodes: Arc<Nodes>, slot: u16) -> Self {
        Self { nodes, slot }
    }

    pub(super) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    pub(super) fn slot(&self) -> u16 {
        self.slot
    }

    /// One command.
    pub(super) async fn send(&self, kind: Kind, cmd: &Cmd) -> Result<Value> {
        let mut pipe = Pipeline::with_capacity(1);
        pipe.add_command(cmd.clone());
        Ok(self.call(kind, pipe, None).await?.pop().unwrap_or_default())
    }

    /// Several commands in one go, not atomic. The first error is the answer.
    pub(super) async fn send_all(&self, kind: Kind, pipe: &Pipeline) -> Result<Vec<Value>> {
        self.call(kind, pipe.clone(), None).await
    }

    /// A script call, then `more` in the same go. A server that does not know the script is told it.
    pub(super) async fn run(&self, kind: Kind, script: &Lua, call: Cmd, more: Option<Cmd>) -> Result<Vec<Value>> {
        let mut pipe = Pipeline::with_capacity(2);
        pipe.add_command(call);
        if let Some(more) = more {
            pipe.add_command(more);
        }
        self.call(kind, pipe, Some(script)).await
    }

    /// The way to another slot.
    pub(super) fn to(&self, slot: u16) -> Self {
        Self { nodes: Arc::clone(&self.nodes), slot }
    }

    async fn call(&self, kind: Kind, pipe: Pipeline, script: Option<&Lua>) -> Result<Vec<Value>> {
        self.each(kind, pipe, script).await?.into_iter().collect()
    }

    /// Several calls of a script in one go, whose keys the same server has; they may be of several slots. An answer for each.
    pub(super) async fn run_each(&self, kind: Kind, script: &Lua, calls: Pipeline) -> Result<Vec<Result<Value>>> {
        self.each(kind, calls, Some(script)).await
    }

    async fn each(&self, kind: Kind, pipe: Pipeline, script: Option<&Lua>) -> Result<Vec<Result<Value>>> {
        let peer = self.nodes.owner(self.slot)?;
        let (mut answers, pipe) = exchange(&peer, kind, pipe).await?;
        if answers.iter().any(|answer| refusal(answer).is_some()) {
            self.repeat(kind, &pipe, script, peer, &mut answers).await?;
        }
        let ran = answers.iter().position(|answer| !matches!(answer, Value::ServerError(_)));
        let outcome = answers.into_iter().enumerate().map(|(place, answer)| {
            value::no_error(answer).map_err(|error| match translate(kind, &error) {
                // Something before it was carried out.
                Error::Unavailable(why) if kind == Kind::Write && ran.is_some_and(|ran| ran < place) => Error::Unknown(why),
                other => other,
            })
        });
        let outcome: Vec<_> = outcome.collect();
        if outcome.iter().any(|answer| matches!(answer, Err(Error::Unavailable(_)))) {
            self.nodes.report();
        }
        Ok(outcome)
    }

    /// Repeats what was refused where it is not, for a while.
    async fn repeat(
        &self,
        kind: Kind,
        pipe: &Pipeline,
        script: Option<&Lua>,
        mut peer: Arc<Peer>,
        answers: &mut [Value],
    ) -> Result<()> {
        let start = Instant::now();
        let mut asking = false;
        loop {
            let Some(why) = answers.iter().find_map(refusal) else { return Ok(()) };
            if start.elapsed() > PATIENCE {
                // Calls that name new keys find neither server ready until all keys are at the new one.
                let why = format!("slot {} is being moved between nodes of the redis cluster", self.slot);
                let ran = answers.iter().any(|answer| !matches!(answer, Value::ServerError(_)));
                return Err(if kind == Kind::Write && ran { Error::Unknown(why) } else { Error::Unavailable(why) });
            }
            let to = |address: &str| {
                let asked = &peer.node.endpoint;
                Endpoint::read(address, asked).ok_or_else(|| Error::Corrupt(format!("redis sends us to {address:?}")))
            };
            match (why, script) {
                (Refusal::Moved(address), _) => {
                    (peer, asking) = (self.nodes.follow(&to(&address)?), false);
                    self.nodes.report();
                }
                (Refusal::Ask(address), _) => (peer, asking) = (self.nodes.follow(&to(&address)?), true),
                (Refusal::TryAgain, _) => {
                    tokio::time::sleep(MOVE_PAUSE).await;
                    (peer, asking) = (self.nodes.owner(self.slot)?, false);
                }
                (Refusal::NoScript, Some(script)) => {
                    let mut load = Pipeline::with_capacity(1);
                    load.add_command(script.load());
                    // Nothing ran, so a failure here leaves nothing behind.
                    let loaded = peer.node.exchange(Kind::Read, &load).await?;
                    loaded
                        .into_iter()
                        .try_for_each(|answer| value::no_error(answer).map(drop))
                        .map_err(|e| translate(Kind::Read, &e))?;
                }
                (Refusal::NoScript, None) => return Ok(()),
            }
            let places: Vec<usize> = (0..answers.len()).filter(|place| refusal(&answers[*place]).is_some()).collect();
            let mut again = Pipeline::new();
            for (_, cmd) in pipe.cmd_iter().enumerate().filter(|(place, _)| places.contains(place)) {
                if asking {
                    again.cmd("ASKING");
                }
                again.add_command(cmd.clone());
            }
            let repeated = exchange(&peer, kind, again).await.map_err(|error| match error {
                Error::Unavailable(why) if kind == Kind::Write && places.len() < answers.len() => Error::Unknown(why),
                other => other,
            })?;
            let step = if asking { 2 } else { 1 };
            for (place, answer) in places.into_iter().zip(repeated.0.into_iter().skip(step - 1).step_by(step)) {
                answers[place] = answer;
            }
        }
    }
}

/// Sends the commands, and hands them back for what has to be repeated.
async fn exchange(peer: &Peer, kind: Kind, pipe: Pipeline) -> Result<(Vec<Value>, Pipeline)> {
    match (&peer.rounds, kind) {
        (Some(rounds), Kind::Write) => Ok((rounds.exchange(pipe.clone()).await?, pipe)),
        _ => Ok((peer.node.exchange(kind, &pipe).await?, pipe)),
    }
}

fn refusal(answer: &Value) -> Option<Refusal> {
    let Value::ServerError(error) = answer else { return None };
    let address = || error.details().and_then(|text| text.split_ascii_whitespace().nth(1)).map(str::to_owned);
    match error.code() {
        "MOVED" => address().map(Refusal::Moved),
        "ASK" => address().map(Refusal::Ask),
        "TRYAGAIN" => Some(Refusal::TryAgain),
        "NOSCRIPT" => Some(Refusal::NoScript),
        _ => None,
    }
}

/// How the text of an error begins if an access rule of the server is the cause.
const FORBIDDEN: &str = "redis does not permit this";

/// Whether an access rule of the server is the cause.
pub(super) fn is_forbidden(error: &Error) -> bool {
    matches!(error, Error::Unavailable(text) if text.starts_with(FORBIDDEN))
}

/// What a failure means to the caller of a verb.
pub(super) fn translate(kind: Kind, error: &RedisError) -> Error {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => match error.code() {
            Some("OOM") => Error::Full("redis has reached its maxmemory".into()),
            Some("FENCED") => Error::Fenced,
            Some("NOPERM") => Error::Unavailable(format!("{FORBIDDEN}: {text}")),
            // Everything else is refused before its first write: loading, read-only, no permission, disk errors …
            Some(
                "LOADING" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "MISCONF" | "BUSY" | "NOAUTH" | "NOREPLICAS"
                | "NOSCRIPT" | "MOVED" | "ASK",
            ) => Error::Unavailable(text),
            // Wrong types of keys and failures inside a script.
            _ => Error::Corrupt(text),
        },
        ErrorKind::Io if kind == Kind::Write => Error::Unknown(text),
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Error::Corrupt(text),
        _ => Error::Unavailable(text),
    }
}
