//! Tokens of attempts: they name one attempt and prove that this system wrote them. Nothing is stored for them.
//!
//! Whether the attempt is still the open one is not their business: `decide` fences every event with it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::head::{Attempt, Head, SessionId};
use crate::id::TaskKey;
use crate::time::Millis;

/// The form of most tokens.
const FORM: u8 = 1;
/// The form of those that name an instance, behind the fixed part.
const WITH_INSTANCE: u8 = 2;
/// Form, generation, number, session, acceptance.
const FIXED: usize = 1 + 1 + 4 + 8 + 8;
/// The mark of an instance.
const INSTANCE: usize = 4;
/// Bytes of the MAC that are kept: nobody guesses 128 bits, and the URL stays short.
const MAC: usize = 16;
/// The longest text that can be a token: fixed part, instance, namespace, tag, an id of 128 bytes, MAC; in Base64.
const MAX_TEXT: usize = (FIXED + INSTANCE + 5 + 128 + MAC).div_ceil(3) * 4;

/// One attempt of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptToken {
    /// The task.
    pub key: TaskKey,
    /// Its attempt.
    pub attempt: Attempt,
    /// When the task was accepted: tells it from another one that gets its id after it was deleted.
    pub created: Millis,
    /// The mark ([`worker_mark`](crate::worker_mark)) of the instance that has it, where what it reports counts; 0: none.
    pub instance: u32,
}

impl AttemptToken {
    /// Of the open attempt of a task.
    pub fn of(key: &TaskKey, head: &Head) -> Self {
        Self { key: key.clone(), attempt: head.open_attempt(), created: head.created, instance: 0 }
    }
}

/// Writes and reads tokens with one secret key.
#[derive(Clone)]
pub struct TokenKey(Hmac<Sha256>);

impl TokenKey {
    /// With these 32 secret bytes.
    pub fn new(secret: &[u8; 32]) -> Self {
        // HMAC itself fills a short key up with zeros to the hash's block.
        let mut block = [0; 64];
        block[..32].copy_from_slice(secret);
        Self(Hmac::new(&block.into()))
    }

    /// The token as text for a URL: `A-Z a-z 0-9 - _`.
    pub fn write(&self, token: &AttemptToken) -> String {
        let AttemptToken { key, attempt, created, instance } = token;
        let key = key.to_bytes();
        let mut bytes = Vec::with_capacity(FIXED + INSTANCE + key.len() + MAC);
        bytes.push(if *instance == 0 { FORM } else { WITH_INSTANCE });
        bytes.push(attempt.generation);
        bytes.extend_from_slice(&attempt.number.to_be_bytes());
        bytes.extend_from_slice(&attempt.session.0.to_be_bytes());
        bytes.extend_from_slice(&created.0.to_be_bytes());
        if *instance != 0 {
            bytes.extend_from_slice(&instance.to_be_bytes());
        }
        bytes.extend_from_slice(&key);
        let mac = self.0.clone().chain_update(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&mac[..MAC]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The token that this key wrote as `text`; `None`: it did not write it. Takes the same time whatever is wrong with the MAC.
    pub fn read(&self, text: &str) -> Option<AttemptToken> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (said, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC)?)?;
        self.0.clone().chain_update(said).verify_truncated_left(mac).ok()?;
        let (fixed, key) = said.split_first_chunk::<FIXED>()?;
        let [form @ (FORM | WITH_INSTANCE), generation, rest @ ..] = fixed else { return None };
        let (instance, key) = if *form == FORM { (&[0; INSTANCE], key) } else { key.split_first_chunk::<INSTANCE>()? };
        let (number, rest) = rest.split_first_chunk::<4>()?;
        let (session, created) = rest.split_first_chunk::<8>()?;
        let attempt = Attempt {
            number: u32::from_be_bytes(*number),
            generation: *generation,
            session: SessionId(u64::from_be_bytes(*session)),
        };
        let created = Millis(u64::from_be_bytes(created.try_into().ok()?));
        Some(AttemptToken { key: TaskKey::from_bytes(key)?, attempt, created, instance: u32::from_be_bytes(*instance) })
    }
}

/// Where the workers of a server report: makes the URL of an attempt and reads its token again.
#[derive(Clone, Debug)]
pub struct AttemptUrls {
    base: std::sync::Arc<str>,
    key: TokenKey,
}

