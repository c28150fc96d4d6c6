//! The page of states, made from the rules.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::*;

/// `docs/states.md` says what `decide` does, no more and no less. `LOVAGE_BLESS=1 cargo test -p lovage-core` rewrites it.
#[test]
fn the_table_of_states_is_the_truth() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/states.md");
    let made = states_page();
    if std::env::var_os("LOVAGE_BLESS").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(kept, made, "docs/states.md differs from decide(); run LOVAGE_BLESS=1 cargo test -p lovage-core");
}

fn states_page() -> String {
    let mut rows = BTreeSet::new();
    for (label, head, event) in samples() {
        for max in [1, 10] {
            let Ok(transition) = decide(&key(), &head, &spec_with(max, false), event.clone(), NOW, 5) else { continue };
            let (to, reason) = match &transition.head {
                Some(next) => (next.state.as_str(), next.reason.as_str()),
                None => ("deleted", "none"),
            };
            rows.insert((head.state, to, reason, label));
        }
    }
    let mut page = String::from(
        "# States\n\nMade from `decide` by `LOVAGE_BLESS=1 cargo test -p lovage-core`; a test compares. Do not edit.\n\n```mermaid\nstateDiagram-v2\n    [*] --> queued\n    [*] --> scheduled\n",
    );
    let edges: BTreeSet<_> = rows
        .iter()
        .filter(|(from, to, ..)| from.as_str() != *to && *to != "deleted")
        .map(|(from, to, ..)| (*from, *to))
        .collect();
    for (from, to) in edges {
        writeln!(page, "    {from} --> {to}").unwrap();
    }
    page.push_str("```\n\n| from | event | to | reason |\n|---|---|---|---|\n");
    for (from, to, reason, label) in rows {
        writeln!(page, "| {from} | {label} | {to} | {} |", if reason == "none" { "" } else { reason }).unwrap();
    }
    page
}

fn samples() -> Vec<(&'static str, Head, Event)> {
    let mut out = Vec::new();
    for state in State::ALL {
        for canceling in [false, true] {
            for lost_before in [0, 2] {
                let mut head = fresh(&spec_with(1, false));
                head.state = *state;
                head.lost = lost_before;
                head.first_started = NOW;
                if *state == State::Running {
                    head.session = SessionId(1);
                    head.attempt = 1;
                    head.reason = if canceling { Reason::Canceling } else { Reason::Dispatched };
                    head.flags = if canceling { Flags::CANCEL } else { Flags::default() };
                } else if canceling {
                    continue;
                }
                if matches!(state, State::Scheduled | State::Retrying) {
                    head.due = NOW;
                }
                head.flags = head.flags.with(Flags::HAS_RESULT);
                let expired = Head { expires: NOW, ..head.clone() };
                let swept = Head { ended: NOW, ..head.clone() };
                let attempt = head.open_attempt();
                let answer = |outcome| Event::Answered { attempt, outcome };
                if *state == State::Running {
                    let accepted = accepted(&head);
                    out.extend([
                        ("report: heartbeat of an accepted attempt", accepted.clone(), Event::Heartbeat { attempt, lease: None }),
                        ("lease over", accepted.clone(), Event::Due),
                        ("hard cancel of an accepted attempt", accepted, cancel(true)),
                    ]);
                }
                if *state == State::Blocked {
                    let head = Head { deadline: NOW, reason: Reason::Children, ..head.clone() };
                    out.push(("all children final", head, Event::Due));
                }
                out.extend([
                    ("answer: accepted", head.clone(), answer(Outcome::Accepted { lease: None })),
                    ("answer: spawn and wait", head.clone(), answer(spawn(Then::Wait))),
                    ("answer: spawn and detach", head.clone(), answer(spawn(Then::Detach))),
                    ("answer: replace", head.clone(), answer(Outcome::Replace { replacement: Box::new(draft("other")) })),
                    ("report: spawn and detach", head.clone(), Event::Spawned { attempt, tasks: vec![draft("a")] }),
                    ("report: progress", head.clone(), Event::Progress { attempt, value: Bytes::from_static(b"1") }),
                    ("report: logs", head.clone(), Event::Logs { attempt, lines: vec!["x".into()], room: 9 }),
                    (
                        "cancel, upstream",
                        head.clone(),
                        Event::Cancel { hard: false, reason: Reason::Upstream, grace: Duration::ZERO },
                    ),
                    ("manual retry", head.clone(), Event::Retry),
                    ("run now", head.clone(), Event::RunNow),
                    ("hold", head.clone(), Event::Hold),
                    ("release", Head { flags: head.flags.with(Flags::HELD), ..head.clone() }, Event::Release),
                    ("patch: later", head.clone(), patch(When::In("1h".parse().unwrap()))),
                    ("patch: now", head.clone(), patch(When::Never)),
                    ("forget the result", head.clone(), Event::Forget),
                    ("claim", head.clone(), Event::Claim { session: SessionId(1), worker: 1 }),
                    ("answer: success", head.clone(), answer(Outcome::Success { content_type: None, body: None })),
                    ("answer: retry", head.clone(), answer(Outcome::Retry { after: None, error: error() })),
                    ("answer: time limit", head.clone(), answer(Outcome::TimedOut { error: error() })),
                    ("answer: throttled", head.clone(), answer(Outcome::Throttled { after: None, error: error() })),
                    ("answer: endpoint fault", head.clone(), answer(Outcome::Endpoint { error: error() })),
                    ("answer: permanent", head.clone(), answer(Outcome::Permanent { error: error() })),
                    ("answer: snooze", head.clone(), answer(Outcome::Snooze { after: Duration::from_secs(1) })),
                    ("answer: cancel", head.clone(), answer(Outcome::Cancel)),
                    ("given back at shutdown", head.clone(), Event::GivenBack { attempt }),
                    ("dispatcher died", head.clone(), Event::Lost { session: SessionId(1) }),
                    ("due", head.clone(), Event::Due),
                    ("due, past its expiry", expired, Event::Due),
                    ("cancel", head.clone(), cancel(false)),
                    ("connection cut after a cancel", head.clone(), Event::Aborted { attempt }),
                    ("delete", head.clone(), Event::Delete),
                    ("janitor, result's time over", swept, Event::Sweep),
                    ("janitor, retention over", head.clone(), Event::Sweep),
                ]);
            }
        }
    }
    out
}

fn accepted(head: &Head) -> Head {
    let reason = if head.reason == Reason::Dispatched { Reason::Accepted } else { head.reason };
    Head { reason, deadline: NOW, ..head.clone() }
}

fn spawn(then: Then) -> Outcome {
    Outcome::Spawn { tasks: vec![draft("child")], then, result: None }
}

fn patch(due: When) -> Event {
    let changes = Box::new(Patch { due: Some(due), ..Patch::default() });
    Event::Patch { changes, content_type: Bytes::new(), payload: Bytes::new() }
}
