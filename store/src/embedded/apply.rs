//! Carries out operations within the writer's open transaction: guards first, then the changes.
//!
//! A refused item writes nothing, so a batch needs no savepoint. Only an atomic batch has one, to undo the items before
//! the refused one, and a commit whose spawned tasks take keys, which may turn out to be taken.

use lovage_core::attempt::KEPT_ENTRIES;
use lovage_core::{Head, Millis, State, TaskKey};
use rusqlite::{Connection, OptionalExtension, Statement, params};

use super::barrier::Barriers;
use super::bodies::Bodies;
use super::books::{Books, Move, Side};
use super::keys::{Conflict, Keys};
use super::outbox::Outbox;
use super::row::{self, head_columns};
use crate::{
    Claim, Claimed, Commit, Committed, DocOutcome, Effect, FeedPos, FeedRow, Insert, Inserted, KeyEntry, KeyTake, Mode, OnExists,
    Result,
};

/// The answer to one operation, kept until the transaction is committed.
pub(super) enum Outcome {
    Inserts(Vec<Inserted>),
    Claims(Result<Vec<Claimed>>),
    Commits(Vec<Committed>),
    Documents(Vec<DocOutcome>),
    Key(Option<KeyEntry>),
    Delivered,
    Refused(crate::Error),
}

/// The writer's statements, prepared once per connection.
pub(super) struct Statements<'c> {
    conn: &'c Connection,
    insert_task: Statement<'c>,
    update_task: Statement<'c>,
    delete_task: Statement<'c>,
    head: Statement<'c>,
    insert_body: Statement<'c>,
    read_body: Statement<'c>,
    update_body: Statement<'c>,
    delete_body: Statement<'c>,
    put_result: Statement<'c>,
    delete_result: Statement<'c>,
    add_attempt: Statement<'c>,
    trim_attempts: Statement<'c>,
    delete_attempts: Statement<'c>,
    keys: Keys<'c>,
    barriers: Barriers<'c>,
    outbox: Outbox<'c>,
}

impl<'c> Statements<'c> {
    pub(super) fn prepare(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            conn,
            insert_task: conn.prepare(row::INSERT)?,
            update_task: conn.prepare(row::UPDATE)?,
            delete_task: conn.prepare(row::DELETE)?,
            head: conn.prepare(concat!("SELECT ", head_columns!(), " FROM task WHERE key = ?1"))?,
            insert_body: conn.prepare("INSERT INTO body VALUES (?1, ?2)")?,
            read_body: conn.prepare("SELECT bytes FROM body WHERE seq = ?1")?,
            update_body: conn.prepare("UPDATE body SET bytes = ?2 WHERE seq = ?1")?,
            delete_body: conn.prepare("DELETE FROM body WHERE seq = ?1")?,
            put_result: conn.prepare("INSERT OR REPLACE INTO result VALUES (?1, ?2)")?,
            delete_result: conn.prepare("DELETE FROM result WHERE seq = ?1")?,
            add_attempt: conn
                .prepare("INSERT INTO attempt SELECT ?1, coalesce(max(n), 0) + 1, ?2 FROM attempt WHERE seq = ?1 RETURNING n")?,
            trim_attempts: conn.prepare("DELETE FROM attempt WHERE seq = ?1 AND n <= ?2")?,
            delete_attempts: conn.prepare("DELETE FROM attempt WHERE seq = ?1")?,
            keys: Keys::prepare(conn)?,
            barriers: Barriers::prepare(conn)?,
            outbox: Outbox::prepare(conn)?,
        })
    }
}

/// What one operation changes, as readers of the feed and the books are told.
#[derive(Default)]
struct Changes {
    rows: Vec<FeedRow>,
    moves: Vec<Move>,
    /// Messages were put into the outbox.
    sends: bool,
}

impl Changes {
    /// Drops what was added after `mark`.
    fn undo(&mut self, mark: (usize, usize, bool)) {
        self.rows.truncate(mark.0);
        self.moves.truncate(mark.1);
        self.sends = mark.2;
    }

