//! One key of a limit as this process knows it: what it holds, what it may still hand out, who waits, and what to ask for next.
//!
//! What may start here is never more than the store has granted: a slot that is free again may be used again for a moment if
//! nobody else waits, and is otherwise told back; a start that is not made is told back as soon as it is late.

use std::collections::BTreeSet;
use std::time::Duration;

use lovage_core::{LaneId, LimitRule, Millis, Ns, Partition, SessionId, StoredLimit};
use lovage_store::{Hold, Holder, LimitReply, LimitRequest, SlotWish, TokenWish};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::Need;
use super::line::Line;
use super::rules::{self, Kind};
use super::starts::Starts;

/// How long before they are due starts are reserved.
const AHEAD: Duration = Duration::from_millis(50);
/// More of them are asked for when those at hand end this soon.
const LOW: Duration = Duration::from_millis(25);
/// A slot that became free may be used again here for so long after the store was asked last.
const FRESH: Duration = Duration::from_millis(100);
/// A slot that nobody here uses is told back after this.
const UNUSED: Duration = Duration::from_millis(20);
/// The shortest and the longest wait before a wish is repeated.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Starts are not asked for more often, if there were none: they are reserved long enough before they are due.
const NO_SOONER: Duration = Duration::from_millis(5);

/// Accepted attempts of a partition that is owned here: how many, and when the last of them ends unless it is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    pub partition: u16,
    pub count: u32,
    pub until: Millis,
    /// Is to be told.
    pub news: bool,
    /// Not all of them are known yet: what was told by whoever counted them before is better.
    pub silent: bool,
}

/// Partitions of this process all of whose accepted attempts are known.
#[derive(Debug, Default)]
pub(super) struct Complete {
    pub partitions: BTreeSet<u16>,
    /// Rises when one comes.
    pub edition: u32,
}

/// See the module.
pub(super) struct State {
    pub ns: Ns,
    pub kind: Kind,
    pub name: Box<str>,
    pub number: u64,
    /// Those who may try to start something here.
    pub refs: u32,
    /// Attempts that this process has open.
    pub held: u32,
    /// When it is looked at next.
    pub visit_at: Option<Instant>,
    /// Its place in the line of those to be asked for.
    pub queued: bool,
    pub accepted: SmallVec<[Accepted; 1]>,
    /// Attempts that the owner of their partition counts from now on.
    pub handed: Vec<String>,
    stored: StoredLimit,
    /// What the latest task says that is known of, and whether the store was told.
    submitted: Option<(Millis, LimitRule)>,
    submitted_told: bool,
    rule: LimitRule,
    /// Slots that may be taken here.
    stock: u32,
    /// How many the store counts for this process at least.
    told: u32,
    /// Others wait for slots, or more run than may by a rule that has changed: none that is free is used again here.
    others: bool,
    /// Since when something is to be told back.
    freed_at: Option<Instant>,
    pub slot_line: Line,
    starts: Starts,
    pub start_line: Line,
    /// The edition of complete partitions of which the store was told what is accepted, if only that it is nothing.
    told_of: u32,
    /// Starts to be given back, and what was said of them last.
    unused: u32,
    tat: u64,
    /// The store knows that this process waits for slots.
    in_line: bool,
    calling: bool,
    /// Those who wait are to be told of an answer, whatever it brought.
    answered: bool,
    /// When the call began whose answer came last.
    asked_at: Option<Instant>,
    slots_again: Option<Instant>,
    slots_wait: Duration,
    starts_again: Option<Instant>,
    /// After a fault of the store: nothing is asked before this.
    pause: Option<Instant>,
    faults: u32,
}

