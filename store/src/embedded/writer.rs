//! The one thread that writes.
//!
//! It takes whatever came in while the last transaction was synced, carries it out in one transaction, commits, publishes the
//! changes and answers. So *written* and *durable* are one moment, and the more arrives, the cheaper each item gets.
//! Commits that may wait are held for up to 5 ms if nothing else asks for a sync; claims pass them in a
//! transaction of their own that is not synced (it survives the end of the process, and every later sync covers it).
//!
//! After a failed transaction nothing on that connection is trusted, a failed sync least of all: the round is answered with
//! the error and `life` opens the database again.

use std::cell::Cell;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::apply::{Apply, News, Outcome, Statements};
use super::bodies::Bodies;
use super::books::{self, Books};
use super::disk::FreeSpace;
use super::failure::{failed, failed_commit, unknown};
use super::queue::{Kind, Op, Taken, Work, refuse_all};
use super::{Durability, Shared, documents, schema};
use crate::{Commit, Error, Result, StoreClock};

/// How long a commit that may wait is held for others.
const HOLD: Duration = Duration::from_millis(5);
/// The most that is held.
const HOLD_ITEMS: usize = 2_000;
/// A relaxed store syncs this often.
const SYNC_EVERY: Duration = Duration::from_millis(100);
/// Quiet time before free pages are given back to the disk, and between two steps of that.
const QUIET: Duration = Duration::from_secs(1);
const VACUUM_STEP: Duration = Duration::from_millis(20);
/// Free pages that are kept for what comes next, and pages given back in one step.
const KEEP_FREE_PAGES: i64 = 4_096;
const VACUUM_PAGES: u32 = 256;
/// Items that one housekeeping removes.
const TIDY_ITEMS: usize = 500;
/// The same of lanes: there may be one for every task.
const TIDY_LANES: usize = 2_000;

thread_local! {
    /// Pages in the log after the last commit of this thread, told by SQLite.
    static LOG_PAGES: Cell<u32> = const { Cell::new(0) };
}

/// The state that lives as long as one connection.
pub(super) struct Writer<'a, 'c> {
    shared: &'a Shared,
    conn: &'c Connection,
    statements: Statements<'c>,
    books: Books,
    bodies: Bodies,
    space: FreeSpace,
    /// Whether commits of this connection are synced now.
    full: bool,
    /// When a relaxed store has to sync next.
    sync_at: Option<Instant>,
    /// When to look for free pages.
    quiet_at: Option<Instant>,
}

impl<'a, 'c> Writer<'a, 'c> {
    /// Works until the queue is closed (`Ok`) or the database fails.
    pub(super) fn serve(shared: &'a Shared, conn: &'c Connection) -> Result<()> {
        conn.wal_hook(Some(|_, pages| {
            LOG_PAGES.set(pages.max(0) as u32);
            Ok(())
        }));
        let mut writer = Self {
            shared,
            conn,
            statements: Statements::prepare(conn).map_err(failed)?,
            books: Books::load(conn).map_err(failed)?,
            bodies: Bodies::new(shared.options.body_cache),
            space: FreeSpace::new(shared.options.dir.clone(), shared.options.min_free),
            full: true,
            sync_at: None,
            quiet_at: None,
        };
        let mut held = Held::default();
        match writer.work(&mut held) {
            Ok(()) => writer.finish(),
            Err(e) => {
                refuse_all(held.take(), &e);
                Err(e)
            }
        }
    }

    fn work(&mut self, held: &mut Held) -> Result<()> {
        loop {
            let deadline = [held.until, self.sync_at, self.quiet_at].into_iter().flatten().min();
            match self.shared.queue.take(deadline) {
                Taken::Closed => return self.round(held.take()),
                Taken::Ops(ops) => self.take_in(ops, held)?,
                Taken::TimedOut => {}
            }
            let now = Instant::now();
            if held.until.is_some_and(|at| at <= now) {
                self.round(held.take())?;
            }
            if self.sync_at.is_some_and(|at| at <= now) {
                self.sync()?;
            }
            if self.quiet_at.is_some_and(|at| at <= now) {
                self.give_back()?;
            }
        }
    }

