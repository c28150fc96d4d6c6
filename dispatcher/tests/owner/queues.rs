//! What queues and task types say while tasks wait.

use std::time::Duration;

use lovage_core::{Millis, Pause, QueueConfig, Spec, State};
use lovage_store::DocKind;
use tokio::time::sleep;

use crate::world::{EPOCH, Reply, World, call};

fn in_queue(task: &str, queue: &str) -> Spec {
    Spec { queue: queue.into(), ..call(task) }
}

fn paused(dispatch: bool, until: Option<Millis>) -> QueueConfig {
    QueueConfig { paused: Some(Pause { intake: !dispatch, dispatch, until }), ..QueueConfig::default() }
}

#[tokio::test(start_paused = true)]
async fn tasks_of_a_paused_queue_wait_until_it_is_resumed() {
    let world = World::new(|_| Reply::Status(204, ""));
    world.worker("w", "*", 10).await;
    world.put(DocKind::Queue, "q", &paused(true, None)).await;
    let node = world.start();
    let (waits, runs) = (world.submit(in_queue("t", "q")).await, world.submit(call("t")).await);
    assert_eq!(world.until_final(&runs).await.state, State::Succeeded);
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.head(&waits).await.state, State::Queued);
    // A queue that takes no new tasks delivers the rest.
    world.put(DocKind::Queue, "q", &paused(false, None)).await;
    assert_eq!(world.until_final(&waits).await.state, State::Succeeded);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_ends_by_itself_or_before() {
    let world = World::new(|_| Reply::Status(204, ""));
    world.worker("w", "*", 10).await;
    let until = EPOCH.after(Duration::from_secs(60));
    world.put(DocKind::Queue, "q", &paused(true, Some(until))).await;
    world.put(DocKind::Queue, "r", &paused(true, Some(until))).await;
    let node = world.start();
    let (by_itself, before) = (world.submit(in_queue("t", "q")).await, world.submit(in_queue("t", "r")).await);
    sleep(Duration::from_secs(30)).await;
    world.put(DocKind::Queue, "r", &QueueConfig::default()).await;
    let resumed = world.until_final(&before).await.first_started;
    assert!(resumed < until && resumed >= EPOCH.after(Duration::from_secs(30)), "{resumed:?}");
    let started = world.until_final(&by_itself).await.first_started;
    assert!(started >= until && started < until.after(Duration::from_secs(1)), "{started:?}");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn tasks_of_a_paused_type_wait() {
    let world = World::new(|_| Reply::Status(204, ""));
    world.worker("w", "*", 10).await;
    let pause = serde_json::json!({ "paused": { "intake": false, "dispatch": true, "until": null } });
    world.put(DocKind::TaskType, "a.*", &pause).await;
    let node = world.start();
    let (waits, runs) = (world.submit(call("a.b")).await, world.submit(call("b.c")).await);
    world.until_final(&runs).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.head(&waits).await.state, State::Queued);
    // A type of its own is none of the pause's business.
    world.put(DocKind::TaskType, "a.b", &serde_json::json!({})).await;
    world.until_final(&waits).await;
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_worker_of_a_queue_gets_its_tasks_whatever_patterns_say() {
    let world = World::new(|_| Reply::Status(204, ""));
    world.worker("exact", "t", 10).await;
    world.worker("special", "nothing", 10).await;
    world.put(DocKind::Queue, "q", &QueueConfig { worker: Some("special".into()), ..QueueConfig::default() }).await;
    world.put(DocKind::Queue, "r", &QueueConfig { worker: Some("missing".into()), ..QueueConfig::default() }).await;
    let node = world.start();
    let (special, exact) = (world.submit(in_queue("t", "q")).await, world.submit(call("t")).await);
    let nobody = world.submit(in_queue("t", "r")).await;
    let worker = async |key| world.until_final(key).await.worker;
    assert_eq!(worker(&special).await, lovage_core::worker_mark("special"));
    assert_eq!(worker(&exact).await, lovage_core::worker_mark("exact"));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.head(&nobody).await.state, State::Queued);
    world.put(DocKind::Queue, "r", &QueueConfig::default()).await;
    world.until_final(&nobody).await;
    node.stop().await;
}
