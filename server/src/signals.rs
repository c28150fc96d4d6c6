//! SIGTERM and ctrl-c: the first asks the server to stop, the second ends it at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Starts to listen; the token is cancelled by the first signal.
pub(crate) fn listen(grace: std::time::Duration) -> io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        next(&mut terminate, &mut interrupt).await;
        token.cancel();
        tracing::info!(grace_s = grace.as_secs_f64(), "stopping: open attempts may end; a second signal stops at once");
        next(&mut terminate, &mut interrupt).await;
        tracing::warn!("stopped at once; open attempts will be found and repeated by the next start");
        // Whatever was acknowledged is durable already, so nothing has to be written here.
        std::process::exit(0);
    });
    Ok(stop)
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
