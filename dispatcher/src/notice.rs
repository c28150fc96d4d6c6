//! What dispatchers tell each other: that partitions were let go, and that a node is to drain.
//!
//! Documents carry it, because a change of one wakes every process within milliseconds. Who lets go of a partition rings a bell;
//! all owners then renew at once, so that who has no right to claim somewhere takes what is its share. A ring that gets lost
//! costs no more than that.

use std::time::Duration;

use lovage_core::{NodeInfo, Ns, SessionId};
use lovage_store::{DocKind, Result, Store, bell};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// The longest one call waits for a change of the documents.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(500);
/// The longest that a ring may take.
const RING_LIMIT: Duration = Duration::from_secs(2);

/// What was heard last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Notice {
    /// Rises with every ring.
    rings: u64,
    /// This node is to take nothing new.
    pub drain: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Notices {
    heard: watch::Sender<Notice>,
    wanted: Notify,
}

impl Notices {
    /// Changes with every notice.
    pub(crate) fn heard(&self) -> watch::Receiver<Notice> {
        self.heard.subscribe()
    }

    /// Whether this node is to take nothing new.
    pub(crate) fn drain(&self) -> bool {
        self.heard.borrow().drain
    }

    /// A partition was let go: others are told soon, with what else is let go about now.
    pub(crate) fn ring(&self) {
        self.wanted.notify_one();
    }

    /// Rings as often as is wanted; after `stop` what was wanted before.
    pub(crate) async fn ring_for_all(&self, store: &dyn Store, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = self.wanted.notified() => {}
                () = stop.cancelled() => return,
            }
            let rung = tokio::time::timeout(RING_LIMIT, bell::ring(store)).await;
            if !matches!(rung, Ok(Ok(()))) {
                tracing::warn!("could not tell the others that a partition is free; they see it with their next renewal");
            }
        }
    }

    /// Listens until `stop`.
    pub(crate) async fn listen(&self, store: &dyn Store, session: SessionId, stop: CancellationToken) {
        let mut seen = u64::MAX;
        while !stop.is_cancelled() {
            let step = async {
                let version = store.doc_version(seen, LOOK_AGAIN).await?;
                Ok::<_, lovage_store::Error>((version, read(store, session).await?))
            };
            let outcome = tokio::select! { () = stop.cancelled() => return, outcome = step => outcome };
            match outcome {
                Ok((version, notice)) => {
                    seen = version;
                    self.heard.send_if_modified(|heard| std::mem::replace(heard, notice) != notice);
                }
                Err(error) => {
                    error.log("listen to other nodes");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

async fn read(store: &dyn Store, session: SessionId) -> Result<Notice> {
    let rings = bell::rings(store).await?;
    let node = store.doc(DocKind::Node, Ns::DEFAULT, &session.0.to_string()).await?;
    let info = node.and_then(|node| serde_json::from_slice::<NodeInfo>(&node.bytes?).ok());
    Ok(Notice { rings, drain: info.is_some_and(|info| info.drain) })
}
