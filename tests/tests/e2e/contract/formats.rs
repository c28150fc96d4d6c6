//! Other forms of the same: compressed bodies both ways, MessagePack, YAML, compressed answers of workers.

use std::io::{Read, Write};

use flate2::Compression;
use lovage_tests::{Answer, Reply};
use reqwest::Method;
use serde_json::{Value, json};

use super::site::{Site, Store, slow_retry};

on_both_stores!(
    a_compressed_payload_is_delivered_plain,
    what_a_bomb_inflates_to_is_counted,
    compressed_lines_are_answered_by_lines,
    answers_come_compressed_when_asked_for,
    msgpack_and_yaml_are_calls_like_json,
    yaml_runs_and_repeats_nothing,
    a_compressed_answer_of_a_worker_is_a_plain_result,
    an_answer_that_cannot_be_decoded_is_charged,
);

const CODINGS: [&str; 4] = ["gzip", "br", "zstd", "deflate"];

/// Compresses as a client or a worker would, with the libraries themselves.
fn packed(coding: &str, plain: &[u8]) -> Vec<u8> {
    match coding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => zstd::encode_all(plain, 0).unwrap(),
        "br" => {
            let mut out = Vec::new();
            let mut encoder = brotli::CompressorWriter::new(&mut out, 4096, 5, 22);
            encoder.write_all(plain).unwrap();
            drop(encoder);
            out
        }
        other => panic!("{other} is not known"),
    }
}

fn unpacked(coding: &str, bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match coding {
        "gzip" => flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap(),
        "deflate" => flate2::read::ZlibDecoder::new(bytes).read_to_end(&mut plain).unwrap(),
        "zstd" => zstd::Decoder::new(bytes).unwrap().read_to_end(&mut plain).unwrap(),
        "br" => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut plain).unwrap(),
        other => panic!("{other} is not known"),
    };
    plain
}