    /// A change of a task that is counted in the first of `queues` before and in the second after.
    fn add(&mut self, key: &TaskKey, queues: (usize, usize), was: Option<&Head>, now: Option<Head>) {
        let side = |queue, head: &Head| Side { queue, state: head.state, lane: head.lane };
        self.moves.push(Move { from: was.map(|head| side(queues.0, head)), to: now.as_ref().map(|head| side(queues.1, head)) });
        self.rows.push(FeedRow { key: key.clone(), head: now });
    }
}

/// One round's view of the writer's state.
pub(super) struct Apply<'a, 'c> {
    pub(super) statements: &'a mut Statements<'c>,
    pub(super) books: &'a mut Books,
    pub(super) bodies: &'a mut Bodies,
    pub(super) now: Millis,
}

type Applied<T> = rusqlite::Result<(T, News)>;

/// What readers of the feed are told: the rows, and whether messages were put into the outbox.
pub(super) type News = (Vec<FeedRow>, bool);

impl Apply<'_, '_> {
    pub(super) fn inserts(&mut self, items: &[Insert], mode: Mode) -> Applied<Vec<Inserted>> {
        self.batch(items, mode, Self::insert, |answer| matches!(answer, Inserted::Ok { .. }), || Inserted::Aborted)
    }

    pub(super) fn commits(&mut self, items: &[Commit], mode: Mode) -> Applied<Vec<Committed>> {
        self.batch(items, mode, Self::commit, |answer| *answer == Committed::Ok, || Committed::Aborted)
    }

    pub(super) fn claims(&mut self, items: &[Claim]) -> Applied<Vec<Claimed>> {
        self.batch(items, Mode::Each, Self::claim, |_| true, || Claimed::Stale)
    }

    /// Applies items one by one; an atomic batch with a refused item is undone as a whole.
    fn batch<I, A>(
        &mut self,
        items: &[I],
        mode: Mode,
        one: impl Fn(&mut Self, &I, &mut Changes) -> rusqlite::Result<A>,
        ok: impl Fn(&A) -> bool,
        aborted: impl Fn() -> A,
    ) -> Applied<Vec<A>> {
        let mut changes = Changes { rows: Vec::with_capacity(items.len()), moves: Vec::with_capacity(items.len()), sends: false };
        let mut answers = Vec::with_capacity(items.len());
        let atomic = mode == Mode::Atomic && items.len() > 1;
        if atomic {
            self.statements.conn.execute_batch("SAVEPOINT atomic")?;
        }
        for item in items {
            answers.push(one(self, item, &mut changes)?);
        }
        if atomic {
            if !answers.iter().all(&ok) {
                self.statements.conn.execute_batch("ROLLBACK TO atomic")?;
                changes = Changes::default();
                for answer in answers.iter_mut().filter(|a| ok(a)) {
                    *answer = aborted();
                }
            }
            self.statements.conn.execute_batch("RELEASE atomic")?;
        }
        for change in &changes.moves {
            self.books.apply(self.statements.conn, change)?;
        }
        Ok((answers, (changes.rows, changes.sends)))
    }

    fn insert(&mut self, item: &Insert, changes: &mut Changes) -> rusqlite::Result<Inserted> {
        if item.not_after.is_some_and(|limit| self.now > limit) {
            return Ok(Inserted::Late);
        }
        if !item.keys.is_empty() {
            // An id that is taken goes before a key that is taken.
            if item.exists == OnExists::Return
                && let Some(head) = self.head(&item.key)?
            {
                return Ok(Inserted::Exists(head));
            }
            if let Some(Conflict { kind, entry, head }) = self.statements.keys.conflict(self.now, item, None)? {
                return Ok(Inserted::Conflict { kind, entry, head });
            }
        }
        Ok(match self.store(item, changes)? {
            Some(seq) => Inserted::Ok { seq },
            None => match self.head(&item.key)? {
                Some(head) => Inserted::Exists(head),
                None => return Err(rusqlite::Error::QueryReturnedNoRows),
            },
        })
    }

