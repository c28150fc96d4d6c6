//! Reading request bodies: type, size and pace are checked before anything is buffered.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::BodyExt;
use lovage_core::problem::{Code, Problem};
use metrics::counter;
use tokio::time::{Instant, timeout_at};

use crate::app::App;
use crate::inflate::{self, Inflater};
use crate::options::Times;

/// The media type without parameters, in lower case; empty if there is none.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Refuses bodies that are not JSON.
pub(crate) fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    match media_type(headers).as_str() {
        "application/json" => Ok(()),
        "" => Err(refused("send the body with `Content-Type: application/json`")),
        other => Err(refused(&format!("send the body with `Content-Type: application/json`, not `{other}`"))),
    }
}

pub(crate) fn refused(detail: &str) -> Problem {
    counter!("lovage_http_bodies_refused_total", "reason" => "type").increment(1);
    Problem::new(Code::ContentTypeRefused, detail)
}

/// `payload_too_large`, counted.
pub(crate) fn too_large(what: &str, limit: usize) -> Problem {
    counter!("lovage_http_bodies_refused_total", "reason" => "size").increment(1);
    Problem::new(Code::PayloadTooLarge, format!("{what} may have at most {limit} bytes"))
}

/// `malformed` because the client stopped sending or broke off.
pub(crate) fn stalled(detail: &str) -> Problem {
    counter!("lovage_http_bodies_refused_total", "reason" => "stalled").increment(1);
    Problem::new(Code::Malformed, detail)
}

/// The whole body, decoded, at most `limit` bytes. What says itself that it is longer is refused unread.
pub(crate) async fn read(body: Body, headers: &HeaderMap, what: &str, limit: usize, times: &Times) -> Result<Bytes, Problem> {
    let Some(coding) = inflate::coding(headers)? else { return collect(body, headers, what, limit, limit, times).await };
    let packed = collect(body, headers, what, limit, inflate::packed_limit(limit), times).await?;
    inflate::whole(coding, &packed, what, limit).await
}

/// The text of a body.
pub(crate) fn utf8(bytes: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(bytes).map_err(|_| Problem::new(Code::Malformed, "the body is not UTF-8"))
}

/// The body as it comes, at most `most` bytes; `limit` is the one to be told.
async fn collect(
    body: Body,
    headers: &HeaderMap,
    what: &str,
    limit: usize,
    most: usize,
    times: &Times,
) -> Result<Bytes, Problem> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > most as u64) {
        return Err(too_large(what, limit));
    }
    let end = Instant::now() + times.body;
    let mut body = body;
    let Some(first) = frame(&mut body, times.body_idle, end).await? else { return Ok(Bytes::new()) };
    if first.len() > most {
        return Err(too_large(what, limit));
    }
    // Most bodies come in one piece, which is used as it is.
    let Some(second) = frame(&mut body, times.body_idle, end).await? else { return Ok(first) };
    let expected = usize::try_from(announced.unwrap_or(0)).unwrap_or(most);
    let mut whole = BytesMut::with_capacity(expected.max(first.len() + second.len()).min(most));
    whole.extend_from_slice(&first);
    let mut next = Some(second);
    while let Some(piece) = next {
        if whole.len() + piece.len() > most {
            return Err(too_large(what, limit));
        }
        whole.extend_from_slice(&piece);
        next = frame(&mut body, times.body_idle, end).await?;
    }
    Ok(whole.freeze())
}

/// The next piece of a body; `None` at its end.
async fn frame(body: &mut Body, idle: Duration, end: Instant) -> Result<Option<Bytes>, Problem> {
    loop {
        let until = (Instant::now() + idle).min(end);
        let frame = timeout_at(until, body.frame()).await.map_err(|_| stalled("the body did not arrive in time"))?;
        let Some(frame) = frame else { return Ok(None) };
        let frame = frame.map_err(|_| stalled("the body broke off"))?;
        // Trailers say nothing here.
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            return Ok(Some(data));
        }
    }
}

/// A body that is read as it comes, decoded, of any length.
pub(crate) struct Pieces {
    body: Body,
    inflater: Option<Inflater>,
    idle: Duration,
    end: Instant,
}

impl Pieces {
    /// Refuses codings that are not known, and one stream too many that has one.
    pub(crate) fn new(app: &App, headers: &HeaderMap, body: Body) -> Result<Self, Problem> {
        let inflater = inflate::coding(headers)?.map(|coding| Inflater::new(app, coding)).transpose()?;
        let times = &app.options.times;
        Ok(Self { body, inflater, idle: times.body_idle, end: Instant::now() + times.stream })
    }

    /// The next piece; `None` at the end. Nothing is lost if the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let Some(inflater) = &mut self.inflater else { return frame(&mut self.body, self.idle, self.end).await };
        loop {
            if let Some(piece) = inflater.next().await? {
                return Ok(Some(piece));
            }
            match frame(&mut self.body, self.idle, self.end).await? {
                Some(packed) => inflater.push(packed),
                None => return inflater.finish().map(|()| None),
            }
        }
    }
}
