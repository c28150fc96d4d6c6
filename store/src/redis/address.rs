//! Where a Redis store is: the forms of its URL.
//!
//! ```text
//! redis://[user:password@]host[:port][/db]                     one server; a cluster is recognised
//! redis+cluster://[user:password@]host[:port][,host[:port]…]   some nodes of a cluster, which tell of the others
//! redis+sentinel://[user:password@]host[:port][,…]/MASTER[/db] sentinels, and the name that they know the master by
//! ```
//! `rediss…` is the same over TLS.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use crate::{Error, Result};

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Endpoint {
    pub(super) host: String,
    /// 0: the host is the path of a local socket.
    pub(super) port: u16,
}

impl Endpoint {
    /// Reads `host:port`, where a missing host means the one that was asked. Not even the host of an IPv6 address has brackets.
    pub(super) fn read(text: &str, asked: &Self) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Some(Self::new(host, port.parse().ok()?, asked))
    }

    /// A server that another one names; it may leave the host out, or say that it does not know it.
    pub(super) fn new(host: &str, port: u16, asked: &Self) -> Self {
        let host = if matches!(host, "" | "?") { &asked.host } else { host };
        Self { host: host.to_owned(), port }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.host.contains(':')) {
            (0, _) => f.write_str(&self.host),
            (port, true) => write!(f, "[{}]:{port}", self.host),
            (port, false) => write!(f, "{}:{port}", self.host),
        }
    }
}

/// Who tells where the data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// The server itself.
    Plain,
    /// The nodes of a cluster.
    Cluster,
    /// Sentinels, by the name of the master.
    Sentinel(String),
}

/// What is said of a URL that the client's parser does not understand: that one says no more.
const FORM: &str =
    "it cannot be read; write redis://USER:PASSWORD@HOST:PORT/DB, and special characters of a password as %40 and the like";

/// A URL, taken apart.
#[derive(Debug)]
pub(super) struct Address {
    pub(super) scheme: Scheme,
    /// Never empty.
    pub(super) seeds: Vec<Endpoint>,
    /// Credentials, database and encryption of every connection.
    pub(super) template: ConnectionInfo,
}

impl Address {
    pub(super) fn read(url: &str) -> Result<Self> {
        let bad = |why: &str| Error::Invalid(format!("redis url: {why}"));
        let (prefix, rest) = url.split_once("://").ok_or_else(|| bad("it must begin with redis:// or rediss://"))?;
        let (base, kind) = prefix.split_once('+').unwrap_or((prefix, ""));
        if !matches!(kind, "cluster" | "sentinel") {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            if authority.rsplit('@').next().is_some_and(|hosts| hosts.contains(',')) {
                return Err(bad("several addresses are written redis+cluster://… or redis+sentinel://…/MASTER"));
            }
            let template = url.into_connection_info().map_err(|_| bad(FORM))?;
            return Ok(Self { scheme: Scheme::Plain, seeds: vec![endpoint(template.addr())], template });
        }
        if !matches!(base, "redis" | "rediss") {
            return Err(bad("it must begin with redis or rediss"));
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (credentials, hosts) = authority.rsplit_once('@').map_or(("", authority), |(who, hosts)| (who, hosts));
        let (scheme, path, default) = if kind == "cluster" {
            if !matches!(path, "" | "/" | "/0") {
                return Err(bad("a cluster has no other database than 0"));
            }
            (Scheme::Cluster, "", 6_379)
        } else {
            let (name, db) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
            if name.is_empty() {
                return Err(bad("the name of the master is missing: redis+sentinel://HOST:PORT/MASTER"));
            }
            (Scheme::Sentinel(name.to_owned()), db, 26_379)
        };
        let at = if credentials.is_empty() { String::new() } else { format!("{credentials}@") };
        let mut seeds = Vec::new();
        let mut first = None;
        for host in hosts.split(',') {
            // The parser of the client knows all forms of hosts.
            let one = format!("{base}://{at}{host}/{path}").into_connection_info().map_err(|_| bad(FORM))?;
            let mut seed = endpoint(one.addr());
            if !has_port(host) {
                seed.port = default;
            }
            seeds.push(seed);
            first.get_or_insert(one);
        }
        let template = first.ok_or_else(|| bad("no address is given"))?;
        Ok(Self { scheme, seeds, template })
    }
}

fn has_port(host: &str) -> bool {
    host.rsplit(']').next().is_some_and(|rest| rest.contains(':'))
}

fn endpoint(addr: &ConnectionAddr) -> Endpoint {
    match addr {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Endpoint { host: host.clone(), port: *port }
        }
        other => Endpoint { host: other.to_string(), port: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> String {
        let address = Address::read(url).unwrap();
        let seeds: Vec<_> = address.seeds.iter().map(ToString::to_string).collect();
        let settings = address.template.redis_settings();
        let tls = matches!(address.template.addr(), ConnectionAddr::TcpTls { .. });
        let scheme = match address.scheme {
            Scheme::Sentinel(name) => name,
            other => format!("{other:?}"),
        };
        let (user, password) = (settings.username().unwrap_or("-"), settings.password().unwrap_or("-"));
        format!("{scheme} {} {user} {password} db{}{}", seeds.join(","), settings.db(), if tls { " tls" } else { "" })
    }

    #[test]
    fn every_form_is_read() {
        assert_eq!(shown("redis://h"), "Plain h:6379 - - db0");
        assert_eq!(shown("rediss://u:p%40w@h:1/3"), "Plain h:1 u p@w db3 tls");
        assert_eq!(shown("redis+cluster://u:p%40w@h1:1,h2,[::1]:3"), "Cluster h1:1,h2:6379,[::1]:3 u p@w db0");
        assert_eq!(shown("rediss+cluster://:p@h1:1/0"), "Cluster h1:1 - p db0 tls");
        assert_eq!(shown("redis+sentinel://:p@h1,h2:2,[::1]/main/2"), "main h1:26379,h2:2,[::1]:26379 - p db2");
        assert_eq!(shown("redis+unix:///run/redis.sock"), "Plain /run/redis.sock - - db0");
    }

    #[test]
    fn slips_are_explained() {
        for (url, why) in [
            ("h:6379", "must begin"),
            ("http://h", "redis url"),
            ("redis://h1:1,h2:2", "redis+cluster"),
            ("redis+cluster://h1/3", "no other database"),
            ("redis+sentinel://h1", "name of the master"),
            ("valkey+cluster://h1", "must begin"),
            ("redis+cluster://u:p@", "redis url"),
        ] {
            let error = Address::read(url).unwrap_err().to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
    }

    #[test]
    fn a_named_server_may_lack_its_host() {
        let asked = Endpoint { host: "h".into(), port: 1 };
        assert_eq!(Endpoint::read(":7", &asked).unwrap().to_string(), "h:7");
        assert_eq!(Endpoint::read("::1:7", &asked).unwrap().to_string(), "[::1]:7");
        assert_eq!(Endpoint::new("?", 7, &asked).to_string(), "h:7");
        assert_eq!(Endpoint::read("nothing", &asked), None);
    }
}