impl State {
    pub(super) fn new(number: u64, ns: Ns, kind: Kind, name: &str, stored: StoredLimit) -> Self {
        Self {
            ns,
            kind,
            name: name.into(),
            number,
            refs: 0,
            held: 0,
            visit_at: None,
            queued: false,
            accepted: SmallVec::new(),
            handed: Vec::new(),
            stored,
            submitted: None,
            submitted_told: true,
            rule: stored.rule,
            stock: 0,
            told: 0,
            others: false,
            freed_at: None,
            slot_line: Line::default(),
            starts: Starts::default(),
            start_line: Line::default(),
            told_of: 0,
            unused: 0,
            tat: 0,
            in_line: false,
            calling: false,
            answered: false,
            asked_at: None,
            slots_again: None,
            slots_wait: AGAIN.0,
            starts_again: None,
            pause: None,
            faults: 0,
        }
    }

    pub(super) fn calling(&self) -> bool {
        self.calling
    }

    /// Nothing here or in the store depends on what is known here.
    pub(super) fn is_idle(&self) -> bool {
        let unused = self.refs == 0 && self.held == 0 && self.accepted.is_empty() && self.handed.is_empty();
        let nobody = [&self.slot_line, &self.start_line].iter().all(|line| line.is_empty() && line.promised() == 0);
        unused && nobody && !self.calling && self.told == 0 && self.unused == 0 && self.starts.left() == 0
    }

    /// The documents say this now; whether the rule in force changed.
    pub(super) fn store(&mut self, stored: StoredLimit) -> bool {
        let paused = std::mem::replace(&mut self.stored, stored).paused_until != stored.paused_until;
        self.settle_rule() || paused
    }

    /// What a task says that was accepted at this time; whether the rule in force changed.
    pub(super) fn submit(&mut self, created: Millis, rule: LimitRule) -> bool {
        if rule == LimitRule::default() {
            // It names the key and says nothing of it.
            return false;
        }
        match &mut self.submitted {
            Some((known, old)) if *known >= created || *old == rule => {
                if *old == rule {
                    *known = (*known).max(created);
                }
                false
            }
            _ => {
                self.submitted = Some((created, rule));
                self.submitted_told = false;
                self.settle_rule()
            }
        }
    }

    fn settle_rule(&mut self) -> bool {
        let rule = self.stored.rule.over(self.submitted.map_or_else(LimitRule::default, |(_, rule)| rule));
        if rule == self.rule {
            return false;
        }
        if (rule.rate, rule.burst) != (self.rule.rate, self.rule.burst) {
            // Another rate counts them differently.
            self.starts.clear();
            self.unused = 0;
        }
        self.rule = rule;
        // What was granted under the old rule is asked for anew.
        (self.stock, self.freed_at, self.others) = (0, Some(Instant::now()), true);
        if rule.concurrency.is_none() {
            // What the store counts for this process ends by itself.
            self.told = 0;
            self.handed.clear();
            self.accepted.retain(|accepted| accepted.count > 0);
        }
        self.slots_wait = AGAIN.0;
        (self.slots_again, self.starts_again) = (None, None);
        true
    }

    /// Until when nothing starts.
    pub(super) fn paused(&self, now: Millis) -> Option<Millis> {
        self.stored.paused(now)
    }

    /// Whether it says how many tasks may run at once.
    pub(super) fn counts(&self) -> bool {
        self.rule.concurrency.is_some()
    }

    /// Whether there is no slot for this lane of this partition.
    pub(super) fn lacks_slot(&self, partition: u16, lane: LaneId) -> bool {
        // What others say of it may rule it.
        let unknown = self.kind == Kind::Own && self.asked_at.is_none();
        unknown || (self.rule.concurrency.is_some() && !self.slot_line.leaves(partition, lane, self.stock, 1))
    }

    /// Whether there is no start of this cost for this lane of this partition.
    pub(super) fn lacks_start(&self, partition: u16, lane: LaneId, cost: u32, now: Instant) -> bool {
        self.rule.rate.is_some() && !self.start_line.leaves(partition, lane, self.starts.ripe(now), self.cost(cost))
    }

