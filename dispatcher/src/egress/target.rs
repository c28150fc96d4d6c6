//! A destination, parsed once.
//!
//! `url` normalises what people and attackers write (`0x7f.1`, `2130706433`, `0177.1`, full-width digits), so the
//! text is parsed exactly once and everything afterwards uses the parsed value. The same function serves
//! registration and dispatch: literal hosts are judged here, names when they are resolved.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};
use url::{Host, Url};

use super::policy::{AddressPolicy, Refusal};

/// The longest URL that is accepted, in bytes.
pub(super) const MAX_URL: usize = 2048;

/// The two schemes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Scheme, host and port: what connections are kept for and breakers count by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    scheme: Scheme,
    host: String,
    port: u16,
    literal: Option<IpAddr>,
}

impl Origin {
    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host as it stands in a URL: a lower-case name, an IPv4 address, or an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, also when the URL left it to the scheme.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address if the host is one, with an IPv4-mapped address unwrapped.
    pub fn literal(&self) -> Option<IpAddr> {
        self.literal
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.host)?;
        if self.port == self.scheme.default_port() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// A URL that may be called, in the form in which the request needs it.
///
/// `Debug` and `Display` show the origin alone: paths and queries often carry secrets.
#[derive(Clone)]
pub struct Target {
    origin: Arc<Origin>,
    host_header: HeaderValue,
    path: Uri,
    /// The path or the query holds `{task}`.
    is_template: bool,
}

/// Why a URL cannot be a target. The messages are fit for tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It is not a URL that anyone could call; the caller's mistake (422).
    #[error("{0}")]
    Invalid(&'static str),
    /// It names an address or port that must not be called (403).
    #[error("{0}")]
    Forbidden(#[from] Refusal),
}

impl Target {
    /// Parses `text` and judges what can be judged without a name lookup.
    pub fn parse(text: &str, policy: &AddressPolicy) -> Result<Self, TargetError> {
        if text.len() > MAX_URL {
            return Err(TargetError::Invalid("the URL is longer than 2048 bytes"));
        }
        // `url` silently drops some of these, so two readers could disagree about what the text means.
        if text.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(TargetError::Invalid("the URL holds a space or a control character"));
        }
        let url = Url::parse(text).map_err(|_| TargetError::Invalid("the URL cannot be parsed"))?;
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(TargetError::Invalid("the URL's scheme must be http or https")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(TargetError::Invalid("the URL must not hold a user name or password"));
        }
        let no_host = TargetError::Invalid("the URL has no usable host");
        let host = url.host().ok_or(no_host)?;
        let port = url.port().unwrap_or(scheme.default_port());
        let literal = match &host {
            Host::Ipv4(ip) => Some(IpAddr::V4(*ip)),
            Host::Ipv6(ip) => Some(IpAddr::V6(*ip).to_canonical()),
            Host::Domain(name) if !is_host_name(name) => return Err(no_host),
            Host::Domain(_) => None,
        };
        match (literal, &host) {
            (Some(ip), _) => policy.judge_socket(SocketAddr::new(ip, port))?,
            // Defined to mean loopback, so there is no need to wait for the lookup.
            (None, Host::Domain(name)) if is_localhost(name) => {
                policy.judge_socket(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))?;
            }
            (None, _) => policy.judge_port(port)?,
        }

        let origin = Origin { scheme, host: host.to_string(), port, literal };
        let authority = match url.port() {
            None => origin.host.clone(),
            Some(port) => format!("{}:{port}", origin.host),
        };
        let host_header = HeaderValue::try_from(authority).map_err(|_| no_host)?;
        let path = match url.query() {
            None => url.path().to_owned(),
            Some(query) => format!("{}?{query}", url.path()),
        };
        let is_template = path.contains("%7Btask%7D") || path.contains("{task}");
        Ok(Self { origin: Arc::new(origin), host_header, path: origin_form(path)?, is_template })
    }

    /// The same target with each `{task}` in path and query replaced by `name`, percent-encoded. The host is out
    /// of reach of the replacement, so no judgement changes.
    pub fn with_task(&self, name: &str) -> Result<Self, TargetError> {
        if !self.is_template {
            return Ok(self.clone());
        }
        let path = self.path.to_string();
        if matches!(name, "" | "." | "..") {
            return Err(TargetError::Invalid("the task's name would change the URL's path"));
        }
        let name = percent_encode(name);
        let path = path.replace("%7Btask%7D", &name).replace("{task}", &name);
        Ok(Self { path: origin_form(path)?, is_template: false, ..self.clone() })
    }

    /// Whether [`Target::with_task`] changes anything.
    pub fn is_template(&self) -> bool {
        self.is_template
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    /// The value of the `Host` header.
    pub fn host_header(&self) -> &HeaderValue {
        &self.host_header
    }

    /// Path and query as they stand in the request line.
    pub fn path(&self) -> &Uri {
        &self.path
    }

    /// The same as text; never empty.
    pub(super) fn path_text(&self) -> &str {
        self.path.path_and_query().map_or("/", PathAndQuery::as_str)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.origin)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.origin.fmt(f)
    }
}

fn origin_form(path: String) -> Result<Uri, TargetError> {
    PathAndQuery::try_from(path)
        .map(Uri::from)
        .map_err(|_| TargetError::Invalid("the URL's path or query holds a character that cannot be sent"))
}

/// Letters, digits, `-`, `_` and single dots: what resolvers understand. `url` would let more through.
fn is_host_name(name: &str) -> bool {
    let bare = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253
        && bare.split('.').all(|label| {
            !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

fn is_localhost(name: &str) -> bool {
    let bare = name.strip_suffix('.').unwrap_or(name);
    bare == "localhost" || bare.ends_with(".localhost")
}

fn percent_encode(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}
