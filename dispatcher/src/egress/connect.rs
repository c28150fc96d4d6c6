//! Opening connections to vetted addresses.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::conn::{Conn, Stream};
use super::fault::{FaultKind, PushFault};
use super::pool::PoolKey;
use super::target::{Origin, Scheme};
use super::tls;

pub(crate) struct Connector {
    tls: TlsConnector,
}

impl Connector {
    pub(crate) fn new(tls: TlsConnector) -> Self {
        Self { tls }
    }

    /// Connects to the first of the vetted `addresses` that answers, in their order, and does the handshakes, all
    /// before `deadline`. Each address gets an equal share of the time left; a failed TLS handshake is not
    /// repeated elsewhere, since the next address would most likely show the same certificate.
    pub(crate) async fn dial(
        &self,
        origin: &Arc<Origin>,
        addresses: &[SocketAddr],
        deadline: Instant,
    ) -> Result<(PoolKey, Conn), PushFault> {
        let mut fault = PushFault::new(FaultKind::Refused);
        for (tried, &address) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            match connect_tcp(address, share).await {
                Ok(stream) => {
                    let established = timeout_at(deadline, self.establish(origin, stream)).await;
                    let conn = established.unwrap_or_else(|_| Err(PushFault::new(FaultKind::ConnectTimeout)))?;
                    return Ok((PoolKey { origin: Arc::clone(origin), address }, conn));
                }
                Err(forbidden) if forbidden.kind() == FaultKind::Forbidden => return Err(forbidden),
                Err(other) => fault = other,
            }
        }
        Err(fault)
    }

    async fn establish(&self, origin: &Origin, stream: TcpStream) -> Result<Conn, PushFault> {
        match origin.scheme() {
            Scheme::Http => Ok(Conn::new(Stream::Tcp(stream))),
            Scheme::Https => {
                let name = tls::server_name(origin).ok_or_else(|| PushFault::new(FaultKind::Tls))?;
                let stream = self.tls.connect(name, stream).await.map_err(|error| PushFault::caused(FaultKind::Tls, &error))?;
                Ok(Conn::new(Stream::Other(Box::new(stream))))
            }
        }
    }
}

async fn connect_tcp(address: SocketAddr, limit: Duration) -> Result<TcpStream, PushFault> {
    let refused = |error: io::Error| PushFault::caused(FaultKind::Refused, &error);
    let Ok(connected) = timeout(limit, TcpStream::connect(address)).await else {
        return Err(PushFault::new(FaultKind::ConnectTimeout));
    };
    let stream = connected.map_err(refused)?;
    check_peer(address, stream.peer_addr().map_err(refused)?)?;
    stream.set_nodelay(true).map_err(refused)?;
    Ok(stream)
}

/// The last wall: whatever redirects connections on this machine, the peer is the address that was judged.
pub(crate) fn check_peer(vetted: SocketAddr, peer: SocketAddr) -> Result<(), PushFault> {
    if vetted.ip() == peer.ip().to_canonical() && vetted.port() == peer.port() {
        Ok(())
    } else {
        Err(PushFault::explained(FaultKind::Forbidden, &format!("dialled {vetted} but reached {peer}")))
    }
}
