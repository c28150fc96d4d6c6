//! A bell that every process hears within milliseconds: a document that is changed for the sake of the change.
//!
//! Who lets go of a partition, or ends the lease of another session, rings it.

use lovage_core::{Ns, Version};

use crate::{DocGuard, DocKind, DocPut, Result, Store};

const NAME: &str = "hand-over";

/// Rings.
pub async fn ring(store: &dyn Store) -> Result<()> {
    let bytes = Some("{}".into());
    let put = DocPut { kind: DocKind::Meta, ns: Ns::DEFAULT, name: NAME.to_owned(), guard: DocGuard::Any, bytes };
    store.put_docs(vec![put]).await.map(drop)
}

/// A number that rises with every ring; [`Store::doc_version`] tells when to look.
pub async fn rings(store: &dyn Store) -> Result<Version> {
    Ok(store.doc(DocKind::Meta, Ns::DEFAULT, NAME).await?.map_or(0, |bell| bell.version))
}
