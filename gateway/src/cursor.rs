//! Cursors of lists: opaque to clients, and refused if they were changed on the way.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lovage_core::problem::{Code, Problem};
use sha2::{Digest, Sha256};

const CHECK: usize = 4;

/// A cursor of the list `kind` that holds these bytes.
pub(crate) fn encode(kind: &str, bytes: &[u8]) -> String {
    let mut whole = check(kind, bytes).to_vec();
    whole.extend_from_slice(bytes);
    URL_SAFE_NO_PAD.encode(whole)
}

/// The bytes of a cursor of the list `kind`.
pub(crate) fn decode(kind: &str, text: &str) -> Result<Vec<u8>, Problem> {
    let whole = URL_SAFE_NO_PAD.decode(text).ok();
    let parts = whole.as_deref().and_then(<[u8]>::split_first_chunk::<CHECK>);
    match parts {
        Some((sum, bytes)) if *sum == check(kind, bytes) => Ok(bytes.to_vec()),
        _ => Err(refused()),
    }
}

pub(crate) fn refused() -> Problem {
    Problem::new(Code::BadCursor, "the cursor is not one that this list gave out")
}

/// Guards against slips, not against attacks: a cursor can reach nothing that its list does not show.
fn check(kind: &str, bytes: &[u8]) -> [u8; CHECK] {
    let digest = Sha256::new().chain_update(kind).chain_update([0]).chain_update(bytes).finalize();
    let mut sum = [0; CHECK];
    sum.copy_from_slice(&digest[..CHECK]);
    sum
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn cursors_belong_to_their_list() {
        let text = encode("tasks", b"abc");
        assert_eq!(decode("tasks", &text).unwrap(), b"abc");
        for (kind, text) in [("workers", &*text), ("tasks", &text[1..]), ("tasks", ""), ("tasks", "!")] {
            assert_eq!(decode(kind, text).unwrap_err().code, Code::BadCursor);
        }
    }
}
