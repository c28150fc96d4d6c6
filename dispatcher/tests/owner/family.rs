//! Tasks that tasks start, where an order says that they live elsewhere: each is there once, in its order, and whoever waits for
//! them hears of all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lovage_core::{AttemptEntry, Draft, LaneOrder, Ns, Partition, Spec, State, TaskId, TaskKey};
use lovage_store::wrap::{Fault, Faulty, Verb};
use lovage_store::{FeedPos, Store};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::world::{Reply, Seen, World, call, memory};

const PARTITIONS: u16 = 4;
/// Over four partitions these are in all of them.
const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

fn draft(spec: Spec) -> Draft {
    Draft { spec, payload: "{\"args\":[],\"kwargs\":{}}".into(), ..Draft::default() }
}

/// A link that is named for its order key.
fn link(key: &str) -> Draft {
    draft(Spec { order_key: Some(key.into()), ..call(&format!("of.{key}")) })
}

/// A parent spawns one child of each key and one without and waits for them; all others take a moment.
fn script(seen: &Seen) -> Reply {
    let resumed = seen.headers.contains_key("lovage-resume");
    match seen.headers["lovage-task"].to_str().unwrap() {
        "parent" if !resumed => {
            let mut tasks: Vec<Value> = KEYS.iter().map(|key| json!({"task": format!("of.{key}"), "order_key": key})).collect();
            tasks.push(json!({"task": "beside"}));
            let document = json!({"outcome": "spawn", "tasks": tasks});
            Reply::Document("application/vnd.lovage.outcome+json", document.to_string())
        }
        "parent" => Reply::Document("application/json", String::from_utf8(seen.body.to_vec()).unwrap()),
        _ => Reply::Slow(Duration::from_millis(20)),
    }
}

