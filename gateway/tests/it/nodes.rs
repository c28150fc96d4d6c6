//! The processes of the cluster: shown, drained, fenced.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::Method;
use lovage_core::problem::Code;
use lovage_core::{NodeInfo, Ns, Partition, SessionId};
use lovage_store::{DocGuard, DocKind, DocPut, Error, OwnRequest, Store, Want};
use serde_json::json;

use crate::harness::{Harness, options};

const LEASE: Duration = Duration::from_secs(15);

/// A process as it tells of itself.
async fn node(h: &Harness, session: u64, roles: &[&str]) {
    let info = NodeInfo {
        name: format!("host-{session}"),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        version: "0.1.0".into(),
        pid: 7,
        url: Some("http://127.0.0.1:8275".into()),
        started_at: h.store.clock().now(),
        drain: false,
    };
    let bytes = Some(serde_json::to_vec(&info).unwrap().into());
    let put = DocPut { kind: DocKind::Node, ns: Ns::DEFAULT, name: session.to_string(), guard: DocGuard::Any, bytes };
    h.store.put_docs(vec![put]).await.unwrap();
}

async fn renew(h: &Harness, partition: u16, session: u64, want: Want) -> Result<bool, Error> {
    let request = OwnRequest { session: SessionId(session), want, lease: LEASE, drop: Vec::new() };
    h.store.own(Partition(partition), request).await.map(|reply| reply.token.is_some())
}

#[tokio::test]
async fn nodes_are_listed_with_what_they_own() {
    let h = Harness::new();
    assert_eq!(h.get("/v1/nodes").await.json(), json!({"items": [], "next_cursor": null}));
    node(&h, 10, &["gateway"]).await;
    node(&h, 9, &["dispatcher"]).await;
    for p in 0..2 {
        assert!(renew(&h, p, 9, Want::Own).await.unwrap());
    }
    renew(&h, 0, 10, Want::Release).await.unwrap();
    h.clock.advance(Duration::from_secs(2));
    let listed = h.get("/v1/nodes").await.json();
    let first = &listed["items"][0];
    assert_eq!(
        (&first["id"], &first["name"], &first["roles"], &first["version"], &first["pid"], &first["url"]),
        (&json!("9"), &json!("host-9"), &json!(["dispatcher"]), &json!("0.1.0"), &json!(7), &json!("http://127.0.0.1:8275"))
    );
    assert_eq!((&first["state"], &first["silent_for"], &first["partitions"]), (&json!("active"), &json!("2s"), &json!([0, 1])));
    assert!(first["started_at"].as_str().unwrap() < h.store_time().as_str());
    let gateway = &listed["items"][1];
    assert_eq!((&gateway["id"], &gateway["state"], &gateway["partitions"]), (&json!("10"), &json!("active"), &json!([])));
    assert_eq!(h.get("/v1/nodes/10").await.json(), *gateway);
    h.clock.advance(LEASE);
    let gone = h.get("/v1/nodes/10").await.json();
    assert_eq!((&gone["state"], &gone["silent_for"]), (&json!("gone"), &json!(null)));
}

#[tokio::test]
async fn a_node_is_drained_and_works_again() {
    let h = Harness::new();
    node(&h, 3, &["dispatcher"]).await;
    renew(&h, 0, 3, Want::Own).await.unwrap();
    for (verb, state, drain) in
        [("drain", "draining", true), ("drain", "draining", true), ("resume", "active", false), ("resume", "active", false)]
    {
        let reply = h.post(&format!("/v1/nodes/3/{verb}"), "").await;
        assert_eq!((reply.status.as_u16(), &reply.json()["state"]), (200, &json!(state)));
        let document = h.store.doc(DocKind::Node, Ns::DEFAULT, "3").await.unwrap().unwrap();
        let info: NodeInfo = serde_json::from_slice(&document.bytes.unwrap()).unwrap();
        assert_eq!((info.drain, info.name.as_str()), (drain, "host-3"));
    }
    h.post("/v1/nodes/3/drain", r#"{"x":1}"#).await.is_problem(Code::UnknownField);
}

#[tokio::test]
async fn a_node_that_lives_is_fenced_only_by_force() {
    let h = Harness::new();
    node(&h, 3, &["dispatcher"]).await;
    for p in 0..2 {
        renew(&h, p, 3, Want::Own).await.unwrap();
    }
    h.clock.advance(Duration::from_secs(5));
    let problem = h.post("/v1/nodes/3/fence", "").await.is_problem(Code::WrongState);
    assert_eq!(problem["state"], "active");
    h.post("/v1/nodes/3/fence", r#"{"force":false}"#).await.is_problem(Code::WrongState);
    h.post("/v1/nodes/3/fence", r#"{"force":1}"#).await.is_problem(Code::InvalidField);
    h.post("/v1/nodes/3/fence", r#"{"farce":true}"#).await.is_problem(Code::UnknownField);
    assert!(renew(&h, 1, 3, Want::Own).await.unwrap(), "nothing happened to it");
    let fenced = h.post("/v1/nodes/3/fence", r#"{"force":true}"#).await;
    assert_eq!((fenced.status.as_u16(), &fenced.json()["state"]), (200, &json!("gone")));
    for p in 0..2 {
        assert!(matches!(renew(&h, p, 3, Want::Own).await, Err(Error::Fenced)));
        assert!(renew(&h, p, 4, Want::Own).await.unwrap(), "free at once");
    }
    assert_eq!(h.post("/v1/nodes/3/fence", "").await.status, 200, "again");
}

#[tokio::test]
async fn a_silent_node_is_fenced_without_force() {
    let h = Harness::new();
    node(&h, 3, &["dispatcher"]).await;
    renew(&h, 0, 3, Want::Own).await.unwrap();
    h.clock.advance(Duration::from_secs(6));
    assert_eq!(h.post("/v1/nodes/3/fence", "").await.status, 200);
    assert!(renew(&h, 0, 4, Want::Own).await.unwrap());
}

#[tokio::test]
async fn unknown_nodes_are_refused() {
    let h = Harness::new();
    for id in ["7", "x", "-1", "%00"] {
        h.get(&format!("/v1/nodes/{id}")).await.is_problem(Code::NodeUnknown);
        for verb in ["drain", "resume", "fence"] {
            h.post(&format!("/v1/nodes/{id}/{verb}"), "").await.is_problem(Code::NodeUnknown);
        }
    }
    h.call(Method::DELETE, "/v1/nodes/7", &[], "").await.is_problem(Code::MethodNotAllowed);
}

#[tokio::test]
async fn a_drained_gateway_is_not_ready_and_still_answers() {
    let options = options();
    let drain = options.cluster.drain.clone();
    let h = Harness::with(options, |_| ());
    assert_eq!(h.get("/readyz").await.status, 200);
    drain.store(true, Ordering::Relaxed);
    h.get("/readyz").await.is_problem(Code::Draining);
    assert_eq!(h.get("/healthz").await.status, 200);
    assert_eq!(h.get("/v1/nodes").await.status, 200);
    drain.store(false, Ordering::Relaxed);
    assert_eq!(h.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_store_that_fails_is_told() {
    let h = Harness::new();
    node(&h, 3, &["dispatcher"]).await;
    h.faulty.set_away(true);
    h.get("/v1/nodes").await.is_problem(Code::StoreUnavailable);
    h.post("/v1/nodes/3/drain", "").await.is_problem(Code::StoreUnavailable);
    h.post("/v1/nodes/3/fence", r#"{"force":true}"#).await.is_problem(Code::StoreUnavailable);
    h.faulty.heal();
    assert_eq!(h.get("/v1/nodes/3").await.status, 200);
}