    /// Stores a task and its keys; `None` if its id is taken.
    fn store(&mut self, item: &Insert, changes: &mut Changes) -> rusqlite::Result<Option<u64>> {
        let key = item.key.to_bytes();
        let seq = self.books.take_seq();
        let mut head = item.head.clone();
        head.seq = seq;
        let s = &mut *self.statements;
        row::bind(&mut s.insert_task, seq, &key, &head)?;
        s.insert_task.raw_bind_parameter(24, item.root.as_ref().map(TaskKey::to_bytes).as_deref())?;
        if s.insert_task.raw_execute()? == 0 {
            return Ok(None);
        }
        s.insert_body.raw_bind_parameter(1, seq as i64)?;
        s.insert_body.raw_bind_parameter(2, &item.body[..])?;
        s.insert_body.raw_execute()?;
        s.keys.put_all(item)?;
        self.bodies.put(seq, item.body.clone());
        if head.lane.0 != 0 {
            self.books.define(s.conn, head.lane, &item.lane)?;
        }
        let queue = self.books.queue(item.lane.ns, &item.lane.queue);
        changes.add(&item.key, (queue, queue), None, Some(head));
        Ok(Some(seq))
    }

    pub(super) fn delivered(&mut self, messages: &[FeedPos]) -> rusqlite::Result<()> {
        self.statements.outbox.remove(messages)
    }

    pub(super) fn key(&mut self, take: &KeyTake) -> rusqlite::Result<Option<KeyEntry>> {
        self.statements.keys.take(self.now, take)
    }

    fn claim(&mut self, item: &Claim, changes: &mut Changes) -> rusqlite::Result<Claimed> {
        let was = &item.was;
        if !self.rewrite(&item.key.to_bytes(), was, Some(&item.head))? {
            return Ok(Claimed::Stale);
        }
        let seq = was.seq;
        self.leave_barrier(was, Some(&item.head))?;
        let queue = self.books.queue(item.key.ns, &item.queue);
        changes.add(&item.key, (queue, queue), Some(was), Some(Head { seq, ..item.head.clone() }));
        if let Some(body) = self.bodies.take(seq) {
            return Ok(Claimed::Ok(body));
        }
        let s = &mut *self.statements;
        let body = s.read_body.query_row([seq as i64], |r| Ok(bytes::Bytes::copy_from_slice(r.get_ref(0)?.as_blob()?)));
        Ok(Claimed::Ok(body.optional()?.unwrap_or_else(|| {
            tracing::error!(task = %item.key.id, "the task has no body");
            bytes::Bytes::new()
        })))
    }

    fn commit(&mut self, item: &Commit, changes: &mut Changes) -> rusqlite::Result<Committed> {
        if !item.may_conflict() {
            return self.commit_parts(item, changes);
        }
        let mark = (changes.rows.len(), changes.moves.len(), changes.sends);
        self.statements.conn.execute_batch("SAVEPOINT item")?;
        let answer = self.commit_parts(item, changes)?;
        if answer != Committed::Ok {
            self.statements.conn.execute_batch("ROLLBACK TO item")?;
            changes.undo(mark);
        }
        self.statements.conn.execute_batch("RELEASE item")?;
        Ok(answer)
    }

