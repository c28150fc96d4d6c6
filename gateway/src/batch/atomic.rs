//! All items or none: one call of the store, so all of one partition.
//!
//! What exists already and is the same request, or has a unique key that is to be shared, is fine as it is: the rest is tried
//! again without it. Each round takes at least one item out or takes a key from one that has it no longer by right.

use ahash::AHashMap;
use lovage_core::problem::{Code, Problem};
use lovage_core::{Draft, IdRun, Millis, Ns, OnConflict, Partition, SessionId, Slot, TaskKey};
use lovage_store::{Commit, Committed, Effect, Insert, Inserted, KeyEntry, KeyKind, Mode, Sync};

use super::Answer;
use super::array::Answers;
use crate::app::App;
use crate::intake::{Idempotency, id_exists, odd_answer};
use crate::keys::{Coming, Replaced, Stop, Verdict};
use crate::problem::store_problem;

/// Rounds before a request is given up whose keys change hands all the time.
const SPARE_ROUNDS: usize = 32;

/// Items that belong together.
pub(crate) struct Whole {
    pub drafts: Vec<Draft>,
    pub idempotency: Option<Idempotency>,
    /// They are refused unless they are a repetition.
    pub refused: Option<Problem>,
}

/// The items of a request on their way.
struct Round<'a> {
    app: &'a App,
    partition: Partition,
    items: Vec<Coming>,
    answers: Vec<Option<Answer>>,
    idempotency: Option<&'a Idempotency>,
    /// The ids that are made for this request.
    run: IdRun,
    made: u32,
    /// The item with the first of them.
    first_made: usize,
    /// Items whose answer is a task of another request.
    given: Vec<(u32, TaskKey)>,
    /// Items that take the place of another task.
    replaced: Vec<(usize, Replaced)>,
}

impl App {
    /// Stores all items, or answers why none was stored; pointers start with the index of the item.
    pub(crate) async fn insert_atomic(&self, ns: Ns, now: Millis, whole: Whole) -> Result<Answers, Problem> {
        let Whole { drafts, idempotency, refused } = whole;
        if drafts.is_empty() {
            return Ok(Answers { items: Vec::new(), replayed: false });
        }
        one_of_each_key(&drafts)?;
        let (partition, slot) = self.one_home(ns, &drafts, idempotency.as_ref())?;
        let rooms = if refused.is_none() { self.rooms_for_all(ns, &drafts).await.map(Some) } else { Ok(None) };
        let (rooms, refused) = match rooms {
            Ok(rooms) => (rooms, refused),
            Err(full) => (None, Some(full)),
        };
        if let Some(refused) = refused {
            let Some(idempotency) = &idempotency else { return Err(refused) };
            let entry = self.key_entry(partition, ns, idempotency).await.map_err(|error| store_problem(&error))?;
            if entry.is_none_or(|entry| idempotency.replay(&entry).is_err()) {
                return Err(refused);
            }
        }
        self.ensure_queues(ns, drafts.iter().map(|draft| &draft.spec)).await.map_err(|error| Problem::from(Stop::from(error)))?;
        let mut noted = None;
        if let Some(idempotency) = &idempotency {
            let task = TaskKey::new(ns, IdRun::new(now, slot, self.random()).nth(0));
            noted = self.note_request(idempotency, partition, &task).await.map_err(Stop::from)??;
        }
        let done = self.insert_together(ns, now, drafts, idempotency.as_ref(), slot).await;
        if let (Err(problem), Some(noted)) = (&done, noted)
            && problem.code.status() < 500
        {
            self.forget_request(noted).await;
        }
        match (rooms, &done) {
            (Some(rooms), Ok(done)) => rooms.settle(&done.items),
            (Some(rooms), Err(problem)) if problem.code.status() < 500 => rooms.give_back(),
            _ => {}
        }
        done
    }

    /// Stores items that all live where `slot` does.
    async fn insert_together(
        &self,
        ns: Ns,
        now: Millis,
        drafts: Vec<Draft>,
        idempotency: Option<&Idempotency>,
        slot: Slot,
    ) -> Result<Answers, Problem> {
        let mut round = Round {
            app: self,
            partition: slot.partition(self.partitions()),
            items: Vec::with_capacity(drafts.len()),
            answers: Vec::new(),
            idempotency,
            run: IdRun::new(now, slot, self.random()),
            made: 0,
            first_made: 0,
            given: Vec::new(),
            replaced: Vec::new(),
        };
        round.answers.resize_with(drafts.len(), || None);
        for (n, draft) in drafts.into_iter().enumerate() {
            let id = draft.id.clone().unwrap_or_else(|| round.new_id(n));
            round.items.push(self.coming_as(TaskKey::new(ns, id), draft, None));
        }
        for _ in 0..round.items.len() + SPARE_ROUNDS {
            if round.open().is_empty() {
                return round.done(false).await;
            }
            if let Some(first) = round.play().await? {
                return Ok(Answers { items: round.repeat(&first), replayed: true });
            }
        }
        Err(Problem::new(Code::Overloaded, "its keys change hands too fast; try again"))
    }

