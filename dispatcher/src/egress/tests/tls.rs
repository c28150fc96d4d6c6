//! TLS with an authority of the test's own.

use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, crypto};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::egress::FaultKind;

const CA: &[u8] = include_bytes!("data/ca.pem");
const CERTIFICATE: &[u8] = include_bytes!("data/worker.pem");
const KEY: &[u8] = include_bytes!("data/worker-key.pem");

/// A worker for `worker.test` and 127.0.0.1 that answers with the SNI and ALPN values it saw.
async fn worker() -> Server {
    let chain = CertificateDer::pem_slice_iter(CERTIFICATE).collect::<Result<Vec<_>, _>>().unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(KEY).unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Server::start(move |peer| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(peer.stream).await else { return };
            let (_, session) = stream.get_ref();
            let protocol = String::from_utf8_lossy(session.alpn_protocol().unwrap_or_default()).into_owned();
            let seen = format!("{} {protocol}", session.server_name().unwrap_or("-"));
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{seen}", seen.len());
            let mut peer = Peer { stream, number: peer.number, buffer: Vec::new() };
            while peer.request().await.is_some() {
                peer.write(&answer).await;
            }
        }
    })
    .await
}

fn trusting(extra_ca: &[u8]) -> HttpTransport {
    let resolver: Arc<dyn Resolve> = Script::new(&[&["127.0.0.1"]]);
    HttpTransport::new(EgressOptions { resolver, extra_ca: extra_ca.to_vec(), ..options() }).unwrap()
}

#[tokio::test]
async fn a_worker_of_an_extra_authority_is_reached_and_kept() {
    let worker = worker().await;
    let transport = trusting(CA);
    let port = worker.address.port();
    for round in 0..3 {
        let pushed = push(&transport, &format!("https://worker.test:{port}/")).await;
        assert_eq!(pushed.outcome.unwrap().body, "worker.test http/1.1");
        assert_eq!(pushed.reused, round > 0);
    }
    // A literal address is checked against the certificate too, without SNI.
    assert_eq!(push(&transport, &format!("https://127.0.0.1:{port}/")).await.outcome.unwrap().body, "- http/1.1");
}

#[tokio::test]
async fn a_certificate_that_does_not_fit_is_a_tls_fault() {
    let worker = worker().await;
    let port = worker.address.port();
    for (transport, host) in [(trusting(b""), "worker.test"), (trusting(CA), "other.test"), (trusting(CA), "127.0.0.2")] {
        // The worker listens on 127.0.0.1 alone, so the second literal needs no connection to be wrong.
        let expected = if host == "127.0.0.2" { FaultKind::Refused } else { FaultKind::Tls };
        let fault = push(&transport, &format!("https://{host}:{port}/")).await.outcome.unwrap_err();
        assert_eq!(fault.kind(), expected, "{host}: {fault:?}");
        assert!(!fault.kind().may_have_arrived());
    }
}

#[tokio::test]
async fn a_worker_without_tls_is_a_tls_fault() {
    let server = Server::start(|mut peer| async move {
        peer.write("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        peer.gone().await;
    })
    .await;
    let url = server.url().replace("http:", "https:");
    assert_eq!(push(&trusting(CA), &url).await.outcome.unwrap_err().kind(), FaultKind::Tls);
}

#[tokio::test]
async fn a_silent_handshake_ends_at_the_time_to_connect() {
    let server = Server::start(|mut peer| async move { peer.gone().await }).await;
    let transport = trusting(CA);
    let mut request = request(&transport, &server.url().replace("http:", "https:"));
    request.connect_timeout = Duration::from_millis(80);
    let pushed = timeout(PATIENCE, transport.push(request)).await.unwrap();
    assert_eq!(pushed.outcome.unwrap_err().kind(), FaultKind::ConnectTimeout);
    assert!(pushed.elapsed < Duration::from_secs(5));
}

#[test]
fn a_broken_authority_file_is_an_error() {
    for extra_ca in [&b"not a certificate"[..], b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let options = EgressOptions { extra_ca: extra_ca.to_vec(), ..options() };
        assert!(HttpTransport::new(options).is_err());
    }
}
