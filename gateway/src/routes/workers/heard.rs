//! What instances say of their memory in heartbeats.
//!
//! A gateway counts nothing. What reaches the bound of the worker it leaves in the document that all dispatchers follow, and not
//! again for a while: most heartbeats write nothing.

use lovage_core::instance::Recycling;
use lovage_core::worker::WorkerConfig;
use lovage_core::{AttemptToken, worker_mark};
use lovage_store::{DocKind, Parts};

use super::actions::all_instances;
use crate::app::App;
use crate::documents::{Precondition, content};
use crate::problem::Refusal;

impl App {
    /// The instance that has this attempt says that it has so much memory.
    pub(crate) async fn heard_of_memory(&self, token: &AttemptToken, memory: u64) -> Result<(), Refusal> {
        let ns = token.key.ns;
        if token.instance == 0 {
            return Ok(());
        }
        let Some((_, stored)) = self.find(&token.key, Parts::default()).await? else { return Ok(()) };
        let Some(name) = self.directory.worker(ns, stored.head.worker) else { return Ok(()) };
        let Some(document) = self.store.doc(DocKind::Worker, ns, &name).await? else { return Ok(()) };
        let config = content::<WorkerConfig>(&document)?;
        if config.recycle.and_then(|recycle| recycle.max_memory).is_none_or(|most| memory < most.0) {
            return Ok(());
        }
        let all = all_instances(self, ns, &name, &config).await?;
        let Some(instance) = all.iter().find(|name| worker_mark(name) == token.instance) else { return Ok(()) };
        let stored = self.store.doc(DocKind::Recycling, ns, &name).await?;
        let mut known: Recycling = stored.as_ref().map(content).transpose()?.unwrap_or_default();
        if known.hear(instance, memory, self.now()) {
            let edit = |stored: Option<Recycling>| {
                let mut state = stored.unwrap_or_default();
                state.hear(instance, memory, self.now());
                Ok(state)
            };
            self.edit_doc(DocKind::Recycling, ns, &name, Precondition::None, edit).await?;
        }
        Ok(())
    }
}
