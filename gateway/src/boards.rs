//! How workers are doing, as the dispatchers see it.

use lovage_core::Ns;
use lovage_core::board::WorkerBoard;

use crate::app::App;

impl App {
    /// The worker with this name, or the origin of bare URLs, as all dispatchers together see it; `None`: none knows it.
    pub(crate) async fn seen_worker(&self, ns: Ns, name: &str, origin: bool) -> Option<WorkerBoard> {
        self.options.standings.as_ref()?.worker(ns, name, origin, self.now())
    }
}
