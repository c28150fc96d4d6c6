//! The administrator's key of `lovage serve`: from a file, or made at the first start and shown once.
//!
//! A store has one key. A process with a file puts that file's key into the store in the place of any other; a process
//! without one takes what is there and follows its changes. Only a process that takes requests makes a key.
//!
//! Only a hash of it is stored. The key has 256 random bits, so a plain SHA-256 is enough: there is nothing to guess.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use lovage_core::Ns;
use lovage_gateway::{Caller, KeyCheck};
use lovage_store::{DocGuard, DocKind, DocOutcome, DocPut, Document, Store};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

const DOCUMENT: &str = "admin-key";
/// A key that somebody chose must not be guessable.
const SHORTEST: usize = 16;

/// The longest one call waits for a change of the documents, and the pause after one that failed.
const LOOK: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(1));

/// The key that requests must carry, as a hash. Without one nobody is let in.
pub(crate) struct AdminKey(RwLock<Option<[u8; 32]>>);

impl KeyCheck for AdminKey {
    fn caller(&self, bearer: &str) -> Option<Caller> {
        let known = (*self.0.read())?;
        bool::from(hash(bearer).ct_eq(&known)).then_some(Caller { ns: Ns::DEFAULT })
    }
}

impl AdminKey {
    fn new(hash: Option<[u8; 32]>) -> Self {
        Self(RwLock::new(hash))
    }

    /// Takes over what others store, until dropped.
    pub async fn follow(self: Arc<Self>, store: Arc<dyn Store>) {
        let mut seen = u64::MAX;
        loop {
            let look = async {
                seen = store.doc_version(seen, LOOK.0).await?;
                anyhow::Ok(stored(&*store).await?)
            };
            match look.await {
                Ok(Some(hash)) => *self.0.write() = Some(hash),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!("cannot look for the admin key: {error:#}");
                    tokio::time::sleep(LOOK.1).await;
                }
            }
        }
    }
}

/// The stored form.
#[derive(Serialize, Deserialize)]
struct Stored {
    sha256: String,
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

fn make() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context("no random numbers for a key")?;
    Ok(format!("lvg_{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// The key in this file; if there is no such file, it is made with a new key that only its owner may read.
pub(crate) fn from_file(path: &Path) -> anyhow::Result<AdminKey> {
    let shown = path.display();
    let key = match fs::read_to_string(path) {
        Ok(text) => text.trim().to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let key = make()?;
            if write_new(path, &key).with_context(|| format!("cannot write the admin key to {shown}"))? {
                tracing::info!(file = %shown, "made an admin key");
                key
            } else {
                // Another process was faster; its file is whole.
                return from_file(path);
            }
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read the admin key file {shown}")),
    };
    ensure!(
        key.len() >= SHORTEST && !key.contains(char::is_whitespace),
        "{shown} must hold one key of at least {SHORTEST} characters"
    );
    Ok(AdminKey::new(Some(hash(&key))))
}

/// Written beside and then given its name, so that whoever sees the file sees the whole key, and all who start at the same
/// moment see the same one. False: there is one by now.
fn write_new(path: &Path, key: &str) -> std::io::Result<bool> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".new-{}", std::process::id()));
    // Left over from a start that was cut short.
    let _ = fs::remove_file(&beside);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    writeln!(file, "{key}")?;
    file.sync_all()?;
    let named = fs::hard_link(&beside, path);
    fs::remove_file(&beside)?;
    match named {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        named => named.map(|()| true),
    }
}

/// Puts the key into the store in the place of any other, so that processes without a file take it.
pub(crate) async fn share(store: &dyn Store, key: &AdminKey) -> anyhow::Result<()> {
    let Some(own) = *key.0.read() else { return Ok(()) };
    let there = stored(store).await?;
    if there == Some(own) {
        return Ok(());
    }
    if there.is_some() {
        tracing::warn!("the key in the admin key file replaces another one, which is good no more");
    }
    put(store, &own, DocGuard::Any).await.map(drop)
}

