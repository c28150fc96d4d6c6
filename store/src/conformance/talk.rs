//! What sessions tell each other: notes and boards.

use std::time::Duration;

use bytes::Bytes;
use lovage_core::Ns;

use super::Fixture;
use super::kit::{Kit, OTHER, PATIENCE, SESSION};
use crate::{Error, LimitKey, MAX_BOARD};

fn keys<const N: usize>(names: [&str; N]) -> Vec<LimitKey> {
    names.map(|name| (Ns(3), name.to_owned())).into()
}

/// Notes that were left before somebody asks are given once, to the session that they are for.
pub async fn notes_wait_for_their_reader(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    kit.store.wake(SESSION, &keys(["a", "b:\u{e9}"])).await.unwrap();
    kit.store.wake(SESSION, &keys(["a", "c"])).await.unwrap();
    kit.store.wake(SESSION, &[]).await.unwrap();
    assert_eq!(kit.store.woken(OTHER, Duration::from_millis(20)).await.unwrap(), []);
    let mut found = kit.store.woken(SESSION, PATIENCE).await.unwrap();
    found.sort_unstable();
    assert_eq!(found, keys(["a", "b:\u{e9}", "c"]));
    assert_eq!(kit.store.woken(SESSION, Duration::ZERO).await.unwrap(), []);
}

/// Whoever waits is woken, several sessions at the same time.
pub async fn a_note_wakes_its_reader(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    for _ in 0..3 {
        let sessions = [SESSION, OTHER];
        let reading = sessions.map(|session| {
            let store = kit.store.clone();
            tokio::spawn(async move { store.woken(session, PATIENCE).await })
        });
        tokio::task::yield_now().await;
        for session in sessions {
            kit.store.wake(session, &keys(["k"])).await.unwrap();
        }
        for read in reading {
            assert_eq!(read.await.unwrap().unwrap(), keys(["k"]));
        }
    }
}

/// A reader that gives up takes no note with it that comes later.
pub async fn a_reader_that_left_takes_nothing(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    for _ in 0..5 {
        let gave_up = tokio::time::timeout(Duration::from_millis(10), kit.store.woken(SESSION, PATIENCE)).await;
        assert!(gave_up.is_err());
    }
    kit.store.wake(SESSION, &keys(["k"])).await.unwrap();
    let read = async {
        loop {
            // Best effort: what was on its way to a reader that left may be lost, so it is told again.
            let found = kit.store.woken(SESSION, Duration::from_millis(200)).await.unwrap();
            if !found.is_empty() {
                return found;
            }
            kit.store.wake(SESSION, &keys(["k"])).await.unwrap();
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, read).await.unwrap(), keys(["k"]));
}

/// A board is seen by all, as it was published last, until it is taken away.
pub async fn boards_are_seen(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    assert_eq!(kit.store.boards().await.unwrap(), []);
    let large = Bytes::from(vec![0xfe; MAX_BOARD]);
    kit.store.publish(OTHER, Some(large.clone())).await.unwrap();
    kit.store.publish(SESSION, Some(Bytes::from_static(b"first"))).await.unwrap();
    kit.store.publish(SESSION, Some(Bytes::from_static(b"{}\0"))).await.unwrap();
    let seen = kit.store.boards().await.unwrap();
    assert_eq!(seen, [(SESSION, Bytes::from_static(b"{}\0")), (OTHER, large.clone())]);
    kit.store.publish(SESSION, None).await.unwrap();
    kit.store.publish(SESSION, None).await.unwrap();
    assert_eq!(kit.store.boards().await.unwrap(), [(OTHER, large)]);
    let too_large = kit.store.publish(OTHER, Some(Bytes::from(vec![0; MAX_BOARD + 1]))).await;
    assert!(matches!(too_large, Err(Error::Invalid(_))), "{too_large:?}");
}

/// A board that is not published again is gone; it is no document.
pub async fn a_board_ends(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let documents = kit.store.doc_version(u64::MAX, Duration::ZERO).await.unwrap();
    kit.store.publish(SESSION, Some(Bytes::from_static(b"a"))).await.unwrap();
    kit.store.publish(OTHER, Some(Bytes::from_static(b"b"))).await.unwrap();
    kit.pass(Duration::from_millis(3_100)).await;
    kit.store.publish(OTHER, Some(Bytes::from_static(b"c"))).await.unwrap();
    kit.pass(Duration::from_secs(3)).await;
    assert_eq!(kit.store.boards().await.unwrap(), [(OTHER, Bytes::from_static(b"c"))]);
    kit.pass(Duration::from_millis(3_100)).await;
    assert_eq!(kit.store.boards().await.unwrap(), []);
    assert_eq!(kit.store.doc_version(u64::MAX, Duration::ZERO).await.unwrap(), documents);
}
