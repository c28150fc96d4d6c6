//! Signatures in other formats than JSON: MessagePack and YAML.
//!
//! They become JSON text before anything else looks at them, so the same code reads them, the same rules hold and the same
//! pointers name what is refused. What JSON cannot say is refused instead of bent: bytes, extension types, keys that are no
//! strings, numbers that are none, keys given twice. No format has a way to run code, name types or refer to other parts.

mod msgpack;
#[cfg(test)]
mod tests;
mod text;
mod yaml;

use bytes::Bytes;
use http::HeaderMap;
use lovage_core::problem::{Code, Problem};

use crate::body;
use text::Text;

/// Bodies above this size are rewritten beside the threads that serve requests.
const APART_BYTES: usize = 64 << 10;

/// The format of a signature, or of an array of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Read as it is.
    Json,
    /// `application/msgpack`
    MessagePack,
    /// `application/yaml`
    Yaml,
}

/// What the JSON text may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// What it is, for the refusal.
    pub what: &'static str,
    /// Its bytes. The other formats say some things shorter than JSON.
    pub bytes: usize,
    /// Its levels of arrays and objects.
    pub depth: usize,
}

impl Format {
    /// The format that a media type names.
    pub(crate) fn parse(media_type: &str) -> Option<Self> {
        Some(match media_type {
            "application/json" => Self::Json,
            "application/msgpack" | "application/vnd.msgpack" | "application/x-msgpack" => Self::MessagePack,
            "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" => Self::Yaml,
            _ => return None,
        })
    }

    /// The format of the request's body.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let media_type = body::media_type(headers);
        Self::parse(&media_type).ok_or_else(|| {
            let given = if media_type.is_empty() { String::new() } else { format!(", not `{media_type}`") };
            body::refused(&format!(
                "send the body with `Content-Type: application/json`, application/msgpack or application/yaml{given}"
            ))
        })
    }

    /// The body as JSON text.
    pub(crate) async fn json(self, body: Bytes, bounds: Bounds) -> Result<Bytes, Problem> {
        match self {
            Self::Json => Ok(body),
            _ if body.len() <= APART_BYTES => self.rewrite(&body, bounds),
            _ => {
                let rewritten = tokio::task::spawn_blocking(move || self.rewrite(&body, bounds)).await;
                rewritten.unwrap_or_else(|error| {
                    tracing::error!(%error, "a body could not be rewritten");
                    Err(Problem::new(Code::Fault, "the request could not be carried out; the server's log has the cause"))
                })
            }
        }
    }

    fn rewrite(self, body: &[u8], bounds: Bounds) -> Result<Bytes, Problem> {
        let mut text = Text::new(body.len(), bounds);
        match self {
            Self::Json => return Ok(Bytes::copy_from_slice(body)),
            Self::MessagePack => msgpack::read(body, &mut text)?,
            Self::Yaml => yaml::read(body, &mut text)?,
        }
        Ok(text.into_bytes())
    }
}
