//! Why a push brought no answer, from a fixed list.
//!
//! The kind and its message may be shown to tenants. The detail may hold addresses and texts of the operating
//! system; it is for the log alone, or a tenant could map the network behind the product with it. Only what
//! [`PushFault::told`] gives out is of the worker's own making.

use std::fmt;

/// The list. The kinds up to [`FaultKind::ConnectTimeout`] promise that no byte of the request left the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The address is not allowed.
    Forbidden,
    /// The host name has no address, or the lookup failed or took too long.
    Dns,
    /// No connection was made.
    Refused,
    /// The TLS handshake failed.
    Tls,
    /// Connecting, with the handshake, took too long.
    ConnectTimeout,
    /// The connection ended before the answer did.
    Reset,
    /// The answer was not complete in time.
    TimedOut,
    /// The answer is not HTTP, its head is too large, or its body is not what its content encoding says.
    Malformed,
}

impl FaultKind {
    /// A fixed text for tenants.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Forbidden => "the destination is not allowed",
            Self::Dns => "the host name cannot be resolved",
            Self::Refused => "the connection cannot be established",
            Self::Tls => "the TLS handshake failed",
            Self::ConnectTimeout => "connecting took too long",
            Self::Reset => "the connection ended before the answer did",
            Self::TimedOut => "the answer did not arrive in time",
            Self::Malformed => "the answer is not valid HTTP, or its content encoding cannot be read",
        }
    }

    /// The error type that attempts and metrics carry.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Forbidden => "DestinationForbidden",
            Self::Dns => "DnsFailed",
            Self::Refused => "ConnectionRefused",
            Self::Tls => "TlsFailed",
            Self::ConnectTimeout => "ConnectTimeout",
            Self::Reset => "ConnectionReset",
            Self::TimedOut => "TimedOut",
            Self::Malformed => "MalformedAnswer",
        }
    }

    /// Whether the worker may have seen the request. If not, the endpoint is at fault and not the task.
    pub const fn may_have_arrived(self) -> bool {
        match self {
            Self::Forbidden | Self::Dns | Self::Refused | Self::Tls | Self::ConnectTimeout => false,
            Self::Reset | Self::TimedOut | Self::Malformed => true,
        }
    }
}

/// A fault with its cause for the log. `Display` shows the fixed message only.
#[derive(Clone)]
pub struct PushFault {
    kind: FaultKind,
    detail: Option<Box<str>>,
}

impl PushFault {
    /// A fault that needs no further explanation.
    pub fn new(kind: FaultKind) -> Self {
        Self { kind, detail: None }
    }

    /// A fault caused by `cause`; the causes behind it are kept too.
    pub(crate) fn caused(kind: FaultKind, cause: &(dyn std::error::Error + 'static)) -> Self {
        let mut detail = cause.to_string();
        let mut next = cause.source();
        while let Some(error) = next {
            detail.push_str(": ");
            detail.push_str(&error.to_string());
            next = error.source();
        }
        Self { kind, detail: Some(detail.into()) }
    }

    /// A fault explained in words of our own.
    pub(crate) fn explained(kind: FaultKind, detail: &str) -> Self {
        Self { kind, detail: Some(detail.into()) }
    }

    /// Which fault of the list it is.
    pub fn kind(&self) -> FaultKind {
        self.kind
    }

    /// What may be told to the worker's owner: of an answer that is not HTTP what is wrong and where, else the fixed text.
    pub fn told(&self) -> &str {
        let detail = if self.kind == FaultKind::Malformed { self.detail() } else { "" };
        if detail.is_empty() { self.kind.message() } else { detail }
    }

    /// The cause in words, for the log and for nobody else; empty if the kind says it all.
    pub fn detail(&self) -> &str {
        self.detail.as_deref().unwrap_or_default()
    }
}

impl fmt::Display for PushFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.message())
    }
}

/// Shows the detail, as it goes to the log.
impl fmt::Debug for PushFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PushFault({}: {:?})", self.kind.code(), self.detail())
    }
}

impl std::error::Error for PushFault {}
