//! Content codings of HTTP (`Content-Encoding`): gzip, br, zstd and deflate, in both directions.
//!
//! It works on bytes in memory, without I/O, so that the gateway and the dispatcher decode with the same code. A
//! [`Decoder`] gives as many bytes as it is asked for and no more: what a small input inflates to is the caller's choice,
//! never the sender's.

mod decode;
mod encode;
mod names;

pub use decode::{Broken, Decoded, Decoder, decode};
pub use encode::encode;
pub use names::{Coding, NotOne};
