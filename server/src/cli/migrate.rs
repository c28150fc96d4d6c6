//! `lovage migrate`: moves everything from one store to another while the servers of the new one work.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use comfy_table::{Table, presets};
use indicatif::ProgressBar;
use lovage_core::units::Dur;
use lovage_core::{NodeInfo, Ns, Partition, SessionId, State};
use lovage_store::moving::{Move, Report, are_same, copy_documents, settle_lost};
use lovage_store::{DocKind, Error, FeedPos, OwnRequest, Store, Want};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::place::{Place, Side};
use super::{Failure, copies, show};
use crate::config::{Config, Flags, load_here};
use crate::storage::Storage;

/// How long the source is held without renewal, and how often that is renewed.
const LEASE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(3));
/// So many tasks that were refused are told one by one.
const SHOWN: usize = 20;
/// Between two looks whether its servers have gone.
const LOOK: Duration = Duration::from_millis(500);
/// How often a store that is away for a while is tried again, and after how long.
const AGAIN: (u32, Duration) = (20, Duration::from_secs(1));

/// Move everything from one store to another. Start the servers on the new store, stop those on the old one, then run this.
///
/// How the stores are used (time-outs, TLS, confirmations by replicas of the new one) is read from the same configuration as a
/// server's; where they are, only from --from and --to.
#[derive(Clone, Debug, Args)]
pub(crate) struct MigrateArgs {
    /// The old store: a data directory, or redis://HOST:PORT/DB?prefix=TEXT.
    #[arg(long, value_name = "STORE")]
    pub from: Place,
    /// The new store; a new one in Redis is made with ?partitions=P (default: 16).
    #[arg(long, value_name = "STORE")]
    pub to: Place,
    /// Copy only settings and secrets (workers, task types, queues, signing keys, the admin key, the key of attempt URLs) that
    /// the new store does not have. Do this first, before a server starts on the new store; the old one may be at work.
    #[arg(long, conflicts_with = "dry_run")]
    pub documents: bool,
    /// Only count.
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait for the last servers of the old store to go.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub wait: Dur,
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
    /// Read this file instead of ./lovage.toml.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set any key of the configuration, such as `redis.ca_file=ca.pem`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// `lovage migrate`.
pub(crate) async fn run(args: &MigrateArgs) -> Result<(), Failure> {
    if args.from.is_same(&args.to) {
        return Err(Failure::Usage("--from and --to are the same store".to_owned()));
    }
    let flags = Flags::new(args.config.clone(), &args.set);
    let config = flags.and_then(|flags| load_here(&flags)).map_err(|error| Failure::Usage(format!("{error:#}")))?.config;
    check_apart(args, &config).await?;
    let start = Instant::now();
    if args.documents {
        let documents = args.from.documents(&config).await?;
        let to = args.to.open(&config, Side::To).await?;
        let mut report = Report::default();
        let copied = copy_documents(documents, &*to.store, &mut report).await.map_err(failed);
        to.close().await;
        return copied.and_then(|()| summary(args, &report, 0, start.elapsed()));
    }
    let from = args.from.open(&config, Side::From).await?;
    if args.dry_run {
        // Whatever is counted: the destination is not touched.
        let counted = moving(&from, &from, &|_| {}).count().await.map_err(failed);
        from.close().await;
        return summary(args, &counted?, 0, start.elapsed());
    }
    let to = match args.to.open(&config, Side::To).await {
        Ok(to) => to,
        Err(failure) => {
            from.close().await;
            return Err(failure);
        }
    };
    let moved = held(args, &from, &to).await;
    to.close().await;
    from.close().await;
    let (report, lost) = moved?;
    summary(args, &report, lost, start.elapsed())
}

/// Refuses a store as its own destination, by whatever other name that goes.
async fn check_apart(args: &MigrateArgs, config: &Config) -> Result<(), Failure> {
    // A data directory has been compared already, and has no room for two.
    let (Place::Redis { .. }, Place::Redis { .. }) = (&args.from, &args.to) else { return Ok(()) };
    let from = args.from.open(config, Side::From).await?;
    if !args.to.is_there(config).await? {
        return Ok(());
    }
    let to = args.to.open(config, Side::To).await?;
    if are_same(&*from.store, &*to.store, random()).await.map_err(failed)? {
        return Err(Failure::Usage("--from and --to are the same store".to_owned()));
    }
    Ok(())
}

fn random() -> u64 {
    getrandom::u64().unwrap_or_default()
}

fn moving<'a>(from: &'a Storage, to: &'a Storage, told: &'a (dyn Fn(&Report) + Send + Sync)) -> Move<'a> {
    Move { from: &*from.store, inside: &*from.inside, to: &*to.store, nonce: random(), told }
}