    /// Decides what waits and what is carried out now.
    fn take_in(&mut self, ops: Vec<Op>, held: &mut Held) -> Result<()> {
        let can_wait = |op: &Op| matches!(op.work.kind(), Kind::Claim | Kind::Ordered);
        let strict = self.shared.options.durability == Durability::Strict;
        if strict && ops.iter().all(can_wait) && held.items < HOLD_ITEMS {
            let (claims, ordered): (Vec<_>, Vec<_>) = ops.into_iter().partition(|op| op.work.kind() == Kind::Claim);
            held.add(ordered);
            return self.round(claims);
        }
        let mut all = held.take();
        all.extend(ops);
        self.round(all)
    }

    /// Carries operations out in one transaction and answers them.
    fn round(&mut self, ops: Vec<Op>) -> Result<()> {
        let (aside, ops): (Vec<_>, Vec<_>) = ops.into_iter().partition(|op| op.work.kind() == Kind::Aside);
        if !ops.is_empty() {
            self.transaction(ops)?;
        }
        for op in aside {
            match op.work {
                Work::Tidy => self.tidy()?,
                #[cfg(test)]
                Work::Break { how, reply } => {
                    how(self.conn);
                    drop(reply.send(Ok(())));
                }
                other => other.refuse(&Error::Invalid("this operation is part of a round".into())),
            }
        }
        Ok(())
    }

    fn transaction(&mut self, ops: Vec<Op>) -> Result<()> {
        let shared = self.shared;
        let items: usize = ops.iter().map(|op| op.work.items()).sum();
        let only_claims = ops.iter().all(|op| op.work.kind() == Kind::Claim);
        let now = Instant::now();
        let synced = match shared.options.durability {
            Durability::Strict => !only_claims,
            Durability::Relaxed => self.sync_at.is_some_and(|at| at <= now),
        };
        let gate = shared.checkpoints.pass();
        let mut outcomes = Vec::with_capacity(ops.len());
        let mut entries = Vec::new();
        let mut run = || {
            shared.checkpoints.check_trusted()?;
            self.begin(synced).map_err(failed)?;
            for op in &ops {
                let (outcome, source, news) = self.apply(&op.work).map_err(failed)?;
                outcomes.push(outcome);
                if !news.0.is_empty() {
                    entries.push((source, news));
                }
            }
            self.books.write(self.conn).map_err(failed)?;
            self.commit()?;
            // A sync of the checkpoint that failed meanwhile may have taken with it what this one seems to cover.
            shared.checkpoints.check_trusted().map_err(unknown)
        };
        let done = run();
        drop(gate);
        if let Err(e) = done {
            // The connection is closed next, which undoes an open transaction.
            refuse_all(ops, &e);
            return Err(e);
        }
        metrics::histogram!("lovage_store_batch_items", "store" => "embedded").record(items as f64);
        self.after_commit(synced);
        shared.feed.publish(entries);
        for (op, outcome) in ops.into_iter().zip(outcomes) {
            self.answer(op.work, outcome);
        }
        Ok(())
    }

