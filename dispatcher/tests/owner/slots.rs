//! Who gets the slots of a worker that are too few, over the partitions of a process.

use std::time::Duration;

use lovage_core::Slot;
use tokio::time::{Instant, sleep};

use crate::world::{Reply, World, call, memory};

const PARTITIONS: u16 = 8;

/// A worker with so many slots that takes 50 ms for each task, and so many tasks of priority 0 in every partition.
async fn flooded(slots: u32, each: u64) -> World {
    let world = World::over(memory(PARTITIONS), |_| Reply::Slow(Duration::from_millis(50)));
    world.worker("w", "*", slots).await;
    for n in 0..u64::from(PARTITIONS) * each {
        world.submit_at(slot_of(n), call("flood"), 0, None, None).await;
    }
    world
}

/// One of each partition in turn.
fn slot_of(n: u64) -> Slot {
    Slot::new(((n % u64::from(PARTITIONS)) * u64::from(4096 / PARTITIONS)) as u16)
}

/// The tasks that a worker saw, in order of their starts.
fn started(world: &World, from: Instant) -> Vec<(String, Instant)> {
    let seen = world.transport.seen.lock();
    let name = |seen: &crate::world::Seen| seen.headers["lovage-task"].to_str().unwrap().to_owned();
    seen.iter().filter(|seen| seen.start >= from).map(|seen| (name(seen), seen.start)).collect()
}

#[tokio::test(start_paused = true)]
async fn the_most_urgent_task_of_all_partitions_goes_first() {
    let world = flooded(2, 100).await;
    let node = world.start();
    world.until_owned(&[&node], &[usize::from(PARTITIONS)]).await;
    sleep(Duration::from_secs(1)).await;
    let from = Instant::now();
    let mut keys = Vec::new();
    for _ in 0..50 {
        keys.push(world.submit_at(slot_of(3), call("urgent"), 9, None, None).await);
    }
    for key in &keys {
        world.until_final(key).await;
    }
    let all = started(&world, from);
    let last = all.iter().rposition(|(name, _)| name == "urgent").unwrap();
    let others = all[..last].iter().filter(|(name, _)| name != "urgent").count();
    assert!(others <= 3, "{others} others before the last of 50 urgent ones");
    let took = all[last].1 - from;
    assert!(took < Duration::from_millis(1_500), "no slot stays free: {took:?}");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn equal_partitions_share_the_slots_evenly_and_leave_none_free() {
    for slots in [2, 40] {
        let world = flooded(slots, 800).await;
        let node = world.start();
        world.until_owned(&[&node], &[usize::from(PARTITIONS)]).await;
        sleep(Duration::from_secs(1)).await;
        let from = Instant::now();
        sleep(Duration::from_secs(4)).await;
        let mut shares = [0_u32; PARTITIONS as usize];
        for seen in world.transport.seen.lock().iter().filter(|seen| seen.start >= from) {
            let task: lovage_core::TaskId = seen.id.parse().unwrap();
            let key = lovage_core::TaskKey::new(lovage_core::Ns::DEFAULT, task);
            shares[usize::from(world.partition(&key).0)] += 1;
        }
        let (total, even) = (shares.iter().sum::<u32>(), slots * 80 / u32::from(PARTITIONS));
        assert!(total >= slots * 80 * 9 / 10, "{total} of {} starts", slots * 80);
        let fair = (even * 8 / 10)..=(even * 12 / 10);
        assert!(shares.iter().all(|share| fair.contains(share)), "{slots} slots: {shares:?}");
        node.stop().await;
    }
}
