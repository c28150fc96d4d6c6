//! The scriptable worker answers as told and remembers what it was asked.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use lovage_tests::{Answered, Flaky, Gate, Reply, Worker};
use reqwest::{Client, Response};
use serde_json::json;

const LONG: Duration = Duration::from_secs(30);

fn client() -> Client {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().build().unwrap()
}

async fn call(client: &Client, worker: &Worker, task: &str, id: &str) -> reqwest::Result<Response> {
    let request = client.post(worker.url()).header("lovage-task", task).header("webhook-id", id).header("lovage-attempt", "1");
    request.json(&json!({"args": [1]})).send().await
}

#[tokio::test]
async fn a_call_is_answered_by_its_script_and_recorded() {
    let worker = Worker::start();
    worker.on("demo.add", Reply::json(&json!(5)).header("x-extra", "yes"));
    let answer = call(&client(), &worker, "demo.add", "t1").await.unwrap();
    assert_eq!(answer.headers()["x-extra"], "yes");
    assert_eq!(answer.text().await.unwrap(), "5");
    let calls = worker.wait_answered(1).await;
    assert_eq!((calls[0].id.as_str(), calls[0].task.as_str(), calls[0].attempt), ("t1", "demo.add", 1));
    assert_eq!(calls[0].answered, Answered::Status(200));
    assert_eq!(calls[0].json(), json!({"args": [1]}));
    assert!(calls[0].ended_ns.unwrap() >= calls[0].started_ns);
}

#[tokio::test]
async fn a_sequence_advances_for_each_task_by_itself() {
    let worker = Worker::start();
    worker.on("demo.flaky", [Reply::status(500), Reply::status(503), Reply::status(200)]);
    let client = client();
    for id in ["t1", "t2"] {
        for expected in [500, 503, 200, 200] {
            assert_eq!(call(&client, &worker, "demo.flaky", id).await.unwrap().status().as_u16(), expected);
        }
    }
}

#[tokio::test]
async fn the_longest_match_wins_and_no_match_is_a_permanent_failure() {
    let worker = Worker::start();
    worker.on("demo.*", Reply::status(201)).on("demo.one", Reply::status(204)).on("/hook", Reply::status(202));
    let client = client();
    assert_eq!(call(&client, &worker, "demo.one", "t").await.unwrap().status().as_u16(), 204);
    assert_eq!(call(&client, &worker, "demo.two", "t").await.unwrap().status().as_u16(), 201);
    assert_eq!(call(&client, &worker, "other", "t").await.unwrap().status().as_u16(), 422);
    assert_eq!(client.post(worker.url_of("/hook")).send().await.unwrap().status().as_u16(), 202);
}

#[tokio::test]
async fn a_function_sees_the_call() {
    let worker = Worker::start();
    worker.on_call("demo.echo", |call| Reply::json(&call.json()["args"]));
    let answer = call(&client(), &worker, "demo.echo", "t").await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "[1]");
}

#[tokio::test]
async fn a_held_call_stays_open_until_its_gate_opens() {
    let worker = Worker::start();
    let gate = worker.hold("demo.slow", Reply::json(&json!("late")));
    let client = client();
    let answer = tokio::spawn({
        let request = client.post(worker.url()).header("lovage-task", "demo.slow").header("webhook-id", "t");
        request.send()
    });
    let calls = worker.wait_for(1).await;
    assert_eq!(calls[0].answered, Answered::Open);
    assert_eq!(worker.open(), 1);
    gate.open();
    assert_eq!(answer.await.unwrap().unwrap().status().as_u16(), 200);
    assert_eq!(worker.open(), 0);
}

#[tokio::test]
async fn a_reset_and_a_close_end_the_connection_without_an_answer() {
    let worker = Worker::start();
    worker.on("demo.reset", Reply::reset()).on("demo.close", Reply::close()).on("demo.raw", Reply::raw("no HTTP\r\n\r\n"));
    for (task, answered) in [("demo.reset", Answered::Reset), ("demo.close", Answered::Closed), ("demo.raw", Answered::Closed)] {
        let error = call(&client(), &worker, task, task).await.unwrap_err();
        let was_reset = format!("{error:?}").contains("ConnectionReset");
        assert_eq!(was_reset, task == "demo.reset", "{error:?}");
        worker.wait_answered(1).await;
        assert_eq!(worker.received_for(task)[0].answered, answered);
    }
}

#[tokio::test]
async fn the_worker_notices_a_client_that_leaves() {
    let worker = Worker::start();
    worker.on("demo.never", Reply::never());
    let client = client();
    let left = tokio::time::timeout(Duration::from_millis(50), call(&client, &worker, "demo.never", "t")).await;
    assert!(left.is_err());
    let calls = worker.wait_answered(1).await;
    assert_eq!(calls[0].answered, Answered::ClientLeft);
}

