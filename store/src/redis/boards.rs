//! What sessions show each other: a string each, which ends by itself, and a list of who shows something.

use bytes::Bytes;
use lovage_core::{Millis, SessionId};

use super::keys::DocKeys;
use super::link::{Kind, Link};
use super::value;
use crate::local::check_board;
use crate::{BOARD_LEASE, Result};

/// Shows a board, or takes it away.
pub(super) async fn publish(link: &Link, keys: &DocKeys, now: Millis, session: SessionId, board: Option<Bytes>) -> Result<()> {
    check_board(board.as_ref())?;
    let (name, list, lease) = (keys.board(session), keys.boards(), BOARD_LEASE.as_millis() as u64);
    let mut pipe = redis::pipe();
    if let Some(board) = board {
        pipe.cmd("SET").arg(name).arg(&board[..]).arg("PX").arg(lease);
        pipe.cmd("ZADD").arg(&list).arg(now.after(BOARD_LEASE).0).arg(session.0);
        pipe.cmd("PEXPIRE").arg(&list).arg(lease);
    } else {
        pipe.cmd("DEL").arg(name);
        pipe.cmd("ZREM").arg(&list).arg(session.0);
    }
    // A second of grace for clocks that differ: a name without a board is passed over.
    pipe.cmd("ZREMRANGEBYSCORE").arg(&list).arg("-inf").arg(now.0.saturating_sub(1_000));
    // Not as a write: no replica has to confirm it.
    link.send_all(Kind::Read, &pipe).await.map(drop)
}

/// All boards, by session.
pub(super) async fn read(link: &Link, keys: &DocKeys) -> Result<Vec<(SessionId, Bytes)>> {
    let mut cmd = redis::cmd("ZRANGE");
    cmd.arg(keys.boards()).arg(0).arg(-1);
    let sessions = value::list(link.send(Kind::Read, &cmd).await?)?;
    let mut sessions: Vec<_> =
        sessions.into_iter().map(|session| value::number(session).map(SessionId)).collect::<Result<_>>()?;
    if sessions.is_empty() {
        return Ok(Vec::new());
    }
    sessions.sort_unstable();
    let mut cmd = redis::cmd("MGET");
    for session in &sessions {
        cmd.arg(keys.board(*session));
    }
    let boards = value::list(link.send(Kind::Read, &cmd).await?)?;
    let one = |(session, board)| Ok(value::bytes(board)?.map(|board| (session, Bytes::from(board))));
    sessions.into_iter().zip(boards).map(one).filter_map(Result::transpose).collect()
}
