//! `bench-run`: starts server, worker and generator, runs scenarios, compares with BullMQ. `bench/run` calls it after
//! building and installing what it needs.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use lovage_bench::machine::Machine;
use lovage_bench::results::Results;
use lovage_bench::scenarios::{self, BullmqChoice, Scenario, Sizes};
use lovage_bench::subject::{Fsync, Setup};
use tokio::task::LocalSet;

/// Measures Lovage and BullMQ side by side; medians over all repetitions.
#[derive(Parser)]
#[command(name = "bench-run", version)]
#[allow(clippy::struct_excessive_bools)] // each is a flag of the command line
struct Arguments {
    /// Scenarios to run (all when none is named).
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// Run Lovage over Redis (appendfsync always) as well as on its embedded store.
    #[arg(long)]
    redis: bool,
    /// Leave out Lovage on its embedded store.
    #[arg(long)]
    no_embedded: bool,
    /// Leave out BullMQ.
    #[arg(long)]
    no_peers: bool,
    /// Repetitions of each scenario.
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// A tenth of the tasks, and a larger backlog of 100 000.
    #[arg(long)]
    quick: bool,
    /// Bytes of each payload.
    #[arg(long, default_value_t = 640)]
    payload: usize,
    /// Concurrency of the registered worker, for Lovage (BullMQ takes its own best).
    #[arg(long, default_value_t = 512)]
    concurrency: usize,
    /// Connections of the generator in arrays and streams.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// BullMQ's concurrency; without it the fastest of several variants is looked for first.
    #[arg(long)]
    bullmq_concurrency: Option<usize>,
    /// Jobs that BullMQ gets before the clock starts (0 measures it cold).
    #[arg(long, default_value_t = 5_000)]
    bullmq_warm_up: usize,
    /// The server binary (default: `lovage` beside this program).
    #[arg(long)]
    lovage: Option<PathBuf>,
    /// A further argument of `lovage dev`; repeatable.
    #[arg(long, allow_hyphen_values = true)]
    lovage_argument: Vec<String>,
    /// Folder of the BullMQ peer.
    #[arg(long, default_value = "bench/peers/bullmq")]
    bullmq: PathBuf,
    /// Folder for stores and logs, on the disk to be measured.
    #[arg(long, default_value = "bench/work")]
    work: PathBuf,
    /// Folder for result files.
    #[arg(long, default_value = "bench/results")]
    results: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, run(&arguments))
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    std::fs::create_dir_all(&arguments.work)?;
    std::fs::create_dir_all(&arguments.results)?;
    let setup = setup(arguments)?;
    let machine = Machine::describe(&setup.work)?;
    let path = arguments.results.join(format!("{}.json", machine.date.replace(':', "")));
    let mut results = Results::create(&path, &machine)?;
    let sizes = sizes(arguments);
    let chosen: &[Scenario] = if arguments.scenarios.is_empty() { Scenario::value_variants() } else { &arguments.scenarios };

    let compared = chosen.iter().any(|one| matches!(one, Scenario::Array | Scenario::Single | Scenario::Rate));
    let mut peers = Vec::new();
    if compared && !arguments.no_peers {
        // Which variant is best depends on Node and the machine, hardly on when Redis syncs: one search serves both.
        let choice = choose(arguments, &setup, &mut results, sizes).await?;
        peers = vec![(Fsync::Always, choice.clone()), (Fsync::EverySecond, choice)];
    }
    // Subjects alternate within each repetition, so that a slow minute of the machine hits all of them.
    for scenario in chosen {
        for repetition in 1..=arguments.repetitions {
            for (over_redis, subject) in [(false, "lovage"), (true, "lovage-redis")] {
                let wanted = if over_redis { arguments.redis } else { !arguments.no_embedded };
                if wanted {
                    for (name, figures) in scenarios::lovage(&setup, sizes, *scenario, over_redis).await? {
                        results.add(&name, subject, repetition, figures)?;
                    }
                }
            }
            for (fsync, choice) in &peers {
                let tasks = if *scenario == Scenario::Rate { sizes.rate } else { sizes.bullmq };
                let figures = scenarios::peer(&setup, *scenario, choice, *fsync, tasks, sizes.bullmq_warm_up).await?;
                if let (Some(figures), Some(name)) = (figures, scenario.to_possible_value()) {
                    results.add(name.get_name(), &peer_name(*fsync), repetition, figures)?;
                }
            }
        }
    }
    results.print();
    if let Some((_, choice)) = peers.first() {
        println!("BullMQ: {choice}");
    }
    println!("written to {}", path.display());
    Ok(())
}

fn setup(arguments: &Arguments) -> anyhow::Result<Setup> {
    let programs = std::env::current_exe()?.parent().map(Path::to_path_buf).context("this program has no folder")?;
    Ok(Setup {
        lovage: arguments.lovage.clone().unwrap_or_else(|| programs.join("lovage")),
        programs,
        lovage_arguments: arguments.lovage_argument.clone(),
        bullmq: arguments.bullmq.clone(),
        // Redis is told its folder and changes into it, so the path must not depend on where it stands.
        work: arguments.work.canonicalize()?,
        payload: arguments.payload,
        concurrency: arguments.concurrency,
        connections: arguments.connections,
    })
}

fn sizes(arguments: &Arguments) -> Sizes {
    let part = if arguments.quick { 10 } else { 1 };
    Sizes {
        bulk: 100_000 / part,
        single: 50_000 / part,
        rate: 2_000 / part,
        queued: 100_000,
        large_backlog: 1_000_000 / part,
        bullmq: 20_000 / part,
        bullmq_warm_up: arguments.bullmq_warm_up,
    }
}

fn peer_name(fsync: Fsync) -> String {
    format!("bullmq-{}", fsync.word())
}

/// Tries BullMQ's variants once each with few jobs and takes the one with the highest end-to-end throughput.
async fn choose(arguments: &Arguments, setup: &Setup, results: &mut Results, sizes: Sizes) -> anyhow::Result<BullmqChoice> {
    if let Some(concurrency) = arguments.bullmq_concurrency {
        return Ok(BullmqChoice { concurrency, inline: false, remove: false });
    }
    let mut best: Option<(f64, BullmqChoice)> = None;
    // Two rounds, of which the better one counts: a disturbance can only make a variant look slower than it is.
    for round in 1..=2 {
        for choice in scenarios::bullmq_choices() {
            let figures =
                scenarios::peer(setup, Scenario::Array, &choice, Fsync::Always, sizes.bullmq / 2, sizes.bullmq_warm_up).await?;
            let Some(figures) = figures else { continue };
            let rate = figures.get("received_per_second").copied().unwrap_or(0.0);
            results.note(&format!("probe, {choice}"), &peer_name(Fsync::Always), round, figures)?;
            if best.as_ref().is_none_or(|(highest, _)| rate > *highest) {
                best = Some((rate, choice));
            }
        }
    }
    best.map(|(_, choice)| choice).context("no variant of BullMQ ran")
}