    /// A cost that was allowed when its task was accepted may be more than a later rule allows.
    pub(super) fn cost(&self, cost: u32) -> u32 {
        cost.min(self.rule.burst())
    }

    /// A start, of a task that was let through.
    pub(super) fn start(&mut self, partition: u16, lane: LaneId, cost: u32, now: Instant) {
        self.held += 1;
        if self.rule.concurrency.is_some() {
            self.slot_line.settle(partition, lane, 1);
            self.stock = self.stock.saturating_sub(1);
            if self.stock == 0 {
                self.freed_at = None;
            }
        }
        if self.rule.rate.is_some() {
            let cost = self.cost(cost);
            self.start_line.settle(partition, lane, cost);
            self.starts.take(cost, now);
        }
    }

    /// An attempt is over; whether somebody has to see to it.
    pub(super) fn end(&mut self, now: Instant) -> bool {
        self.held = self.held.saturating_sub(1);
        if self.rule.concurrency.is_none() {
            return false;
        }
        // Slots beyond what the store counts were never granted.
        if self.held + self.stock < self.told {
            if self.may_reuse(now) {
                self.stock += 1;
            }
            self.freed_at = self.freed_at.or(Some(now));
        }
        true
    }

    fn may_reuse(&self, now: Instant) -> bool {
        !self.others && self.asked_at.is_some_and(|at| now < at + FRESH)
    }

    /// An attempt of this partition is accepted: nobody's connection holds it any more, if one of this process did. `taken`: the
    /// worker took it itself, and it is counted under this name. Whether somebody has to see to it.
    pub(super) fn accept(&mut self, new: Accepted, from_here: bool, taken: Option<&str>) -> bool {
        // Not used again: the store is told of both counts at once.
        self.held -= u32::from(from_here && self.held > 0);
        match self.accepted.iter_mut().find(|accepted| accepted.partition == new.partition) {
            Some(known) => {
                known.count += new.count;
                known.until = known.until.max(new.until);
                known.news = true;
            }
            None => self.accepted.push(new),
        }
        let counts = self.rule.concurrency.is_some();
        if counts {
            self.handed.extend(taken.map(str::to_owned));
        }
        counts
    }

    /// An accepted attempt ended; whether somebody has to see to it.
    pub(super) fn unaccept(&mut self, partition: u16) -> bool {
        let counts = self.rule.concurrency.is_some();
        if let Some(known) = self.accepted.iter_mut().find(|accepted| accepted.partition == partition) {
            known.count = known.count.saturating_sub(1);
            known.news = true;
        }
        if !counts {
            self.accepted.retain(|accepted| accepted.count > 0);
        }
        counts
    }

    /// Hands out what is there; `wake` is told of partitions and numbers of lanes. Then whether the store is to be asked. `look`: how
    /// often it is asked for what others said.
    pub(super) fn visit(&mut self, now: Instant, look: Duration, wake: &mut impl FnMut(Need, u16, u32)) -> bool {
        self.slot_line.expire(now);
        self.start_line.expire(now);
        let unknown = self.kind == Kind::Own && self.asked_at.is_none();
        match self.rule.concurrency {
            None if !unknown => self.slot_line.dissolve(|partition, lanes| wake(Need::Slot, partition, lanes)),
            _ => self.slot_line.serve(self.stock, now, |partition, lanes| wake(Need::Slot, partition, lanes)),
        }
        if self.rule.rate.is_some() {
            let keep = if self.start_line.is_empty() { 0 } else { self.start_line.first_cost() };
            self.unused += self.starts.drop_late(now, keep.max(self.start_line.promised()));
            self.start_line.serve(self.starts.ripe(now), now, |partition, lanes| wake(Need::Start, partition, lanes));
        } else {
            self.start_line.dissolve(|partition, lanes| wake(Need::Start, partition, lanes));
        }
        if self.slot_line.is_empty() && self.slot_line.promised() == 0 && self.freed_at.is_none() && self.stock > 0 {
            self.freed_at = Some(now);
        }
        if std::mem::take(&mut self.answered) {
            self.slot_line.partitions().for_each(|partition| wake(Need::Slot, partition, 0));
            self.start_line.partitions().for_each(|partition| wake(Need::Start, partition, 0));
        }
        !self.calling && self.is_to_be_asked_for(now, look)
    }

