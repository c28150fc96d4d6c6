//! The generator and the worker against a small server that speaks the few routes they use.
//!
//! The server is hyper's and not built on the bench's own HTTP code, so that an error in that code cannot cancel out.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use lovage_bench::client::{Connection, Origin};
use lovage_bench::load::{self, Mode, Plan, Report};
use lovage_bench::{fast_worker, rate, watch};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::LocalSet;

const LIMIT: Duration = Duration::from_secs(20);

/// What the fake does wrong on purpose.
#[derive(Clone, Copy, Default)]
struct Faults {
    /// Refuses every item with this position within an array or stream.
    refused_item: Option<usize>,
    /// Never pushes the task with this number.
    lost_task: Option<usize>,
    /// Pauses this long before it answers the task with this number.
    stall: Option<(usize, Duration)>,
}

#[derive(Default)]
struct Fake {
    accepted: Cell<usize>,
    open: Cell<usize>,
    to_push: RefCell<VecDeque<usize>>,
    pushed: Notify,
    wake: Notify,
    faults: Cell<Faults>,
}

impl Fake {
    fn accept(&self) -> usize {
        let number = self.accepted.get() + 1;
        self.accepted.set(number);
        self.open.set(self.open.get() + 1);
        if self.faults.get().lost_task != Some(number) {
            self.to_push.borrow_mut().push_back(number);
            self.wake.notify_one();
        }
        number
    }

