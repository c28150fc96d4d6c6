//! A loop that hangs renews nothing: in real time, because paused time does not pass while a thread is blocked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lovage_core::{Spec, State};
use lovage_dispatcher::{Options, Uptime};
use lovage_store::{MemoryClock, MemoryOptions, MemoryStore};
use tokio::runtime::Builder;
use tokio::time::Instant;

use crate::world::{EPOCH, Reply, World, call};

#[test]
fn a_wedged_loop_loses_its_partition_is_noticed_and_its_late_answers_are_refused() {
    let start = std::time::Instant::now();
    let clock = MemoryClock::following(move || EPOCH.after(start.elapsed()));
    let store = Arc::new(MemoryStore::new(MemoryOptions { partitions: 1, ..MemoryOptions::new(clock) }));
    let runtime = |threads| Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap();
    let (main, first, second) = (runtime(1), runtime(1), runtime(1));
    let world = World::over(store, |seen| Reply::Slow(Duration::from_millis(if seen.attempt == 1 { 3_000 } else { 50 })));
    let options = Options {
        renew_every: Duration::from_millis(50),
        close_after: Duration::from_millis(600),
        lease: Duration::from_secs(1),
        ..Options::default()
    };
    // The loop of the first asks its clock whenever it turns.
    let wedged = Arc::new(AtomicBool::new(false));
    let (is_wedged, began) = (Arc::clone(&wedged), Instant::now());
    let hanging: Uptime = Arc::new(move || {
        while is_wedged.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        began.elapsed()
    });
    main.block_on(async {
        world.worker("w", "*", 5).await;
        let guard = first.enter();
        let one = world.start_on(Arc::clone(&world.store), options.clone(), Some(hanging));
        drop(guard);
        world.until_owned(&[&one], &[1]).await;
        let key = world.submit(Spec { time_limit: Some("10s".parse().unwrap()), ..call("t") }).await;
        world.until_state(&key, State::Running).await;
        wedged.store(true, Ordering::Relaxed);
        let guard = second.enter();
        let other = world.start_on(Arc::clone(&world.store), options, None);
        drop(guard);
        world.until_owned(&[&one, &other], &[0, 1]).await;
        // Whoever watches it from outside sees it.
        assert!(one.pulse.silent_for(began.elapsed()) > Duration::from_millis(600));
        // What the second makes of it is stored before the first goes on.
        world.until(&key, "lost", |head| head.lost == 1).await;
        wedged.store(false, Ordering::Relaxed);
        let head = world.until_final(&key).await;
        assert_eq!((head.state, head.attempt, head.lost), (State::Succeeded, 2, 1));
        let after = world.submit(Spec { time_limit: Some("10s".parse().unwrap()), ..call("t") }).await;
        assert_eq!(world.until_final(&after).await.state, State::Succeeded);
        assert_eq!(world.owned(&[&one, &other]).await, [0, 1]);
        one.stop().await;
        other.stop().await;
    });
    for runtime in [first, second, main] {
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
}