    /// The store is being asked, or is about to be.
    pub(super) fn asks(&self, now: Instant, look: Duration) -> bool {
        self.calling || self.queued || self.is_to_be_asked_for(now, look)
    }

    fn is_to_be_asked_for(&self, now: Instant, look: Duration) -> bool {
        self.asks_at(now, look).is_some_and(|at| at <= now)
    }

    /// When to look again although nothing happened; `None`: nothing is to come.
    pub(super) fn next(&self, now: Instant, look: Duration) -> Option<Instant> {
        let soon = now + Duration::from_millis(1);
        let promises = [self.slot_line.promised_until(), self.start_line.promised_until()];
        // One that stands in the line of those to be asked for is looked at when it has been.
        let ask = self.asks_at(now, look).filter(|_| !self.calling && !self.queued);
        promises.into_iter().chain([self.starts.next(now), ask]).flatten().min().map(|at| at.max(soon))
    }

    /// When the store is to be asked next.
    fn asks_at(&self, now: Instant, look: Duration) -> Option<Instant> {
        let mut at: Option<Instant> = None;
        let mut by = |then: Instant| at = Some(at.map_or(then, |at| at.min(then)));
        let lane_waits = !self.slot_line.is_empty();
        if self.kind == Kind::Own && (self.refs > 0 || self.held > 0 || lane_waits || !self.start_line.is_empty()) {
            // Nothing to lose: what it finds is in force soon.
            by(self.asked_at.map_or(now, |asked| asked + if self.submitted_told { look } else { AGAIN.0 }));
        }
        if self.rule.concurrency.is_some() {
            if !self.handed.is_empty() || self.accepted.iter().any(|accepted| accepted.news && !accepted.silent) {
                by(now);
            }
            let kept = self.held + self.stock;
            if kept > self.told || (self.told > kept && (self.others || lane_waits)) {
                by(now);
            } else if let Some(freed) = self.freed_at.filter(|_| self.told > self.held) {
                by(freed + UNUSED);
            }
            if lane_waits && self.rule.concurrency != Some(0) && self.slot_line.lanes() > self.free_stock() {
                by(self.slots_again.unwrap_or(now));
            } else if self.in_line && !lane_waits {
                by(now);
            }
            if self.told > 0 || self.held > 0 || self.accepted.iter().any(|accepted| !accepted.silent) {
                by(self.asked_at.map_or(now, |asked| asked + super::RENEW));
            }
        }
        if self.unused > 0 {
            by(now);
        }
        if self.rule.rate.is_some() && !self.start_line.is_empty() && self.starts.left() < self.wanted_starts() {
            // As many as can be used are asked for before the last one is due.
            let low = self.starts.last().map_or(now, |last| last - LOW);
            by(low.max(self.starts_again.unwrap_or(now)));
        }
        at.map(|at| self.pause.map_or(at, |pause| at.max(pause)))
    }

    fn free_stock(&self) -> u32 {
        self.stock.saturating_sub(self.slot_line.promised())
    }

    fn wanted_starts(&self) -> u32 {
        let Some(rate) = self.rule.rate else { return 0 };
        let in_time = AHEAD.as_micros() * u128::from(rate.count()) / (u128::from(rate.per().secs()) * 1_000_000);
        let most = u32::try_from(in_time).unwrap_or(u32::MAX).saturating_add(self.rule.burst());
        (self.start_line.wanted() + self.start_line.promised()).min(most)
    }

