//! The administrator's key of `lovage serve`: from a file, or made at the first start and shown once.
//!
//! Only a hash of it is stored. The key has 256 random bits, so a plain SHA-256 is enough: there is nothing to guess.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use lovage_core::Ns;
use lovage_gateway::{Caller, KeyCheck};
use lovage_store::{DocGuard, DocKind, DocOutcome, DocPut, Document, Store};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

const DOCUMENT: &str = "admin-key";
/// A key that somebody chose must not be guessable.
const SHORTEST: usize = 16;

/// The key that requests must carry, as a hash.
pub(crate) struct AdminKey([u8; 32]);

impl KeyCheck for AdminKey {
    fn caller(&self, bearer: &str) -> Option<Caller> {
        bool::from(hash(bearer).ct_eq(&self.0)).then_some(Caller { ns: Ns::DEFAULT })
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
    Ok(AdminKey(hash(&key)))
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

/// The key whose hash is stored; the first start makes it and returns its text too.
pub(crate) async fn from_store(store: &dyn Store) -> anyhow::Result<(AdminKey, Option<String>)> {
    if let Some(document) = store.doc(DocKind::Meta, Ns::DEFAULT, DOCUMENT).await.context("cannot read the admin key's hash")? {
        return Ok((read(&document)?, None));
    }
    let key = make()?;
    let content = serde_json::to_vec(&Stored { sha256: hex::encode(hash(&key)) })?;
    let put = DocPut {
        kind: DocKind::Meta,
        ns: Ns::DEFAULT,
        name: DOCUMENT.to_owned(),
        guard: DocGuard::Absent,
        bytes: Some(Bytes::from(content)),
    };
    match store.put_docs(vec![put]).await.context("cannot store the admin key's hash")?.pop() {
        Some(DocOutcome::Ok { .. }) => Ok((AdminKey(hash(&key)), Some(key))),
        // Another server on the same store was faster and has shown its key.
        Some(DocOutcome::Refused(Some(document))) => Ok((read(&document)?, None)),
        Some(DocOutcome::Refused(None)) | None => bail!("the store neither took the admin key's hash nor has one"),
    }
}

fn read(document: &Document) -> anyhow::Result<AdminKey> {
    let stored: Stored =
        serde_json::from_slice(document.bytes.as_deref().unwrap_or_default()).context("the stored admin key is damaged")?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(&stored.sha256, &mut bytes).context("the stored admin key is damaged")?;
    Ok(AdminKey(bytes))
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
        let (first, shown) = from_store(&store).await.unwrap();
        let key = shown.unwrap();
        let (second, nothing) = from_store(&store).await.unwrap();
        assert!(nothing.is_none());
        assert!(first.caller(&key).is_some() && second.caller(&key).is_some());
        let document = store.doc(DocKind::Meta, Ns::DEFAULT, DOCUMENT).await.unwrap().unwrap();
        assert!(!String::from_utf8(document.bytes.unwrap().to_vec()).unwrap().contains(&key));
    }
}
