//! What is kept of one key, and how a request changes it.

use std::collections::{BTreeMap, VecDeque};

use lovage_core::{LimitRule, Millis, SessionId, gcra};

use super::book::Times;
use super::{Hold, Holder, LINE, LimitReply, LimitRequest, SlotWish, rate};

/// Some of the concurrency.
#[derive(Debug)]
struct Held {
    count: u32,
    until: Millis,
}

/// A session that stands in line.
#[derive(Debug)]
struct Waiting {
    session: SessionId,
    /// How many it asked for and did not get.
    wants: u32,
    asked: Millis,
    /// It was told that there may be something, and has not asked since.
    woken: bool,
}

/// The state of one key.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Nanoseconds; 0: never used.
    tat: u64,
    holders: BTreeMap<Holder, Held>,
    /// What all of them hold.
    in_use: u32,
    /// No holder's end is before this.
    earliest: Millis,
    line: VecDeque<Waiting>,
    submitted: Option<Box<(Millis, LimitRule)>>,
}

impl State {
    /// Whether nothing is lost when it is forgotten.
    pub(super) fn is_idle(&mut self, now: &Times) -> bool {
        self.expire(now);
        self.tat.div_ceil(1_000) <= now.rate && self.holders.is_empty() && self.line.is_empty()
    }

    /// Carries out a request.
    pub(super) fn judge(&mut self, now: &Times, request: &LimitRequest) -> LimitReply {
        self.expire(now);
        for hold in &request.holds {
            self.hold(now, hold);
        }
        if let (Some((count, tat)), Some(rate)) = (request.unused, request.rule.rate)
            && tat == self.tat.div_ceil(1_000)
        {
            rate::give_back(&mut self.tat, count, rate);
        }
        let slots = request.slots.as_ref().map_or(0, |wish| self.grant(now, request.rule.concurrency, wish));
        // Others of a holder that has some may be what the starts are for.
        let has_none = |wish: &SlotWish| wish.most > 0 && !self.holders.contains_key(&wish.holder);
        let starved = request.slots.as_ref().is_some_and(has_none);
        let mut reply = LimitReply { now: now.rate, slots, ..LimitReply::default() };
        if let (Some(wish), Some(rate), false) = (&request.tokens, request.rule.rate, starved) {
            // What was reserved far ahead is no trace of a slower rule.
            let ahead = u64::try_from(wish.ahead.as_micros()).unwrap_or(u64::MAX).saturating_sub(gcra::MOST_AHEAD);
            let tat = gcra::under(self.tat.div_ceil(1_000), now.rate.saturating_add(ahead), rate, request.rule.burst());
            self.tat = self.tat.min(tat.saturating_mul(1_000));
            (reply.lot, reply.retry_at) = rate::reserve(&mut self.tat, now.rate, rate, request.rule.burst(), wish);
        }
        if let Some((at, rule)) = request.submitted
            && self.submitted.as_ref().is_none_or(|known| known.0 <= at)
        {
            self.submitted = Some(Box::new((at, rule)));
        }
        if !request.only_looks() {
            let asking = request.slots.as_ref().and_then(|wish| wish.wait);
            reply.wake = self.wake(request.rule.concurrency, asking);
        }
        reply.tat = self.tat.div_ceil(1_000);
        reply.in_use = self.in_use;
        reply.waiting = self.line.len() as u32;
        reply.submitted = self.submitted.as_deref().copied();
        reply
    }

    /// Drops holders whose time is over, and sessions that have not asked for long.
    fn expire(&mut self, now: &Times) {
        if !self.holders.is_empty() && self.earliest <= now.lease {
            self.holders.retain(|_, held| held.until > now.lease);
            self.in_use = self.holders.values().map(|held| held.count).fold(0, u32::saturating_add);
            self.earliest = self.holders.values().map(|held| held.until).min().unwrap_or(Millis::MAX);
        }
        self.line.retain(|waiting| waiting.asked.after(LINE) > now.lease);
    }

    fn hold(&mut self, now: &Times, hold: &Hold) {
        let was = if hold.count == 0 {
            self.holders.remove(&hold.holder)
        } else {
            let until = now.lease.after(hold.lease);
            self.earliest = if self.holders.is_empty() { until } else { self.earliest.min(until) };
            self.holders.insert(hold.holder.clone(), Held { count: hold.count, until })
        };
        self.in_use = self.in_use.saturating_sub(was.map_or(0, |was| was.count)).saturating_add(hold.count);
    }

    /// Grants as much of a wish as is free and nobody in front waits for.
    fn grant(&mut self, now: &Times, concurrency: Option<u32>, wish: &SlotWish) -> u32 {
        let place = wish.wait.and_then(|session| self.line.iter().position(|waiting| waiting.session == session));
        let in_front = self.line.iter().take(place.unwrap_or(self.line.len()));
        let in_front = in_front.map(|waiting| waiting.wants).fold(0, u32::saturating_add);
        let granted = match concurrency {
            Some(most) => wish.most.min(most.saturating_sub(self.in_use).saturating_sub(in_front)),
            None => wish.most,
        };
        if granted > 0 {
            let held = self.holders.get(&wish.holder).map_or((0, Millis(0)), |held| (held.count, held.until));
            let lease = wish.lease.max(held.1.since(now.lease));
            self.hold(now, &Hold { holder: wish.holder.clone(), count: held.0.saturating_add(granted), lease });
        }
        let Some(session) = wish.wait else { return granted };
        let waiting = Waiting { session, wants: wish.most - granted, asked: now.lease, woken: false };
        match place {
            // Who got nothing keeps its place.
            Some(place) if waiting.wants > 0 && granted == 0 => self.line[place] = waiting,
            other => {
                if let Some(place) = other {
                    self.line.remove(place);
                }
                if waiting.wants > 0 {
                    self.line.push_back(waiting);
                }
            }
        }
        granted
    }

    /// Those in front of the line for whom there is something, unless they know or are asking right now.
    fn wake(&mut self, concurrency: Option<u32>, asking: Option<SessionId>) -> Vec<SessionId> {
        let mut free = concurrency.map_or(u32::MAX, |most| most.saturating_sub(self.in_use));
        let mut wake = Vec::new();
        for waiting in &mut self.line {
            if free == 0 {
                break;
            }
            free = free.saturating_sub(waiting.wants);
            if !waiting.woken && asking != Some(waiting.session) {
                waiting.woken = true;
                wake.push(waiting.session);
            }
        }
        wake
    }
}