    /// What is asked of the store now.
    pub(super) fn request(
        &mut self,
        session: SessionId,
        lease: Duration,
        complete: &Complete,
        now: Instant,
        store_now: Millis,
    ) -> LimitRequest {
        let mut request = LimitRequest::look(self.ns, rules::Key(self.kind, &self.name).to_string(), self.rule);
        self.calling = true;
        request.submitted = self.submitted.filter(|_| self.kind == Kind::Own);
        self.submitted_told = true;
        if self.rule.concurrency.is_some() {
            // What is promised is on its way to be used; the rest is asked for with all others.
            self.stock = self.stock.min(self.slot_line.promised());
            self.told = self.held + self.stock;
            self.freed_at = None;
            request.holds.push(Hold { holder: Holder::Session(session), count: self.told, lease });
            let most = if self.rule.concurrency == Some(0) { 0 } else { self.slot_line.wanted() };
            if most > 0 || self.in_line {
                let holder = Holder::Session(session);
                request.slots = Some(SlotWish { holder, most, lease, wait: Some(session) });
            }
        } else {
            (self.told, self.stock, self.freed_at) = (0, 0, None);
        }
        let counted = self.accepted.iter_mut().filter(|accepted| !accepted.silent && self.rule.concurrency.is_some());
        for accepted in counted {
            accepted.news = false;
            let holder = Holder::Partition(Partition(accepted.partition));
            // If nobody owns the partition any more, they are counted until they end.
            let lease = lease.max(accepted.until.since(store_now));
            request.holds.push(Hold { holder, count: accepted.count, lease });
        }
        if self.in_line && self.told_of != complete.edition {
            // What is waited for may have been accepted, and have ended while nobody owned its partition.
            self.told_of = complete.edition;
            let known = |p: &u16| self.accepted.iter().any(|accepted| accepted.partition == *p);
            for p in complete.partitions.iter().filter(|p| !known(p)) {
                request.holds.push(Hold { holder: Holder::Partition(Partition(*p)), count: 0, lease });
            }
        }
        for name in self.handed.drain(..) {
            request.holds.push(Hold { holder: Holder::Attempt(name), count: 0, lease });
        }
        request.unused = Some((std::mem::take(&mut self.unused), self.tat)).filter(|(count, _)| *count > 0);
        let short = self.wanted_starts().saturating_sub(self.starts.left());
        if self.rule.rate.is_some() && !self.start_line.is_empty() && short > 0 && self.starts_again.is_none_or(|at| at <= now) {
            let least = self.start_line.first_cost().min(self.rule.burst());
            // What is at hand already counts for the first one.
            let least = least.saturating_sub(self.starts.left()).max(1);
            request.tokens = Some(TokenWish { least, most: short.max(least), ahead: AHEAD });
        }
        request
    }

    /// What was answered, to a call that began at `began`; whether the rule in force changed.
    pub(super) fn answer(&mut self, asked: &LimitRequest, reply: LimitReply, began: Instant, now: Instant) -> bool {
        (self.calling, self.answered, self.pause, self.faults) = (false, true, None, 0);
        self.asked_at = Some(began);
        self.accepted.retain(|accepted| accepted.count > 0 || accepted.news);
        if self.rule == asked.rule {
            self.stock += reply.slots;
        }
        self.told += reply.slots;
        if let Some(wish) = &asked.slots {
            let unmet = reply.slots < wish.most;
            self.in_line = unmet;
            // This process stands in line too.
            self.others = reply.waiting > u32::from(unmet);
            if reply.slots > 0 {
                self.slots_wait = AGAIN.0;
            }
            self.slots_again = unmet.then_some(now + self.slots_wait);
            if unmet && reply.slots == 0 {
                self.slots_wait = (self.slots_wait * 2).min(AGAIN.1);
            }
        } else {
            self.others = reply.waiting > u32::from(self.in_line);
        }
        self.others |= asked.rule != self.rule || asked.rule.concurrency.is_some_and(|most| reply.in_use > most);
        let came = reply.lot.as_ref().map_or(0, |lot| lot.count);
        if came > 0 {
            // What others reserve later is told as well, and must not be taken back from them; nor can starts that come before these.
            (self.tat, self.unused) = (reply.tat, 0);
        }
        if let Some(lot) = reply.lot.filter(|_| self.rule == asked.rule) {
            self.starts.add(lot, now, reply.now);
        }
        if let Some(wish) = &asked.tokens {
            let told = reply.retry_at.map_or(now, |at| now + Duration::from_micros(at.saturating_sub(reply.now)));
            self.starts_again = (came < wish.most).then(|| told.max(now + NO_SOONER));
        }
        match reply.submitted {
            Some((created, rule)) if self.kind == Kind::Own => {
                let changed = self.submit(created, rule);
                self.submitted_told |= changed;
                changed
            }
            _ => false,
        }
    }

