//! The listener: own accept loop, because the plain one of the framework has no protection against slow clients.
//!
//! Limits that hold here: time for the head of a request, time for the client to take its answer, open connections,
//! streams of one connection, pings of quiet HTTP/2 connections, and the grace after the stop signal.

mod slow;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use metrics::{counter, gauge};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::Gateway;
use crate::options::{Limits, Times};
use slow::SlowGuard;

/// After a failed accept (out of file descriptors, mostly): time for connections to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
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
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken) -> Result<(), ServeError> {
        let Limits { connections, .. } = self.app.options.limits;
        let times = self.app.options.times.clone();
        let builder = builder(&self.app.options.limits, &times);
        let service = self.router();
        let free = Arc::new(Semaphore::new(connections));
        let graceful = GracefulShutdown::new();
        let closing = CancellationToken::new();

        while let Some((stream, permit)) = stop.run_until_cancelled(accept(&listener, &free)).await {
            let mut service = service.clone();
            let service = TowerToHyperService::new(tower::service_fn(move |request: Request<_>| service.call(request)));
            let io = TokioIo::new(SlowGuard::new(stream, times.head, times.write_idle));
            let connection = builder.serve_connection(io, service).into_owned();
            let connection = graceful.watch(connection);
            tokio::spawn(hold(closing.clone(), permit, connection));
        }
        drop(listener);
        // Waits end with the state as it is, so that their connections can close.
        self.app.draining.cancel();
        let drained = tokio::time::timeout(times.grace, graceful.shutdown()).await;
        closing.cancel();
        drained.map_err(|_| ServeError::Cut)
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
