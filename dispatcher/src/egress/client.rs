//! The real transport: vetted addresses, kept connections, one exchange.
//!
//! A push on a kept connection costs one lock for taking and one for giving back, one timer, and no task of its
//! own. All slow paths (lookup, connect) are boxed so that the usual future stays small.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Method;
use smallvec::SmallVec;
use tokio::time::{Instant, timeout_at};

use super::conn::Conn;
use super::connect::Connector;
use super::decode;
use super::dials::{Dials, Turn};
use super::exchange::{Exchanged, Limits, exchange, far_from};
use super::fault::{FaultKind, PushFault};
use super::message::Message;
use super::metrics::EgressMetrics;
use super::policy::AddressPolicy;
use super::pool::{Pool, PoolKey, PoolLimits};
use super::resolve::{Answer, Names, Resolve, ResolveLimits, SystemResolver};
use super::target::Origin;
use super::tls::{self, TlsError};
use super::transport::{AnswerSink, PushRequest, Pushed, Response, Transport};

/// Settings of [`HttpTransport`].
#[derive(Clone)]
pub struct EgressOptions {
    /// Which addresses may be reached.
    pub policy: AddressPolicy,
    /// The longest time a connection is kept without use.
    pub idle: Duration,
    /// How many connections are kept per origin and address.
    pub idle_per_origin: usize,
    /// How many connections are kept in all.
    pub idle_total: usize,
    /// How many connections to one origin are opened at the same time.
    pub dials_per_origin: usize,
    /// How long a found name is kept.
    pub dns_keep: Duration,
    /// How long a failed lookup is kept.
    pub dns_keep_failure: Duration,
    /// How many lookups may run at the same time; each may block a thread.
    pub dns_concurrent: usize,
    /// How many names are kept.
    pub dns_names: usize,
    /// Certificate authorities trusted beside Mozilla's, in PEM form; empty for none.
    pub extra_ca: Vec<u8>,
    /// Looks up names.
    pub resolver: Arc<dyn Resolve>,
}

impl Default for EgressOptions {
    fn default() -> Self {
        Self {
            policy: AddressPolicy::default(),
            idle: Duration::from_secs(4),
            idle_per_origin: 512,
            idle_total: 4096,
            dials_per_origin: 16,
            dns_keep: Duration::from_secs(5),
            dns_keep_failure: Duration::from_secs(1),
            dns_concurrent: 32,
            dns_names: 10_000,
            extra_ca: Vec::new(),
            resolver: Arc::new(SystemResolver),
        }
    }
}

/// The real transport: HTTP/1.1 over kept connections.
///
/// Connections live on the runtime that opened them, so a program with several runtimes makes one transport for each.
pub struct HttpTransport {
    policy: AddressPolicy,
    names: Names,
    connector: Connector,
    dials: Dials,
    pub(super) pool: Arc<Pool>,
    metrics: Arc<EgressMetrics>,
}

type Sockets = SmallVec<[SocketAddr; 4]>;

impl HttpTransport {
    /// Fails only if the extra certificate authorities cannot be read. Install the metrics recorder before.
    pub fn new(options: EgressOptions) -> Result<Self, TlsError> {
        let metrics = Arc::new(EgressMetrics::new());
        let pool = PoolLimits { idle: options.idle, per_key: options.idle_per_origin, total: options.idle_total };
        let resolve = ResolveLimits {
            keep: options.dns_keep,
            keep_failure: options.dns_keep_failure,
            concurrent: options.dns_concurrent,
            names: options.dns_names,
        };
        Ok(Self {
            policy: options.policy,
            names: Names::new(options.resolver, resolve),
            connector: Connector::new(tls::connector(&options.extra_ca)?),
            dials: Dials::new(options.dials_per_origin),
            pool: Pool::new(pool, Arc::clone(&metrics)),
            metrics,
        })
    }

    /// The policy, for judging targets before they are stored.
    pub fn policy(&self) -> &AddressPolicy {
        &self.policy
    }

    /// How many connections are kept at the moment.
    pub fn idle_connections(&self) -> usize {
        self.pool.len()
    }

    async fn run(&self, push: PushRequest) -> Pushed {
        let started = Instant::now();
        let deadline = far_from(started, push.timeout);
        let connect_by = far_from(started, push.connect_timeout).min(deadline);
        let mut sink = push.sink;
        let mut pushed = Pushed {
            outcome: Err(PushFault::new(FaultKind::Forbidden)),
            sent: 0,
            received: 0,
            reused: false,
            elapsed: Duration::ZERO,
        };
        if push.method != Method::CONNECT {
            let length = push.body.len() as u64;
            let message = Message::new(&push.target, &push.method, &push.headers, push.body);
            drop(push.headers);
            let alarm = std::pin::pin!(tokio::time::sleep_until(deadline));
            let mut limits = Limits { alarm, max_body: push.max_body, idle: self.pool.idle_time() };
            let way = Way { origin: push.target.origin(), connect_by };
            let answer = self.deliver(way, &message, &mut limits, sink.as_deref_mut(), &mut pushed).await;
            pushed.outcome = answer.and_then(|response| decode::plain(response, push.max_body));
            let arrived = pushed.outcome.as_ref().map_or_else(|fault| fault.kind().may_have_arrived(), |_| true);
            pushed.sent = if arrived { length } else { 0 };
        }
        match &pushed.outcome {
            Ok(response) => self.metrics.answered(response.status),
            Err(fault) => self.metrics.failed(fault.kind()),
        }
        pushed.elapsed = started.elapsed();
        pushed
    }

