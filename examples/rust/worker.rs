//! A Lovage worker with axum: one handler for each kind of answer.
//!
//! It registers itself at `LOVAGE_URL` as "rust" for the tasks "ex.*", listens on `PORT`, and takes only calls that Lovage
//! signed. Dependencies: axum, tokio, reqwest, rustls, bytes, futures-util, `serde_json`, base64, hmac, sha2, getrandom.
#![allow(clippy::disallowed_methods)] // the time of a signature is that of the wall clock

use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing::post};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone)]
struct Worker {
    http: reqwest::Client,
    /// Checks signatures.
    mac: Hmac<Sha256>,
}

impl Worker {
    /// Whether Lovage sent this within the last five minutes (Standard Webhooks).
    fn is_genuine(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (id, stamp) = (text(headers, "webhook-id"), text(headers, "webhook-timestamp"));
        let fresh = stamp.parse::<u64>().is_ok_and(|stamp| stamp.abs_diff(now) < 300);
        let mac = self.mac.clone().chain_update(format!("{id}.{stamp}.")).chain_update(body);
        let given = text(headers, "webhook-signature").split(' ').filter_map(|one| one.strip_prefix("v1,"));
        let mut tags = given.filter_map(|one| BASE64_STANDARD.decode(one).ok());
        fresh && tags.any(|tag| mac.clone().verify_slice(&tag).is_ok())
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn sum<'a>(numbers: impl IntoIterator<Item = &'a Value>) -> f64 {
    numbers.into_iter().filter_map(Value::as_f64).sum()
}

async fn serve(State(worker): State<Worker>, headers: HeaderMap, body: Bytes) -> Response {
    if !worker.is_genuine(&headers, &body) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let Ok(call) = serde_json::from_slice::<Value>(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    let args = call["args"].as_array().map(Vec::as_slice).unwrap_or_default();
    match call["task"].as_str() {
        // The answer is the result.
        Some("ex.add") => Json(sum(args)).into_response(),
        // 202: the connection is done with, the result is reported to the URL of the attempt.
        Some("ex.later") => {
            let url = format!("{}/complete", text(&headers, "lovage-attempt-url"));
            // A report that gets no answer may be sent again, and a heartbeat now and then renews the lease.
            let report = worker.http.post(url).json(&sum(args)).send();
            tokio::spawn(async move {
                report.await.and_then(reqwest::Response::error_for_status).map_err(|error| eprintln!("{error}"))
            });
            (StatusCode::ACCEPTED, [("lovage-lease", "1m")]).into_response()
        }
        // A stream of lines: progress, and at the end the result.
        Some("ex.steps") => {
            let steps = args.first().and_then(Value::as_u64).unwrap_or_default();
            let lines = (1..=steps).map(|step| json!({"progress": {"step": step}})).chain([json!({"result": steps})]);
            let lines: Vec<Result<String, Error>> = lines.map(|line| Ok(format!("{line}\n"))).collect();
            let body = Body::from_stream(futures_util::stream::iter(lines));
            ([("content-type", "application/x-ndjson")], body).into_response()
        }
        // Starts a task for each pair and is called again when all of them are final.
        Some("ex.total") if text(&headers, "lovage-resume") == "1" => {
            let children = call["children"].as_array().map(Vec::as_slice).unwrap_or_default();
            Json(sum(children.iter().map(|child| &child["result"]))).into_response()
        }
        Some("ex.total") => {
            let tasks: Vec<Value> = args.iter().map(|pair| json!({"task": "ex.add", "args": pair})).collect();
            let document = json!({"outcome": "spawn", "tasks": tasks, "then": "wait"});
            ([("content-type", "application/vnd.lovage.outcome+json")], document.to_string()).into_response()
        }
        // 422: it would fail again, so it is not tried again.
        _ => {
            let error = json!({"type": "Refused", "message": format!("cannot work with {}", call["args"])});
            (StatusCode::UNPROCESSABLE_ENTITY, Json(error)).into_response()
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let env = |name: &str, otherwise: &str| std::env::var(name).unwrap_or_else(|_| otherwise.to_owned());
    let (lovage, port) = (env("LOVAGE_URL", "http://127.0.0.1:8275"), env("PORT", "8000"));
    // Needed because reqwest is built here without a choice of cryptography.
    rustls::crypto::ring::default_provider().install_default().map_err(|_| "rustls has a provider already")?;
    // A secret of our own. Several processes behind one worker would share it.
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| error.to_string())?;
    let worker = Worker { http: reqwest::Client::new(), mac: Hmac::new_from_slice(&secret)? };
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let signing = format!("whsec_{}", BASE64_STANDARD.encode(secret));
    let settings = json!({"url": format!("http://127.0.0.1:{port}/"), "tasks": ["ex.*"], "signing": signing});
    let mut request = worker.http.put(format!("{lovage}/v1/workers/rust")).json(&settings);
    if let Ok(key) = std::env::var("LOVAGE_KEY") {
        request = request.bearer_auth(key);
    }
    request.send().await?.error_for_status()?;
    println!("serving ex.* on port {port}");
    Ok(axum::serve(listener, Router::new().fallback(post(serve)).with_state(worker)).await?)
}
