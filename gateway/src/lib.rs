//! The REST gateway: requests in, records and problems out (API).
//!
//! It validates, stores and shows tasks; it never decides what happens to one and never calls a worker. It meets the
//! dispatcher only in the store, whose feed wakes those who wait.

mod allowed;
mod app;
mod ask;
mod attempt_key;
mod auth;
mod awaited;
mod batch;
mod boards;
mod body;
mod bulk;
mod cascade;
mod change;
mod clear;
mod cursor;
mod deflate;
mod directory;
mod document;
mod documents;
mod edge;
mod event_stream;
mod explain;
mod feed_hub;
mod filter;
mod formats;
mod ids;
mod inflate;
mod intake;
mod keys;
mod lane_cache;
mod lease_desk;
mod lengths;
mod limits;
mod options;
mod path;
mod places;
mod problem;
mod pull;
mod query;
mod raw;
mod report;
mod room;
mod routes;
mod schema;
mod secrets;
mod serve;
mod told;
mod tree;
mod types;
mod view;
mod walk;

use std::sync::Arc;

use axum::Router;
use lovage_store::Store;
use tokio_util::sync::CancellationToken;

pub use attempt_key::ensure_attempt_key;
pub use auth::{AdminKeys, Auth, Caller, KeyCheck};
pub use ids::Random;
pub use options::{Cluster, GatewayOptions, Limits, RenderMetrics, Times};
pub use routes::{EnsureError, ensure_signing_key};
pub use serve::ServeError;

/// A running gateway. Its background readers end when it and its routers are dropped.
pub struct Gateway {
    app: app::Shared,
    readers: CancellationToken,
    router: Router,
}

impl Gateway {
    /// Starts the readers of feed and documents. Call it inside a Tokio runtime.
    pub fn start(store: Arc<dyn Store>, options: GatewayOptions) -> Self {
        options.limits.publish();
        let app = Arc::new(app::App::new(store.clone(), options, CancellationToken::new()));
        let readers = CancellationToken::new();
        for partition in app.all_partitions() {
            let read = app.hub.clone().read(store.clone(), partition);
            tokio::spawn(readers.clone().run_until_cancelled_owned(read));
        }
        let watcher = app.clone();
        let watch = async move {
            let rerouted = || watcher.hub.desk.rerouted(watcher.all_partitions());
            watcher.directory.watch(&*watcher.store, &watcher.types, rerouted).await;
        };
        tokio::spawn(readers.clone().run_until_cancelled_owned(watch));
        let (shown, stop) = (app.clone(), readers.clone());
        tokio::spawn(async move { shown.show_queues(stop).await });
        let router = routes::router(app.clone());
        Self { app, readers, router }
    }

    /// A gateway that takes no tasks: it tells how its process is doing (`/healthz`, `/readyz`, `/metrics`) and nothing else.
    pub fn start_operation(store: Arc<dyn Store>, options: GatewayOptions) -> Self {
        let app = Arc::new(app::App::new(store, options, CancellationToken::new()));
        let router = routes::operation_router(app.clone());
        Self { app, readers: CancellationToken::new(), router }
    }

    /// The service without a listener.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// The document of the API as JSON, as `openapi/lovage.json` has it.
    pub fn openapi() -> String {
        routes::document()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.readers.cancel();
    }
}