impl AttemptUrls {
    /// For a server that others reach at `public_url`.
    pub fn new(public_url: &str, key: TokenKey) -> Self {
        Self { base: format!("{}/v1/attempts/", public_url.trim_end_matches('/')).into(), key }
    }

    /// The URL of this attempt; the verbs of a report go behind it.
    pub fn write(&self, token: &AttemptToken) -> String {
        format!("{}{}", self.base, self.key.write(token))
    }

    /// What [`TokenKey::read`] makes of the token in such a URL.
    pub fn read(&self, token: &str) -> Option<AttemptToken> {
        self.key.read(token)
    }
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::id::{IdRun, Ns, Slot, TaskId};
    use crate::time::Millis;

    fn any_token() -> impl Strategy<Value = AttemptToken> {
        let client = "[A-Za-z0-9._:-]{0,127}[A-Za-z0-9_:-]".prop_map(|text| TaskId::parse(&text).unwrap());
        let made = (0u64..1 << 48, 0u16..4096, any::<u64>());
        let made = made.prop_map(|(now, slot, random)| IdRun::new(Millis(now), Slot::new(slot), random).nth(0));
        (prop_oneof![client, made], any::<(u32, u32, u8, u64, u64)>(), 0u32..3).prop_map(
            |(id, (ns, number, generation, session, created), instance)| AttemptToken {
                key: TaskKey::new(Ns(ns), id),
                attempt: Attempt { number, generation, session: SessionId(session) },
                created: Millis(created),
                instance: instance * 0x4000_0001,
            },
        )
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(token in any_token(), secret: [u8; 32]) {
            let text = TokenKey::new(&secret).write(&token);
            prop_assert!(text.len() <= MAX_TEXT);
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            prop_assert_eq!(TokenKey::new(&secret).read(&text), Some(token));
        }

        #[test]
        fn another_key_or_a_changed_token_is_nothing(token in any_token(), secret: [u8; 32], other: [u8; 32], at: usize, with in "[A-Za-z0-9_-]") {
            let key = TokenKey::new(&secret);
            let text = key.write(&token);
            if other != secret { prop_assert_eq!(TokenKey::new(&other).read(&text), None); }
            let at = at % text.len();
            prop_assert_eq!(key.read(&text[..at]), None);
            let changed = format!("{}{with}{}", &text[..at], &text[at + 1..]);
            if changed != text { prop_assert_eq!(key.read(&changed), None); }
            prop_assert_eq!(key.read(&format!("{text}{with}")), None);
        }

        #[test]
        fn junk_is_nothing(text in ".{0,400}", bytes: Vec<u8>) {
            let key = TokenKey::new(&[7; 32]);
            prop_assert_eq!(key.read(&text), None);
            prop_assert_eq!(key.read(&URL_SAFE_NO_PAD.encode(bytes)), None);
        }
    }

    #[test]
    fn the_url_of_an_attempt_ends_with_its_token() {
        let key = TaskKey::new(Ns(1), TaskId::parse("order-1").unwrap());
        let token = AttemptToken {
            key,
            attempt: Attempt { number: 2, generation: 3, session: SessionId(4) },
            created: Millis(5),
            instance: 7,
        };
        for base in ["https://lovage.example.com/queue", "https://lovage.example.com/queue/"] {
            let urls = AttemptUrls::new(base, TokenKey::new(&[9; 32]));
            let url = urls.write(&token);
            let text = url.strip_prefix("https://lovage.example.com/queue/v1/attempts/").unwrap();
            assert_eq!(urls.read(text), Some(token.clone()));
        }
    }

    #[test]
    fn the_form_does_not_change_between_releases() {
        let token = AttemptToken {
            key: TaskKey::new(Ns(1), TaskId::parse("order-1").unwrap()),
            attempt: Attempt { number: 2, generation: 3, session: SessionId(4) },
            created: Millis(5),
            instance: 0,
        };
        assert_eq!(TokenKey::new(&[9; 32]).write(&token), GOLDEN);
    }

    const GOLDEN: &str = "AQMAAAACAAAAAAAAAAQAAAAAAAAABQAAAAEBb3JkZXItMQxHdZ5XLURIti09se7g4Sg";
}
