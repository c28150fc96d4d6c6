//! Compressed request bodies: what they inflate to is counted, and a bomb never inflates beyond the limit.
//!
//! A whole body is collected as it came and decoded at once, so that a client that sends slowly holds no decoder. A stream
//! holds one for its whole life; their number is limited, and so is what a stream may make of few bytes.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use lovage_coding::{Broken, Coding, Decoder, NotOne};
use lovage_core::problem::{Code, Problem};
use metrics::counter;
use tokio::sync::OwnedSemaphorePermit;

use crate::app::App;
use crate::body::{refused, too_large};

/// Bytes of a whole body that are decoded before others get their turn.
const TURN: usize = 128 << 10;
/// Bytes of a piece of a stream.
const PIECE: usize = 16 << 10;

/// The coding of a request's body.
pub(crate) fn coding(headers: &HeaderMap) -> Result<Option<Coding>, Problem> {
    named(headers).map_err(|_| refused("send the body without Content-Encoding, or with one of gzip, br, zstd, deflate"))
}

/// Whether the coding of a request's body cannot be read here, which the answer has to tell.
pub(crate) fn is_unknown(headers: &HeaderMap) -> bool {
    named(headers).is_err()
}

fn named(headers: &HeaderMap) -> Result<Option<Coding>, NotOne> {
    Coding::of(headers.get_all(CONTENT_ENCODING).iter().map(http::HeaderValue::as_bytes))
}

/// What a compressed body of at most `limit` bytes may have: the codings make hard stuff a little larger.
pub(crate) fn packed_limit(limit: usize) -> usize {
    limit + limit / 64 + 1024
}

/// Decodes a whole body. Nothing at all is an empty body.
pub(crate) async fn whole(coding: Coding, packed: &[u8], what: &str, limit: usize) -> Result<Bytes, Problem> {
    if packed.is_empty() {
        return Ok(Bytes::new());
    }
    let mut decoder = Decoder::new(coding).map_err(broken)?;
    let (mut packed, mut out) = (packed, BytesMut::with_capacity(packed.len().saturating_mul(3).min(limit)));
    loop {
        // One byte more than allowed is enough to know that there is more.
        let room = TURN.min(limit + 1 - out.len());
        if decoder.read(&mut packed, &mut out, room).map_err(broken)? == 0 {
            decoder.finish().map_err(broken)?;
            return Ok(out.freeze());
        }
        if out.len() > limit {
            return Err(too_large(what, limit));
        }
        tokio::task::yield_now().await;
    }
}

/// The decoder of a stream.
pub(crate) struct Inflater {
    decoder: Decoder,
    /// What has arrived and is not yet decoded.
    packed: Bytes,
    /// What a stream may give whatever it took, and how many bytes it may give for each that it took.
    free: u64,
    expansion: u64,
    _permit: OwnedSemaphorePermit,
}

impl Inflater {
    /// A decoder, if one more stream may have one.
    pub(crate) fn new(app: &App, coding: Coding) -> Result<Self, Problem> {
        let permit = app.inflaters.clone().try_acquire_owned().map_err(|_| {
            counter!("lovage_http_compressed_streams_refused_total").increment(1);
            Problem::new(Code::Overloaded, "too many compressed streams are being read; send it later, or as it is")
        })?;
        let limits = &app.options.limits;
        Ok(Self {
            decoder: Decoder::new(coding).map_err(broken)?,
            packed: Bytes::new(),
            free: limits.array_bytes as u64,
            expansion: limits.expansion as u64,
            _permit: permit,
        })
    }

    /// Takes the next piece of the body; all of the one before must have been given.
    pub(crate) fn push(&mut self, packed: Bytes) {
        self.packed = packed;
    }

    /// What comes next of what was pushed; `None`: more is needed.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        // A small piece may inflate to gigabytes: others get their turn meanwhile.
        tokio::task::coop::consume_budget().await;
        let mut out = BytesMut::new();
        let mut rest = &self.packed[..];
        let made = self.decoder.read(&mut rest, &mut out, PIECE).map_err(broken)?;
        let left = rest.len();
        self.packed.advance(self.packed.len() - left);
        if self.decoder.given() > self.free && self.decoder.given() > self.decoder.taken().saturating_mul(self.expansion) {
            counter!("lovage_http_bodies_refused_total", "reason" => "expansion").increment(1);
            let detail = format!("a compressed stream may inflate to {} times its size", self.expansion);
            return Err(Problem::new(Code::PayloadTooLarge, detail));
        }
        Ok((made > 0).then(|| out.freeze()))
    }

    /// Says whether the stream may end here. Nothing at all is an empty stream.
    pub(crate) fn finish(&self) -> Result<(), Problem> {
        if self.decoder.taken() == 0 { Ok(()) } else { self.decoder.finish().map_err(broken) }
    }
}

fn broken(_: Broken) -> Problem {
    counter!("lovage_http_bodies_refused_total", "reason" => "coding").increment(1);
    Problem::new(Code::Malformed, "the body is not what its Content-Encoding says, or it is not complete")
}