    /// The store did not answer: what was told may hold, what was asked for may be granted; nothing is used here.
    pub(super) fn fault(&mut self, asked: &LimitRequest, now: Instant) {
        (self.calling, self.answered) = (false, true);
        (self.submitted_told, self.told_of) = (false, 0);
        self.pause = Some(now + (AGAIN.0 * 4).saturating_mul(1 << self.faults.min(3)).min(AGAIN.1));
        self.faults += 1;
        for accepted in &mut self.accepted {
            accepted.news = true;
        }
        let handed = asked.holds.iter().filter_map(|hold| match &hold.holder {
            Holder::Attempt(name) => Some(name.clone()),
            _ => None,
        });
        self.handed.extend(handed);
    }

    /// What this partition was woken for, it does not use now.
    pub(super) fn pass_on(&mut self, need: Need, partition: u16, amount: u32) {
        let line = match need {
            Need::Slot => &mut self.slot_line,
            Need::Start => &mut self.start_line,
        };
        line.settle_any(partition, amount);
    }

    /// A lane waits for something else: others may have the slot it was woken for, unless it is kept for it until then. Whether
    /// anything changed.
    pub(super) fn release_slot(&mut self, partition: u16, lane: LaneId, keep: Option<Instant>) -> bool {
        self.slot_line.release(partition, lane, 1, keep)
    }

    /// The same of starts.
    pub(super) fn release_start(&mut self, partition: u16, lane: LaneId, cost: u32, keep: Option<Instant>) -> bool {
        let cost = self.cost(cost);
        self.start_line.release(partition, lane, cost, keep)
    }

    /// Whether it is not known that there are no starts before this.
    pub(super) fn has_starts_by(&self, at: Instant) -> bool {
        self.starts_again.is_none_or(|again| again <= at)
    }

    /// How long it takes on average until there is another start; zero: there is no rate.
    pub(super) fn interval(&self) -> Duration {
        self.rule.rate.map_or(Duration::ZERO, |rate| Duration::from_secs(rate.per().secs()) / rate.count().max(1))
    }

    /// Nothing starts here any more.
    pub(super) fn give_back(&mut self) {
        self.slot_line = Line::default();
        self.start_line = Line::default();
        self.stock = 0;
        self.freed_at = Instant::now().checked_sub(UNUSED);
        self.unused += self.starts.clear();
    }

    /// Somebody else gave slots back.
    pub(super) fn woken(&mut self) {
        self.slots_again = None;
        self.slots_wait = AGAIN.0;
    }

    /// All who wait try anew.
    pub(super) fn dissolve(&mut self, wake: &mut impl FnMut(Need, u16, u32)) {
        self.slot_line.dissolve(|partition, lanes| wake(Need::Slot, partition, lanes));
        self.start_line.dissolve(|partition, lanes| wake(Need::Start, partition, lanes));
    }

    /// A start that was let through is not made.
    pub(super) fn unmake(&mut self, cost: u32) {
        if self.rule.rate.is_some() {
            self.unused += self.cost(cost);
        }
    }
}
