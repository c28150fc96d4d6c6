//! Bursts: how many connections are opened at once.

use super::*;
use crate::egress::FaultKind;

#[tokio::test]
async fn a_burst_opens_a_few_connections_at_a_time() {
    // It accepts and never shakes hands, so a connection stays half-open until its time is over.
    let server = Server::start(|mut peer| async move { peer.gone().await }).await;
    let transport = Arc::new(HttpTransport::new(EgressOptions { dials_per_origin: 2, ..options() }).unwrap());
    let url = format!("https://{}/", server.address);
    let pushes = (0..5).map(|_| {
        let (transport, url) = (Arc::clone(&transport), url.clone());
        async move {
            let request = PushRequest { connect_timeout: Duration::from_millis(300), ..request(&transport, &url) };
            transport.push(request).await.outcome.unwrap_err().kind()
        }
    });
    let faults = futures_util::future::join_all(pushes).await;
    assert_eq!(faults, [FaultKind::ConnectTimeout; 5]);
    assert_eq!(server.accepted(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waited_for_a_turn_takes_a_connection_that_became_free() {
    let server = Server::answering(OK).await;
    let transport = Arc::new(HttpTransport::new(EgressOptions { dials_per_origin: 1, ..options() }).unwrap());
    let mut pushes = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (transport, url) = (Arc::clone(&transport), server.url());
        pushes.spawn(async move { push(&transport, &url).await });
    }
    let mut reused = 0;
    while let Some(pushed) = pushes.join_next().await {
        let pushed = pushed.unwrap();
        assert!(pushed.outcome.is_ok());
        reused += usize::from(pushed.reused);
    }
    assert_eq!(server.accepted() + reused, 64);
}
