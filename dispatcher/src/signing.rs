//! Standard Webhooks signatures: how a worker knows that a request is ours, fresh and unchanged.
//!
//! The signed text is `id.timestamp.body`; the header holds one `v1,<base64>` per secret, so that a secret can be
//! rotated while both the old and the new one are accepted. The state of the HMAC key is computed once.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;

const PREFIX: &str = "whsec_";
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// `v1,` and 32 bytes in base64.
const SIGNATURE_CHARS: usize = 3 + 44;

/// Why a text is not a signing secret. The secret itself is never repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It does not begin with `whsec_`.
    #[error("a signing secret begins with `whsec_`")]
    Prefix,
    /// The rest is not base64.
    #[error("a signing secret is base64 after its prefix")]
    Base64,
    /// It is too short to be safe or longer than the standard allows.
    #[error("a signing secret holds 24 to 64 bytes")]
    Length,
    /// There is none.
    #[error("at least one signing secret is needed")]
    Missing,
}

/// Signs with one or several secrets. `Debug` shows only their number.
#[derive(Clone)]
pub struct Signer {
    keys: Vec<Hmac<Sha256>>,
}

impl Signer {
    /// A signer for `secrets`, each `whsec_` and base64; the current one first, older ones behind.
    pub fn new<S: AsRef<str>>(secrets: &[S]) -> Result<Self, SecretError> {
        if secrets.is_empty() {
            return Err(SecretError::Missing);
        }
        let keys = secrets.iter().map(|secret| key(secret.as_ref())).collect::<Result<_, _>>()?;
        Ok(Self { keys })
    }

    /// The value of the `Webhook-Signature` header for a request with this `Webhook-Id`, `Webhook-Timestamp` (Unix
    /// seconds) and body.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut text = String::with_capacity(self.keys.len() * (SIGNATURE_CHARS + 1));
        let mut digits = itoa::Buffer::new();
        let timestamp = digits.format(timestamp);
        for key in &self.keys {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str("v1,");
            let tag = feed(key.clone(), id, timestamp, body).finalize().into_bytes();
            STANDARD.encode_string(tag, &mut text);
        }
        text
    }

    /// Whether `header` holds a `v1` signature by one of the secrets. Takes the same time wherever a signature
    /// differs. The age of `timestamp` is the caller's to check.
    pub fn verify(&self, id: &str, timestamp: i64, body: &[u8], header: &str) -> bool {
        let timestamp = timestamp.to_string();
        let offered: Vec<Vec<u8>> =
            header.split(' ').filter_map(|part| STANDARD.decode(part.strip_prefix("v1,")?).ok()).collect();
        self.keys.iter().any(|key| {
            let mac = feed(key.clone(), id, &timestamp, body);
            offered.iter().any(|tag| mac.clone().verify_slice(tag).is_ok())
        })
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({} secrets)", self.keys.len())
    }
}

/// A new secret from 32 random bytes, to be shown to its owner once.
pub fn secret_from(random: [u8; 32]) -> String {
    format!("{PREFIX}{}", STANDARD.encode(random))
}

fn key(secret: &str) -> Result<Hmac<Sha256>, SecretError> {
    let encoded = secret.strip_prefix(PREFIX).ok_or(SecretError::Prefix)?;
    let bytes = STANDARD.decode(encoded).map_err(|_| SecretError::Base64)?;
    if !KEY_BYTES.contains(&bytes.len()) {
        return Err(SecretError::Length);
    }
    Hmac::new_from_slice(&bytes).map_err(|_| SecretError::Length)
}

fn feed(mut mac: Hmac<Sha256>, id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
    mac.update(id.as_bytes());
    mac.update(b".");
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    mac
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    #[test]
    fn agrees_with_the_vector_of_the_standard() {
        let signer = Signer::new(&[SECRET]).unwrap();
        assert_eq!(signer.sign(ID, AT, BODY), SIGNATURE);
        assert!(signer.verify(ID, AT, BODY, SIGNATURE));
    }

    #[test]
    fn every_part_is_signed() {
        let signer = Signer::new(&[SECRET]).unwrap();
        assert!(!signer.verify("msg_other", AT, BODY, SIGNATURE));
        assert!(!signer.verify(ID, AT + 1, BODY, SIGNATURE));
        assert!(!signer.verify(ID, AT, b"{}", SIGNATURE));
        assert!(!signer.verify(ID, AT, BODY, &SIGNATURE.replace("g0h", "g0i")));
        for header in ["", "v1,", "v2,x", "v1,!!", "v1a,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", "v1,g0hM"] {
            assert!(!signer.verify(ID, AT, BODY, header), "{header}");
        }
    }

    #[test]
    fn during_a_rotation_either_secret_verifies() {
        let new = secret_from([7; 32]);
        let both = Signer::new(&[new.as_str(), SECRET]).unwrap();
        let header = both.sign(ID, AT, BODY);
        assert_eq!(header.split(' ').count(), 2);
        assert!(header.ends_with(SIGNATURE));
        assert!(Signer::new(&[SECRET]).unwrap().verify(ID, AT, BODY, &header));
        assert!(Signer::new(&[&new]).unwrap().verify(ID, AT, BODY, &header));
        assert!(!Signer::new(&[secret_from([8; 32])]).unwrap().verify(ID, AT, BODY, &header));
    }

    #[test]
    fn weak_and_malformed_secrets_are_refused() {
        let of = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![1; bytes]));
        assert!(Signer::new(&[of(24)]).is_ok());
        assert!(Signer::new(&[of(64)]).is_ok());
        assert_eq!(Signer::new(&[of(23)]).unwrap_err(), SecretError::Length);
        assert_eq!(Signer::new(&[of(65)]).unwrap_err(), SecretError::Length);
        assert_eq!(Signer::new(&["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]).unwrap_err(), SecretError::Prefix);
        assert_eq!(Signer::new(&["whsec_???"]).unwrap_err(), SecretError::Base64);
        assert_eq!(Signer::new::<&str>(&[]).unwrap_err(), SecretError::Missing);
        assert_eq!(format!("{:?}", Signer::new(&[SECRET]).unwrap()), "Signer(1 secrets)");
    }
}
