//! Who may call: anybody on this machine (development), or holders of a key.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::request::Parts;
use lovage_core::Ns;
use lovage_core::problem::{Code, Problem};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// Whom a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The tenant; it comes from the credential only.
    pub ns: Ns,
}

/// Looks up a bearer token.
pub trait KeyCheck: Send + Sync {
    /// The caller that the token stands for; `None`: it stands for nobody.
    fn caller(&self, bearer: &str) -> Option<Caller>;
}

/// How callers are told apart.
#[derive(Clone)]
pub enum Auth {
    /// No credential is asked for. Only requests that name a loopback host, or one of these, are answered, and only
    /// from pages of such hosts: otherwise any web page could drive the server through its visitor's browser.
    Open {
        /// Further host names that are ours.
        hosts: Vec<String>,
    },
    /// A bearer token is needed, except on public routes.
    Keys(Arc<dyn KeyCheck>),
}

/// Keys that may do everything, kept as hashes.
#[derive(Clone)]
pub struct AdminKeys(Vec<[u8; 32]>);

impl AdminKeys {
    /// These keys.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        Self(keys.into_iter().map(hash).collect())
    }
}

impl KeyCheck for AdminKeys {
    fn caller(&self, bearer: &str) -> Option<Caller> {
        let given = hash(bearer);
        // Every key is compared, in constant time: the time taken tells nothing about any of them.
        let found = self.0.iter().fold(Choice::from(0), |found, key| found | key.ct_eq(&given));
        bool::from(found).then_some(Caller { ns: Ns::DEFAULT })
    }
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

impl Auth {
    /// The caller of a request, or why it is refused.
    pub(crate) fn admit(&self, parts: &Parts) -> Result<Caller, Problem> {
        match self {
            Self::Open { hosts } => {
                check_host(parts, hosts)?;
                Ok(Caller { ns: Ns::DEFAULT })
            }
            // The token in the path is the credential, whatever else a worker's client sends along.
            Self::Keys(_) if parts.uri.path().starts_with("/v1/attempts/") => Ok(Caller { ns: Ns::DEFAULT }),
            // Nor does a public route look at what somebody sends along.
            Self::Keys(_) if is_public(parts.uri.path()) => Ok(Caller { ns: Ns::DEFAULT }),
            Self::Keys(keys) => match bearer(parts) {
                Some(token) => keys.caller(token).ok_or_else(|| refused("the key is not valid")),
                None => Err(refused("send a key as `Authorization: Bearer KEY`")),
            },
        }
    }
}

fn refused(detail: &str) -> Problem {
    Problem::new(Code::Unauthenticated, detail)
}

/// Routes that tell nothing about anybody's tasks.
fn is_public(path: &str) -> bool {
    matches!(path, "/" | "/healthz" | "/readyz" | "/openapi.json" | "/docs") || path.starts_with("/docs/")
}

fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn check_host(parts: &Parts, hosts: &[String]) -> Result<(), Problem> {
    let foreign = |what: &str| {
        Problem::new(
            Code::ForeignOrigin,
            format!("the {what} is not of this machine; without keys only loopback names are answered"),
        )
    };
    // HTTP/2 has the host in the URI. A request without any comes from no browser.
    let host = parts.uri.authority().map(http::uri::Authority::as_str);
    let host = host.or_else(|| parts.headers.get(HOST).map(|value| value.to_str().unwrap_or("?")));
    if host.is_some_and(|host| !is_ours(host, hosts)) {
        return Err(foreign("host"));
    }
    let Some(origin) = parts.headers.get(ORIGIN) else { return Ok(()) };
    let authority = origin.to_str().ok().and_then(|text| text.split_once("://")).map(|(_, authority)| authority);
    if authority.is_some_and(|authority| is_ours(authority, hosts)) { Ok(()) } else { Err(foreign("origin")) }
}

/// Whether `host` (with or without a port) is a loopback name or address or one of `hosts`.
fn is_ours(host: &str, hosts: &[String]) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
    if let Ok(address) = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return address.is_loopback() || hosts.contains(&name);
    }
    name == "localhost" || name.ends_with(".localhost") || hosts.iter().any(|ours| ours.eq_ignore_ascii_case(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_ours() {
        let hosts = ["dev.example".to_owned()];
        for ours in
            ["localhost", "localhost:8275", "LOCALHOST.", "a.localhost", "127.0.0.1:1", "127.9.9.9", "[::1]:80", "dev.example:1"]
        {
            assert!(is_ours(ours, &hosts), "{ours}");
        }
        for foreign in
            ["evil.example", "localhost.evil.example", "10.0.0.1", "[::2]", "localhost@evil.example", "", "::1", "evil/localhost"]
        {
            assert!(!is_ours(foreign, &hosts), "{foreign}");
        }
    }

    #[test]
    fn keys_are_compared_whole() {
        let keys = AdminKeys::new(["lvg_one", "lvg_two"]);
        assert!(keys.caller("lvg_one").is_some() && keys.caller("lvg_two").is_some());
        for wrong in ["", "lvg_on", "lvg_onex", "LVG_ONE"] {
            assert!(keys.caller(wrong).is_none(), "{wrong}");
        }
    }
}
