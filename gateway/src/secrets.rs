//! Signing secrets: `whsec_` and base64, as Standard Webhooks writes them.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lovage_core::Millis;
use lovage_core::problem::{Code, Problem};
use lovage_core::worker::SigningSecret;

/// How long the secret before is used beside a new one.
const OVERLAP: Duration = Duration::from_secs(24 * 3_600);
/// Secrets in use at once, so that signatures stay short however often a secret is rotated.
const MOST: usize = 4;
const PREFIX: &str = "whsec_";

/// A new secret of 32 random bytes.
pub(crate) fn make() -> Result<String, Problem> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the operating system gives no random bytes");
        Problem::new(Code::Fault, "no secret could be made; the server's log has the cause")
    })?;
    Ok(format!("{PREFIX}{}", STANDARD.encode(bytes)))
}

/// Whether `text` is a secret of 24 to 64 bytes.
pub(crate) fn is_secret(text: &str) -> bool {
    let bytes = text.strip_prefix(PREFIX).and_then(|encoded| STANDARD.decode(encoded).ok());
    bytes.is_some_and(|bytes| (24..=64).contains(&bytes.len()))
}

/// [`is_secret`] in words.
pub(crate) const SECRET_RULE: &str = "must be whsec_ and the base64 of 24 to 64 bytes";

/// Makes `secret` the first; the ones before are used for a while yet.
pub(crate) fn rotate(secrets: &mut Vec<SigningSecret>, secret: String, now: Millis) {
    secrets.retain(|old| old.secret != secret && old.until.is_none_or(|until| until > now));
    let end = now.after(OVERLAP);
    for old in secrets.iter_mut() {
        old.until = Some(old.until.map_or(end, |until| until.min(end)));
    }
    secrets.insert(0, SigningSecret { secret, until: None });
    secrets.truncate(MOST);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_secret_before_is_kept_for_a_day() {
        let mut secrets = Vec::new();
        let [a, b, c] = [(); 3].map(|()| make().unwrap());
        rotate(&mut secrets, a.clone(), Millis(0));
        rotate(&mut secrets, b.clone(), Millis(1_000));
        let day = 24 * 3_600_000;
        assert_eq!(secrets[1], SigningSecret { secret: a, until: Some(Millis(1_000 + day)) });
        rotate(&mut secrets, c.clone(), Millis(2_000 + day));
        let left: Vec<_> = secrets.iter().map(|secret| secret.secret.as_str()).collect();
        assert_eq!(left, [&*c, &*b]);
        assert!(is_secret(&c) && !is_secret("whsec_abc") && !is_secret("abc"));
    }
}