fn failed(error: Error) -> Failure {
    let text = format!("{error}; nothing is lost: run the same command again, and it goes on");
    if error.is_transient() { Failure::Unreachable(text) } else { Failure::Refused(text) }
}

/// Moves while the source is held against any server that would start on it.
async fn held(args: &MigrateArgs, from: &Storage, to: &Storage) -> Result<(Report, u64), Failure> {
    let hold = Hold::take(&from.store, from.session, args.wait.get()).await;
    let moved = match hold {
        Ok((hold, lost)) => {
            let bar = copies::bar("tasks");
            let moved = with_patience(from, to, &bar).await;
            bar.finish_and_clear();
            hold.renewing.abort();
            moved.map(|report| (report, lost))
        }
        Err(failure) => Err(failure),
    };
    for p in partitions(&*from.store) {
        // A lease that is not given back ends by itself.
        drop(from.store.own(p, request(from.session, Want::Leave)).await);
    }
    moved
}

async fn with_patience(from: &Storage, to: &Storage, bar: &ProgressBar) -> Result<Report, Failure> {
    let told = |report: &Report| {
        bar.set_length(report.found.iter().sum());
        bar.set_position(report.done());
    };
    for _ in 0..AGAIN.0 {
        match moving(from, to, &told).run().await {
            Ok(report) => return Ok(report),
            Err(error) if error.is_transient() => {
                bar.suspend(|| eprintln!("{error}; trying again"));
                tokio::time::sleep(AGAIN.1).await;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    moving(from, to, &told).run().await.map_err(failed)
}

fn partitions(store: &dyn Store) -> impl Iterator<Item = Partition> + use<> {
    (0..store.caps().partitions).map(Partition)
}

fn request(session: SessionId, want: Want) -> OwnRequest {
    OwnRequest { session, want, lease: LEASE.0, drop: Vec::new() }
}

/// The right to all partitions of the source.
struct Hold {
    renewing: JoinHandle<()>,
}

impl Hold {
    /// Waits until no server lives on the store, takes all partitions and settles what dead servers left open.
    async fn take(store: &Arc<dyn Store>, session: SessionId, wait: Duration) -> Result<(Self, u64), Failure> {
        let (start, mut said) = (Instant::now(), false);
        loop {
            let alive = alive(&**store, session).await.map_err(failed)?;
            if alive.is_empty() {
                break;
            }
            if start.elapsed() >= wait {
                return Err(Failure::Refused(format!(
                    "the old store is in use by {}; stop it, or give it longer with --wait (one that was killed is out after 15 s)",
                    alive.join(", ")
                )));
            }
            if !std::mem::replace(&mut said, true) {
                eprintln!("waiting for the servers of the old store to go: {}", alive.join(", "));
            }
            tokio::time::sleep(LOOK).await;
        }
        let mut lost = 0;
        for p in partitions(&**store) {
            let reply = store.own(p, request(session, Want::Own)).await.map_err(failed)?;
            if reply.token.is_none() {
                return Err(Failure::Refused(format!("a server has just started on the old store and owns partition {}", p.0)));
            }
            lost += settle_lost(&**store, p, random).await.map_err(failed)?;
            if store.outbox(p, FeedPos::default(), 1).await.map_err(failed)?.waiting > 0 {
                return Err(Failure::Refused(format!(
                    "partition {} of the old store has messages for others that were not delivered; start a server on it, let it \
                     deliver them, and stop it again",
                    p.0
                )));
            }
        }
        let store = Arc::clone(store);
        let renewing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(LEASE.1).await;
                for p in partitions(&*store) {
                    // A renewal that fails is made up for by the next; a server that got in between only makes tasks
                    // change, which are then told.
                    drop(store.own(p, request(session, Want::Own)).await);
                }
            }
        });
        Ok((Self { renewing }, lost))
    }
}

