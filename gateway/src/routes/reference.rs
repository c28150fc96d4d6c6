//! `GET /docs`: the document of the API, to read. One page without anything from elsewhere; its policy allows its own style
//! and script by their hashes, and to read `openapi.json`, and nothing else.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("reference.html");

static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |tag| STANDARD.encode(Sha256::digest(inner(tag).as_bytes()));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style")
    )
});

/// What stands between the one `<tag>` of the page and its end.
fn inner(tag: &str) -> &'static str {
    let inside = PAGE.split_once(&format!("<{tag}>")).and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")));
    inside.map_or("", |(inside, _)| inside)
}

/// The API, to read
#[utoipa::path(get, path = "/docs", operation_id = "reference", tag = "operation",
    responses((status = 200, description = "A page made from this document", body = String, content_type = "text/html")))]
pub(super) async fn reference() -> Response {
    // A policy is made of letters and punctuation.
    let policy = HeaderValue::from_str(&POLICY).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CONTENT_SECURITY_POLICY, policy),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, PAGE).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        for tag in ["script", "style"] {
            assert!(inner(tag).len() > 500 && PAGE.matches(&format!("<{tag}")).count() == 1, "one {tag}");
        }
        for sign in ["http:", "https:", "src=", "@import", "url(", "innerHTML", "style=", "onclick", "eval("] {
            assert!(!PAGE.contains(sign), "{sign}");
        }
        assert!(PAGE.lines().count() < 200);
    }
}
