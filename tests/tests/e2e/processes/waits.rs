//! Whoever waits is told by the gateway that was asked, whatever process did what is waited for.

use lovage_tests::Reply;
use serde_json::json;

use super::Site;
use crate::protocol::events::Stream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_of_one_gateway_is_waited_for_at_another() {
    let site = Site::start().await;
    let gate = site.worker.hold("t", Reply::json(&json!(5)));
    site.here.register_worker("w", &site.worker.url(), &["t"]).await;
    let submit = json!({"task": "t", "id": "once"});
    let id = site.here.submit(&submit).await;
    let (record, result) = (format!("/v1/tasks/{id}?wait=20s"), format!("/v1/tasks/{id}/result?wait=20s"));
    let (record, result, again, ()) =
        tokio::join!(site.there.get(&record), site.there.get(&result), site.there.post("/v1/tasks?wait=20s", &submit), async {
            site.worker.wait_for(1).await;
            gate.open();
        });
    assert_eq!((record.status, &record.json["state"]), (200, &json!("succeeded")));
    assert_eq!((result.status, &result.json), (200, &json!(5)));
    assert_eq!((again.status, &again.json["result"]), (200, &json!(5)));
    assert_eq!(site.worker.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_events_goes_on_at_another_gateway() {
    let mut site = Site::start().await;
    let gate = site.worker.hold("t", Reply::json(&json!("done")));
    let id = site.here.submit(&json!({"task": "t"})).await;
    let mut stream = Stream::open(&site.here, &id, None).await;
    assert_eq!(stream.next().await.unwrap().1, "task.queued");
    site.there.register_worker("w", &site.worker.url(), &["t"]).await;
    let (seen, name, _) = stream.next().await.unwrap();
    assert_eq!(name, "task.started");
    site.fleet.gateways[0].kill9();
    assert!(stream.next().await.is_none());

    let mut stream = Stream::open(&site.there, &id, Some(seen)).await;
    gate.open();
    let (version, name, record) = stream.next().await.unwrap();
    assert_eq!((version > seen, &name[..], &record["result"]), (true, "task.succeeded", &json!("done")));
    assert!(stream.next().await.is_none(), "the end of the task is the end of the stream");
}