#[tokio::test]
async fn overlapping_calls_of_one_task_are_found_and_others_are_not() {
    let worker = Worker::start();
    let gate = worker.hold("demo.slow", Reply::status(200));
    worker.on("demo.quick", Reply::status(200));
    let client = client();
    for _ in 0..3 {
        call(&client, &worker, "demo.quick", "in-turn").await.unwrap();
    }
    assert!(worker.overlaps().is_empty());
    let slow = |id: &'static str| {
        let request = client.post(worker.url()).header("lovage-task", "demo.slow").header("webhook-id", id);
        tokio::spawn(request.send())
    };
    let answers = [slow("alone"), slow("twice"), slow("twice")];
    worker.wait_for(6).await;
    gate.open();
    for answer in answers {
        answer.await.unwrap().unwrap();
    }
    let overlaps = worker.overlaps();
    assert_eq!(overlaps.len(), 1);
    assert_eq!((overlaps[0].0.id.as_str(), overlaps[0].1.id.as_str()), ("twice", "twice"));
}

#[tokio::test]
async fn a_call_after_the_client_gave_up_the_first_is_no_overlap() {
    let worker = Worker::start();
    worker.on("demo.once", [Reply::never(), Reply::status(200)]);
    let client = client();
    for round in 0..50 {
        let id = format!("t{round}");
        // A plain socket is closed when `drop` returns; an HTTP client would close it some time after.
        let mut first = TcpStream::connect(worker.address()).unwrap();
        write!(first, "POST / HTTP/1.1\r\nlovage-task: demo.once\r\nwebhook-id: {id}\r\n\r\n").unwrap();
        worker.wait_for(2 * round + 1).await;
        drop(first);
        call(&client, &worker, "demo.once", &id).await.unwrap();
    }
    worker.wait_answered(100).await;
    assert!(worker.overlaps().is_empty(), "{:?}", worker.overlaps());
}

#[tokio::test]
async fn a_flaky_worker_fails_the_same_calls_for_the_same_seed() {
    let mut outcomes = Vec::new();
    for _ in 0..2 {
        let worker = Worker::start();
        worker.on("*", Reply::status(200)).flaky(Flaky { seed: 5, error: 0.2, reset: 0.2 });
        let client = client();
        for number in 0..200 {
            let _reset_is_an_error = call(&client, &worker, "demo.x", &format!("t{number}")).await;
        }
        outcomes.push(worker.wait_answered(200).await.iter().map(|call| call.answered).collect::<Vec<_>>());
    }
    assert_eq!(outcomes[0], outcomes[1]);
    let count = |kind| outcomes[0].iter().filter(|answered| **answered == kind).count();
    assert!((20..60).contains(&count(Answered::Status(500))) && (20..60).contains(&count(Answered::Reset)));
}

#[tokio::test]
async fn a_stream_comes_in_chunks_and_may_be_cut() {
    let worker = Worker::start();
    let lines = [json!({"progress": 1}), json!({"result": 2})];
    worker.on("demo.stream", Reply::ndjson(Duration::ZERO, &lines));
    worker.on("demo.cut", Reply::stream([(Duration::ZERO, Bytes::from("half"))]).then_reset());
    let client = client();
    let whole = call(&client, &worker, "demo.stream", "a").await.unwrap().text().await.unwrap();
    assert_eq!(whole, "{\"progress\":1}\n{\"result\":2}\n");
    let cut = async { call(&client, &worker, "demo.cut", "b").await?.text().await };
    assert!(cut.await.is_err());
}

#[tokio::test]
async fn a_stopped_worker_is_unreachable_and_comes_back_at_the_same_address() {
    let mut worker = Worker::start();
    let gate = Gate::new();
    worker.on("demo.held", Reply::status(200).behind(&gate)).on("demo.quick", Reply::status(200).after(Duration::from_millis(1)));
    let held = tokio::spawn(client().post(worker.url()).header("lovage-task", "demo.held").header("webhook-id", "t").send());
    worker.wait_for(1).await;
    worker.stop();
    assert!(held.await.unwrap().is_err());
    assert!(call(&client(), &worker, "demo.quick", "u").await.unwrap_err().is_connect());
    worker.resume();
    assert!(call(&client(), &worker, "demo.quick", "u").await.unwrap().status().is_success());
    worker.wait_until("no open call", LONG, |calls| calls.iter().all(|call| call.answered != Answered::Open)).await;
}
