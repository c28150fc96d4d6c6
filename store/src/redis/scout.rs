//! Finds out who the masters are: asks nodes of a cluster, or sentinels, and publishes what they say.
//!
//! Several are asked at a time, over connections of the scout's own, and the highest epoch is believed: a master that
//! was halted or cut off, and a sentinel that has not heard yet, do not know better. If most are silent, what is known
//! already counts too, so that a lone straggler cannot turn the time back. Asked now and then, every second while
//! something is wrong, and at once when a call meets a fault.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, Value};

use super::address::{Endpoint, Scheme};
use super::dial::Dialer;
use super::nodes::Shared;
use super::value;
use super::view::View;
use crate::{Error, Result};

/// How often somebody is asked while all is well, and while not.
const CALM: Duration = Duration::from_secs(5);
const WRONG: Duration = Duration::from_secs(1);
/// How long after the last fault all is well again.
const HEALED: Duration = Duration::from_secs(15);
/// Faults in between make no more haste than this.
const GAP: Duration = Duration::from_millis(100);
/// Who has not answered by then is silent.
const ANSWER_LIMIT: Duration = Duration::from_millis(700);
/// The most that are asked at a time.
const ASKED: usize = 8;

/// Asks, over connections that it keeps.
pub(super) struct Scout {
    scheme: Scheme,
    seeds: Vec<Endpoint>,
    dialer: Dialer,
    connections: HashMap<Endpoint, MultiplexedConnection>,
    rounds: usize,
}

impl Scout {
    pub(super) fn new(scheme: Scheme, seeds: Vec<Endpoint>, dialer: Dialer) -> Self {
        Self { scheme, seeds, dialer, connections: HashMap::new(), rounds: 0 }
    }

    /// Asks for ever.
    pub(super) async fn run(mut self, nodes: Arc<Shared>) {
        let mut fault: Option<Instant> = None;
        loop {
            let wrong = fault.is_some_and(|fault| fault.elapsed() < HEALED);
            let wait = if wrong { WRONG } else { CALM };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = nodes.trouble.notified() => {
                    fault = Some(Instant::now());
                    tokio::time::sleep(GAP).await;
                }
            }
            match self.look(&nodes.view()).await {
                Ok((view, silent)) => {
                    if silent {
                        fault = Some(Instant::now());
                    }
                    nodes.publish(view);
                }
                Err(error) => {
                    fault = Some(Instant::now());
                    tracing::debug!(%error, "nobody tells who the masters are");
                }
            }
        }
    }

    /// Asks once; also says whether somebody was silent.
    pub(super) async fn look(&mut self, known: &View) -> Result<(View, bool)> {
        let everybody = match &self.scheme {
            Scheme::Sentinel(_) => BTreeSet::new(),
            _ => known.everybody(),
        };
        let mut asked: Vec<Endpoint> =
            everybody.into_iter().chain(self.seeds.iter().cloned()).collect::<BTreeSet<_>>().into_iter().collect();
        // Of many, others each time.
        let turn = self.rounds * ASKED % asked.len().max(1);
        asked.rotate_left(turn);
        asked.truncate(ASKED);
        self.rounds += 1;
        let questions = asked.iter().map(|endpoint| {
            let connection = self.connections.remove(endpoint);
            let question = ask(&self.dialer, &self.scheme, endpoint, connection);
            async move { tokio::time::timeout(ANSWER_LIMIT, question).await }
        });
        let mut views = Vec::new();
        let mut error = None;
        for (endpoint, answer) in asked.iter().zip(join_all(questions).await) {
            match answer {
                Ok(Ok((connection, view))) => {
                    self.connections.insert(endpoint.clone(), connection);
                    views.push(view);
                }
                Ok(Err(why)) => error = Some(format!("{endpoint}: {why}")),
                Err(_) => error = Some(format!("{endpoint} does not answer")),
            }
        }
        let silent = views.len() < asked.len();
        if views.is_empty() {
            return Err(Error::Unavailable(error.unwrap_or_default()));
        }
        if views.len() * 2 <= asked.len() {
            views.push(known.clone());
        }
        Ok((View::merge(&views), silent))
    }
}

async fn ask(
    dialer: &Dialer,
    scheme: &Scheme,
    endpoint: &Endpoint,
    connection: Option<MultiplexedConnection>,
) -> Result<(MultiplexedConnection, View), String> {
    let told = |error: RedisError| error.to_string();
    let mut connection = match (connection, scheme) {
        (Some(connection), _) => connection,
        (None, Scheme::Sentinel(_)) => match dialer.for_sentinels(false).dial(endpoint, Some(ANSWER_LIMIT)).await {
            Ok((connection, _)) => connection,
            Err(error) if error.is_io_error() => return Err(error.to_string()),
            // Sentinels may have passwords too; the same one is tried then.
            Err(_) => dialer.for_sentinels(true).dial(endpoint, Some(ANSWER_LIMIT)).await.map_err(told)?.0,
        },
        (None, _) => dialer.dial(endpoint, Some(ANSWER_LIMIT)).await.map_err(told)?.0,
    };
    let mut pipe = Pipeline::new();
    match scheme {
        Scheme::Sentinel(name) => drop(pipe.cmd("SENTINEL").arg("MASTER").arg(name)),
        _ => drop(pipe.cmd("CLUSTER").arg("SLOTS").cmd("CLUSTER").arg("NODES")),
    }
    let mut answers = connection.send_packed_commands(&pipe, 0, pipe.len()).await.map_err(told)?.into_iter();
    let first = value::no_error(answers.next().unwrap_or_default()).map_err(told)?;
    let view = match scheme {
        Scheme::Sentinel(_) => read_master(endpoint, first),
        _ => View::read(endpoint, first, answers.next().unwrap_or_default()),
    };
    Ok((connection, view.map_err(|error| error.to_string())?))
}

/// Reads a sentinel's facts about the master.
fn read_master(asked: &Endpoint, facts: Value) -> Result<View> {
    let (mut host, mut port, mut epoch) = (String::new(), 0, 0);
    for (name, fact) in value::pairs(facts)? {
        match value::text(name)?.as_str() {
            "ip" => host = value::text(fact)?,
            "port" => port = value::number(fact)? as u16,
            "config-epoch" => epoch = value::number(fact)?,
            _ => {}
        }
    }
    Ok(View::of_one(Endpoint::new(&host, port, asked), epoch))
}
