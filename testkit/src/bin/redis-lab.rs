//! `redis-lab single|replica|sentinel|cluster [--masters N] [--replicas N] [--fsync always|everysec|no|none]`: starts Redis
//! servers on free loopback ports, prints the URL for `--redis-url` on its first line, and ends them on SIGINT or SIGTERM.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a tool for developers: it ends with what went wrong

use std::process::ExitCode;

use lovage_testkit::{ClusterOptions, Fsync, Redis, RedisCluster, RedisOptions, RedisSentinels};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str =
    "usage: redis-lab single|replica|sentinel|cluster [--masters N] [--replicas N] [--fsync always|everysec|no|none]";

struct Wanted {
    kind: String,
    masters: usize,
    replicas: usize,
    fsync: Fsync,
}

fn wanted() -> Option<Wanted> {
    let mut words = std::env::args().skip(1);
    let mut wanted = Wanted { kind: words.next()?, masters: 3, replicas: 1, fsync: Fsync::Always };
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word.as_str() {
            "--masters" => wanted.masters = value.parse().ok().filter(|count| *count > 0)?,
            "--replicas" => wanted.replicas = value.parse().ok()?,
            "--fsync" => {
                wanted.fsync = match value.as_str() {
                    "always" => Fsync::Always,
                    "everysec" => Fsync::EverySecond,
                    "no" => Fsync::Never,
                    "none" => Fsync::NoFile,
                    _ => return None,
                }
            }
            _ => return None,
        }
    }
    Some(wanted)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(wanted) = wanted() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    // From here on a signal ends the wait below, so that the servers end with this process.
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt()).expect("signals can be heard"), signal(SignalKind::terminate()).expect("as above"));
    let options = RedisOptions::default().fsync(wanted.fsync);
    let (mut servers, mut cluster, mut sentinels) = (Vec::new(), None, None);
    let url = match wanted.kind.as_str() {
        "single" | "replica" => {
            let master = Redis::start_with(options);
            let replicas = if wanted.kind == "replica" { wanted.replicas } else { 0 };
            servers.extend((0..replicas).map(|_| Redis::start_replica_of(&master)));
            let url = master.url();
            servers.push(master);
            url
        }
        "sentinel" => sentinels.insert(RedisSentinels::start(wanted.replicas, options)).url(),
        "cluster" => {
            cluster.insert(RedisCluster::start_with(ClusterOptions::new(wanted.masters, wanted.replicas).node(options))).url()
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    println!("{url}");
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    ExitCode::SUCCESS
}
