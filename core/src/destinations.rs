//! The port through which signatures are checked for addresses and headers that must not be used.
//!
//! The policy itself belongs to whoever opens outgoing connections, so that one place decides at submit and at every
//! attempt; the rules of signatures only turn a refusal into the right answer.

/// Why a URL is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UrlRefusal {
    /// It is not a URL that can be called at all: the field is not valid.
    Invalid(String),
    /// It names an address that must not be called from here.
    Forbidden(String),
}

/// Why a header is refused. Values are never repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRefusal {
    /// The name as given; empty if the headers as a whole are at fault.
    pub name: String,
    /// The reason, for the user.
    pub message: String,
}

/// The policy for destinations.
pub trait Destinations: Send + Sync {
    /// Whether tasks, callbacks and workers may name this URL. It may contain `{task}`.
    fn check_url(&self, url: &str) -> Result<(), UrlRefusal>;

    /// Whether these headers may be sent with a delivery.
    fn check_headers(&self, headers: &[(String, String)]) -> Result<(), HeaderRefusal>;
}
