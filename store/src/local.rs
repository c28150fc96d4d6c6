//! What the sessions of one process tell each other through a store that this process has for itself: limits, notes, boards.
//! None of it outlives the process.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use lovage_core::{Millis, SessionId};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::limit::{Book, Times};
use crate::{Error, LimitKey, LimitReply, LimitRequest, Result};

/// For so long a board is shown.
pub const BOARD_LEASE: Duration = Duration::from_secs(6);
/// The most bytes of a board.
pub const MAX_BOARD: usize = 256 << 10;
/// Notes that are kept for a session that does not read them.
pub(crate) const MAX_NOTES: usize = 1_000;

/// Refuses a board that is too large as [`Error::Invalid`].
pub(crate) fn check_board(board: Option<&Bytes>) -> Result<()> {
    match board {
        Some(board) if board.len() > MAX_BOARD => {
            Err(Error::Invalid(format!("a board of {} bytes, at most {MAX_BOARD}", board.len())))
        }
        _ => Ok(()),
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Local {
    book: Book,
    notes: Mutex<BTreeMap<SessionId, Vec<LimitKey>>>,
    noted: Notify,
    boards: Mutex<BTreeMap<SessionId, (Millis, Bytes)>>,
}

impl Local {
    pub(crate) fn limit(&self, now: &Times, requests: &[LimitRequest]) -> Vec<LimitReply> {
        self.book.judge(now, requests)
    }

    /// Forgets limits that nobody uses.
    pub(crate) fn tidy(&self, now: &Times) {
        self.book.tidy(now);
    }

    pub(crate) fn wake(&self, session: SessionId, keys: &[LimitKey]) {
        let mut notes = self.notes.lock();
        let notes = notes.entry(session).or_default();
        for key in keys {
            if notes.len() < MAX_NOTES && !notes.contains(key) {
                notes.push(key.clone());
            }
        }
        self.noted.notify_waiters();
    }

    pub(crate) async fn woken(&self, session: SessionId, wait: Duration) -> Vec<LimitKey> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let noted = self.noted.notified();
            tokio::pin!(noted);
            // Before the look, so that nothing slips in between.
            noted.as_mut().enable();
            let found = self.notes.lock().remove(&session);
            if let Some(keys) = found.filter(|keys| !keys.is_empty()) {
                return keys;
            }
            if tokio::time::timeout_at(deadline, noted).await.is_err() {
                return Vec::new();
            }
        }
    }

    pub(crate) fn publish(&self, now: Millis, session: SessionId, board: Option<Bytes>) -> Result<()> {
        check_board(board.as_ref())?;
        let mut boards = self.boards.lock();
        boards.retain(|_, (until, _)| *until > now);
        match board {
            Some(board) => _ = boards.insert(session, (now.after(BOARD_LEASE), board)),
            None => _ = boards.remove(&session),
        }
        Ok(())
    }

    pub(crate) fn boards(&self, now: Millis) -> Vec<(SessionId, Bytes)> {
        let mut boards = self.boards.lock();
        boards.retain(|_, (until, _)| *until > now);
        boards.iter().map(|(session, (_, board))| (*session, board.clone())).collect()
    }
}