    fn item(&self, position: usize, bytes: &[u8]) -> String {
        let signature: serde_json::Value = serde_json::from_slice(bytes).expect("a line is JSON");
        assert_eq!(signature["task"], "bench.push");
        if self.faults.get().refused_item == Some(position) {
            return r#"{"status":422,"problem":{"code":"invalid_field"}}"#.to_owned();
        }
        format!(r#"{{"status":202,"id":"task-{}"}}"#, self.accept())
    }

    /// Pushes what was accepted to the worker, one at a time.
    async fn push_all(self: Rc<Self>, worker: SocketAddr) {
        let mut connection = Connection::open(worker).await.unwrap();
        loop {
            let next = self.to_push.borrow_mut().pop_front();
            let Some(number) = next else {
                self.wake.notified().await;
                continue;
            };
            let request = format!("POST /task HTTP/1.1\r\nWebhook-Id: task-{number}\r\nContent-Length: 2\r\n\r\n{{}}");
            let answer = connection.request(request.as_bytes()).await.unwrap();
            assert_eq!(answer.status, 200);
            assert_eq!(answer.body, br#"{"ok":true}"#);
            self.open.set(self.open.get() - 1);
            self.pushed.notify_waiters();
        }
    }

    async fn answer(self: Rc<Self>, request: Request<Incoming>) -> Response<Answer> {
        let (parts, body) = request.into_parts();
        let streamed = parts.headers.get("content-type").is_some_and(|kind| kind == "application/x-ndjson");
        let body = body.collect().await.unwrap().to_bytes();
        match (parts.method.as_str(), parts.uri.path()) {
            ("POST", "/v1/tasks:batch") if streamed => {
                let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                let answers: Vec<String> = lines.enumerate().map(|(position, line)| self.item(position, line) + "\n").collect();
                // Frames that do not end where lines end, as a real stream's would not.
                let text = answers.concat();
                let frames: Vec<_> = text.as_bytes().chunks(1000).map(Bytes::copy_from_slice).collect();
                let frames = frames.into_iter().map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
                Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync())
            }
            ("POST", "/v1/tasks:batch") => {
                let items: Vec<serde_json::Value> = serde_json::from_slice(&body).unwrap();
                let items = items.iter().enumerate();
                let items: Vec<_> = items.map(|(place, item)| self.item(place, item.to_string().as_bytes())).collect();
                Response::new(full(format!(r#"{{"items":[{}]}}"#, items.join(","))))
            }
            ("POST", "/v1/tasks") => {
                let number = self.accept();
                if let Some((stalled, pause)) = self.faults.get().stall
                    && stalled == number
                {
                    // The whole server stands still, as in a long garbage collection.
                    std::thread::sleep(pause);
                }
                let waiting = parts.uri.query() == Some("wait=20s");
                while waiting && self.open.get() > 0 {
                    self.pushed.notified().await;
                }
                let mut answer = Response::new(full(format!(r#"{{"id":"task-{number}","state":"queued"}}"#)));
                *answer.status_mut() = if waiting { http::StatusCode::OK } else { http::StatusCode::ACCEPTED };
                answer
            }
            ("GET", "/v1/queues/default/stats") => {
                let open = self.open.get();
                Response::new(full(format!(r#"{{"depth":{{"queued":{open},"succeeded":7}},"oldest_age":null}}"#)))
            }
            (method, path) => panic!("the generator called {method} {path}"),
        }
    }
}

type Answer = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

fn full(body: String) -> Answer {
    Full::new(Bytes::from(body)).boxed_unsync()
}

/// Starts a worker and the fake, and runs a plan against them.
fn measure(mode: Mode, tasks: usize, faults: Faults, limit: Duration) -> anyhow::Result<Report> {
    let (sender, receiver) = std::sync::mpsc::channel();
    // Ends with the test's process: the worker has no end of its own.
    std::thread::spawn(move || {
        fast_worker::run("127.0.0.1:0", Duration::ZERO, |address| sender.send(address).unwrap()).unwrap();
    });
    let worker = receiver.recv_timeout(LIMIT).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let fake = Rc::new(Fake::default());
        fake.faults.set(faults);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        tokio::task::spawn_local(Rc::clone(&fake).push_all(worker));
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let fake = Rc::clone(&fake);
                tokio::task::spawn_local(async move {
                    let service = hyper::service::service_fn(|request| {
                        let fake = Rc::clone(&fake);
                        async move { Ok::<_, Infallible>(fake.answer(request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        let plan = Plan {
            server: Origin { address: server, key: None },
            worker: Some(Origin { address: worker, key: None }),
            mode,
            tasks,
            batch: 100,
            connections: 3,
            rate: 500.0,
            payload_bytes: 640,
            task: "bench.push".to_owned(),
            fields: None,
            worker_delay_ms: 0,
            limit,
        };
        match mode {
            Mode::Rate => rate::run(&plan).await,
            _ => load::run(&plan).await,
        }
    })
}

#[test]
fn every_closed_loop_mode_submits_each_task_once() {
    // 1 050 tasks: neither a multiple of the batch nor of the connections.
    for mode in [Mode::Array, Mode::Ndjson, Mode::Single] {
        let report = measure(mode, 1_050, Faults::default(), LIMIT).unwrap();
        assert_eq!((report.tasks, report.refused, report.surplus_receipts), (1_050, 0, 0), "{mode:?}");
        assert!(report.acked_per_second >= report.final_per_second, "{report:?}");
        assert!(report.received_per_second >= report.final_per_second, "{report:?}");
        assert!(report.final_per_second > 0.0, "{report:?}");
    }
}

#[test]
fn refused_items_are_counted_and_not_waited_for() {
    let faults = Faults { refused_item: Some(7), ..Faults::default() };
    let array = measure(Mode::Array, 1_050, faults, LIMIT).unwrap();
    assert_eq!(array.refused, 11, "one in each of ten full arrays and in the remainder");
    let streams = measure(Mode::Ndjson, 1_050, faults, LIMIT).unwrap();
    assert_eq!(streams.refused, 3, "one in each stream");
}

#[test]
fn a_lost_task_fails_the_run() {
    let faults = Faults { lost_task: Some(500), ..Faults::default() };
    let error = measure(Mode::Array, 1_000, faults, Duration::from_millis(300)).unwrap_err();
    assert!(error.to_string().contains("999 of 1000"), "{error}");
}

#[test]
fn rate_measures_all_three_latencies() {
    let report = measure(Mode::Rate, 200, Faults::default(), LIMIT).unwrap();
    // A tenth of each pass warms up.
    assert_eq!((report.ack.samples, report.receipt.samples, report.result.samples), (180, 180, 180));
    assert_eq!(report.lateness.samples, 360);
    assert!(report.receipt.p50 > 0.0 && report.result.p50 > 0.0, "{report:?}");
    assert!(report.acked_per_second < 600.0, "an open loop does not run faster than planned: {report:?}");
}

#[test]
fn a_stall_is_charged_to_all_requests_that_were_due_meanwhile() {
    // 300 ms at 500/s: 150 of 360 submits were due during it, though only one request was in flight when it began.
    let faults = Faults { stall: Some((100, Duration::from_millis(300))), ..Faults::default() };
    let report = measure(Mode::Rate, 400, faults, LIMIT).unwrap();
    assert!(report.ack.max >= 300.0, "{report:?}");
    assert!(report.ack.p90 >= 150.0, "{report:?}");
}

#[test]
fn worker_counts_records_and_resets() {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        fast_worker::run("127.0.0.1:0", Duration::ZERO, |address| sender.send(address).unwrap()).unwrap();
    });
    let worker = Origin { address: receiver.recv_timeout(LIMIT).unwrap(), key: None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        watch::reset_worker(&worker, true, 20).await.unwrap();
        let mut connection = Connection::open(worker.address).await.unwrap();
        let start = lovage_bench::clock::monotonic_ns();
        for id in ["a", "b", "a"] {
            let request = format!("POST /x HTTP/1.1\r\nwebhook-id: {id}\r\ncontent-length: 0\r\n\r\n");
            assert_eq!(connection.request(request.as_bytes()).await.unwrap().status, 200);
        }
        assert!(lovage_bench::clock::monotonic_ns() - start >= 60_000_000, "three delays of 20 ms");
        let stats = watch::worker_stats(&worker, 2).await.unwrap();
        assert_eq!(stats.count, 3);
        assert!(start <= stats.first_ns && stats.first_ns < stats.nth_ns && stats.nth_ns < stats.last_ns, "{stats:?}");
        let receipts = watch::worker_receipts(&worker).await.unwrap();
        assert_eq!((receipts.len(), receipts["a"], receipts["b"]), (2, stats.first_ns, stats.nth_ns));

        assert_eq!(worker.call("GET", "/nothing", "").await.unwrap().0, 404);
        let chunked = b"POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        assert_eq!(connection.request(chunked).await.unwrap().status, 411);
        watch::reset_worker(&worker, false, 0).await.unwrap();
        assert_eq!(watch::worker_stats(&worker, 0).await.unwrap().count, 0);
    });
}
