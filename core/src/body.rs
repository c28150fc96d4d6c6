//! The large, rarely rewritten parts of a record as bytes: the body (spec, content type, payload) and the result.
//!
//! Payload bytes are kept exactly as received; reading a body slices it without a copy.

use bytes::{BufMut, Bytes, BytesMut};

/// A body taken apart: `[spec_len u32][spec][content_type_len u8][content_type][payload]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The signature without its payload, as named MessagePack.
    pub spec: Bytes,
    /// The payload's media type; empty means `application/json`.
    pub content_type: Bytes,
    /// The payload as received.
    pub payload: Bytes,
}

impl Body {
    /// Joins the parts; content types longer than 255 bytes are cut.
    pub fn encode(spec: &[u8], content_type: &str, payload: &[u8]) -> Bytes {
        let content_type = &content_type.as_bytes()[..content_type.len().min(255)];
        let mut out = BytesMut::with_capacity(5 + spec.len() + content_type.len() + payload.len());
        out.put_u32(spec.len() as u32);
        out.put_slice(spec);
        out.put_u8(content_type.len() as u8);
        out.put_slice(content_type);
        out.put_slice(payload);
        out.freeze()
    }

    /// Takes an encoded body apart without copying; `None` if it is not one.
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let spec_len = u32::from_be_bytes(*bytes.first_chunk::<4>()?) as usize;
        let spec_end = spec_len.checked_add(4)?;
        let type_len = usize::from(*bytes.get(spec_end)?);
        let type_end = spec_end + 1 + type_len;
        if bytes.len() < type_end {
            return None;
        }
        Some(Self {
            spec: bytes.slice(4..spec_end),
            content_type: bytes.slice(spec_end + 1..type_end),
            payload: bytes.slice(type_end..),
        })
    }
}

/// A stored result: a value of the worker, or the error that ended the task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResultValue {
    /// What the worker answered, with its content type.
    Value {
        /// The worker's content type; empty if it sent none.
        content_type: String,
        /// The answer's bytes, untouched.
        bytes: Bytes,
    },
    /// The error as JSON (`type`, `message`, `stack`, `status`): what ended the task, or the last attempt.
    Error(Bytes),
    /// How far the open attempt is, as JSON. Gone when the task is final.
    Progress(Bytes),
}

impl ResultValue {
    /// `[kind u8][content_type_len u8][content_type][bytes]`.
    pub fn encode(&self) -> Bytes {
        let (kind, content_type, bytes) = match self {
            Self::Value { content_type, bytes } => (0, content_type.as_str(), bytes),
            Self::Error(bytes) => (1, "", bytes),
            Self::Progress(bytes) => (2, "", bytes),
        };
        let content_type = &content_type.as_bytes()[..content_type.len().min(255)];
        let mut out = BytesMut::with_capacity(2 + content_type.len() + bytes.len());
        out.put_u8(kind);
        out.put_u8(content_type.len() as u8);
        out.put_slice(content_type);
        out.put_slice(bytes);
        out.freeze()
    }

    /// Reads an encoded result without copying its bytes; `None` if it is not one.
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let [kind, type_len] = *bytes.first_chunk::<2>()?;
        let end = 2 + usize::from(type_len);
        let content_type = bytes.get(2..end)?;
        match kind {
            0 => {
                Some(Self::Value { content_type: String::from_utf8_lossy(content_type).into_owned(), bytes: bytes.slice(end..) })
            }
            1 => Some(Self::Error(bytes.slice(end..))),
            2 => Some(Self::Progress(bytes.slice(end..))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bodies_round_trip(spec: Vec<u8>, content_type in "[a-z/+-]{0,40}", payload: Vec<u8>) {
            let body = Body::decode(&Body::encode(&spec, &content_type, &payload)).unwrap();
            prop_assert_eq!((&body.spec[..], &body.content_type[..], &body.payload[..]), (&spec[..], content_type.as_bytes(), &payload[..]));
        }

        #[test]
        fn results_round_trip(content_type in "[a-z/+-]{0,40}", bytes: Vec<u8>) {
            for value in [ResultValue::Value { content_type: content_type.clone(), bytes: bytes.clone().into() }, ResultValue::Error(bytes.clone().into()), ResultValue::Progress(bytes.clone().into())] {
                prop_assert_eq!(ResultValue::decode(&value.encode()).unwrap(), value);
            }
        }

        #[test]
        fn junk_never_panics(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            let _ = Body::decode(&bytes);
            let _ = ResultValue::decode(&bytes);
        }
    }
}
