//! Reading documents: all of a kind, and again whenever any of them changed.

use std::time::Duration;

use lovage_core::{Millis, Ns};
use tokio::time::{Instant, sleep};

use crate::rest::Rest;
use crate::{DocKind, Document, Result, Store};

const PAGE: usize = 1_000;
/// The longest one call waits for a change.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// The pause after a read that failed.
const RETRY: Duration = Duration::from_millis(500);

/// All documents of a kind.
pub async fn all_docs<S: Store + ?Sized>(store: &S, kind: DocKind, ns: Option<Ns>) -> Result<Vec<Document>> {
    let (mut documents, mut after) = (Vec::new(), None);
    loop {
        let page = store.docs(kind, ns, after, PAGE).await?;
        documents.extend(page.items);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(documents),
        }
    }
}

/// Calls `read` now, whenever documents changed, and when the moment has come that it answered last, until it is dropped. `what`
/// it does is told if it fails; then it is called again after a pause.
pub async fn follow_docs<F: Future<Output = Result<Option<Millis>>>>(store: &dyn Store, what: &str, mut read: impl FnMut() -> F) {
    let now = || store.clock().now();
    let (mut seen, mut stale) = (None, None::<Millis>);
    let (mut rest, mut ended) = (Rest::default(), Instant::now());
    loop {
        let step = async {
            let wait = stale.map_or(LOOK_AGAIN, |at| at.since(now()).min(LOOK_AGAIN));
            // The number is asked for before the documents: a change in between is seen at the next turn.
            let version = store.doc_version(seen.unwrap_or(u64::MAX), wait).await?;
            if seen != Some(version) || stale.is_some_and(|at| at <= now()) {
                let started = Instant::now();
                stale = read().await?;
                seen = Some(version);
                // However often instances renew their leases: most of the time is left for other work.
                sleep(rest.after(started.elapsed(), started.duration_since(ended))).await;
                ended = Instant::now();
            }
            Result::<()>::Ok(())
        };
        if let Err(error) = step.await {
            error.log(what);
            sleep(RETRY).await;
        }
    }
}
