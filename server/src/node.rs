//! This process as a node of the cluster: its document, its lease, and whether it is to drain.
//!
//! A dispatcher's owners renew the session in every partition; a process without one keeps a lease in the first partition, so
//! that one mechanism says who lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use lovage_core::{Millis, NodeInfo, Ns, Partition, SessionId};
use lovage_store::{DocGuard, DocKind, DocPut, Error, OwnRequest, Result, Store, Want, all_docs, follow_docs};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::role::Role;
use crate::storage::Storage;

/// Where everybody sees who lives.
const FIRST: Partition = Partition(0);
/// A node without a lease that started longer ago than this is not merely starting.
const STARTED: Duration = Duration::from_secs(60);
/// The longest that the last calls may take.
const LAST_CALLS: Duration = Duration::from_secs(2);

/// See the module.
pub(crate) struct Node {
    me: Arc<Me>,
    work: JoinHandle<()>,
    done: CancellationToken,
}

struct Me {
    store: Arc<dyn Store>,
    session: SessionId,
    info: NodeInfo,
    /// Nobody else uses the store.
    alone: bool,
    drain: Arc<AtomicBool>,
    fenced: AtomicBool,
    /// How long the lease is good for and how often it is renewed, if no dispatcher does.
    lease: Option<(Duration, Duration)>,
}

impl Node {
    /// Shows the process. `stop` is called if somebody fences it.
    pub async fn start(
        storage: &Storage,
        config: &Config,
        role: Role,
        url: &str,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let lease = (config.dispatcher.lease.get(), config.dispatcher.renew_every.get());
        let info = NodeInfo {
            name: config.node_name.clone().unwrap_or_else(host),
            roles: role.names().iter().map(|name| (*name).to_owned()).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            url: Some(url.to_owned()),
            started_at: storage.store.clock().now(),
            drain: false,
        };
        let me = Arc::new(Me {
            store: Arc::clone(&storage.store),
            session: storage.session,
            info,
            alone: !storage.is_shared(),
            drain: Arc::default(),
            fenced: AtomicBool::new(false),
            lease: (!role.delivers()).then_some(lease),
        });
        me.put(DocGuard::Any).await.context("cannot register this node")?;
        let done = CancellationToken::new();
        let (ended, working, stop) = (done.clone(), Arc::clone(&me), stop.clone());
        let work = tokio::spawn(async move {
            let both = async { tokio::join!(working.keep_document(), working.keep_lease(&stop)) };
            ended.run_until_cancelled(both).await;
        });
        Ok(Self { me, work, done })
    }

    /// Whether it is to take nothing new.
    pub fn drain(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.me.drain)
    }

    /// It ends, and is seen no more. Answers whether that is because it was fenced.
    pub async fn stop(self) -> bool {
        self.done.cancel();
        let _ = self.work.await;
        if !matches!(tokio::time::timeout(LAST_CALLS, self.me.leave()).await, Ok(Ok(()))) {
            tracing::warn!("could not tell the store that this node ends; it is shown for a while as gone");
        }
        self.me.fenced.load(Ordering::Relaxed)
    }
}

impl Me {
    fn name(&self) -> String {
        self.session.0.to_string()
    }

    async fn put(&self, guard: DocGuard) -> Result<()> {
        let info = NodeInfo { drain: self.drain.load(Ordering::Relaxed), ..self.info.clone() };
        let bytes = serde_json::to_vec(&info).map_err(|error| Error::Invalid(format!("cannot write a document: {error}")))?;
        let put = DocPut { kind: DocKind::Node, ns: Ns::DEFAULT, name: self.name(), guard, bytes: Some(bytes.into()) };
        self.store.put_docs(vec![put]).await.map(drop)
    }

    async fn remove(&self, name: String) -> Result<()> {
        let put = DocPut { kind: DocKind::Node, ns: Ns::DEFAULT, name, guard: DocGuard::Any, bytes: None };
        self.store.put_docs(vec![put]).await.map(drop)
    }

    /// Sees what others ask of it, and shows itself again if somebody took it for dead.
    async fn keep_document(&self) {
        if let Err(error) = self.clear_away().await {
            error.log("clear away nodes that are gone");
        }
        follow_docs(&*self.store, "look after the document of this node", || self.look()).await;
    }

    async fn look(&self) -> Result<Option<Millis>> {
        let Some(document) = self.store.doc(DocKind::Node, Ns::DEFAULT, &self.name()).await? else {
            self.put(DocGuard::Absent).await?;
            return Ok(None);
        };
        let info = serde_json::from_slice::<NodeInfo>(document.bytes.as_deref().unwrap_or_default());
        if let Ok(info) = info
            && self.drain.swap(info.drain, Ordering::Relaxed) != info.drain
        {
            tracing::info!("{}", if info.drain { "drains: takes nothing new" } else { "works again" });
        }
        Ok(None)
    }

    /// Removes the documents of nodes that ended when nobody was there to see it.
    async fn clear_away(&self) -> Result<()> {
        let seen = self.store.ownership(FIRST).await?;
        let now = self.store.clock().now();
        for document in all_docs(&*self.store, DocKind::Node, Some(Ns::DEFAULT)).await? {
            let info = serde_json::from_slice::<NodeInfo>(document.bytes.as_deref().unwrap_or_default());
            let is_new = info.is_ok_and(|info| now.since(info.started_at) < STARTED);
            let known = seen.sessions.iter().any(|lease| lease.session.0.to_string() == document.name);
            if document.name != self.name() && (self.alone || !(known || is_new)) {
                self.remove(document.name).await?;
            }
        }
        Ok(())
    }

    async fn keep_lease(&self, stop: &CancellationToken) {
        let Some((lease, every)) = self.lease else { return };
        let mut tick = tokio::time::interval(every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            match self.renew(Want::Release, lease).await {
                Ok(()) => {}
                Err(Error::Fenced) => {
                    tracing::error!("this node was fenced: its session is over; stopping");
                    self.fenced.store(true, Ordering::Relaxed);
                    return stop.cancel();
                }
                Err(error) => error.log("renew the lease of this node"),
            }
        }
    }

    async fn renew(&self, want: Want, lease: Duration) -> Result<()> {
        let request = OwnRequest { session: self.session, want, lease, drop: Vec::new() };
        self.store.own(FIRST, request).await.map(drop)
    }

    async fn leave(&self) -> Result<()> {
        self.remove(self.name()).await?;
        // What a dispatcher leaves is found by its session.
        if self.lease.is_some() { self.renew(Want::Leave, Duration::ZERO).await } else { Ok(()) }
    }
}

/// The name of this machine.
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
