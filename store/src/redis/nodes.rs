//! The servers of the store and which of them serves what, kept up to date by a [`Scout`].
//!
//! One server serves all slots. Of a cluster, and behind sentinels, the masters are learnt; a server that is no master any
//! more is left, and the calls that wait for it end at once instead of waiting for their time-out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::RedisOptions;
use super::address::{Address, Endpoint, Scheme};
use super::dial::{Dialer, hello};
use super::link::Link;
use super::node::Node;
use super::rounds::Rounds;
use super::scout::Scout;
use super::view::View;
use crate::{Error, Result};

/// A server to which a call was sent on is kept for so long even if nobody else names it.
const FOLLOWED: Duration = Duration::from_secs(10);

/// A server with its connections.
pub(super) struct Peer {
    /// For reads, and for writes unless they are confirmed.
    pub(super) node: Arc<Node>,
    /// For writes that replicas have to confirm.
    pub(super) rounds: Option<Arc<Rounds>>,
}

/// What calls and the scout have in common.
pub(super) struct Shared {
    runtime: Handle,
    dialer: Dialer,
    options: RedisOptions,
    view: watch::Sender<Arc<View>>,
    peers: Mutex<HashMap<Endpoint, (Arc<Peer>, Option<Instant>)>>,
    /// Calls that met a fault tell of it here.
    pub(super) trouble: Arc<Notify>,
    /// New connections are told here.
    connected: Arc<Notify>,
}

impl Shared {
    pub(super) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// Takes over what is known now, and leaves those who do not serve any more.
    pub(super) fn publish(&self, view: View) {
        if **self.view.borrow() == view {
            return;
        }
        let masters: Vec<_> = view.ranges.iter().map(|range| range.master.to_string()).collect();
        tracing::debug!(?masters, "masters of redis");
        let view = Arc::new(view);
        self.view.send_replace(Arc::clone(&view));
        self.peers.lock().retain(|endpoint, (peer, followed)| {
            let serves = view.ranges.iter().any(|range| range.master == *endpoint);
            let stays = serves || followed.is_some_and(|followed| followed.elapsed() < FOLLOWED);
            if !stays {
                tracing::info!(left = %endpoint, "redis is served by another server now");
                peer.leave();
            }
            stays
        });
    }

    fn peer(&self, endpoint: &Endpoint, followed: Option<Instant>) -> Arc<Peer> {
        let mut peers = self.peers.lock();
        if let Some((peer, last)) = peers.get_mut(endpoint) {
            *last = followed.or(*last);
            return Arc::clone(peer);
        }
        let start = |limit| {
            let (trouble, connected) = (Arc::clone(&self.trouble), Arc::clone(&self.connected));
            Arc::new(Node::start(&self.runtime, self.dialer.clone(), endpoint.clone(), limit, trouble, connected))
        };
        let (limit, wait) = (self.options.timeout, self.options.wait);
        let rounds = wait.map(|wait| Rounds::new(start(limit + wait.timeout), wait, self.runtime.clone()));
        let peer = Arc::new(Peer { node: start(limit), rounds });
        peers.insert(endpoint.clone(), (Arc::clone(&peer), followed));
        peer
    }
}

impl Peer {
    fn leave(&self) {
        self.node.leave();
        if let Some(rounds) = &self.rounds {
            rounds.leave();
        }
    }
}

/// The servers of the store.
pub(super) struct Nodes {
    shared: Arc<Shared>,
    scout: Option<JoinHandle<()>>,
    cluster: bool,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        if let Some(scout) = &self.scout {
            scout.abort();
        }
    }
}

impl Nodes {
    /// Finds the servers that the URL leads to.
    pub(super) async fn open(options: &RedisOptions) -> Result<Arc<Self>> {
        let Address { mut scheme, seeds, template } = Address::read(&options.url)?;
        let dialer = Dialer::new(template, &options.tls)?;
        if scheme == Scheme::Plain && is_cluster(&dialer, &seeds[0]).await? {
            scheme = Scheme::Cluster;
        }
        let cluster = scheme == Scheme::Cluster;
        if cluster && dialer.selects() {
            return Err(Error::Invalid("redis url: a cluster has no other database than 0".into()));
        }
        let plain = scheme == Scheme::Plain;
        let mut scout = Scout::new(scheme, seeds.clone(), dialer.clone());
        let view = if plain { View::of_one(seeds[0].clone(), 0) } else { scout.look(&View::default()).await?.0 };
        let shared = Arc::new(Shared {
            runtime: Handle::current(),
            dialer,
            options: options.clone(),
            view: watch::Sender::new(Arc::new(view)),
            peers: Mutex::default(),
            trouble: Arc::new(Notify::new()),
            connected: Arc::new(Notify::new()),
        });
        let scout = (!plain).then(|| tokio::spawn(scout.run(Arc::clone(&shared))));
        Ok(Arc::new(Self { shared, scout, cluster }))
    }

    /// Whether keys are spread over several servers.
    pub(super) fn is_cluster(&self) -> bool {
        self.cluster
    }

    pub(super) fn dialer(&self) -> &Dialer {
        &self.shared.dialer
    }

    /// Says that a call met a fault.
    pub(super) fn report(&self) {
        self.shared.trouble.notify_one();
    }

    /// Returns when there is a new connection to a server. For one caller.
    pub(super) async fn connected(&self) {
        self.shared.connected.notified().await;
    }

    /// Where the master of a slot is.
    pub(super) fn place(&self, slot: u16) -> Result<Endpoint> {
        let owner = self.shared.view.borrow().owner(slot).cloned();
        owner.ok_or_else(|| {
            self.report();
            Error::Unavailable(format!("no master of the redis cluster serves slot {slot}"))
        })
    }

    /// Returns when another server than this one is the master of the slot.
    pub(super) async fn moved_from(&self, slot: u16, endpoint: &Endpoint) {
        let mut view = self.shared.view.subscribe();
        // It is never closed: the sender is ours.
        let _ = view.wait_for(|view| view.owner(slot) != Some(endpoint)).await;
    }

    /// The master of a slot.
    pub(super) fn owner(&self, slot: u16) -> Result<Arc<Peer>> {
        Ok(self.shared.peer(&self.place(slot)?, None))
    }

    /// A server to which another one has sent us.
    pub(super) fn follow(&self, endpoint: &Endpoint) -> Arc<Peer> {
        self.shared.peer(endpoint, Some(Instant::now()))
    }

    /// A link to each master.
    pub(super) fn masters(self: &Arc<Self>) -> Vec<Link> {
        let mut seen = Vec::new();
        for range in &self.shared.view().ranges {
            if !seen.iter().any(|(master, _)| *master == range.master) {
                seen.push((range.master.clone(), range.first));
            }
        }
        seen.into_iter().map(|(_, slot)| Link::new(Arc::clone(self), slot)).collect()
    }
}

/// Asks a server whether it belongs to a cluster.
async fn is_cluster(dialer: &Dialer, at: &Endpoint) -> Result<bool> {
    let unusable = |error: redis::RedisError| Error::Unavailable(format!("redis at {at} cannot be reached: {error}"));
    let (mut connection, _) = dialer.dial(at, Some(Duration::from_secs(5))).await.map_err(unusable)?;
    Ok(hello(&mut connection).await.map_err(unusable)?.cluster)
}
