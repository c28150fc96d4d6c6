//! Answers that come compressed although nobody asked for it.
//!
//! No request says that it takes a coding, yet some frameworks compress everything. What is stored and judged is the plain
//! body, so that a result can be read by whoever asks for it. The limit of an answer's size counts plain bytes.

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use lovage_coding::{Coding, decode};

use super::fault::{FaultKind, PushFault};
use super::transport::Response;

/// The header that says the outcome whatever the status is.
const OUTCOME: HeaderName = HeaderName::from_static("lovage-outcome");
/// The media type of a body that says the outcome.
const OUTCOME_DOCUMENT: &str = "application/vnd.lovage.outcome+json";

/// The answer with a plain body of at most `max_body` bytes; what is longer is cut and marked.
///
/// A body that cannot be decoded is a fault where it counts: in a success, and where the worker says the outcome itself.
/// With any other status it is dropped and the status stands, for a broken page of an error says no less than a whole one.
pub(super) fn plain(mut response: Response, max_body: usize) -> Result<Response, PushFault> {
    if response.body.is_empty() || !response.headers.contains_key(CONTENT_ENCODING) {
        return Ok(response);
    }
    let values = response.headers.get_all(CONTENT_ENCODING).iter().map(HeaderValue::as_bytes);
    let read = match Coding::of(values) {
        Ok(None) => return Ok(response),
        Err(_) => Err("the Content-Encoding of the answer is not known"),
        // The rest was never read, so the end is missing: as much as there is will do for what is cut anyway.
        Ok(Some(coding)) if response.truncated => Ok(beginning(coding, &response.body, max_body)),
        Ok(Some(coding)) => match decode(coding, &response.body, max_body) {
            Ok(decoded) => {
                response.truncated = decoded.truncated;
                Ok(decoded.bytes)
            }
            Err(_) => Err("the body of the answer is not what its Content-Encoding says"),
        },
    };
    response.body = match read {
        Ok(body) => body,
        Err(why) if response.status.is_success() || says_outcome(&response.headers) => {
            return Err(PushFault::explained(FaultKind::Malformed, why));
        }
        Err(_) => bytes::Bytes::new(),
    };
    // They speak of the body as it came.
    response.headers.remove(CONTENT_ENCODING);
    response.headers.remove(CONTENT_LENGTH);
    Ok(response)
}

/// What can be decoded of a body that was cut.
fn beginning(coding: Coding, mut packed: &[u8], max_body: usize) -> bytes::Bytes {
    let mut out = bytes::BytesMut::new();
    if let Ok(mut decoder) = lovage_coding::Decoder::new(coding) {
        let mut room = max_body;
        while room > 0
            && let Ok(made @ 1..) = decoder.read(&mut packed, &mut out, room)
        {
            room -= made;
        }
    }
    out.freeze()
}

fn says_outcome(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    headers.contains_key(OUTCOME) || essence.eq_ignore_ascii_case(OUTCOME_DOCUMENT)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use http::StatusCode;
    use lovage_coding::encode;
    use proptest::prelude::*;

    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &'static str)], body: impl Into<Bytes>) -> Response {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        Response { status: StatusCode::from_u16(status).unwrap(), headers: map, body: body.into(), truncated: false }
    }

    #[test]
    fn every_coding_becomes_plain() {
        for coding in Coding::ALL {
            let headers = [("content-encoding", coding.name()), ("content-type", "text/plain")];
            let packed = encode(coding, b"hello").unwrap();
            let response = plain(answer(200, &headers, packed.clone()), 5).unwrap();
            assert_eq!((&*response.body, response.truncated), (&b"hello"[..], false), "{coding:?}");
            assert!(!response.headers.contains_key(CONTENT_ENCODING) && response.headers.contains_key(CONTENT_TYPE));
            let response = plain(answer(500, &headers, packed), 4).unwrap();
            assert_eq!((&*response.body, response.truncated), (&b"hell"[..], true), "{coding:?}");
        }
        let response = plain(answer(200, &[("content-encoding", "identity")], "as it is"), 100).unwrap();
        assert_eq!(response.body, "as it is");
        let response = plain(answer(204, &[("content-encoding", "junk")], ""), 100).unwrap();
        assert!(response.body.is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_a_fault_where_it_counts() {
        for coding in ["gzip", "br", "zstd", "deflate", "compress", "gzip, gzip", "\u{e4}"] {
            let coded = ("content-encoding", coding);
            assert_eq!(plain(answer(200, &[coded], "not compressed"), 100).unwrap_err().kind(), FaultKind::Malformed);
            for says in [("lovage-outcome", "fail"), ("content-type", "application/vnd.lovage.outcome+json; charset=utf-8")] {
                let fault = plain(answer(500, &[coded, says], "not compressed"), 100).unwrap_err();
                assert_eq!(fault.kind(), FaultKind::Malformed, "{coding} {says:?}");
            }
            for status in [302, 404, 422, 429, 500] {
                let response = plain(answer(status, &[coded, ("retry-after", "3")], "not compressed"), 100).unwrap();
                assert_eq!((response.status.as_u16(), response.body.len()), (status, 0), "{coding}");
                assert!(response.headers.contains_key("retry-after"));
            }
        }
    }

    #[test]
    fn a_bomb_is_cut_at_the_limit() {
        for coding in Coding::ALL {
            let packed = encode(coding, &vec![b'x'; 20 << 20]).unwrap();
            let response = plain(answer(200, &[("content-encoding", coding.name())], packed.clone()), 1000).unwrap();
            assert_eq!((response.body.len(), response.truncated), (1000, true), "{coding:?}");
            // Cut on the way as well: what there is of it is shown.
            let mut cut = answer(200, &[("content-encoding", coding.name())], packed[..packed.len() - 1].to_vec());
            cut.truncated = true;
            let response = plain(cut, 1000).unwrap();
            assert_eq!((&*response.body, response.truncated), (&[b'x'; 1000][..], true), "{coding:?}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics_or_exceeds_the_limit(body in prop::collection::vec(any::<u8>(), 0..200), n in 0..4_usize, cut in any::<bool>()) {
            let mut response = answer(200, &[("content-encoding", Coding::ALL[n].name())], body);
            response.truncated = cut;
            if let Ok(response) = plain(response, 100) {
                prop_assert!(response.body.len() <= 100);
            }
        }
    }
}
