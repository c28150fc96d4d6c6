//! Starts the parts of a role in order, waits for the signal to stop, and stops them in order.
//!
//! ```text
//! start   log → metrics → lock and store → keys → listener → demo worker → dispatcher → gateway → ready
//! stop    gateway refuses what is new, open requests end │ dispatcher lets attempts end, gives the rest back
//!         → listener closes → store closes
//! ```
//!
//! The store is closed last, because both sides write to it until they are done. A gateway process has no dispatcher; in a
//! dispatcher process the gateway tells only how the process is doing.

use std::cell::Cell;
use std::io::Write;
use std::sync::Arc;

use anyhow::Context;
use lovage_core::AttemptUrls;
use lovage_gateway::{Auth, Cluster, Gateway, GatewayOptions};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, DEFAULT, Loaded};
use crate::demo::Demo;
use crate::dispatch::{Dispatch, runtime};
use crate::node::Node;
use crate::role::Role;
use crate::storage::Storage;
use crate::{admin_key, banner, footprint, logging, recorder, signals, storage};

/// The folder of `lovage dev`, in the folder where it is started: data of a project stays with the project.
const DEV_FOLDER: &str = ".lovage";

/// Runs a server until it is told to stop.
pub(crate) fn run(role: Role, loaded: Loaded) -> anyhow::Result<()> {
    let partitions = (loaded.source("partitions") != DEFAULT).then_some(loaded.config.partitions);
    let config = loaded.config;
    role.check(&config)?;
    logging::start(&config)?;
    raise_file_limit();
    runtime("gateway", config.runtime.gateway_threads)?.block_on(serve(role, config, partitions))
}

/// `partitions` if somebody has set them.
async fn serve(role: Role, config: Config, partitions: Option<u16>) -> anyhow::Result<()> {
    let stop = signals::listen(config.grace.get()).context("cannot listen for signals")?;
    let metrics = recorder::install()?;
    tokio::spawn(recorder::upkeep(metrics.clone()));

    let data_dir = storage::data_dir(&config, (role == Role::Dev).then_some(DEV_FOLDER));
    let storage = tokio::select! {
        storage = Storage::open(&config, data_dir.as_deref()) => storage?,
        // It may wait for Redis.
        () = stop.cancelled() => return Ok(()),
    };
    let has = storage.store.caps().partitions;
    if let Some(wanted) = partitions.filter(|wanted| storage.is_shared() && *wanted != has) {
        tracing::warn!("the store has {has} partitions, not {wanted}: their number was set when it was made");
    }
    tokio::spawn(footprint::watch(Arc::clone(&storage.inside), config.footprint_every.get()));
    let policy = config.policy(role == Role::Dev)?;
    lovage_gateway::ensure_signing_key(&*storage.store).await.context("cannot make the first signing key")?;
    let attempt_key = lovage_gateway::ensure_attempt_key(&*storage.store).await.context("cannot make the key of attempt URLs")?;
    // Before a key is made that is shown only once: a start that fails here would swallow it.
    let listener = listen(&config).await?;
    let (auth, new_key) = auth(role, &config, &storage).await?;
    let url = format!("http://{}", listener.local_addr().context("the listener has no address")?);
    storage.sign(data_dir.as_deref(), &url);
    if config.public_url.is_none() && config.listen.ip().is_unspecified() {
        tracing::warn!("workers are told to report to {url}; if they run elsewhere, set --public-url");
    }
    let attempt_urls = AttemptUrls::new(config.public_url.as_deref().unwrap_or(&url), attempt_key);
    let demo = match role {
        Role::Dev => Some(demo(&storage, &listener).await?),
        Role::Serve | Role::Gateway | Role::Dispatcher => None,
    };

    let random = lovage_gateway::Random::from_os().context("no random numbers")?;
    let (dispatcher, standings) = if role.delivers() {
        let draw = random.clone();
        let dispatch = Dispatch::new(&config, policy.clone(), &storage, attempt_urls.clone(), Arc::new(move || draw.next()))?;
        let standings = dispatch.standings();
        (Some(dispatch.start(stop.clone())?), Some(standings))
    } else {
        (None, None)
    };
    let node = Node::start(&storage, &config, role, &url, &stop).await?;
    let options = GatewayOptions {
        auth,
        destinations: Arc::new(policy),
        limits: config.limits.options(),
        times: config.times.options(config.grace),
        random,
        public_url: config.public_url.clone(),
        attempt_urls,
        standings,
        metrics: Some(Arc::new(move || metrics.render())),
        cluster: Cluster { drain: node.drain(), lease: config.dispatcher.lease.get(), session: storage.session },
    };
    let start = if role.takes_requests() { Gateway::start } else { Gateway::start_operation };
    let gateway = start(Arc::clone(&storage.store), options);
    announce(&banner::Facts { role, url: &url, config: &config, storage: &storage, new_key: new_key.as_deref() })?;

    let given_back = CancellationToken::new();
    let serving = gateway.serve(listener, stop.clone(), given_back.clone());
    let delivering = async {
        let _told = given_back.drop_guard();
        let Some(dispatcher) = dispatcher else {
            // Nothing is to be given back.
            stop.cancelled().await;
            return Ok(());
        };
        dispatcher.await.context("the dispatcher ended unexpectedly; the log has the cause")?
    };
    let (served, delivered, asked) = both(serving, delivering, &stop).await;
    if let Err(error) = served {
        tracing::warn!(%error, "requests were cut short");
    }
    drop(gateway);
    if let Some(demo) = demo {
        demo.stop().await;
    }
    let fenced = node.stop().await;
    storage.close().await;
    delivered?;
    anyhow::ensure!(!fenced, "this node was fenced: its session is over");
    anyhow::ensure!(asked, "the server ended without being asked to");
    tracing::info!("stopped");
    Ok(())
}

