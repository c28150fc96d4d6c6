//! What a start costs among many lanes, and what a lane costs: `cargo run --release -p lovage-dispatcher --example lanes`.

use std::time::{Duration, Instant};

use lovage_core::{IdRun, LaneDef, Millis, NewTask, Ns, Route, Slot, TaskKey, TaskLimit};
use lovage_dispatcher::lanes::{Bounds, Closed, Lanes, Waiting};

fn def(n: usize) -> LaneDef {
    let limit = TaskLimit { key: format!("customer:{n}"), rate: None, burst: None, concurrency: Some(1), cost: 1 };
    LaneDef { limits: vec![limit], ..LaneDef::of(Ns(0), "default", Route::Task("demo.add".into())) }
}

fn task(def: &LaneDef, seq: u64) -> Waiting {
    let mut head = NewTask::first_head(def, 4, None, None, Millis(1));
    head.seq = seq;
    Waiting::new(TaskKey::new(Ns(0), IdRun::new(Millis(1), Slot::new(0), seq).nth(0)), head)
}

/// Resident bytes of this process (Linux; elsewhere 0).
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn main() {
    const STARTS: u64 = 1_000_000;
    println!("{:>8} {:>14} {:>14} {:>16}", "lanes", "starts/s", "bytes a lane", "… that is empty");
    for number in [1, 1_000, 100_000] {
        let defs: Vec<LaneDef> = (0..number).map(def).collect();
        let before = resident();
        let mut lanes = Lanes::new(Bounds { window: 1024, lanes: 1_000_000 }, Duration::from_secs(30));
        for def in &defs {
            lanes.add(def.clone(), false);
        }
        let empty = resident().saturating_sub(before) / number;
        for (seq, def) in (1u64..).zip(&defs) {
            lanes.offer(task(def, seq));
        }
        let waiting = resident().saturating_sub(before) / number;
        // One more lane waits closed behind a backlog of a full window.
        let closed = LaneDef { queue: "closed".into(), ..def(0) };
        lanes.add(closed.clone(), false);
        for seq in 0..1024 {
            lanes.offer(task(&closed, 1 << 40 | seq));
        }
        lanes.close(closed.id(), Closed::Limit(1));
        let by_id: std::collections::HashMap<_, _> = defs.iter().map(|def| (def.id(), def)).collect();
        let start = Instant::now();
        for seq in 0..STARTS {
            let Some(turn) = lanes.next() else { break };
            lanes.take(turn.lane);
            lanes.offer(task(by_id[&turn.lane], 1 << 30 | seq));
        }
        let rate = STARTS as f64 / start.elapsed().as_secs_f64();
        println!("{number:>8} {rate:>14.0} {waiting:>14} {empty:>16}");
    }
}