    fn commit_parts(&mut self, item: &Commit, changes: &mut Changes) -> rusqlite::Result<Committed> {
        let was = &item.was;
        if !self.rewrite(&item.key.to_bytes(), was, item.head.as_ref())? {
            return self.head(&item.key).map(Committed::Stale);
        }
        let seq = was.seq as i64;
        let queue = self.books.queue(item.key.ns, &item.queue);
        let mut next = queue;
        if let Some(lane) = item.moves_to() {
            self.books.define(self.statements.conn, lane.id(), lane)?;
            next = self.books.queue(lane.ns, &lane.queue);
        }
        changes.add(&item.key, (queue, next), Some(was), item.head.as_ref().map(|h| Head { seq: was.seq, ..h.clone() }));
        self.leave_barrier(was, item.head.as_ref())?;
        let s = &mut *self.statements;
        if item.head.is_none() {
            self.bodies.take(was.seq);
            s.keys.free_all(&item.key)?;
            s.delete_body.execute([seq])?;
            s.delete_result.execute([seq])?;
            s.delete_attempts.execute([seq])?;
        } else {
            if let Some(body) = &item.body {
                self.bodies.take(was.seq);
                s.update_body.execute(params![seq, &body[..]])?;
            }
            match &item.result {
                Some(Some(result)) => drop(s.put_result.execute(params![seq, &result[..]])?),
                Some(None) => drop(s.delete_result.execute([seq])?),
                None => {}
            }
            if let Some(attempt) = &item.attempt {
                let n: i64 = s.add_attempt.query_row(params![seq, &attempt[..]], |row| row.get(0))?;
                if n > KEPT_ENTRIES as i64 {
                    s.trim_attempts.execute([seq, n - KEPT_ENTRIES as i64])?;
                }
            }
        }
        for effect in &item.effects {
            match effect {
                Effect::Spawn(child) => {
                    if !child.keys.is_empty() {
                        if self.head(&child.key)?.is_some() {
                            continue;
                        }
                        let found = self.statements.keys.conflict(self.now, child, Some(&item.key))?;
                        if let Some(Conflict { kind, entry, .. }) = found {
                            return Ok(Committed::Conflict { kind, entry });
                        }
                    }
                    self.store(child, changes)?;
                }
                Effect::Barrier { members } => {
                    let blocked = item.head.as_ref().is_some_and(|head| head.state == State::Blocked);
                    if blocked && self.statements.barriers.make(was.seq, *members)? {
                        self.wake(&item.key, changes)?;
                    }
                }
                Effect::Arrive { barrier, index } => {
                    if let Some(head) = self.head(barrier)?
                        && self.statements.barriers.arrive(head.seq, *index)?
                    {
                        self.wake(barrier, changes)?;
                    }
                }
                Effect::TakeKey(put) => {
                    if let Some(entry) = self.statements.keys.take_with(self.now, &item.key, put)? {
                        return Ok(Committed::Conflict { kind: put.kind, entry });
                    }
                }
                Effect::FreeKey { kind, key } => self.statements.keys.free(&item.key, *kind, key)?,
                Effect::Send { to, message } => {
                    self.statements.outbox.put(self.now, &message.encode(*to))?;
                    changes.sends = true;
                }
            }
        }
        Ok(Committed::Ok)
    }

    /// Forgets the barrier of a task that is no longer blocked.
    fn leave_barrier(&mut self, was: &Head, now: Option<&Head>) -> rusqlite::Result<()> {
        if was.state == State::Blocked && now.is_none_or(|head| head.state != State::Blocked) {
            self.statements.barriers.remove(was.seq)?;
        }
        Ok(())
    }

    /// Makes the wait of a blocked task run out: all that it waited for has arrived.
    fn wake(&mut self, key: &TaskKey, changes: &mut Changes) -> rusqlite::Result<()> {
        let Some(was) = self.head(key)? else { return Ok(()) };
        let head = Head { version: was.version + 1, deadline: self.now, ..was.clone() };
        if self.rewrite(&key.to_bytes(), &was, Some(&head))? {
            // Neither state nor lane has changed, so the books need not know.
            changes.rows.push(FeedRow { key: key.clone(), head: Some(head) });
        }
        Ok(())
    }

    /// Rewrites or deletes a head if it is still `was`.
    fn rewrite(&mut self, key: &[u8], was: &Head, now: Option<&Head>) -> rusqlite::Result<bool> {
        let s = &mut *self.statements;
        if let Some(head) = now {
            row::bind(&mut s.update_task, was.seq, key, head)?;
            row::bind_guard(&mut s.update_task, 24, was)?;
            return Ok(s.update_task.raw_execute()? == 1);
        }
        s.delete_task.raw_bind_parameter(1, was.seq as i64)?;
        s.delete_task.raw_bind_parameter(2, key)?;
        row::bind_guard(&mut s.delete_task, 3, was)?;
        Ok(s.delete_task.raw_execute()? == 1)
    }

    fn head(&mut self, key: &TaskKey) -> rusqlite::Result<Option<Head>> {
        self.statements.head.query_row([&key.to_bytes()[..]], row::head).optional()
    }
}