    fn apply(&mut self, work: &Work) -> rusqlite::Result<(Outcome, lovage_core::SessionId, News)> {
        let none = lovage_core::SessionId::default();
        let nothing = || (Vec::new(), false);
        let mut apply = Apply {
            statements: &mut self.statements,
            books: &mut self.books,
            bodies: &mut self.bodies,
            now: self.shared.clock.now(),
        };
        Ok(match work {
            Work::Insert { items, mode, .. } => {
                if let Err(e) = self.space.check() {
                    (Outcome::Refused(e), none, nothing())
                } else {
                    let (answers, news) = apply.inserts(items, *mode)?;
                    (Outcome::Inserts(answers), none, news)
                }
            }
            Work::Claim { own, .. } if !self.shared.owners.lock().holds(own) => {
                (Outcome::Claims(Err(Error::Fenced)), none, nothing())
            }
            Work::Claim { source, items, .. } => {
                let (answers, news) = apply.claims(items)?;
                (Outcome::Claims(Ok(answers)), *source, news)
            }
            Work::Commit { source, items, mode, .. } => {
                // New tasks are new tasks: the room that is left is for those that are there.
                if let Some(e) = items.iter().any(Commit::spawns).then(|| self.space.check().err()).flatten() {
                    (Outcome::Refused(e), none, nothing())
                } else {
                    let (answers, news) = apply.commits(items, *mode)?;
                    (Outcome::Commits(answers), *source, news)
                }
            }
            Work::Key { take, .. } => {
                if let Err(e) = self.space.check() {
                    (Outcome::Refused(e), none, nothing())
                } else {
                    (Outcome::Key(apply.key(take)?), none, nothing())
                }
            }
            Work::Delivered { messages, .. } => {
                apply.delivered(messages)?;
                (Outcome::Delivered, none, nothing())
            }
            Work::Documents { items, .. } => (Outcome::Documents(documents::put(self.conn, items)?.0), none, nothing()),
            // These never come here: `round` carries them out apart.
            Work::Tidy => (Outcome::Refused(Error::Invalid("housekeeping has no place in a round".into())), none, nothing()),
            #[cfg(test)]
            Work::Break { .. } => (Outcome::Refused(Error::Invalid("this has no place in a round".into())), none, nothing()),
        })
    }

    fn answer(&mut self, work: Work, outcome: Outcome) {
        // A caller that went away needs no answer.
        match (work, outcome) {
            (Work::Insert { reply, .. }, Outcome::Inserts(answers)) => drop(reply.send(Ok(answers))),
            (Work::Claim { reply, .. }, Outcome::Claims(answers)) => drop(reply.send(answers)),
            (Work::Commit { reply, .. }, Outcome::Commits(answers)) => drop(reply.send(Ok(answers))),
            (Work::Key { reply, .. }, Outcome::Key(answer)) => drop(reply.send(Ok(answer))),
            (Work::Delivered { reply, .. }, Outcome::Delivered) => drop(reply.send(Ok(()))),
            (Work::Documents { reply, .. }, Outcome::Documents(answers)) => {
                if let Ok(number) = documents::change_number(self.conn) {
                    self.shared.doc_version.send_replace(number);
                }
                drop(reply.send(Ok(answers)));
            }
            (work, Outcome::Refused(e)) => work.refuse(&e),
            (work, _) => work.refuse(&Error::Invalid("answered with another verb's answer".into())),
        }
    }

    fn begin(&mut self, synced: bool) -> rusqlite::Result<()> {
        if self.full != synced {
            self.conn.execute_batch(if synced { "PRAGMA synchronous = FULL" } else { "PRAGMA synchronous = NORMAL" })?;
            self.full = synced;
        }
        self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
    }

    fn commit(&mut self) -> Result<()> {
        let began = Instant::now();
        self.conn.prepare_cached("COMMIT").and_then(|mut s| s.execute([])).map_err(failed_commit)?;
        metrics::histogram!("lovage_store_commit_seconds", "store" => "embedded").record(began.elapsed().as_secs_f64());
        Ok(())
    }

    fn after_commit(&mut self, synced: bool) {
        let now = Instant::now();
        let pages = LOG_PAGES.get();
        metrics::gauge!("lovage_store_wal_bytes", "store" => "embedded").set(f64::from(pages) * f64::from(schema::PAGE_BYTES));
        self.shared.checkpoints.committed(pages);
        self.quiet_at = Some(now + QUIET);
        if synced {
            self.sync_at = None;
        } else if self.shared.options.durability == Durability::Relaxed {
            self.sync_at.get_or_insert(now + SYNC_EVERY);
        }
    }

    /// One synced transaction makes everything before it durable.
    fn sync(&mut self) -> Result<()> {
        self.small(true, |conn, _| conn.execute_batch("UPDATE meta SET value = value + 1 WHERE name = 'sync'"))
    }

