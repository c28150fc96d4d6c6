//! Encryption, access rules, and servers that are not fit.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use lovage_core::{Partition, State};
use lovage_testkit::redis::RedisOptions as ServerOptions;
use lovage_testkit::{Fsync, Port, Redis, RedisSentinels, eventually};

use super::{OnCluster, OnRedis, RedisOptions, RedisStore, fresh_prefix, shared_server};
use crate::conformance::kit::{Kit, LONG, PATIENCE, ended};
use crate::redis::{RedisTls, RedisWait};
use crate::{DocGuard, DocKind, DocPut, FeedBatch, ListQuery, Store};

/// What `docs/redis.md` tells to allow, for keys that begin with `lv`.
const RULES: &str = "resetkeys ~lv{* resetchannels -@all +@read +@write -@dangerous +@connection +evalsha +script|load +time +wait \
                     +info +config|get +cluster|slots +cluster|nodes";

/// A bit of everything that servers do.
async fn used(store: &Arc<RedisStore>, fixture: &OnRedis) {
    for p in (0..store.caps().partitions).map(Partition) {
        let kit = Kit::in_partition(fixture, store.clone(), p);
        let token = kit.token().await;
        let at = store.tail(p).await.unwrap();
        let (batch, task) = tokio::join!(store.feed(p, at, PATIENCE), kit.put(kit.task()));
        assert!(matches!(batch.unwrap(), FeedBatch::Entries { entries, .. } if entries.len() == 1));
        let task = kit.claimed(&token, &task).await;
        let task = kit.committed(&task, task.commit(Some(ended(&task.head, State::Succeeded, kit.now(), LONG)))).await;
        assert_eq!(kit.list(&ListQuery::default(), 10).await.len(), 1);
        kit.committed(&task, task.commit(None)).await;
    }
    let item = DocPut {
        kind: DocKind::Queue,
        ns: lovage_core::Ns::DEFAULT,
        name: "q".into(),
        guard: DocGuard::Any,
        bytes: Some("{}".into()),
    };
    store.put_docs(vec![item]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_rules_are_enough() {
    let server = Redis::start_with(ServerOptions::default().fsync(Fsync::NoFile));
    let rules: Vec<&str> = ["ACL", "SETUSER", "lovage", "on", ">p@ss"].into_iter().chain(RULES.split_whitespace()).collect();
    server.command(&rules).unwrap();
    let url = server.url().replace("redis://", "redis://lovage:p%40ss@");
    let fixture = OnRedis::unused();
    let store = RedisStore::open(RedisOptions { partitions: 2, ..RedisOptions::new(url.clone()) }).await.unwrap();
    used(&store, &fixture).await;
    let denied = server.command(&["ACL", "LOG"]).unwrap();
    assert!(!denied.contains("command"), "something was denied: {denied}");
    // Elsewhere nothing is allowed, and a refusal names no credentials.
    let other = RedisOptions { prefix: "other".into(), ..RedisOptions::new(url) };
    let refused = RedisStore::open(other).await.unwrap_err().to_string();
    assert!(refused.contains("does not permit") && !refused.contains("ss@") && !refused.contains("p%40ss"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_rules_are_enough_in_a_cluster() {
    let fixture = OnCluster::new(6);
    for node in fixture.cluster.nodes() {
        allow(node);
    }
    let url = fixture.cluster.url().replace("://", "://lovage:pw@");
    let prefix = format!("lv{{{}}}", fresh_prefix());
    assert!(RedisStore::open(RedisOptions { prefix, ..RedisOptions::new(url.clone()) }).await.is_err());
    let store = RedisStore::open(RedisOptions { partitions: 6, ..RedisOptions::new(url) }).await.unwrap();
    used(&store, &OnRedis::unused()).await;
}

/// The user that the rules describe.
fn allow(server: &Redis) {
    let rules: Vec<&str> = ["ACL", "SETUSER", "lovage", "on", ">pw"].into_iter().chain(RULES.split_whitespace()).collect();
    server.command(&rules).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_rules_are_enough_to_wait_for_replicas_and_to_follow_sentinels() {
    let mut lab = RedisSentinels::start(2, ServerOptions::default().fsync(Fsync::Never));
    lab.servers().iter().for_each(allow);
    let url = lab.url().replace("://", "://lovage:pw@");
    let one = RedisWait { replicas: 1, timeout: Duration::from_secs(5) };
    let store = RedisStore::open(RedisOptions { partitions: 2, wait: Some(one), ..RedisOptions::new(url) }).await.unwrap();
    used(&store, &OnRedis::unused()).await;
    let denied = lab.servers()[0].command(&["ACL", "LOG"]).unwrap();
    assert!(!denied.contains("command"), "something was denied: {denied}");
    lab.server(0).kill9();
    eventually("the new master is used", PATIENCE, async || store.ping().await.ok()).await;
    used(&store, &OnRedis::unused()).await;
}

fn openssl(folder: &Path, words: &str) {
    let done = Command::new("openssl").args(words.split(' ')).current_dir(folder).output().expect("openssl is installed");
    assert!(done.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encrypted_with_an_authority_of_ones_own() {
    let _already = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    openssl(dir, "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority");
    for name in ["server", "client"] {
        openssl(dir, &format!("req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        std::fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
        openssl(
            dir,
            &format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 -extfile ext"),
        );
    }
    let port = Port::reserve();
    let path = |name: &str| dir.join(name).display().to_string();
    let server = ServerOptions::default()
        .fsync(Fsync::NoFile)
        .with("tls-port", &port.number().to_string())
        .with("tls-cert-file", &path("server.pem"))
        .with("tls-key-file", &path("server.key"))
        .with("tls-ca-cert-file", &path("ca.pem"));
    let _server = Redis::start_with(server);
    let bytes = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let url = format!("rediss://127.0.0.1:{}", port.number());
    let with = |tls| RedisOptions { tls, partitions: 1, ..RedisOptions::new(url.clone()) };
    let both = RedisTls { ca: Some(bytes("ca.pem")), client: Some((bytes("client.pem"), bytes("client.key"))) };
    let store = RedisStore::open(with(both.clone())).await.unwrap();
    used(&store, &OnRedis::unused()).await;
    // Without the authority the server is not trusted, and without a certificate it does not trust us.
    for lacking in [RedisTls { ca: None, ..both.clone() }, RedisTls { client: None, ..both }] {
        assert!(RedisStore::open(with(lacking)).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_server_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut bytes = [0; 4_096];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                    for _ in 0..text.matches("HELLO").count() {
                        let facts = "%3\r\n+version\r\n+6.2.14\r\n+mode\r\n+standalone\r\n+role\r\n+master\r\n";
                        stream.write_all(facts.as_bytes()).unwrap();
                    }
                    for _ in 0..text.matches("SETINFO").count() {
                        stream.write_all(b"+OK\r\n").unwrap();
                    }
                }
            });
        }
    });
    let refused = RedisStore::open(RedisOptions::new(url)).await.unwrap_err();
    assert!(refused.to_string().contains("redis 6.2.14 is too old; 7.0 or newer is needed"), "{refused}");
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_shown() {
    let server = shared_server();
    let url = server.url().replace("redis://", "redis://nobody:secret@");
    let refused = RedisStore::open(RedisOptions::new(url)).await.unwrap_err().to_string();
    assert!(refused.contains("WRONGPASS") && !refused.contains("secret"), "{refused}");
}
