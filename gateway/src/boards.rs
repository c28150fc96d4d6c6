//! How workers and queues are doing, as all processes see it: this one directly, the others by their boards.

use std::sync::Arc;
use std::time::Duration;

use lovage_core::board::{Board, QueueBoard, WINDOW, WorkerBoard};
use lovage_core::{Ns, SessionId};
use lovage_store::show;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::app::App;

/// Boards are read again after this: they are published every second.
const FRESH: Duration = Duration::from_millis(500);
/// The longest that a look may take: without boards less is shown.
const LIMIT: Duration = Duration::from_secs(2);

/// The boards that were read last.
#[derive(Default)]
pub(crate) struct Boards(Mutex<Option<(Instant, Arc<Vec<Board>>)>>);

/// A rate as it is shown: with two decimals.
pub(crate) fn rounded(rate: f64) -> f64 {
    (rate * 100.0).round() / 100.0
}

impl App {
    /// Shows what this process does to queues until `stop`. Where a dispatcher runs, its board says it.
    pub(crate) async fn show_queues(&self, stop: CancellationToken) {
        let Some(traffic) = self.store.traffic().filter(|_| self.options.standings.is_none()) else { return };
        show(&*self.store, self.options.cluster.session, stop.cancelled(), |now| {
            let (queues, cut) = traffic.board(now);
            Board { queues, cut, ..Board::default() }
        })
        .await;
    }

    /// How many tasks a second came into a queue and left it in the last [`WINDOW`] seconds; `None`: so many queues are busy that
    /// this one is not shown.
    pub(crate) async fn rates(&self, ns: Ns, queue: &str) -> Option<(f64, f64)> {
        let boards = self.boards().await;
        let seen = || boards.iter().filter_map(|board| board.queue(ns, queue));
        if seen().next().is_none() && boards.iter().any(|board| board.cut) {
            return None;
        }
        let rate = |count: fn(&QueueBoard) -> u64| rounded(seen().map(count).sum::<u64>() as f64 / WINDOW as f64);
        Some((rate(|queue| queue.accepted), rate(|queue| queue.finished)))
    }

    /// The boards of all processes; none if the store is away.
    pub(crate) async fn boards(&self) -> Arc<Vec<Board>> {
        // Held while they are read: whoever asks meanwhile gets the same.
        let mut known = self.boards.0.lock().await;
        if let Some((_, boards)) = known.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Arc::clone(boards);
        }
        let boards = match timeout(LIMIT, self.store.boards()).await {
            Ok(Ok(boards)) => boards,
            Ok(Err(error)) => {
                error.log("read the boards of dispatchers");
                Vec::new()
            }
            Err(_) => Vec::new(),
        };
        let boards: Arc<Vec<Board>> = Arc::new(boards.iter().filter_map(|(_, bytes)| Board::decode(bytes)).collect());
        *known = Some((Instant::now(), Arc::clone(&boards)));
        boards
    }

    /// The worker with this name, or the origin of bare URLs, as all dispatchers together see it; `None`: none knows it.
    pub(crate) async fn seen_worker(&self, ns: Ns, name: &str, origin: bool) -> Option<WorkerBoard> {
        self.seen_on(&self.boards().await, ns, name, origin)
    }

    /// The same as the dispatcher of this session sees it, which starts tasks by what it sees itself; as all together do if it
    /// does not say.
    pub(crate) async fn seen_by(&self, owner: Option<SessionId>, ns: Ns, name: &str, origin: bool) -> Option<WorkerBoard> {
        let boards = self.boards().await;
        let Some(owner) = owner else { return self.seen_on(&boards, ns, name, origin) };
        let own = self.options.standings.as_ref().filter(|_| owner == self.options.cluster.session);
        let seen = own.and_then(|all| all.worker(ns, name, origin, self.now()));
        let by_board = || boards.iter().find(|board| board.node == owner.0)?.worker(ns, name, origin).cloned();
        seen.or_else(by_board).or_else(|| self.seen_on(&boards, ns, name, origin))
    }

    /// … on these boards.
    pub(crate) fn seen_on(&self, boards: &[Board], ns: Ns, name: &str, origin: bool) -> Option<WorkerBoard> {
        let own = self.options.standings.as_ref().and_then(|all| all.worker(ns, name, origin, self.now()));
        // The own board is older than what is known directly.
        let direct = own.is_some();
        let others = boards.iter().filter(|board| !direct || board.node != self.options.cluster.session.0);
        let others = others.filter_map(|board| board.worker(ns, name, origin));
        others.fold(own, |sum, other| Some(sum.map_or_else(|| other.clone(), |sum| sum.and(other))))
    }
}
