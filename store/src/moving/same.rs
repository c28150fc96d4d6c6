//! Whether two stores are one: by what is in them, for the same server goes by many names.

use lovage_core::Ns;

use super::journal::NAME;
use crate::{DocGuard, DocKind, DocPut, Result, Store};

/// Whether what is written into one store is found in the other. `nonce` is a random number; its note is removed again.
pub async fn are_same(one: &dyn Store, other: &dyn Store, nonce: u64) -> Result<bool> {
    let name = format!("{NAME} {nonce:016x}");
    let put = |there: bool| DocPut {
        kind: DocKind::Meta,
        ns: Ns::DEFAULT,
        name: name.clone(),
        guard: DocGuard::Any,
        bytes: there.then(|| name.clone().into()),
    };
    one.put_docs(vec![put(true)]).await?;
    let found = other.doc(DocKind::Meta, Ns::DEFAULT, &name).await;
    one.put_docs(vec![put(false)]).await?;
    Ok(found?.is_some_and(|document| document.bytes.is_some()))
}
