//! The embedded store from outside: data of an earlier version, and the end of a process without warning.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lovage_core::{Flags, Head, IdRun, LaneDef, Millis, Ns, Partition, Reason, Route, SessionId, Slot, State, TaskId, TaskKey};
use lovage_store::{
    Claim, Claimed, Commit, Committed, Cursor, DocGuard, DocKind, DocPut, Effect, EmbeddedOptions, EmbeddedStore, FeedPos, Index,
    Insert, Inserted, KeyKind, KeyPut, Message, Mode, OnExists, OwnRequest, Parts, Store, Sync, Want,
};

const P: Partition = Partition(0);
const T0: Millis = Millis(1_767_225_600_000);

fn lane() -> Arc<LaneDef> {
    Arc::new(LaneDef::of(Ns(3), "mail", Route::Task("mail.send".into())))
}

fn head(state: State) -> Head {
    Head {
        version: 1,
        state,
        reason: Reason::None,
        priority: 5,
        flags: Flags::default(),
        attempt: 0,
        budget: 0,
        lost: 0,
        generation: 0,
        session: SessionId(0),
        lane: lane().id(),
        worker: 0,
        seq: 0,
        created: T0,
        due: T0,
        expires: Millis(0),
        deadline: Millis(0),
        started: Millis(0),
        first_started: Millis(0),
        ended: Millis(0),
    }
}

fn insert(key: TaskKey, head: Head) -> Insert {
    Insert {
        body: Bytes::from(format!("body of {}", key.id)),
        key,
        head,
        lane: lane(),
        exists: OnExists::Return,
        not_after: None,
        keys: Vec::new(),
        root: None,
    }
}

fn client(text: &str) -> TaskKey {
    TaskKey::new(Ns(3), TaskId::parse(text).unwrap())
}

fn options(dir: &Path) -> EmbeddedOptions {
    EmbeddedOptions { clock: Arc::new(|| T0), min_free: 0, ..EmbeddedOptions::new(dir) }
}

async fn own(store: &EmbeddedStore) -> (lovage_store::OwnToken, Vec<SessionId>) {
    let request = OwnRequest { session: store.session(), want: Want::Own, lease: Duration::from_secs(60), drop: Vec::new() };
    let reply = store.own(P, request).await.unwrap();
    (reply.token.unwrap(), reply.lapsed)
}

fn running(was: &Head, session: SessionId) -> Head {
    let version = was.version + 1;
    Head {
        version,
        state: State::Running,
        reason: Reason::Dispatched,
        attempt: was.attempt + 1,
        session,
        started: T0,
        ..was.clone()
    }
}

/// What the committed file holds: a task in each state, with every part.
async fn fill(store: &EmbeddedStore) {
    let keys: Vec<_> = State::ALL.iter().map(|state| client(state.as_str())).collect();
    let mut items: Vec<_> = keys.iter().zip(State::ALL).map(|(key, state)| insert(key.clone(), head(*state))).collect();
    items[0].root = Some(client("root"));
    items[1].head.due = T0.after(Duration::from_secs(60));
    items[2].keys = vec![KeyPut {
        kind: KeyKind::Idempotency,
        key: "key".into(),
        value: "hash".into(),
        until: Some(T0.after(Duration::from_secs(3600))),
        steal: None,
    }];
    items[3].head = Head { session: SessionId(77), attempt: 1, worker: 0xfeed, ..head(State::Running) };
    let answers = store.insert(P, items, Mode::Each).await.unwrap();
    assert!(answers.iter().all(|answer| matches!(answer, Inserted::Ok { .. })), "{answers:?}");
    let was = store.heads(P, &keys[5..6]).await.unwrap().remove(0).unwrap();
    let commit = Commit {
        key: keys[5].clone(),
        head: Some(Head { version: 2, flags: Flags::HAS_RESULT.with(Flags::HAS_ATTEMPTS), ended: T0, ..was.clone() }),
        was,
        queue: "mail".into(),
        lane: None,
        body: None,
        result: Some(Some("result".into())),
        attempt: Some("attempt".into()),
        effects: Vec::new(),
    };
    assert_eq!(store.commit(P, SessionId(0), vec![commit], Mode::Each, Sync::Durable).await.unwrap(), [Committed::Ok]);
    let put = |name: &str, bytes: Option<&'static str>| DocPut {
        kind: DocKind::Queue,
        ns: Ns(3),
        name: name.into(),
        guard: DocGuard::Any,
        bytes: bytes.map(Bytes::from),
    };
    store.put_docs(vec![put("mail", Some("{}")), put("gone", Some("{}")), put("gone", None)]).await.unwrap();
}