/// The key whose hash is stored. If there is none yet, `make_one` makes it, and its text is answered too.
pub(crate) async fn from_store(store: &dyn Store, make_one: bool) -> anyhow::Result<(AdminKey, Option<String>)> {
    let there = stored(store).await?;
    if there.is_some() || !make_one {
        return Ok((AdminKey::new(there), None));
    }
    let key = make()?;
    match put(store, &hash(&key), DocGuard::Absent).await? {
        Some(DocOutcome::Ok { .. }) => Ok((AdminKey::new(Some(hash(&key))), Some(key))),
        // Another server on the same store was faster and has shown its key.
        Some(DocOutcome::Refused(Some(document))) => Ok((AdminKey::new(Some(read(&document)?)), None)),
        Some(DocOutcome::Refused(None)) | None => bail!("the store neither took the admin key's hash nor has one"),
    }
}

async fn put(store: &dyn Store, hash: &[u8; 32], guard: DocGuard) -> anyhow::Result<Option<DocOutcome>> {
    let content = serde_json::to_vec(&Stored { sha256: hex::encode(hash) })?;
    let (name, bytes) = (DOCUMENT.to_owned(), Some(Bytes::from(content)));
    let put = DocPut { kind: DocKind::Meta, ns: Ns::DEFAULT, name, guard, bytes };
    Ok(store.put_docs(vec![put]).await.context("cannot store the admin key's hash")?.pop())
}

async fn stored(store: &dyn Store) -> anyhow::Result<Option<[u8; 32]>> {
    let document = store.doc(DocKind::Meta, Ns::DEFAULT, DOCUMENT).await.context("cannot read the admin key's hash")?;
    document.as_ref().map(read).transpose()
}

fn read(document: &Document) -> anyhow::Result<[u8; 32]> {
    let stored: Stored =
        serde_json::from_slice(document.bytes.as_deref().unwrap_or_default()).context("the stored admin key is damaged")?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(&stored.sha256, &mut bytes).context("the stored admin key is damaged")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::os::unix::fs::PermissionsExt;

    use lovage_core::Millis;
    use lovage_store::{MemoryClock, MemoryOptions, MemoryStore};

    use super::*;

    #[test]
    fn a_missing_file_is_made_and_then_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.key");
        let made = from_file(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(made.caller(text.trim()).is_some());
        assert!(from_file(&path).unwrap().caller(text.trim()).is_some());
        assert!(made.caller("lvg_other").is_none() && made.caller("").is_none());
    }

    #[test]
    fn a_file_without_a_fit_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", "short", "two keys in one file are too many"] {
            let path = folder.path().join("admin.key");
            fs::write(&path, text).unwrap();
            assert!(from_file(&path).is_err(), "{text:?}");
        }
    }

    #[tokio::test]
    async fn the_store_shows_a_key_once_and_never_keeps_it() {
        let store = MemoryStore::new(MemoryOptions::new(MemoryClock::manual(Millis(1))));
        let (first, shown) = from_store(&store, true).await.unwrap();
        let key = shown.unwrap();
        let (second, nothing) = from_store(&store, true).await.unwrap();
        assert!(nothing.is_none());
        assert!(first.caller(&key).is_some() && second.caller(&key).is_some());
        let document = store.doc(DocKind::Meta, Ns::DEFAULT, DOCUMENT).await.unwrap().unwrap();
        assert!(!String::from_utf8(document.bytes.unwrap().to_vec()).unwrap().contains(&key));
    }

    #[tokio::test]
    async fn a_store_has_one_key_which_everybody_follows() {
        let store = Arc::new(MemoryStore::new(MemoryOptions::new(MemoryClock::manual(Millis(1)))));
        // A dispatcher makes none, and lets nobody in before there is one.
        let (dispatcher, shown) = from_store(&*store, false).await.unwrap();
        assert!(shown.is_none() && dispatcher.caller("").is_none());
        let dispatcher = Arc::new(dispatcher);
        let following = tokio::spawn(Arc::clone(&dispatcher).follow(store.clone()));
        let (_, shown) = from_store(&*store, true).await.unwrap();
        let made = shown.unwrap();
        let until = async |key: &str| {
            let known = async {
                while dispatcher.caller(key).is_none() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), known).await.expect("the key is not followed");
        };
        until(&made).await;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.key");
        fs::write(&path, "chosen-by-somebody").unwrap();
        share(&*store, &from_file(&path).unwrap()).await.unwrap();
        until("chosen-by-somebody").await;
        assert!(dispatcher.caller(&made).is_none());
        let (next, shown) = from_store(&*store, true).await.unwrap();
        assert!(next.caller("chosen-by-somebody").is_some() && shown.is_none());
        following.abort();
    }
}
