//! The key that the tokens of attempts are made with: made once for a store, then the same in all processes and for ever,
//! because a token must be known again after any restart.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lovage_core::{Ns, TokenKey};
use lovage_store::{DocGuard, DocKind, DocPut, Document, Store};
use serde::{Deserialize, Serialize};

use crate::documents::content;
use crate::routes::EnsureError;

const NAME: &str = "default";

#[derive(Serialize, Deserialize)]
struct Stored {
    key: String,
}

/// The key of this store; makes it if there is none.
pub async fn ensure_attempt_key(store: &dyn Store) -> Result<TokenKey, EnsureError> {
    if let Some(document) = store.doc(DocKind::AttemptKey, Ns::DEFAULT, NAME).await? {
        return read(&document);
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|_| EnsureError::Random)?;
    let bytes = serde_json::to_vec(&Stored { key: STANDARD.encode(secret) }).map(Into::into).ok();
    let put = DocPut { kind: DocKind::AttemptKey, ns: Ns::DEFAULT, name: NAME.to_owned(), guard: DocGuard::Absent, bytes };
    // Refused: another process has made one at the same moment, and that one counts.
    store.put_docs(vec![put]).await?;
    let stored = store.doc(DocKind::AttemptKey, Ns::DEFAULT, NAME).await?;
    read(&stored.ok_or_else(damaged)?)
}

fn read(document: &Document) -> Result<TokenKey, EnsureError> {
    let stored: Stored = content(document).map_err(|_| damaged())?;
    let bytes = STANDARD.decode(stored.key).map_err(|_| damaged())?;
    let secret: [u8; 32] = bytes.try_into().map_err(|_| damaged())?;
    Ok(TokenKey::new(&secret))
}

fn damaged() -> EnsureError {
    lovage_store::Error::Corrupt("the key of attempt tokens".into()).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lovage_core::{Attempt, AttemptToken, Millis, SessionId, TaskId, TaskKey};
    use lovage_store::memory::{MemoryClock, MemoryOptions, MemoryStore};

    use super::*;

    #[tokio::test]
    async fn every_start_has_the_same_key_and_every_store_its_own() {
        let store = || MemoryStore::new(MemoryOptions::new(MemoryClock::manual(Millis(1))));
        let (one, other) = (store(), store());
        let key = TaskKey::new(Ns::DEFAULT, TaskId::parse("a").unwrap());
        let token = AttemptToken {
            key,
            attempt: Attempt { number: 1, generation: 0, session: SessionId(7) },
            created: lovage_core::Millis(5),
            instance: 0,
        };
        let (first, again) = tokio::join!(ensure_attempt_key(&one), ensure_attempt_key(&one));
        let text = first.unwrap().write(&token);
        assert_eq!(again.unwrap().read(&text), Some(token.clone()));
        assert_eq!(ensure_attempt_key(&one).await.unwrap().read(&text), Some(token));
        assert_eq!(ensure_attempt_key(&other).await.unwrap().read(&text), None);
    }
}