/// A file written by the first version of this format is read as it was written. `LOVAGE_WRITE_GOLDEN=1` writes it anew,
/// which is only right when the format's number rises.
#[tokio::test]
async fn data_of_format_1_is_read() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/embedded-format-1.db");
    let dir = tempfile::tempdir().unwrap();
    if std::env::var_os("LOVAGE_WRITE_GOLDEN").is_some() {
        let store = EmbeddedStore::open(options(dir.path())).unwrap();
        fill(&store).await;
        store.close().await;
        std::fs::copy(dir.path().join("lovage.db"), &golden).unwrap();
    }
    std::fs::copy(&golden, dir.path().join("lovage.db")).unwrap();
    let store = EmbeddedStore::open(options(dir.path())).unwrap();

    let keys: Vec<_> = State::ALL.iter().map(|state| client(state.as_str())).collect();
    let heads: Vec<_> = store.heads(P, &keys).await.unwrap().into_iter().map(Option::unwrap).collect();
    for (n, (stored, state)) in heads.iter().zip(State::ALL).enumerate() {
        let mut expected = Head { seq: n as u64 + 1, ..head(*state) };
        match n {
            1 => expected.due = T0.after(Duration::from_secs(60)),
            3 => expected = Head { session: SessionId(77), attempt: 1, worker: 0xfeed, ..expected },
            5 => expected = Head { version: 2, flags: Flags::HAS_RESULT.with(Flags::HAS_ATTEMPTS), ended: T0, ..expected },
            _ => {}
        }
        assert_eq!(*stored, expected);
    }
    let whole = store.get(P, &keys[5], Parts { body: true, result: true, attempts: true }).await.unwrap().unwrap();
    assert_eq!(
        (whole.body.unwrap(), whole.result.unwrap(), whole.attempts),
        ("body of succeeded".into(), "result".into(), vec![Bytes::from("attempt")])
    );
    let places = [
        (Index::Lane { lane: lane().id(), after: None }, vec!["queued"]),
        (Index::Timer { until: Millis::MAX }, vec!["retrying", "scheduled"]),
        (Index::Running { session: Some(SessionId(77)) }, vec!["running"]),
        (Index::Done { until: Millis::MAX }, vec!["succeeded", "failed", "canceled", "expired"]),
        (Index::Members { root: client("root") }, vec!["blocked"]),
    ];
    for (index, expected) in places {
        let found = store.scan(P, &index, Cursor::default(), 100).await.unwrap().items;
        assert_eq!(found.iter().map(|(key, _)| key.id.to_string()).collect::<Vec<_>>(), expected, "{index:?}");
    }
    let counts = store.counts(P).await.unwrap();
    assert_eq!((counts.len(), counts[0].queue.as_str(), counts[0].states), (1, "mail", [1; 9]));
    assert_eq!(lovage_store::all_lanes(&*store, P).await.unwrap(), [(lane().id(), (*lane()).clone())]);
    let entry = store.lookup(P, Ns(3), KeyKind::Idempotency, b"key").await.unwrap().unwrap();
    assert_eq!((entry.task, entry.value), (keys[2].clone(), "hash".into()));
    let documents = store.docs(DocKind::Queue, None, None, 10).await.unwrap().items;
    assert_eq!(documents.iter().map(|d| (d.name.as_str(), d.version)).collect::<Vec<_>>(), [("mail", 1)]);
    assert_eq!(own(&store).await.1, [SessionId(77)], "the session that was running has lapsed");
    let answers = store.insert(P, vec![insert(client("new"), head(State::Queued))], Mode::Each).await.unwrap();
    assert_eq!(answers, [Inserted::Ok { seq: 10 }]);
    what_came_later_works(&store, &keys[0]).await;
}