async fn until_delivered(world: &World) {
    for p in 0..PARTITIONS {
        while world.store.outbox(Partition(p), FeedPos::default(), 1).await.unwrap().waiting > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Of each key one at a time runs, and the task ids of each.
fn runs(world: &World) -> BTreeMap<String, BTreeSet<String>> {
    let mut all: Vec<Seen> = world.pushes().into_values().flatten().collect();
    all.sort_by_key(|seen| seen.session_order);
    let (mut ids, mut last) = (BTreeMap::<String, BTreeSet<String>>::new(), BTreeMap::new());
    for seen in all {
        let task = seen.headers["lovage-task"].to_str().unwrap().to_owned();
        if task.starts_with("of.")
            && let Some(end) = last.insert(task.clone(), seen.end)
        {
            assert!(end.is_some_and(|end| end <= seen.start), "two of {task} at once");
        }
        ids.entry(task).or_default().insert(seen.id);
    }
    ids
}

#[tokio::test(start_paused = true)]
async fn a_parent_hears_of_children_in_all_partitions() {
    let world = World::over(memory(PARTITIONS), script);
    world.worker("w", "*", 50).await;
    let node = world.start();
    let mut parents = Vec::new();
    for _ in 0..5 {
        parents.push(world.submit(Spec { link: vec![link("a")], ..call("parent") }).await);
    }
    let mut homes = BTreeSet::new();
    for parent in &parents {
        let head = world.until_final(parent).await;
        assert_eq!((head.state, head.attempt), (State::Succeeded, 2));
        let stored = world.stored(parent).await;
        let children = AttemptEntry::decode(&stored.attempts[0]).unwrap().children;
        homes.extend(children.iter().map(|id| id.slot(Ns::DEFAULT).partition(PARTITIONS)));
        let told = world.pushes()[&parent.id.to_string()][1].body.clone();
        let told: Value = serde_json::from_slice(&told).unwrap();
        let heard = told["children"].as_array().unwrap().iter().map(|child| (child["id"].clone(), child["state"].clone()));
        let expected = children.iter().map(|id| (json!(id.to_string()), json!("succeeded")));
        assert!(heard.eq(expected), "{told}");
    }
    assert_eq!(homes.len(), usize::from(PARTITIONS));
    world.until_quiet().await;
    until_delivered(&world).await;
    world.until_quiet().await;
    let ids = runs(&world);
    assert_eq!(ids["of.a"].len(), 5 + 5, "a child and a link of each");
    assert!(KEYS[1..].iter().all(|key| ids[&format!("of.{key}")].len() == 5));
    node.stop().await;
}

/// What a task starts is there once, whoever dies between its delivery and the word of it, and whatever the store does.
#[tokio::test(start_paused = true)]
async fn faults_and_crashes_make_none_twice_and_lose_none() {
    for seed in 0..25 {
        let world = World::over(memory(PARTITIONS), script);
        let faults = Arc::new(Faulty::new(Arc::clone(&world.store)));
        let start = || world.start_over(Arc::clone(&faults) as Arc<dyn Store>);
        world.worker("w", "*", 50).await;
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut node = start();
        faults.random(seed, 80, Duration::from_millis(100));
        let mut parents = Vec::new();
        for _ in 0..6 {
            let links = (0..3).map(|_| link(KEYS[rng.usize(..KEYS.len())])).collect();
            let order_key = rng.bool().then(|| "own".to_owned());
            parents.push(world.submit(Spec { link: links, order_key, ..call("parent") }).await);
            sleep(Duration::from_millis(rng.u64(..200))).await;
            if rng.u8(0..3) == 0 {
                node.kill();
                node = start();
            }
        }
        faults.script(Verb::Delivered, vec![Some(Fault::Lost); rng.usize(..20)]);
        sleep(Duration::from_secs(rng.u64(..5))).await;
        node.kill();
        faults.heal();
        let node = start();
        for parent in &parents {
            assert_eq!(world.until_final(parent).await.state, State::Succeeded, "seed {seed}");
        }
        until_delivered(&world).await;
        world.until_quiet().await;
        until_delivered(&world).await;
        world.until_quiet().await;
        let ordered: usize = runs(&world).iter().filter(|(task, _)| task.starts_with("of.")).map(|(_, ids)| ids.len()).sum();
        assert_eq!(ordered, parents.len() * (KEYS.len() + 3), "seed {seed}");
        node.stop().await;
    }
}

/// In order of acceptance where the order lives: links of parents that end one after the other, of one partition or of several.
#[tokio::test(start_paused = true)]
async fn links_of_a_key_and_of_a_queue_in_order_follow_each_other() {
    let world = World::over(memory(PARTITIONS), |_| Reply::Slow(Duration::from_millis(20)));
    world.worker("w", "*", 50).await;
    let node = world.start();
    let fifo = || draft(Spec { queue: "line".into(), order: LaneOrder::Fifo, ..call("line") });
    let mut order = Vec::new();
    for _ in 0..12 {
        let parent = world.submit(Spec { link: vec![link("k"), fifo()], ..call("first") }).await;
        world.until_final(&parent).await;
        order.push(parent.id);
        // Delivered before the next one ends: that is the order of acceptance.
        until_delivered(&world).await;
    }
    world.until_quiet().await;
    let mut all: Vec<Seen> = world.pushes().into_values().flatten().collect();
    all.sort_by_key(|seen| seen.session_order);
    for (task, home) in [("of.k", link("k")), ("line", fifo())] {
        let mine: Vec<&Seen> = all.iter().filter(|seen| seen.headers["lovage-task"] == task).collect();
        let parents: Vec<TaskId> =
            mine.iter().map(|seen| seen.headers["lovage-parent"].to_str().unwrap().parse().unwrap()).collect();
        assert_eq!(parents, order, "{task}");
        let slot = home.spec.bound(Ns::DEFAULT).unwrap();
        for seen in mine {
            assert_eq!(TaskKey::new(Ns::DEFAULT, seen.id.parse().unwrap()).slot(), slot);
        }
    }
    node.stop().await;
}
