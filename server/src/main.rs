//! `lovage`: the server and its command line client in one binary.

mod admin_key;
mod args;
mod banner;
mod cli;
mod config;
mod demo;
mod dispatch;
mod footprint;
mod logging;
mod node;
mod recorder;
mod role;
mod run;
mod signals;
mod storage;
mod style;
mod watchdog;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use config::Loaded;
use role::{Misuse, Role};

/// The store and the gateway make and drop many small buffers on several threads; the system's allocator keeps more memory
/// for that.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Wrong use: unknown flags, settings that cannot be.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    // Before anything that may speak TLS. It fails only where a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    match cli.command {
        Command::Dev(args) => serve(Role::Dev, &args),
        Command::Serve(args) => serve(Role::Serve, &args),
        Command::Gateway(args) => serve(Role::Gateway, &args),
        Command::Dispatcher(args) => serve(Role::Dispatcher, &args),
        Command::Config(args) => configured(&args, |loaded| Ok(print(&loaded.to_toml()?)?)),
        Command::Openapi => match print(&lovage_gateway::Gateway::openapi()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("lovage: cannot write: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Submit(args) => cli::run(args.client.clone(), async |client| cli::submit(client, &args).await),
        Command::Get(args) => cli::run(args.client.clone(), async |client| cli::get(client, &args).await),
        Command::Result(args) => cli::run(args.client.clone(), async |client| cli::result(client, &args).await),
        Command::Wait(args) => cli::run(args.client.clone(), async |client| cli::wait(client, &args).await),
        Command::Cancel(args) => cli::run(args.client.clone(), async |client| cli::cancel(client, &args).await),
        Command::Retry(args) => verb(&args, "retry"),
        Command::RunNow(args) => verb(&args, "run"),
        Command::Hold(args) => verb(&args, "hold"),
        Command::Release(args) => verb(&args, "release"),
        Command::Replay(args) => cli::run(args.client.clone(), async |client| cli::replay(client, &args).await),
        Command::Explain(args) => cli::run(args.client.clone(), async |client| cli::explain(client, &args).await),
        Command::Tree(args) => cli::run(args.client.clone(), async |client| cli::tree(client, &args).await),
        Command::Nodes(args) => cli::run(args.client().clone(), async |client| cli::nodes(client, &args).await),
        Command::Backup(args) => cli::ended(cli::run_backup(&args)),
        Command::Restore(args) => cli::ended(cli::run_restore(&args)),
        Command::Migrate(args) => cli::run_local(async || cli::migrate(&args).await),
        Command::Workers(command) => cli::run(command.client().clone(), async |client| cli::workers(client, &command).await),
        Command::Queues(command) => cli::run(command.client().clone(), async |client| cli::queues(client, &command).await),
        Command::Limits(command) => cli::run(command.client().clone(), async |client| cli::limits(client, &command).await),
        Command::Inspect(command) => cli::run(command.client().clone(), async |client| cli::inspect(client, &command).await),
        Command::Control(command) => cli::run(command.client().clone(), async |client| cli::control(client, &command).await),
        Command::Dead(command) => cli::run(command.client().clone(), async |client| cli::dead(client, &command).await),
    }
}

fn verb(args: &cli::VerbArgs, verb: &str) -> ExitCode {
    cli::run(args.client.clone(), async |client| cli::verb(client, args, verb).await)
}

/// Writes to standard output. Whoever has closed it (`lovage openapi | head`) has read enough, which is no error.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

fn serve(role: Role, args: &args::ServerArgs) -> ExitCode {
    configured(args, |loaded| run::run(role, loaded))
}

fn configured(args: &args::ServerArgs, then: impl FnOnce(Loaded) -> anyhow::Result<()>) -> ExitCode {
    let loaded = args.flags().and_then(|flags| config::load_here(&flags));
    match loaded.map_err(|error| (error, USAGE)).and_then(|loaded| then(loaded).map_err(failure)) {
        Ok(()) => ExitCode::SUCCESS,
        Err((error, code)) => {
            eprintln!("lovage: {error:#}");
            ExitCode::from(code)
        }
    }
}

fn failure(error: anyhow::Error) -> (anyhow::Error, u8) {
    let code = if error.is::<Misuse>() { USAGE } else { 1 };
    (error, code)
}
