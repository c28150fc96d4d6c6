//! `bench-worker`: answers every POST with 200 and counts it, as cheaply as it can.

use std::io::Write;
use std::time::Duration;

use clap::Parser;

/// A worker that costs almost nothing. See the module `fast_worker` for its routes.
#[derive(Parser)]
#[command(name = "bench-worker", version)]
struct Arguments {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// Milliseconds to wait before each answer.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    lovage_bench::fast_worker::run(&arguments.listen, Duration::from_millis(arguments.delay_ms), |address| {
        println!("listening on http://{address}");
        // A starter reads this line through a pipe; without it nothing can begin, so a failure shows by itself.
        let _ = std::io::stdout().flush();
    })?;
    Ok(())
}
