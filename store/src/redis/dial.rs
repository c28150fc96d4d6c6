//! Makes connections to servers of the store: credentials, encryption, protocol.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ProtocolVersion, PushInfo, RedisError,
    RedisResult, TlsCertificates, Value,
};
use tokio::sync::mpsc;

use super::address::Endpoint;
use super::{RedisTls, value};
use crate::{Error, Result};

/// Longest time for a connection to be made and set up.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// A connection with the channel that tells when it ends.
pub(super) type Dialed = (MultiplexedConnection, mpsc::UnboundedReceiver<PushInfo>);

/// Makes connections, all with the same credentials and encryption.
#[derive(Clone, Debug)]
pub(super) struct Dialer {
    template: ConnectionInfo,
}

/// What a server says of itself; every user may ask for it.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) version: String,
    pub(super) cluster: bool,
    pub(super) replica: bool,
}

impl Dialer {
    pub(super) fn new(template: ConnectionInfo, tls: &RedisTls) -> Result<Self> {
        let bad = |error: RedisError| Error::Invalid(format!("redis url: {error}"));
        // The protocol with pushes tells at once when a connection ends; without TCP_NODELAY calls wait for each other's ACK.
        let settings = template.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let template = template.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let encrypted = matches!(template.addr(), ConnectionAddr::TcpTls { .. });
        if !encrypted || tls == &RedisTls::default() {
            return Ok(Self { template });
        }
        let client_tls = tls.client.clone().map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
        let certificates = TlsCertificates { client_tls, root_cert: tls.ca.clone() };
        let client = Client::build_with_tls(template, certificates).map_err(bad)?;
        Ok(Self { template: client.get_connection_info().clone() })
    }

    /// The same for sentinels, which have no databases and mostly no passwords.
    pub(super) fn for_sentinels(&self, with_credentials: bool) -> Self {
        let mut settings = redis::RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
        let own = self.template.redis_settings();
        if let (true, Some(password)) = (with_credentials, own.password()) {
            settings = settings.set_password(password);
            if let Some(user) = own.username() {
                settings = settings.set_username(user);
            }
        }
        Self { template: self.template.clone().set_redis_settings(settings) }
    }

    /// Whether connections use a database that clusters do not have.
    pub(super) fn selects(&self) -> bool {
        self.template.redis_settings().db() != 0
    }

    /// Connects. Without `limit` an answer may take for ever: the caller has a limit of its own.
    pub(super) async fn dial(&self, at: &Endpoint, limit: Option<Duration>) -> RedisResult<Dialed> {
        let addr = match self.template.addr() {
            ConnectionAddr::Tcp(..) => ConnectionAddr::Tcp(at.host.clone(), at.port),
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
                host: at.host.clone(),
                port: at.port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            other => other.clone(),
        };
        let client = Client::open(self.template.clone().set_addr(addr))?;
        let (pushes, ended) = mpsc::unbounded_channel();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_response_timeout(limit)
            .set_push_sender(pushes);
        Ok((client.get_multiplexed_async_connection_with_config(&config).await?, ended))
    }
}

/// Asks a server what it is.
pub(super) async fn hello(connection: &mut MultiplexedConnection) -> RedisResult<Hello> {
    let answer = value::no_error(connection.send_packed_command(&redis::cmd("HELLO")).await?)?;
    Ok(read_hello(answer))
}

/// Reads the answer to HELLO; what is missing is taken for harmless.
pub(super) fn read_hello(answer: Value) -> Hello {
    let mut hello = Hello { version: String::new(), cluster: false, replica: false };
    for (name, fact) in value::pairs(answer).unwrap_or_default() {
        let (Ok(name), Ok(fact)) = (value::text(name), value::text(fact)) else { continue };
        match name.as_str() {
            "version" => hello.version = fact,
            "mode" => hello.cluster = fact == "cluster",
            "role" => hello.replica = matches!(fact.as_str(), "replica" | "slave"),
            _ => {}
        }
    }
    hello
}