async fn post(site: &Site, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
    let mut request = site.request(Method::POST, path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    site.send(request.body(body)).await
}

async fn a_compressed_payload_is_delivered_plain(store: Store) {
    let site = store.dev().await;
    site.worker.on("store", Reply::status(204));
    site.serves(&["store"]).await;
    let bytes: Vec<u8> = (0..=255).cycle().take(500_000).collect();
    for coding in CODINGS {
        let headers = [("lovage-task", "store"), ("content-type", "image/png"), ("content-encoding", coding)];
        let id = post(&site, "/v1/tasks", &headers, packed(coding, &bytes)).await.id();
        site.wait_final(&id).await;
        let call = &site.worker.received_for(&id)[0];
        assert_eq!((call.body == bytes, call.header("content-type"), call.header("content-encoding")), (true, "image/png", ""));

        let signature = json!({"task": "store", "payload": {"text": "x".repeat(100_000)}});
        let headers = [("content-type", "application/json"), ("content-encoding", coding)];
        let id = post(&site, "/v1/tasks", &headers, packed(coding, signature.to_string().as_bytes())).await.id();
        site.wait_final(&id).await;
        assert_eq!(site.worker.received_for(&id)[0].json(), signature["payload"], "{coding}");
    }
}

async fn what_a_bomb_inflates_to_is_counted(store: Store) {
    let site = store.dev().await;
    let zeros = vec![0; 50 << 20];
    for coding in CODINGS {
        let bomb = packed(coding, &zeros);
        for (headers, path) in [
            (vec![("lovage-task", "nobody")], "/v1/tasks"),
            (vec![("content-type", "application/json")], "/v1/tasks"),
            (vec![("content-type", "application/yaml")], "/v1/tasks"),
            (vec![("content-type", "application/json")], "/v1/tasks:batch"),
        ] {
            let headers = [headers, vec![("content-encoding", coding)]].concat();
            let refused = post(&site, path, &headers, bomb.clone()).await;
            assert_eq!((refused.status, refused.code()), (413, "payload_too_large"), "{coding} {headers:?}");
        }
        let headers = [("lovage-task", "nobody"), ("content-encoding", coding)];
        let refused = post(&site, "/v1/tasks", &headers, b"not compressed".to_vec()).await;
        assert_eq!((refused.status, refused.code()), (400, "malformed"), "{coding}");
    }
    for coding in ["compress", "gzip, br"] {
        let refused = post(&site, "/v1/tasks", &[("lovage-task", "nobody"), ("content-encoding", coding)], Vec::new()).await;
        assert_eq!((refused.status, refused.code()), (415, "content_type_refused"), "{coding}");
        assert_eq!(refused.header("accept-encoding"), "gzip, br, zstd, deflate");
    }
    assert!(site.list("/v1/tasks").await.is_empty());
}

async fn compressed_lines_are_answered_by_lines(store: Store) {
    let site = store.dev().await;
    let lines: Vec<String> =
        (0..3_000).map(|n| format!("{{\"task\": \"nobody\", \"id\": \"l{n}\", \"args\": [{n}]}}\n")).collect();
    for (turn, coding) in CODINGS.into_iter().enumerate() {
        let headers = [("content-type", "application/x-ndjson"), ("content-encoding", coding)];
        let answer = post(&site, "/v1/tasks:batch", &headers, packed(coding, lines.concat().as_bytes())).await;
        let items = answer.items();
        // The first time they are new, then they are known.
        let status = if turn == 0 { 202 } else { 200 };
        assert_eq!((items.len(), &items[2_999]), (3_000, &json!({"status": status, "id": "l2999"})), "{coding}");
    }
}

async fn answers_come_compressed_when_asked_for(store: Store) {
    let site = store.dev().await;
    let items: Vec<Value> = (0..200).map(|n| json!({"task": "nobody", "id": format!("t{n}")})).collect();
    site.submit_batch(&items).await;
    let path = "/v1/tasks?limit=200";
    let plain = site.get(path).await;
    for coding in CODINGS {
        let answer = site.send(site.request(Method::GET, path).header("accept-encoding", coding)).await;
        assert_eq!((answer.header("content-encoding"), answer.header("vary")), (coding, "accept-encoding"));
        assert!(answer.body.len() < plain.body.len() / 3, "{coding}: {} of {}", answer.body.len(), plain.body.len());
        assert!(unpacked(coding, &answer.body) == plain.body, "{coding}");
    }
    let accepted = site.send(site.request(Method::POST, "/v1/tasks").header("accept-encoding", "gzip").json(&items[0])).await;
    assert_eq!(accepted.header("content-encoding"), "", "too small to gain by it");
}

async fn msgpack_and_yaml_are_calls_like_json(store: Store) {
    let site = store.dev().await;
    site.worker.on("add", Reply::json(&json!(7)));
    site.serves(&["add"]).await;
    let call = json!({"task": "add", "args": [3, 4.5, "\u{e4}", null], "kwargs": {"deep": {"list": [true]}}, "priority": 7});
    let yaml = "task: add\nargs: [3, 4.5, \u{e4}, ~]\nkwargs:\n  deep:\n    list:\n      - true\npriority: 7\n";
    for (content_type, body) in [
        ("application/msgpack", rmp_serde::to_vec_named(&call).unwrap()),
        ("application/vnd.msgpack", rmp_serde::to_vec_named(&call).unwrap()),
        ("application/yaml", yaml.as_bytes().to_vec()),
        ("text/yaml; charset=utf-8", yaml.as_bytes().to_vec()),
    ] {
        let headers = [("content-type", content_type), ("content-encoding", "gzip")];
        let id = post(&site, "/v1/tasks", &headers, packed("gzip", &body)).await.id();
        let record = site.wait_final(&id).await;
        assert_eq!((&record["result"], &record["priority"]), (&json!(7), &json!(7)), "{content_type}");
        let call_received = &site.worker.received_for(&id)[0];
        assert_eq!(call_received.header("content-type"), "application/json");
        let delivered = call_received.json();
        assert_eq!((&delivered["args"], &delivered["kwargs"]), (&call["args"], &call["kwargs"]), "{content_type}");
    }
    let items = json!([call, {"task": "add", "priority": 10}]);
    let headers = [("content-type", "application/msgpack")];
    let answer = post(&site, "/v1/tasks:batch", &headers, rmp_serde::to_vec_named(&items).unwrap()).await;
    let items = answer.items();
    assert_eq!((&items[0]["status"], &items[1]["problem"]["errors"][0]["pointer"]), (&json!(202), &json!("/priority")));
    // JSON has no bytes, and guessing how to write them would surprise.
    let binary = b"\x82\xa4task\xa3add\xa4args\x91\xc4\x02hi".to_vec();
    let refused = post(&site, "/v1/tasks", &headers, binary).await;
    assert_eq!((refused.status, refused.code(), refused.pointers()), (422, "invalid_field", vec!["/args/0"]));
}

async fn yaml_runs_and_repeats_nothing(store: Store) {
    let site = store.dev().await;
    let laughs: Vec<String> = (1..20).map(|n| format!("  l{n}: &l{n} [{}]\n", format!("*l{},", n - 1).repeat(9))).collect();
    let laughs = laughs.concat();
    for (yaml, status, pointers) in [
        ("task: add\npayload: !!python/object/apply:os.system [id]\n".to_owned(), 422, vec!["/payload"]),
        ("task: add\npayload: !ruby/object:Gem::Installer {i: x}\n".to_owned(), 422, vec!["/payload"]),
        (format!("task: add\nkwargs:\n  l0: &l0 lol\n{laughs}"), 422, vec!["/kwargs/l1/0"]),
        ("task: add\ntask: sub\n".to_owned(), 422, vec!["/task"]),
        ("task: add\nargs: {1: 2}\n".to_owned(), 422, vec!["/args"]),
        ("task: [add".to_owned(), 400, vec![]),
    ] {
        let refused = post(&site, "/v1/tasks", &[("content-type", "application/yaml")], yaml.clone().into_bytes()).await;
        assert_eq!((refused.status, refused.pointers()), (status, pointers), "{yaml}");
    }
    assert!(site.list("/v1/tasks").await.is_empty());
}

async fn a_compressed_answer_of_a_worker_is_a_plain_result(store: Store) {
    let site = store.dev().await;
    let result = json!({"text": "y".repeat(50_000)});
    for coding in CODINGS {
        let body = packed(coding, result.to_string().as_bytes());
        site.worker.on(coding, Reply::bytes("application/json", body).header("content-encoding", coding));
        // Errors are read out of compressed bodies as well.
        let error = json!({"type": "Oops", "message": "packed"}).to_string();
        let reply = Reply::bytes("application/json", packed(coding, error.as_bytes())).with_status(422);
        site.worker.on(&format!("{coding}-error"), reply.header("content-encoding", coding));
    }
    let names: Vec<String> = CODINGS.iter().flat_map(|coding| [(*coding).to_owned(), format!("{coding}-error")]).collect();
    site.serves(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for coding in CODINGS {
        let id = site.submit_plain(coding).await;
        site.wait_final(&id).await;
        let stored = site.get(&format!("/v1/tasks/{id}/result")).await;
        assert_eq!((stored.status, stored.header("content-type"), &stored.json), (200, "application/json", &result), "{coding}");
        assert_eq!(site.worker.received_for(&id)[0].header("accept-encoding"), "", "nobody asked for it");
        let id = site.submit_plain(&format!("{coding}-error")).await;
        assert_eq!(site.wait_final(&id).await["error"]["type"], "Oops", "{coding}");
    }
}

async fn an_answer_that_cannot_be_decoded_is_charged(store: Store) {
    let site = store.dev().await;
    let whole = packed("gzip", &[b'z'; 10_000]);
    let bomb = packed("zstd", &vec![0; 20 << 20]);
    let replies = [
        ("junk", Reply::bytes("text/plain", "not compressed").header("content-encoding", "gzip"), "MalformedAnswer"),
        ("unknown", Reply::bytes("text/plain", "text").header("content-encoding", "snappy"), "MalformedAnswer"),
        (
            "short",
            Reply::bytes("text/plain", whole[..whole.len() - 4].to_vec()).header("content-encoding", "gzip"),
            "MalformedAnswer",
        ),
        ("bomb", Reply::bytes("text/plain", bomb).header("content-encoding", "zstd"), "ResultTooLarge"),
    ];
    site.serves(&["junk", "unknown", "short", "bomb"]).await;
    for (task, reply, kind) in replies {
        site.worker.on(task, reply);
        let id = site.submit(&json!({"task": task, "retry": slow_retry()})).await;
        let record = site.judged(&id).await;
        let expected = if task == "bomb" { ("failed", 0) } else { ("retrying", 9) };
        assert_eq!((record["state"].as_str().unwrap(), record["attempts_left"].as_i64().unwrap()), expected, "{task}");
        assert_eq!(site.attempts(&id).await[0]["error"]["type"], kind, "{task}");
    }
}
