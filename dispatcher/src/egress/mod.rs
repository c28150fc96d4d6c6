//! The only code of the product that opens outgoing connections to addresses a tenant can name.
//!
//! What every request through here promises:
//!
//! * a URL is parsed once ([`Target`]) and only the parsed value is used afterwards;
//! * literal addresses are judged when the URL is parsed, resolved addresses at every attempt, and the
//!   address that was judged is the one that is dialled and compared with the peer after the connect;
//! * redirects are not followed, no proxy is taken from the environment, no compression is asked for, and what comes
//!   compressed all the same is decoded within the limit of the answer's size;
//! * one time limit covers everything from the name lookup to the last byte of the answer, and the answer's
//!   head and body have limits;
//! * what is told to tenants about a failure comes from a fixed list ([`FaultKind`]).

mod body;
pub mod cidr;
mod client;
mod conn;
mod connect;
mod decode;
mod destinations;
mod dials;
mod exchange;
mod fault;
mod head;
mod headers;
mod lines;
mod message;
mod metrics;
pub mod policy;
mod pool;
mod resolve;
mod target;
mod tls;
mod transport;

pub use cidr::Cidr;
pub use client::{EgressOptions, HttpTransport};
pub use fault::{FaultKind, PushFault};
pub(crate) use headers::sendable;
pub use headers::{HeaderRefusal, check_user_headers};
pub use lines::HeaderLines;
pub use policy::{AddressPolicy, Refusal};
pub use resolve::{Resolve, SystemResolver};
pub use target::{Origin, Scheme, Target, TargetError};
pub use tls::TlsError;
pub use transport::{AnswerSink, PushRequest, Pushed, Response, SinkVerdict, Transport};

#[cfg(test)]
mod tests;