    /// The one partition of all items, and the slot for generated ids.
    fn one_home(&self, ns: Ns, drafts: &[Draft], idempotency: Option<&Idempotency>) -> Result<(Partition, Slot), Problem> {
        let most = self.store.caps().max_batch.max(1);
        if drafts.len() > most {
            return Err(Problem::invalid("", format!("at most {most} items can be stored together")));
        }
        let partitions = self.partitions();
        let bound = |draft: &Draft| draft.spec.bound(ns).or_else(|| Some(draft.id.as_ref()?.slot(ns)));
        let wanted = idempotency.map(|key| key.slot(ns));
        let slot = match (drafts.iter().find_map(bound), wanted) {
            (Some(first), Some(wanted)) if first.partition(partitions) != wanted.partition(partitions) => first,
            (_, Some(wanted)) => wanted,
            (Some(first), None) => first,
            (None, None) => self.next_slot(drafts.len()),
        };
        let partition = slot.partition(partitions);
        let elsewhere = |slot: Option<Slot>| slot.is_some_and(|slot| slot.partition(partitions) != partition);
        for (index, draft) in drafts.iter().enumerate() {
            let field = match (&draft.spec.unique, &draft.spec.debounce) {
                _ if elsewhere(draft.id.as_ref().map(|id| id.slot(ns))) => "id",
                _ if draft.spec.order_key.is_some() && elsewhere(draft.spec.bound(ns)) => "order_key",
                (Some(_), _) if elsewhere(draft.spec.bound(ns)) => "unique/key",
                (_, Some(_)) if elsewhere(draft.spec.bound(ns)) => "debounce/key",
                _ if elsewhere(draft.spec.bound(ns)) => "queue",
                _ => continue,
            };
            let message = "lives in another partition than an item before or its own key; such items cannot be stored together";
            return Err(Problem::new(Code::InvalidField, message).field(format!("/{index}/{field}"), message));
        }
        Ok((partition, slot))
    }
}