/// The processes whose leases in the store are good.
async fn alive(store: &dyn Store, mine: SessionId) -> Result<Vec<String>, Error> {
    let mut sessions = BTreeSet::new();
    for p in partitions(store) {
        let seen = store.ownership(p).await?;
        let owner = seen.owner.filter(|(_, until)| *until > seen.now).map(|(session, _)| session);
        let live = seen.sessions.iter().filter(|lease| lease.until > seen.now).map(|lease| lease.session);
        sessions.extend(live.chain(owner).filter(|session| *session != mine));
    }
    let mut names = Vec::new();
    for session in sessions {
        let document = store.doc(DocKind::Node, Ns::DEFAULT, &session.0.to_string()).await?;
        let bytes = document.and_then(|document| document.bytes).unwrap_or_default();
        names.push(match serde_json::from_slice::<NodeInfo>(&bytes) {
            Ok(info) => format!("process {} on {}", info.pid, info.name),
            Err(_) => format!("session {}", session.0),
        });
    }
    Ok(names)
}

/// Tells what was done; fails if something stays in the source.
fn summary(args: &MigrateArgs, report: &Report, lost: u64, taken: Duration) -> Result<(), Failure> {
    if args.json {
        show::line(&as_json(report, lost, taken).to_string());
    } else if args.documents {
        show::line(&format!("{} documents copied, {} were there", report.documents.moved, report.documents.there));
    } else {
        if args.dry_run {
            show::line("a dry run: nothing was moved");
        }
        show::line(&table(report).to_string());
        let Report { documents, keys, .. } = report;
        show::line(&format!("documents: {} copied, {} there already", documents.moved, documents.there));
        show::line(&format!("idempotency keys and directory entries: {} moved, {} there already", keys.moved, keys.there));
        if lost > 0 {
            show::line(&format!(
                "lost with servers that died: {}; their tasks go on as after any crash",
                show::count(&lost.into(), "attempt")
            ));
        }
    }
    if !args.json {
        for name in &report.kept {
            eprintln!("kept as the new store has it: {name}");
        }
        if report.kept.iter().any(|name| name.starts_with(&format!("{:?} ", DocKind::AttemptKey))) {
            eprintln!(
                "the stores have different keys of attempt URLs: workers cannot report on attempts that they have accepted from \
                 the old servers; those are repeated when their leases have run out"
            );
        }
        for refused in report.refusals.iter().take(SHOWN) {
            eprintln!("{} stays in the old store: {}", name(&refused.key), refused.why);
        }
        let more = report.refused.iter().sum::<u64>().saturating_sub(SHOWN as u64);
        if more > 0 {
            eprintln!("and {more} more");
        }
    }
    if report.refused.iter().any(|count| *count > 0) { Err(Failure::Task) } else { Ok(()) }
}

fn name(key: &lovage_core::TaskKey) -> String {
    if key.ns == Ns::DEFAULT { key.id.to_string() } else { format!("{} of namespace {}", key.id, key.ns.0) }
}

fn table(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["state", "found", "moved", "there already", "refused"]);
    let sums = [report.found, report.moved, report.there, report.refused];
    for state in State::ALL {
        let counts = sums.map(|counts| counts[*state as usize]);
        if counts.iter().any(|count| *count > 0) {
            let mut row = vec![state.as_str().to_owned()];
            row.extend(counts.map(|count| count.to_string()));
            table.add_row(row);
        }
    }
    let mut row = vec!["all".to_owned()];
    row.extend(sums.map(|counts| counts.iter().sum::<u64>().to_string()));
    table.add_row(row);
    table
}

fn as_json(report: &Report, lost: u64, taken: Duration) -> Value {
    let states = |counts: &[u64; 9]| -> Value {
        State::ALL
            .iter()
            .map(|state| (state.as_str().to_owned(), json!(counts[*state as usize])))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let refusals: Vec<Value> = report
        .refusals
        .iter()
        .map(|refused| json!({"id": refused.key.id.to_string(), "namespace": refused.key.ns.0, "why": refused.why}))
        .collect();
    json!({
        "found": states(&report.found),
        "moved": states(&report.moved),
        "there": states(&report.there),
        "refused": states(&report.refused),
        "refusals": refusals,
        "documents": {"copied": report.documents.moved, "there": report.documents.there, "kept": report.kept},
        "keys": {"moved": report.keys.moved, "there": report.keys.there},
        "lost": lost,
        "seconds": taken.as_secs_f64(),
    })
}
