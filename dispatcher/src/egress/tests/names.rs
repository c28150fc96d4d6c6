//! Names are judged at every attempt, and the judged address is the one that is called.

use std::future::pending;
use std::time::Duration;

use super::*;
use crate::egress::connect::check_peer;
use crate::egress::{FaultKind, SystemResolver};

/// A strict transport that may reach loopback alone, with a cache that forgets at once.
fn forgetful(resolver: Arc<dyn Resolve>) -> HttpTransport {
    let policy = AddressPolicy { allow: vec!["127.0.0.0/8".parse().unwrap()], ..AddressPolicy::default() };
    let options = EgressOptions {
        policy,
        resolver,
        dns_keep: Duration::ZERO,
        dns_keep_failure: Duration::ZERO,
        ..EgressOptions::default()
    };
    HttpTransport::new(options).unwrap()
}

fn url_of(server: &Server) -> String {
    format!("http://worker.test:{}/", server.address.port())
}

#[tokio::test]
async fn the_host_header_keeps_the_name() {
    let server = Server::start(|mut peer| async move {
        let request = peer.request().await.unwrap().to_lowercase();
        let port = peer.stream.local_addr().unwrap().port();
        assert!(request.contains(&format!("\r\nhost: worker.test:{port}\r\n")), "{request}");
        peer.write(OK).await;
        peer.gone().await;
    })
    .await;
    let transport = forgetful(Script::new(&[&["127.0.0.1"]]));
    assert!(push(&transport, &url_of(&server)).await.outcome.is_ok());
}

#[tokio::test]
async fn a_name_that_moves_to_a_private_address_is_refused() {
    let server = Server::answering(OK).await;
    for second in ["10.0.0.1", "169.254.169.254", "192.168.1.1", "::1", "::ffff:10.0.0.1", "fd00:ec2::254"] {
        let transport = forgetful(Script::new(&[&["127.0.0.1"], &[second]]));
        assert!(push(&transport, &url_of(&server)).await.outcome.is_ok());
        assert_eq!(transport.idle_connections(), 1);
        let pushed = push(&transport, &url_of(&server)).await;
        let fault = pushed.outcome.unwrap_err();
        assert_eq!(fault.kind(), FaultKind::Forbidden, "{second}");
        assert!(!fault.to_string().contains(second), "the address is for the log alone");
        assert!(!pushed.reused);
    }
}

#[tokio::test]
async fn one_bad_address_refuses_the_whole_answer() {
    let server = Server::answering(OK).await;
    for answer in [&["127.0.0.1", "10.0.0.1"], &["10.0.0.1", "127.0.0.1"], &["127.0.0.1", "::ffff:169.254.169.254"]] {
        let transport = forgetful(Script::new(&[answer]));
        assert_eq!(push(&transport, &url_of(&server)).await.outcome.unwrap_err().kind(), FaultKind::Forbidden);
    }
    assert_eq!(server.accepted(), 0);
}

#[tokio::test]
async fn a_kept_connection_does_not_outlive_a_change_of_address() {
    let old = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nold").await;
    let new = Server::start_at(&format!("127.0.0.2:{}", old.address.port()), |mut peer| async move {
        peer.request().await;
        peer.write("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nnew").await;
        peer.gone().await;
    })
    .await;
    let transport = forgetful(Script::new(&[&["127.0.0.1"], &["127.0.0.1"], &["127.0.0.2"]]));
    let mut bodies = Vec::new();
    for _ in 0..3 {
        bodies.push(push(&transport, &url_of(&old)).await.outcome.unwrap().body);
    }
    assert_eq!(bodies, ["old", "old", "new"]);
    assert_eq!((old.accepted(), new.accepted()), (1, 1));
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_refuses() {
    let server = Server::answering(OK).await;
    let transport = forgetful(Script::new(&[&["127.0.0.3", "127.0.0.1"]]));
    assert!(push(&transport, &url_of(&server)).await.outcome.is_ok());
    assert!(push(&transport, &url_of(&server)).await.reused);
}

#[tokio::test]
async fn one_lookup_serves_all_that_ask_and_is_kept_a_while() {
    let server = Server::answering(OK).await;
    let script = Script::new(&[&["127.0.0.1"]]);
    let resolver: Arc<dyn Resolve> = script.clone();
    let transport = HttpTransport::new(EgressOptions { resolver, dns_keep: Duration::from_millis(100), ..options() }).unwrap();
    let url = url_of(&server);
    let all = futures_util::future::join_all((0..20).map(|_| push(&transport, &url))).await;
    assert!(all.iter().all(|pushed| pushed.outcome.is_ok()));
    assert_eq!(script.lookups(), 1);
    let again = async {
        while script.lookups() == 1 {
            assert!(push(&transport, &url).await.outcome.is_ok());
        }
    };
    timeout(PATIENCE, again).await.expect("the answer was kept for ever");
    assert_eq!(script.lookups(), 2);
}

#[tokio::test]
async fn a_failed_lookup_is_a_fixed_fault() {
    let script = Script::new(&[]);
    let resolver: Arc<dyn Resolve> = script.clone();
    let transport = HttpTransport::new(EgressOptions { resolver, ..options() }).unwrap();
    for _ in 0..3 {
        let fault = push(&transport, "http://worker.test/").await.outcome.unwrap_err();
        assert_eq!(fault.kind(), FaultKind::Dns);
        assert_eq!(fault.to_string(), "the host name cannot be resolved");
        assert!(fault.detail().contains("secret-resolver-detail"));
    }
    assert_eq!(script.lookups(), 1, "failures are kept too");
    let none = forgetful(Script::new(&[&[]]));
    assert_eq!(push(&none, "http://worker.test/").await.outcome.unwrap_err().kind(), FaultKind::Dns);
}

/// A resolver that never answers, and counts how many lookups it holds.
#[derive(Default)]
struct Hanging(AtomicUsize);

impl Resolve for Hanging {
    fn lookup(&self, _host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(pending())
    }
}

#[tokio::test]
async fn a_hanging_resolver_costs_the_time_to_connect_and_a_bounded_number_of_lookups() {
    let hanging = Arc::new(Hanging::default());
    let resolver: Arc<dyn Resolve> = hanging.clone();
    let transport = HttpTransport::new(EgressOptions { resolver, dns_concurrent: 2, ..options() }).unwrap();
    let pushes = (0..10).map(|n| {
        let mut request = request(&transport, &format!("http://worker-{n}.test/"));
        request.connect_timeout = Duration::from_millis(50);
        transport.push(request)
    });
    for pushed in timeout(PATIENCE, futures_util::future::join_all(pushes)).await.unwrap() {
        assert_eq!(pushed.outcome.unwrap_err().kind(), FaultKind::Dns);
    }
    assert_eq!(hanging.0.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_system_resolver_knows_localhost() {
    let found = SystemResolver.lookup("localhost").await.unwrap();
    assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty());
}

#[test]
fn the_peer_must_be_the_vetted_address() {
    let at = |text: &str| text.parse::<SocketAddr>().unwrap();
    assert!(check_peer(at("8.8.8.8:80"), at("8.8.8.8:80")).is_ok());
    assert!(check_peer(at("8.8.8.8:80"), at("[::ffff:8.8.8.8]:80")).is_ok());
    for peer in ["8.8.4.4:80", "8.8.8.8:81", "127.0.0.1:80", "[::1]:80"] {
        let fault = check_peer(at("8.8.8.8:80"), at(peer)).unwrap_err();
        assert_eq!(fault.kind(), FaultKind::Forbidden);
    }
}
