//! The counters tell what happened, and the gauge of kept connections comes back to zero.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use super::*;

/// A recorder whose values can be read.
#[derive(Default)]
struct Readable(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Readable {
    fn cell(&self, key: &Key) -> Arc<AtomicU64> {
        let labels: String = key.labels().flat_map(|label| [" ", label.value()]).collect();
        Arc::clone(self.0.lock().entry(format!("{}{labels}", key.name())).or_default())
    }

    fn count(&self, name: &str) -> u64 {
        self.0.lock()[name].load(Ordering::SeqCst)
    }

    fn level(&self, name: &str) -> f64 {
        f64::from_bits(self.count(name))
    }
}

impl Recorder for Readable {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test]
async fn pushes_and_connections_are_counted() {
    let recorder = Readable::default();
    let resolver: Arc<dyn Resolve> = Script::new(&[&["127.0.0.1"], &["169.254.169.254"]]);
    let idle = Duration::from_secs(1);
    let options = EgressOptions { resolver, idle, dns_keep: Duration::ZERO, ..options() };
    let transport = metrics::with_local_recorder(&recorder, || HttpTransport::new(options)).unwrap();
    let (fine, failing) = (Server::answering(OK).await, Server::answering("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").await);
    let named = format!("http://worker.test:{}/", fine.address.port());
    for url in [&fine.url(), &fine.url(), &failing.url(), &named, &named] {
        push(&transport, url).await;
    }
    for (name, expected) in [
        ("lovage_egress_pushes_total 2xx", 3),
        ("lovage_egress_pushes_total 5xx", 1),
        ("lovage_egress_pushes_total forbidden", 1),
        ("lovage_egress_pushes_total reset", 0),
        ("lovage_egress_connections_opened_total", 3),
        ("lovage_egress_connections_reused_total", 1),
        ("lovage_egress_resent_total", 0),
    ] {
        assert_eq!(recorder.count(name), expected, "{name}");
    }
    assert!(recorder.level("lovage_egress_connections_idle") > 0.0);
    until(|| recorder.level("lovage_egress_connections_idle") == 0.0).await;
    assert_eq!(transport.idle_connections(), 0);
}