/// Waits for the ends of gateway and dispatcher. Whichever ends first stops the other: neither is of use alone. Also tells
/// whether the end was asked for.
async fn both<A, B>(
    serving: impl Future<Output = A>,
    dispatcher: impl Future<Output = B>,
    stop: &CancellationToken,
) -> (A, B, bool) {
    let asked = Cell::new(None);
    let end = || {
        asked.set(asked.get().or_else(|| Some(stop.is_cancelled())));
        stop.cancel();
    };
    let (served, ended) = tokio::join!(async { (serving.await, end()).0 }, async { (dispatcher.await, end()).0 });
    (served, ended, asked.get() == Some(true))
}

async fn auth(role: Role, config: &Config, storage: &Storage) -> anyhow::Result<(Auth, Option<String>)> {
    if role == Role::Dev {
        // A tunnel or proxy that the developer has named is as good as loopback.
        let url = config.public_url.as_deref().and_then(|url| url::Url::parse(url).ok());
        let hosts = url.and_then(|url| url.host_str().map(str::to_owned)).into_iter().collect();
        return Ok((Auth::Open { hosts }, None));
    }
    if let Some(path) = &config.admin_key_file {
        let key = admin_key::from_file(path)?;
        admin_key::share(&*storage.store, &key).await?;
        return Ok((Auth::Keys(Arc::new(key)), None));
    }
    let (key, shown) = admin_key::from_store(&*storage.store, role.takes_requests()).await?;
    let key = Arc::new(key);
    tokio::spawn(Arc::clone(&key).follow(Arc::clone(&storage.store)));
    Ok((Auth::Keys(key), shown))
}

async fn demo(storage: &Storage, listener: &TcpListener) -> anyhow::Result<Demo> {
    // On a shared store every server of this machine has its own, the same after each start.
    let address = listener.local_addr().context("the listener has no address")?;
    let instance = if storage.is_shared() { format!("{}-{}", address.ip(), address.port()) } else { "local".to_owned() };
    Demo::start(Arc::clone(&storage.store), &instance).await.context("cannot start the demo worker")
}

async fn listen(config: &Config) -> anyhow::Result<TcpListener> {
    TcpListener::bind(config.listen).await.with_context(|| {
        format!(
            "cannot listen on {}; if another server uses the port, choose one with --listen, such as 127.0.0.1:8276",
            config.listen
        )
    })
}

/// Every open request and every open attempt is a file; the usual soft limit of 1024 is from another time.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "cannot raise the limit of open files");
        }
    }
}

/// Tells the address, in a line of its own that programs may wait for, and then the rest.
fn announce(facts: &banner::Facts<'_>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(banner::text(facts).as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")
}