    /// Removes keys past their end and lanes without records, a bounded number.
    fn tidy(&mut self) -> Result<()> {
        let now = self.shared.clock.now().0 as i64;
        let over = self.conn.prepare_cached("SELECT 1 FROM key WHERE until <= ?1 LIMIT 1").and_then(|mut s| s.exists([now]));
        if !over.map_err(failed)? && !books::has_empty(self.conn).map_err(failed)? {
            return Ok(());
        }
        self.small(false, |conn, books| {
            conn.prepare_cached(
                "DELETE FROM key WHERE (ns, kind, key) IN (SELECT ns, kind, key FROM key WHERE until <= ?1 ORDER BY until LIMIT ?2)",
            )?
            .execute([now, TIDY_ITEMS as i64])?;
            books.remove_empty(conn, TIDY_LANES)
        })
    }

    /// Gives free pages back to the disk, a step at a time while nothing else happens.
    fn give_back(&mut self) -> Result<()> {
        self.quiet_at = None;
        let free: i64 = self.conn.query_row("PRAGMA freelist_count", [], |row| row.get(0)).map_err(failed)?;
        if free <= KEEP_FREE_PAGES {
            return Ok(());
        }
        self.small(false, |conn, _| conn.execute_batch(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})")))?;
        self.quiet_at = Some(Instant::now() + VACUUM_STEP);
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.small(true, |conn, books| books.write_last_seq(conn))
    }

    /// A transaction of the writer's own.
    fn small(&mut self, synced: bool, what: impl FnOnce(&Connection, &mut Books) -> rusqlite::Result<()>) -> Result<()> {
        let gate = self.shared.checkpoints.pass();
        self.shared.checkpoints.check_trusted()?;
        self.begin(synced).map_err(failed)?;
        what(self.conn, &mut self.books).map_err(failed)?;
        self.commit()?;
        drop(gate);
        self.after_commit(synced);
        Ok(())
    }
}

/// Commits that wait for others.
#[derive(Default)]
struct Held {
    ops: Vec<Op>,
    items: usize,
    until: Option<Instant>,
    spare: Spare,
}

/// A quiet store does not let a result wait for company: this many syncs a second are made at once for ends of
/// attempts alone. Under load they are used up and the ends ride with others.
const SPARE_INTERVAL: Duration = Duration::from_micros(2_500);
const SPARE_BURST: u32 = 8;

/// How many of those syncs are left: a rate limiter in one instant (GCRA).
#[derive(Default)]
struct Spare {
    next: Option<Instant>,
}

impl Spare {
    fn take(&mut self, now: Instant) -> bool {
        let next = self.next.map_or(now, |next| next.max(now));
        let free = next < now + SPARE_INTERVAL * SPARE_BURST;
        if free {
            self.next = Some(next + SPARE_INTERVAL);
        }
        free
    }
}

impl Held {
    fn add(&mut self, ops: Vec<Op>) {
        if ops.is_empty() {
            return;
        }
        if self.until.is_none() {
            let now = Instant::now();
            self.until = Some(if self.spare.take(now) { now } else { now + HOLD });
        }
        self.items += ops.iter().map(|op| op.work.items()).sum::<usize>();
        self.ops.extend(ops);
        if self.items >= HOLD_ITEMS {
            self.until = Some(Instant::now());
        }
    }

    fn take(&mut self) -> Vec<Op> {
        self.items = 0;
        self.until = None;
        std::mem::take(&mut self.ops)
    }
}

#[cfg(test)]
mod spare_tests {
    use super::*;

    #[test]
    fn spare_syncs_are_bounded_and_come_back() {
        let (mut spare, start) = (Spare::default(), Instant::now());
        let taken = (0..100).filter(|_| spare.take(start)).count();
        assert_eq!(taken, SPARE_BURST as usize);
        assert!(spare.take(start + SPARE_INTERVAL) && !spare.take(start + SPARE_INTERVAL));
    }
}