impl Round<'_> {
    fn new_id(&mut self, n: usize) -> lovage_core::TaskId {
        self.first_made = if self.made == 0 { n } else { self.first_made };
        self.made += 1;
        self.run.nth(self.made - 1)
    }

    fn open(&self) -> Vec<usize> {
        (0..self.items.len()).filter(|n| self.answers[*n].is_none()).collect()
    }

    /// Tries to store what is open. `Some`: the idempotency key belongs to the request that made this task.
    async fn play(&mut self) -> Result<Option<KeyEntry>, Problem> {
        let open = self.open();
        let now = self.app.now();
        let mut inserts: Vec<Insert> = open.iter().map(|n| self.items[*n].insert(self.app, now)).collect();
        if let Some(idempotency) = self.idempotency {
            let holder = open.iter().position(|n| *n == self.first_made).unwrap_or_default();
            let put = idempotency.put_with(self.app, now, self.made, &self.run, &self.given);
            // Before the other keys: what was done before is answered before a key that is taken.
            inserts[holder].keys.insert(0, put);
        }
        if !self.replaced.is_empty() {
            return self.replace(&open, inserts, now).await;
        }
        let inserted = self.app.store.insert(self.partition, inserts, Mode::Atomic).await.map_err(Stop::from)?;
        let mut moved = false;
        for (n, inserted) in open.into_iter().zip(inserted) {
            moved |= inserted != Inserted::Aborted;
            match inserted {
                Inserted::Ok { .. } => self.answers[n] = Some(Answer::Stored(self.items[n].key.id.clone())),
                Inserted::Exists(_) => self.exists(n, self.partition).await?,
                Inserted::Aborted => {}
                Inserted::Conflict { kind: KeyKind::Idempotency, entry, .. } => return self.replayed(entry),
                Inserted::Conflict { kind: KeyKind::Directory, entry, .. } => {
                    if let Some(p) = self.app.look_behind(&self.items[n].key, entry).await.map_err(Stop::from)? {
                        self.exists(n, p).await?;
                    }
                }
                Inserted::Conflict { kind, entry, head } => match self.items[n].judge(kind, &entry, head.as_ref(), now) {
                    Verdict::Take => self.items[n].take_from(&entry, head.as_ref()),
                    Verdict::Return => {
                        self.given.push((n as u32, entry.task.clone()));
                        self.answers[n] = Some(Answer::Existing(entry.task.id));
                    }
                    Verdict::Refuse(problem) => return Err(problem.at_index(n)),
                    Verdict::Replace(reason) => {
                        self.items[n].take_from(&entry, head.as_ref());
                        self.items[n].continue_burst(&entry, reason);
                        self.replaced.extend(head.map(|head| (n, Replaced { holder: entry.task, head, reason })));
                    }
                },
                Inserted::Late => return Err(odd_answer(&inserted)),
            }
        }
        if moved { Ok(None) } else { Err(odd_answer(&Inserted::Aborted)) }
    }

    /// Calls off those whose place is taken, and stores the open items in the same step.
    async fn replace(&mut self, open: &[usize], inserts: Vec<Insert>, now: Millis) -> Result<Option<KeyEntry>, Problem> {
        let mut commits: Vec<(usize, Commit)> = Vec::new();
        for (n, replaced) in std::mem::take(&mut self.replaced) {
            match self.app.call_off(self.partition, &replaced, now).await? {
                Some(commit) => commits.push((n, commit)),
                // It has changed: what that means is judged anew.
                None => self.items[n].take_from_nobody(),
            }
        }
        let Some((first, _)) = commits.first() else { return Ok(None) };
        let first = *first;
        for (n, insert) in open.iter().zip(inserts) {
            let with = commits.iter_mut().find(|(of, _)| of == n);
            let spawn = Effect::Spawn(Box::new(insert));
            match with {
                Some((_, commit)) => commit.effects.push(spawn),
                None => commits.iter_mut().filter(|(of, _)| *of == first).for_each(|(_, commit)| {
                    commit.effects.push(spawn.clone());
                }),
            }
        }
        let taken: Vec<usize> = commits.iter().map(|(n, _)| *n).collect();
        let commits = commits.into_iter().map(|(_, commit)| commit).collect();
        let done = self.app.store.commit(self.partition, SessionId(0), commits, Mode::Atomic, Sync::Durable).await;
        if done.map_err(Stop::from)?.iter().any(|done| *done != Committed::Ok) {
            for n in taken {
                self.items[n].take_from_nobody();
            }
            return Ok(None);
        }
        for n in open {
            // An id that was taken at the last moment is left alone by a commit.
            if self.items[*n].has_own_id() {
                self.exists(*n, self.partition).await?;
            }
            self.answers[*n] = Some(Answer::Stored(self.items[*n].key.id.clone()));
        }
        Ok(None)
    }

    /// Answers an item whose id is taken.
    async fn exists(&mut self, n: usize, p: Partition) -> Result<(), Problem> {
        let item = &self.items[n];
        if !self.app.is_same(p, &item.key, item.spec().request_hash).await.map_err(Stop::from)? {
            return Err(id_exists(&item.key.id).at_index(n));
        }
        self.answers[n] = Some(Answer::Existing(item.key.id.clone()));
        Ok(())
    }

    fn replayed(&self, entry: KeyEntry) -> Result<Option<KeyEntry>, Problem> {
        match self.idempotency {
            Some(idempotency) => idempotency.replay(&entry).map(|_| Some(entry)),
            None => Err(Problem::new(Code::Fault, "the store named a key that no item takes")),
        }
    }

    async fn done(self, replayed: bool) -> Result<Answers, Problem> {
        let stored = self.answers.iter().flatten().any(|answer| matches!(answer, Answer::Stored(_)));
        if let (false, Some(idempotency), Some((_, holder))) = (stored, self.idempotency, self.given.first()) {
            // Nothing was stored that could take the key along.
            let put = idempotency.put_with(self.app, self.app.now(), self.made, &self.run, &self.given);
            if let Some(entry) = self.app.remember(self.partition, put, holder.clone()).await.map_err(Stop::from)? {
                idempotency.replay(&entry)?;
                return Ok(Answers { items: self.repeat(&entry), replayed: true });
            }
        }
        Ok(Answers { items: self.answers.into_iter().flatten().collect(), replayed })
    }

    /// The answers of the request that took the key: its ids are the clients', those of its run, and those of other tasks that
    /// were its answer.
    fn repeat(&self, entry: &KeyEntry) -> Vec<Answer> {
        let (run, given) = Idempotency::made(entry);
        let mut made = 0;
        let ids = self.items.iter().enumerate().filter_map(|(n, item)| {
            let own = item.has_own_id().then(|| item.key.id.clone()).or_else(|| {
                made += 1;
                run.as_ref().map(|run| run.nth(made - 1))
            });
            given.iter().find(|(place, _)| *place as usize == n).map(|(_, id)| id.clone()).or(own)
        });
        ids.map(Answer::Existing).collect()
    }
}

/// Items that are stored together cannot take each other's place.
fn one_of_each_key(drafts: &[Draft]) -> Result<(), Problem> {
    // Of each key: whether somebody would take the place of another.
    let mut keys: AHashMap<(&str, String), bool> = AHashMap::new();
    for (n, draft) in drafts.iter().enumerate() {
        let (field, key, replaces) = match (&draft.spec.unique, &draft.spec.debounce) {
            (Some(unique), _) => {
                let name = draft.spec.unique_name().unwrap_or_default();
                ("unique", name, unique.on_conflict == OnConflict::Replace)
            }
            (None, Some(debounce)) => ("debounce", debounce.key.clone(), true),
            (None, None) => continue,
        };
        match keys.insert((field, key), replaces) {
            Some(before) if before || replaces => {
                let message = "is the key of an item before, and one would take the place of the other";
                return Err(Problem::invalid(format!("/{n}/{field}/key"), message));
            }
            _ => {}
        }
    }
    Ok(())
}