/// Keys that go with their record, barriers and messages, in a file of a version that had none of them.
async fn what_came_later_works(store: &EmbeddedStore, blocked: &TaskKey) {
    let put = KeyPut { kind: KeyKind::Unique, key: "k".into(), value: Bytes::new(), until: None, steal: None };
    let item = Insert { keys: vec![put], ..insert(client("keyed"), head(State::Queued)) };
    assert_eq!(store.insert(P, vec![item.clone()], Mode::Each).await.unwrap(), [Inserted::Ok { seq: 11 }]);
    let was = store.heads(P, &[blocked.clone(), item.key.clone()]).await.unwrap();
    let change = |key: &TaskKey, was: &Option<Head>, head: Option<Head>, effects| Commit {
        key: key.clone(),
        was: was.clone().unwrap(),
        head,
        queue: "mail".into(),
        lane: None,
        body: None,
        result: None,
        attempt: None,
        effects,
    };
    let waits = Head { version: 2, ..was[0].clone().unwrap() };
    let message = Message::Cancel { key: blocked.clone(), generation: 0 };
    let arrive = Effect::Arrive { barrier: blocked.clone(), index: 0 };
    let items = vec![
        change(blocked, &was[0], Some(waits.clone()), vec![Effect::Barrier { members: 1 }]),
        change(&item.key, &was[1], None, vec![arrive, Effect::Send { to: Slot::new(0), message }]),
    ];
    assert_eq!(store.commit(P, SessionId(0), items, Mode::Each, Sync::Durable).await.unwrap(), vec![Committed::Ok; 2]);
    assert_eq!(store.lookup(P, Ns(3), KeyKind::Unique, b"k").await.unwrap(), None);
    let woken = Head { version: 3, deadline: T0, ..waits };
    assert_eq!(store.heads(P, std::slice::from_ref(blocked)).await.unwrap(), [Some(woken)]);
    assert_eq!(store.outbox(P, FeedPos::default(), 10).await.unwrap().waiting, 1);
}

/// The bytes of a packed head, which other stores keep, do not change between releases.
#[test]
fn packed_heads_do_not_change() {
    let head = Head {
        version: 0x0102,
        state: State::Retrying,
        reason: Reason::Backoff,
        priority: 9,
        flags: Flags::ORDERED.with(Flags::HAS_ATTEMPTS),
        attempt: 0x0304,
        budget: 5,
        lost: 6,
        generation: 7,
        session: SessionId(0x08),
        lane: lovage_core::LaneId(0x09),
        worker: 0x0a0b_0c0d,
        seq: 0x0e,
        created: Millis(0x11),
        due: Millis(0x12),
        expires: Millis(0x13),
        deadline: Millis(0x14),
        started: Millis(0x15),
        first_started: Millis(0x16),
        ended: Millis(0x17),
    };
    let hex = head.pack().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let expected = concat!(
        "0000000000000102",
        "01040709",
        "00880005",
        "00000304",
        "06070000",
        "0000000000000008",
        "0000000000000009",
        "000000000000000e",
        "000000000011000000000012000000000013000000000014000000000015000000000016000000000017",
        "0a0b0c0d0000"
    );
    assert_eq!(hex, expected);
}

const CHILD: &str = "LOVAGE_TEST_WRITE_TO";
const BATCH: u32 = 20;

