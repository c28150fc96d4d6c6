//! Which request headers a user may set.
//!
//! Refused are the headers that frame the message or steer proxies, those in which the product tells the worker
//! about the attempt, and those that metadata services take as proof of a deliberate request.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The greatest number of headers.
pub(super) const MAX_HEADERS: usize = 32;
/// The greatest sum of the lengths of all names and values, in bytes.
pub(super) const MAX_HEADER_BYTES: usize = 8 * 1024;

/// Names that are refused as they stand.
const DENIED: &[&str] = &[
    // framing and hop by hop
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    // who asks, through whom
    "forwarded",
    "via",
    "x-real-ip",
    // set by the product itself
    "content-type",
    "idempotency-key",
    "traceparent",
    "tracestate",
    "user-agent",
    // doors of metadata services
    "metadata",
    "metadata-flavor",
    "x-google-metadata-request",
    "x-metadata-token",
];

/// Beginnings of names that are refused.
const DENIED_PREFIXES: &[&str] = &["lovage-", "proxy-", "webhook-", "x-aws-ec2-metadata-", "x-forwarded-"];

/// A header that was refused, and why. `name` is as the user wrote it; values are never repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("header `{name}`: {why}")]
pub struct HeaderRefusal {
    /// The name as given; empty if the set as a whole is at fault.
    pub name: String,
    /// The reason, fit for tenants.
    pub why: &'static str,
}

/// Checks the headers a user wants sent, and returns them ready to send. Repeated names are kept in order.
pub fn check_user_headers<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<HeaderMap, HeaderRefusal> {
    let mut checked = HeaderMap::new();
    let mut bytes = 0;
    for (name, value) in headers {
        let refuse = |why| Err(HeaderRefusal { name: name.to_owned(), why });
        let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
            return refuse("the name is not a header name");
        };
        if is_denied(parsed.as_str()) {
            return refuse("the header is reserved");
        }
        // Bytes above ASCII have no agreed meaning in a header, so `http` lets them through but we do not.
        let value = match HeaderValue::from_str(value) {
            Ok(parsed) if value.is_ascii() => parsed,
            _ => return refuse("the value holds a character that cannot be sent"),
        };
        bytes += parsed.as_str().len() + value.len();
        if bytes > MAX_HEADER_BYTES {
            return refuse("the headers are larger than 8 KiB together");
        }
        if checked.len() == MAX_HEADERS {
            return refuse("there are more than 32 headers");
        }
        checked.append(parsed, value);
    }
    Ok(checked)
}

/// Those of stored headers that may be sent: rules may have become stricter since they were judged, and the others are sent all
/// the same.
pub(crate) fn sendable<'a>(headers: impl IntoIterator<Item = (&'a String, &'a String)>) -> HeaderMap {
    let one = |(name, value): (&'a String, &'a String)| check_user_headers([(name.as_str(), value.as_str())]).ok();
    headers.into_iter().filter_map(one).flatten().filter_map(|(name, value)| Some((name?, value))).collect()
}

/// `name` is in lower case, as `http` parses it.
fn is_denied(name: &str) -> bool {
    DENIED.contains(&name) || DENIED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn ordinary_headers_pass() {
        let headers =
            check_user_headers([("Authorization", "Bearer abc"), ("X-Team", "a"), ("X-Team", "b"), ("X-Empty", "")]).unwrap();
        assert_eq!(headers.len(), 4);
        assert_eq!(headers.get_all("x-team").iter().count(), 2);
    }

    #[test]
    fn reserved_names_are_refused_in_any_case() {
        for name in [
            "Host",
            "HOST",
            "Content-Length",
            "Transfer-Encoding",
            "Connection",
            "Keep-Alive",
            "TE",
            "Trailer",
            "Upgrade",
            "Expect",
            "Proxy-Authorization",
            "proxy-connection",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "Forwarded",
            "Via",
            "Metadata",
            "Metadata-Flavor",
            "X-aws-ec2-metadata-token",
            "X-Metadata-Token",
            "X-Google-Metadata-Request",
            "Lovage-Attempt",
            "lovage-anything",
            "Webhook-Id",
            "Webhook-Signature",
            "Idempotency-Key",
            "Content-Type",
            "User-Agent",
            "HTTP2-Settings",
        ] {
            let refusal = check_user_headers([(name, "1")]).unwrap_err();
            assert_eq!(refusal, HeaderRefusal { name: name.to_owned(), why: "the header is reserved" });
        }
    }

    #[test]
    fn of_stored_headers_only_those_that_may_not_be_sent_are_left_out() {
        let stored = [("Content-Type", "text/plain"), ("Authorization", "Bearer abc"), ("X-A", "1")];
        let stored = stored.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let sent = sendable(stored.iter().map(|(name, value)| (name, value)));
        assert_eq!((sent.len(), &sent["authorization"]), (2, &HeaderValue::from_static("Bearer abc")));
    }

    #[test]
    fn injections_are_refused() {
        for (name, value) in [
            ("X-A\r\nHost", "x"),
            ("X A", "x"),
            ("X-A:", "x"),
            ("", "x"),
            (" Host", "x"),
            ("Host ", "x"),
            ("X-Ü", "x"),
            ("X-A\0", "x"),
            ("X-A", "x\r\nHost: y"),
            ("X-A", "x\ny"),
            ("X-A", "x\ry"),
            ("X-A", "x\0y"),
            ("X-A", "\u{7f}"),
            ("X-A", "über"),
            (":path", "/"),
        ] {
            assert!(check_user_headers([(name, value)]).is_err(), "{name:?}: {value:?}");
        }
    }

    #[test]
    fn number_and_size_are_limited() {
        let many: Vec<String> = (0..33).map(|i| format!("x-{i}")).collect();
        assert!(check_user_headers(many[..32].iter().map(|n| (n.as_str(), "v"))).is_ok());
        assert!(check_user_headers(many.iter().map(|n| (n.as_str(), "v"))).is_err());
        let repeated = std::iter::repeat_n(("x", "v"), 33);
        assert!(check_user_headers(repeated).is_err());

        let long = "v".repeat(MAX_HEADER_BYTES - 3);
        assert!(check_user_headers([("x-a", long.as_str())]).is_ok());
        assert!(check_user_headers([("x-ab", long.as_str())]).is_err());
    }
}