    /// One exchange. It is repeated only if a kept connection gave the request back untouched, once, on a fresh one.
    async fn deliver(
        &self,
        way: Way<'_>,
        message: &Message,
        limits: &mut Limits<'_>,
        mut sink: Option<&mut (dyn AnswerSink + 'static)>,
        pushed: &mut Pushed,
    ) -> Result<Response, PushFault> {
        let sockets = self.vetted(&way).await?;
        let (mut key, mut conn) = match self.kept(way.origin, &sockets) {
            Some(kept) => {
                pushed.reused = true;
                kept
            }
            None => self.connection(&way, &sockets, &mut pushed.reused).await?,
        };
        if pushed.reused {
            self.metrics.reused.increment(1);
        }
        let mut exchanged = exchange(&mut conn, message, limits, sink.as_deref_mut()).await;
        if pushed.reused
            && let Exchanged::GivenBack(_) = exchanged
        {
            self.metrics.resent.increment(1);
            pushed.reused = false;
            let turn = self.dials.turn(way.origin, way.connect_by).await?;
            (key, conn) = self.fresh(&way, &sockets, turn).await?;
            exchanged = exchange(&mut conn, message, limits, sink).await;
        }
        match exchanged {
            Exchanged::Answered { response, received, keep } => {
                pushed.received = received;
                if let Some(keep) = keep {
                    self.pool.put(key, conn, keep);
                }
                Ok(response)
            }
            Exchanged::GivenBack(fault) | Exchanged::Failed(fault) => Err(fault),
        }
    }

    /// The addresses of the origin, judged now, whatever was judged before. One bad address refuses them all: an
    /// answer that mixes public and private addresses is an attack or a mistake.
    async fn vetted(&self, way: &Way<'_>) -> Result<Sockets, PushFault> {
        let origin = way.origin;
        let mut sockets = Sockets::new();
        if let Some(address) = origin.literal() {
            sockets.push(SocketAddr::new(address, origin.port()));
        } else {
            let answer = match self.names.kept(origin.host()) {
                Some(answer) => answer,
                None => self.look_up(way).await?,
            };
            let addresses = answer.map_err(|why| PushFault::explained(FaultKind::Dns, &why))?;
            sockets.extend(addresses.iter().map(|address| SocketAddr::new(*address, origin.port())));
        }
        for socket in &sockets {
            let judged = self.policy.judge_socket(*socket);
            judged.map_err(|refusal| PushFault::explained(FaultKind::Forbidden, &format!("{socket}: {refusal}")))?;
        }
        Ok(sockets)
    }

    async fn look_up(&self, way: &Way<'_>) -> Result<Answer, PushFault> {
        let lookup = Box::pin(self.names.resolve(way.origin.host()));
        timeout_at(way.connect_by, lookup).await.map_err(|_| PushFault::explained(FaultKind::Dns, "the lookup took too long"))
    }

    /// A kept connection to any of the vetted addresses.
    fn kept(&self, origin: &Arc<Origin>, sockets: &[SocketAddr]) -> Option<(PoolKey, Conn)> {
        sockets.iter().find_map(|&address| {
            let key = PoolKey { origin: Arc::clone(origin), address };
            self.pool.take(&key).map(|conn| (key, conn))
        })
    }

    /// A new connection, or one that became free while others were opened.
    async fn connection(&self, way: &Way<'_>, sockets: &[SocketAddr], reused: &mut bool) -> Result<(PoolKey, Conn), PushFault> {
        let turn = self.dials.turn(way.origin, way.connect_by).await?;
        self.metrics.waited.increment(u64::from(turn.waited));
        if turn.waited
            && let Some(kept) = self.kept(way.origin, sockets)
        {
            *reused = true;
            return Ok(kept);
        }
        self.fresh(way, sockets, turn).await
    }

    /// A new connection to the first vetted address that answers.
    async fn fresh(&self, way: &Way<'_>, sockets: &[SocketAddr], turn: Turn) -> Result<(PoolKey, Conn), PushFault> {
        let dialled = Box::pin(self.connector.dial(way.origin, sockets, way.connect_by)).await?;
        turn.opened();
        self.metrics.opened.increment(1);
        Ok(dialled)
    }
}

impl Transport for HttpTransport {
    fn push(&self, request: PushRequest) -> BoxFuture<'_, Pushed> {
        Box::pin(self.run(request))
    }
}

/// Where a push goes, and until when the way must stand.
struct Way<'a> {
    origin: &'a Arc<Origin>,
    connect_by: Instant,
}
