//! Compressed answers, for clients that ask for them.
//!
//! Only bodies whose size is known are compressed, so a stream of lines or events is never held back, and none below a
//! size where it would not pay: the answer to a submit is looked at once and left alone.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, VARY};
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::BodyExt;
use lovage_coding::{Coding, encode};
use smallvec::SmallVec;

/// Answers below this size are sent as they are: they fit into a packet with their head, or nearly so.
const MIN_BYTES: u64 = 1024;
/// Larger answers are compressed beside the threads that serve requests.
const APART_BYTES: usize = 64 << 10;

/// The `Accept-Encoding` of a request, unread.
pub(crate) struct Wanted(SmallVec<[HeaderValue; 1]>);

impl Wanted {
    pub(crate) fn of(method: &Method, headers: &HeaderMap) -> Self {
        if *method == Method::HEAD {
            return Self(SmallVec::new());
        }
        Self(headers.get_all(ACCEPT_ENCODING).iter().cloned().collect())
    }

    /// The answer as the client wants it.
    pub(crate) async fn apply(self, response: Response) -> Response {
        if !is_eligible(&response) {
            return response;
        }
        let (mut parts, body) = response.into_parts();
        parts.headers.append(VARY, HeaderValue::from_static("accept-encoding"));
        let Some(coding) = Coding::wanted(self.0.iter().map(HeaderValue::as_bytes)) else {
            return Response::from_parts(parts, body);
        };
        let Ok(plain) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
            // A body whose size is known is in memory and cannot fail; if it could, this would be its broken end.
            return Response::from_parts(parts, Body::empty());
        };
        let packed = if plain.len() > APART_BYTES {
            let plain = plain.clone();
            tokio::task::spawn_blocking(move || pack(coding, &plain)).await.ok().flatten()
        } else {
            pack(coding, &plain)
        };
        let Some(packed) = packed else { return Response::from_parts(parts, plain.into()) };
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
        weaken(&mut parts.headers);
        Response::from_parts(parts, packed.into())
    }
}

/// The compressed bytes, if that makes them fewer.
fn pack(coding: Coding, plain: &Bytes) -> Option<Vec<u8>> {
    let packed = encode(coding, plain).inspect_err(|error| tracing::error!(%error, "cannot compress an answer")).ok()?;
    (packed.len() < plain.len()).then_some(packed)
}

fn is_eligible(response: &Response) -> bool {
    let exact = http_body::Body::size_hint(response.body()).exact();
    if exact.is_none_or(|size| size < MIN_BYTES) {
        return false;
    }
    let headers = response.headers();
    let fixed = |value: &HeaderValue| value.to_str().is_ok_and(|value| value.contains("no-transform"));
    !headers.contains_key(CONTENT_ENCODING)
        && !headers.contains_key(CONTENT_RANGE)
        && !headers.get(CACHE_CONTROL).is_some_and(fixed)
        && headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(is_text)
}

/// Whether compression gains something: images, archives and unknown bytes are compressed already, or may be.
fn is_text(content_type: &str) -> bool {
    const TEXTS: [&str; 7] = ["json", "x-ndjson", "xml", "yaml", "x-yaml", "javascript", "x-www-form-urlencoded"];
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.split_once('/') {
        // Events are meant one by one, also when somebody else made the list of them.
        Some(("text", kind)) => kind != "event-stream",
        Some(("application", kind)) => TEXTS.contains(&kind) || kind.ends_with("+json") || kind.ends_with("+xml"),
        Some((_, kind)) => kind == "svg+xml",
        None => false,
    }
}

/// A strong tag names bytes, and these are others; the weak one names the same version.
fn weaken(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(ETAG) else { return };
    if tag.as_bytes().starts_with(b"W/") {
        return;
    }
    if let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()) {
        headers.insert(ETAG, weak);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_is_worth_it() {
        for yes in
            ["application/json", "Application/JSON; charset=utf-8", "text/plain", "application/problem+json", "image/svg+xml"]
        {
            assert!(is_text(yes), "{yes}");
        }
        for no in ["", "json", "image/png", "application/octet-stream", "application/gzip", "text/event-stream", "video/mp4"] {
            assert!(!is_text(no), "{no}");
        }
    }
}
