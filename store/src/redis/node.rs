//! The connection to one server: multiplexed, and it finds its way back by itself.
//!
//! A supervisor task connects, hears of the end of the connection, and connects again with growing pauses of at most
//! [`MAX_PAUSE`]. Calls in between fail at once, so nobody queues behind a dead server. A server that turns out to be a
//! replica is not used: what it answers may be old. A write that was handed to a connection and has no answer is
//! [`Error::Unknown`] and is never sent again; what never reached one is [`Error::Unavailable`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, PushInfo, PushKind, Value};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use super::address::Endpoint;
use super::dial::{Dialer, hello};
use super::link::{Kind, translate};
use crate::{Error, Result};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between two attempts to connect.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// How long a call waits for a connection that is being made.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// A call that takes longer is a reason to ask whether somebody else serves meanwhile.
const SLOW: Duration = Duration::from_millis(500);

/// The pause after one of this length.
pub(super) fn next_pause(pause: Option<Duration>) -> Duration {
    pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(MAX_PAUSE))
}

#[derive(Clone)]
enum State {
    Connecting,
    Up(u64, MultiplexedConnection),
    Down(String),
}

/// A server and the connection to it.
pub(super) struct Node {
    pub(super) endpoint: Endpoint,
    state: watch::Receiver<State>,
    suspects: mpsc::UnboundedSender<u64>,
    left: watch::Sender<bool>,
    trouble: Arc<Notify>,
    supervisor: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

impl Node {
    /// Starts connecting. A command without an answer after `limit` has failed; `trouble` hears of faults, `connected` of
    /// connections.
    pub(super) fn start(
        runtime: &Handle,
        dialer: Dialer,
        endpoint: Endpoint,
        limit: Duration,
        trouble: Arc<Notify>,
        connected: Arc<Notify>,
    ) -> Self {
        let (publish, state) = watch::channel(State::Connecting);
        let (suspects, reports) = mpsc::unbounded_channel();
        let supervisor =
            runtime.spawn(supervise(dialer, endpoint.clone(), limit, publish, reports, Arc::clone(&trouble), connected));
        Self { endpoint, state, suspects, left: watch::Sender::new(false), trouble, supervisor }
    }

    /// Several commands in one go, not atomic. Refusals of the server are among the answers.
    pub(super) async fn exchange(&self, kind: Kind, pipe: &Pipeline) -> Result<Vec<Value>> {
        let (number, mut connection) = self.connection().await.inspect_err(|_| self.trouble.notify_one())?;
        let mut left = self.left.subscribe();
        let answers = connection.send_packed_commands(pipe, 0, pipe.len());
        tokio::pin!(answers);
        let slow = tokio::time::sleep(SLOW);
        tokio::pin!(slow);
        let mut told = false;
        let answers = loop {
            tokio::select! {
                biased;
                answers = &mut answers => break answers,
                _ = left.wait_for(|left| *left) => {
                    let why = format!("redis at {} was replaced during the call", self.endpoint);
                    return Err(if kind == Kind::Write { Error::Unknown(why) } else { Error::Unavailable(why) });
                }
                () = &mut slow, if !told => {
                    told = true;
                    self.trouble.notify_one();
                }
            }
        };
        if let Ok(answers) = &answers
            && answers.iter().any(|answer| matches!(answer, Value::ServerError(error) if error.code() == "READONLY"))
        {
            self.suspect(number);
        }
        answers.map_err(|error| {
            if error.is_io_error() || error.is_unrecoverable_error() {
                self.suspect(number);
            }
            translate(kind, &error)
        })
    }

    /// Ends the calls that are on their way: another server has taken this one's place.
    pub(super) fn leave(&self) {
        self.left.send_replace(true);
    }

    fn suspect(&self, number: u64) {
        // The supervisor is gone only when the store is.
        let _ = self.suspects.send(number);
        self.trouble.notify_one();
    }

    async fn connection(&self) -> Result<(u64, MultiplexedConnection)> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, State::Connecting));
        match tokio::time::timeout(PATIENCE, settled).await {
            Ok(Ok(state)) => match &*state {
                State::Up(number, connection) => Ok((*number, connection.clone())),
                State::Down(why) => Err(Error::Unavailable(why.clone())),
                State::Connecting => Err(Error::Unavailable("redis is being connected to".into())),
            },
            Ok(Err(_)) => Err(Error::Unavailable("the redis store is closed".into())),
            Err(_) => Err(Error::Unavailable(format!("redis at {} cannot be reached yet", self.endpoint))),
        }
    }
}

async fn supervise(
    dialer: Dialer,
    endpoint: Endpoint,
    limit: Duration,
    publish: watch::Sender<State>,
    mut reports: mpsc::UnboundedReceiver<u64>,
    trouble: Arc<Notify>,
    connected: Arc<Notify>,
) {
    let mut pause = None;
    for number in 1.. {
        match connect(&dialer, &endpoint, limit).await {
            Ok((connection, ended)) => {
                if pause.is_some() {
                    tracing::info!(%endpoint, "connected to redis again");
                }
                publish.send_replace(State::Up(number, connection));
                connected.notify_one();
                let start = Instant::now();
                wait_for_end(number, ended, &mut reports).await;
                tracing::warn!(%endpoint, "the connection to redis was lost");
                publish.send_replace(State::Connecting);
                trouble.notify_one();
                // A server that takes connections only to drop them is not asked without pause.
                pause = (start.elapsed() < MAX_PAUSE).then(|| next_pause(pause));
                tokio::time::sleep(pause.unwrap_or_default()).await;
            }
            Err(why) => {
                let wait = next_pause(pause);
                if pause.is_none() {
                    tracing::warn!(%endpoint, error = why, "cannot connect to redis, trying on");
                }
                publish.send_replace(State::Down(format!("redis at {endpoint} cannot be used: {why}")));
                trouble.notify_one();
                pause = Some(wait);
                tokio::time::sleep(wait).await;
            }
        }
    }
}

async fn connect(dialer: &Dialer, endpoint: &Endpoint, limit: Duration) -> Result<super::dial::Dialed, String> {
    let (mut connection, ended) = dialer.dial(endpoint, Some(limit)).await.map_err(|error| error.to_string())?;
    let hello = hello(&mut connection).await.map_err(|error| error.to_string())?;
    // Nodes of a cluster send callers to the master by themselves.
    if hello.replica && !hello.cluster {
        return Err("it is a replica".into());
    }
    Ok((connection, ended))
}

/// Until the connection says that it ended or a call suspects it.
async fn wait_for_end(number: u64, mut ended: mpsc::UnboundedReceiver<PushInfo>, reports: &mut mpsc::UnboundedReceiver<u64>) {
    loop {
        tokio::select! {
            push = ended.recv() => if push.is_none_or(|push| push.kind == PushKind::Disconnection) { return },
            report = reports.recv() => if report.is_none_or(|suspect| suspect == number) { return },
        }
    }
}