/// Inserts, claims and finishes without end, telling each answer on standard output as soon as it is there.
async fn write_until_killed(dir: &Path) {
    let store = EmbeddedStore::open(options(dir)).unwrap();
    let (token, _) = own(&store).await;
    let session = store.session();
    for round in 0u64.. {
        let run = IdRun::new(Millis(T0.0 + round), Slot::new(1), session.0 << 20);
        let keys: Vec<_> = (0..BATCH).map(|n| TaskKey::new(Ns(3), run.nth(n))).collect();
        let items = keys.iter().map(|key| insert(key.clone(), head(State::Queued))).collect();
        let answers = store.insert(P, items, Mode::Each).await.unwrap();
        for key in &keys {
            println!("queued {}", key.id);
        }
        let heads = keys.iter().zip(answers).map(|(key, answer)| match answer {
            Inserted::Ok { seq } => (key.clone(), Head { seq, ..head(State::Queued) }),
            other => panic!("{other:?}"),
        });
        // Half of them go on, so that every kind of state is there at any moment.
        let claims: Vec<_> = heads
            .take(BATCH as usize / 2)
            .map(|(key, was)| Claim { key, head: running(&was, session), was, queue: "mail".into() })
            .collect();
        let answers = store.claim(P, &token, session, claims.clone()).await.unwrap();
        assert!(answers.iter().all(|answer| matches!(answer, Claimed::Ok(_))));
        for claim in &claims {
            println!("running {}", claim.key.id);
        }
        let commits: Vec<_> = claims[..5]
            .iter()
            .map(|claim| Commit {
                key: claim.key.clone(),
                was: claim.head.clone(),
                head: Some(Head { version: 3, state: State::Succeeded, reason: Reason::None, ended: T0, ..claim.head.clone() }),
                queue: "mail".into(),
                lane: None,
                body: None,
                result: Some(Some("result".into())),
                attempt: None,
                effects: Vec::new(),
            })
            .collect();
        store.commit(P, session, commits.clone(), Mode::Each, Sync::Ordered).await.unwrap();
        for commit in &commits {
            println!("succeeded {}", commit.key.id);
        }
    }
}

/// Whatever was answered is there after `kill -9`, several times on the same data; the counts are right, and what was
/// running is found by its session.
#[test]
fn a_killed_process_loses_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if let Some(dir) = std::env::var_os(CHILD) {
        return runtime.block_on(write_until_killed(Path::new(&dir)));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut told: std::collections::HashMap<String, State> = std::collections::HashMap::new();
    for kill in 0..4usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_killed_process_loses_nothing", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut take = |line: String| {
            // The test harness writes lines of its own.
            if let Some((state, id)) = line.split_once(' ')
                && let Some(state) = State::parse(state)
                && matches!(TaskId::parse(id), Ok(TaskId::Generated(_)))
            {
                told.insert(id.to_owned(), state);
            }
        };
        lines.by_ref().take(500 + kill * 77).for_each(&mut take);
        child.kill().unwrap();
        child.wait().unwrap();
        // What was said before the end counts, whenever it is heard.
        lines.for_each(&mut take);

        runtime.block_on(async {
            let store = EmbeddedStore::open(options(dir.path())).unwrap();
            let keys: Vec<_> = told.keys().map(|id| client(id)).collect();
            for (key, head) in keys.iter().zip(store.heads(P, &keys).await.unwrap()) {
                let head = head.unwrap_or_else(|| panic!("{} was accepted and is lost", key.id));
                assert!(head.state as u8 >= told[&key.id.to_string()] as u8, "{} went back to {}", key.id, head.state);
                let parts = Parts { body: true, result: true, attempts: false };
                let stored = store.get(P, key, parts).await.unwrap().unwrap();
                assert_eq!(stored.body.unwrap(), format!("body of {}", key.id));
                assert_eq!(stored.result.is_some(), head.state == State::Succeeded);
            }
            let mut recount = [0u64; 9];
            let mut sessions = std::collections::BTreeSet::new();
            let mut from = Cursor::default();
            loop {
                let page = store.list(P, &lovage_store::ListQuery { ns: Ns(3), ..Default::default() }, from, 1000).await.unwrap();
                for (_, head) in page.items {
                    recount[head.state as usize] += 1;
                    if head.state == State::Running {
                        sessions.insert(head.session);
                    }
                }
                let Some(next) = page.next else { break };
                from = next;
            }
            assert_eq!(store.counts(P).await.unwrap()[0].states, recount);
            assert_eq!(own(&store).await.1, sessions.into_iter().collect::<Vec<_>>());
        });
    }
    assert!(told.len() > 1_000);
}
