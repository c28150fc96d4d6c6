//! The connection for commands: one multiplexed connection that finds its way back by itself.
//!
//! A supervisor task connects, hears of the end of the connection, and connects again with growing pauses of at most
//! [`MAX_PAUSE`]. Calls in between fail at once, so nobody queues behind a dead server. A write that was handed to a
//! connection and has no answer is [`Error::Unknown`]; what never reached one is [`Error::Unavailable`].

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, IntoConnectionInfo, Pipeline, ProtocolVersion, PushInfo, PushKind, RedisError,
    RedisResult, ServerErrorKind, Value,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::script::Lua;
use crate::{Error, Result};

/// Longest time for a connection to be made and set up.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between two attempts to connect.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(1);
/// How long a call waits for a connection that is being made.
const PATIENCE: Duration = Duration::from_millis(500);

/// Whether a command changes anything: it decides what a lost answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
}

/// Makes connections to the configured server.
#[derive(Clone, Debug)]
pub(super) struct Dialer {
    client: Client,
}

/// A connection with the channel that tells when it ends.
pub(super) type Dialed = (MultiplexedConnection, mpsc::UnboundedReceiver<PushInfo>);

impl Dialer {
    pub(super) fn new(url: &str) -> Result<Self> {
        let bad = |error: RedisError| Error::Invalid(format!("redis url: {error}"));
        let info = url.into_connection_info().map_err(bad)?;
        // The protocol with pushes tells at once when a connection ends; without TCP_NODELAY calls wait for each other's ACK.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let info = info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true));
        Ok(Self { client: Client::open(info).map_err(bad)? })
    }

    /// Connects. Without `limit` an answer may take for ever: the caller has a limit of its own.
    pub(super) async fn dial(&self, limit: Option<Duration>) -> RedisResult<Dialed> {
        let (pushes, ended) = mpsc::unbounded_channel();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_response_timeout(limit)
            .set_push_sender(pushes);
        Ok((self.client.get_multiplexed_async_connection_with_config(&config).await?, ended))
    }
}

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

/// The connection for commands.
pub(super) struct Link {
    state: watch::Receiver<State>,
    suspects: mpsc::UnboundedSender<u64>,
    supervisor: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

impl Link {
    /// Starts connecting; a command without an answer after `limit` has failed.
    pub(super) fn start(dialer: Dialer, limit: Duration) -> Self {
        let (publish, state) = watch::channel(State::Connecting);
        let (suspects, reports) = mpsc::unbounded_channel();
        let supervisor = tokio::spawn(supervise(dialer, limit, publish, reports));
        Self { state, suspects, supervisor }
    }

    /// One command.
    pub(super) async fn send(&self, kind: Kind, cmd: &Cmd) -> Result<Value> {
        let (number, mut connection) = self.connection().await?;
        let answer = connection.send_packed_command(cmd).await.and_then(no_error);
        answer.map_err(|error| self.failed(kind, number, &error))
    }

    /// Several commands in one go, not atomic. The first error is the answer.
    pub(super) async fn send_all(&self, kind: Kind, pipe: &Pipeline) -> Result<Vec<Value>> {
        let (number, mut connection) = self.connection().await?;
        let answers = connection.send_packed_commands(pipe, 0, pipe.len()).await;
        let answers = answers.and_then(|list| list.into_iter().map(no_error).collect());
        answers.map_err(|error| self.failed(kind, number, &error))
    }

    /// A script call, then `more` in the same go. A server that does not know the script is told it, once.
    pub(super) async fn run(&self, kind: Kind, script: &Lua, call: Cmd, more: Option<Cmd>) -> Result<Vec<Value>> {
        let mut pipe = Pipeline::new();
        pipe.add_command(call);
        if let Some(more) = more {
            pipe.add_command(more);
        }
        let (number, mut connection) = self.connection().await?;
        let failed = |error: RedisError| self.failed(kind, number, &error);
        let mut answers = connection.send_packed_commands(&pipe, 0, pipe.len()).await.map_err(failed)?;
        let unknown =
            matches!(answers.first(), Some(Value::ServerError(error)) if error.kind() == Some(ServerErrorKind::NoScript));
        if unknown {
            // Nothing ran, so a failure here leaves nothing behind.
            let loaded = connection.send_packed_command(&script.load()).await.and_then(no_error);
            loaded.map_err(|error| self.failed(Kind::Read, number, &error))?;
            answers = connection.send_packed_commands(&pipe, 0, pipe.len()).await.map_err(failed)?;
        }
        answers.into_iter().map(|answer| no_error(answer).map_err(failed)).collect()
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
            Err(_) => Err(Error::Unavailable("redis cannot be reached yet".into())),
        }
    }

    fn failed(&self, kind: Kind, number: u64, error: &RedisError) -> Error {
        if error.is_io_error() || error.is_unrecoverable_error() {
            // The supervisor is gone only when the store is.
            let _ = self.suspects.send(number);
        }
        translate(kind, error)
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

fn no_error(answer: Value) -> RedisResult<Value> {
    match answer {
        Value::ServerError(error) => Err(error.into()),
        answer => Ok(answer),
    }
}

async fn supervise(dialer: Dialer, limit: Duration, publish: watch::Sender<State>, mut reports: mpsc::UnboundedReceiver<u64>) {
    let mut pause = None;
    for number in 1.. {
        match dialer.dial(Some(limit)).await {
            Ok((connection, ended)) => {
                if pause.is_some() {
                    tracing::info!("connected to redis again");
                }
                publish.send_replace(State::Up(number, connection));
                let start = Instant::now();
                wait_for_end(number, ended, &mut reports).await;
                tracing::warn!("the connection to redis was lost");
                publish.send_replace(State::Connecting);
                // A server that takes connections only to drop them is not asked without pause.
                pause = (start.elapsed() < MAX_PAUSE).then(|| next_pause(pause));
                tokio::time::sleep(pause.unwrap_or_default()).await;
            }
            Err(error) => {
                let wait = next_pause(pause);
                if pause.is_none() {
                    tracing::warn!(%error, "cannot connect to redis, trying on");
                }
                publish.send_replace(State::Down(format!("redis cannot be reached: {error}")));
                pause = Some(wait);
                tokio::time::sleep(wait).await;
            }
        }
    }
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
