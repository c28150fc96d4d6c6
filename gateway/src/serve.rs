//! The listener: own accept loop, because the plain one of the framework has no protection against slow clients.
//!
//! Limits that hold here: time for the head of a request, time for the client to take its answer, open connections,
//! streams of one connection, pings of quiet HTTP/2 connections, and the grace after the stop signal.

mod slow;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use metrics::{counter, gauge};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::Gateway;
use crate::options::{Limits, Times};
use slow::SlowGuard;

/// After a failed accept (out of file descriptors, mostly): time for connections to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// At least this long connections may take to close: the last answers are on their way.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// Bytes of a request's head that HTTP/1 reads; what is above the header limit but below this is answered as a problem.
const HEAD_BUFFER: usize = 64 << 10;

/// Why serving ended badly.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Connections were still open after the grace and were cut.
    #[error("connections were still open after the grace")]
    Cut,
}

impl Gateway {
    /// Serves until `stop`, then gives open requests the grace.
    ///
    /// As long as these last, and until `rest` says that the other parts of the process are done too, requests are still
    /// taken, and told that the server is shutting down: whoever asks for its health learns why, and nobody finds a closed
    /// connection where an answer was to be expected.
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken, rest: CancellationToken) -> Result<(), ServeError> {
        let (server, connections) = (Server::new(self), GracefulShutdown::new());
        stop.run_until_cancelled(server.take(&listener, &connections)).await;
        let by = Instant::now() + self.app.options.times.grace;
        // Waits end with the state as it is.
        self.app.draining.cancel();
        self.app.open.close();
        let finish = timeout_at(by, self.app.open.wait());
        let finish = async { tokio::join!(finish, timeout_at(by, rest.cancelled())).0 };
        let finished = tokio::select! {
            finished = finish => finished,
            never = server.take(&listener, &connections) => match never {},
        };
        drop(listener);
        let closed = timeout_at(by.max(Instant::now() + LAST_ANSWERS), connections.shutdown()).await;
        server.closing.cancel();
        finished.and(closed).map_err(|_| ServeError::Cut)
    }
}

/// What every connection is served with.
struct Server {
    builder: Builder<TokioExecutor>,
    router: Router,
    times: Times,
    free: Arc<Semaphore>,
    /// Cuts the connections.
    closing: CancellationToken,
}

impl Server {
    fn new(gateway: &Gateway) -> Self {
        let options = &gateway.app.options;
        Self {
            builder: builder(&options.limits, &options.times),
            router: gateway.router(),
            times: options.times.clone(),
            free: Arc::new(Semaphore::new(options.limits.connections)),
            closing: CancellationToken::new(),
        }
    }

    /// Takes connections for as long as it is polled; `graceful` is told of each.
    async fn take(&self, listener: &TcpListener, graceful: &GracefulShutdown) -> Infallible {
        loop {
            let (stream, permit) = accept(listener, &self.free).await;
            let mut router = self.router.clone();
            let service = TowerToHyperService::new(tower::service_fn(move |request: Request<_>| router.call(request)));
            let io = TokioIo::new(SlowGuard::new(stream, self.times.head, self.times.write_idle));
            let connection = self.builder.serve_connection(io, service).into_owned();
            tokio::spawn(hold(self.closing.clone(), permit, graceful.watch(connection)));
        }
    }
}

fn builder(limits: &Limits, times: &Times) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(times.head)
        .max_buf_size(HEAD_BUFFER.max(limits.header_bytes * 2));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(times.ping)
        .keep_alive_timeout(times.ping)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size((limits.header_bytes * 2) as u32);
    builder
}

/// The next connection, as soon as one may be open.
async fn accept(listener: &TcpListener, free: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        // The semaphore is never closed, so this only waits.
        let Ok(permit) = free.clone().acquire_owned().await else { continue };
        match listener.accept().await {
            Ok((stream, _)) => {
                // A failure means that the peer is gone already, which the first read will tell.
                let _ = stream.set_nodelay(true);
                return (stream, permit);
            }
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                counter!("lovage_http_accept_errors_total").increment(1);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Runs a connection to its end, or until it is cut.
async fn hold<E>(closing: CancellationToken, permit: OwnedSemaphorePermit, connection: impl Future<Output = Result<(), E>>) {
    let open = gauge!("lovage_http_connections");
    open.increment(1.0);
    // Broken connections are the client's affair and are told to nobody.
    let _ = closing.run_until_cancelled(connection).await;
    open.decrement(1.0);
    drop(permit);
}
