//! Which of the tasks that a worker would take may start under their limits.
//!
//! No dispatcher starts these, so they are asked for here, just before they are taken: what may run at once first, the rate last,
//! all limits of a task or none. What is granted is held in the name of the attempt until the owner of its partition counts it.
//!
//! What holds for a key that tasks name is what its document says, completed by what the latest accepted task says of it, whichever
//! is taken: the store remembers that.

use std::collections::BTreeMap;
use std::time::Duration;

use lovage_core::limit::is_built_in;
use lovage_core::{LimitRule, Millis, Ns, TaskKey};
use lovage_store::{Error, Hold, Holder, LimitReply, LimitRequest, SlotWish, TokenWish, attempt_holder};

use crate::app::App;
use crate::limits::Gate;

/// Longer than an owner takes to count an attempt, also if it has just taken over its partition.
const LEASE: Duration = Duration::from_secs(15);
/// When to look again after what may run at once: nobody tells when one of them ends.
const AGAIN: Duration = Duration::from_millis(250);

/// A task that would be taken.
pub(crate) struct Candidate {
    pub key: TaskKey,
    /// The number of the attempt that would start.
    pub attempt: u32,
    /// When it was accepted.
    pub created: Millis,
    pub gates: Vec<Gate>,
}

/// What was asked for a candidate.
struct Asked {
    candidate: usize,
    request: LimitRequest,
}

/// Whether each candidate may start, and when to ask again for those that may not.
pub(crate) struct Allowed {
    pub may: Vec<bool>,
    pub again: Option<Duration>,
}

impl Candidate {
    fn holder(&self) -> Holder {
        Holder::Attempt(attempt_holder(&self.key, self.attempt))
    }

    /// The request for one of its limits; `None`: that one has nothing to say of it.
    fn ask(&self, gate: &Gate, rates: bool) -> Option<LimitRequest> {
        let rule = gate.rule();
        let mut request = LimitRequest::look(self.key.ns, gate.key.clone(), rule);
        if rates {
            rule.rate?;
            let cost = gate.cost.min(rule.burst());
            request.tokens = Some(TokenWish { least: cost, most: cost, ahead: Duration::ZERO });
        } else {
            rule.concurrency?;
            request.slots = Some(SlotWish { holder: self.holder(), most: 1, lease: LEASE, wait: None });
        }
        Some(request)
    }
}

impl App {
    /// Takes what candidates need of their limits.
    pub(crate) async fn allow(&self, candidates: &mut [Candidate]) -> Result<Allowed, Error> {
        self.settle_rules(candidates).await?;
        let now = self.now();
        let open = |candidate: &Candidate| candidate.gates.iter().all(|gate| gate.stored.paused(now).is_none());
        let mut may: Vec<bool> = candidates.iter().map(open).collect();
        let mut again: Option<Duration> = may.contains(&false).then_some(AGAIN);
        let mut taken: Vec<(Asked, LimitReply)> = Vec::new();
        for rates in [false, true] {
            let mut asked = Vec::new();
            for (n, candidate) in candidates.iter().enumerate().filter(|(n, _)| may[*n]) {
                let requests = candidate.gates.iter().filter_map(|gate| candidate.ask(gate, rates));
                asked.extend(requests.map(|request| Asked { candidate: n, request }));
            }
            let replies = self.judge(asked.iter().map(|asked| asked.request.clone()).collect()).await?;
            for (asked, reply) in asked.into_iter().zip(replies) {
                let is_granted = if rates { reply.lot.is_some() } else { reply.slots > 0 };
                if !is_granted {
                    may[asked.candidate] = false;
                    let due = reply.retry_at.map(|at| Duration::from_micros(at.saturating_sub(reply.now)));
                    let due = due.unwrap_or(AGAIN).max(Duration::from_millis(5));
                    again = Some(again.map_or(due, |again| again.min(due)));
                }
                taken.push((asked, reply));
            }
        }
        // All limits of a task or none.
        let mut back: Vec<LimitRequest> = Vec::new();
        for (Asked { candidate, request }, reply) in taken.into_iter().filter(|(asked, _)| !may[asked.candidate]) {
            let mut request = LimitRequest { slots: None, tokens: None, submitted: None, ..request };
            if reply.slots > 0 {
                request.holds = vec![Hold { holder: candidates[candidate].holder(), count: 0, lease: LEASE }];
                back.push(request);
            } else if let Some(lot) = reply.lot {
                request.unused = Some((lot.count, reply.tat));
                back.push(request);
            }
        }
        // The latest first: only what was reserved last can be given back.
        back.reverse();
        self.give_back(back).await;
        Ok(Allowed { may, again })
    }

    /// Tells the store what these tasks say of their own keys, and puts in its place what the latest task says.
    async fn settle_rules(&self, candidates: &mut [Candidate]) -> Result<(), Error> {
        let mut said: BTreeMap<(Ns, String), (LimitRule, Option<(Millis, LimitRule)>)> = BTreeMap::new();
        for candidate in &*candidates {
            for gate in candidate.gates.iter().filter(|gate| !is_built_in(&gate.key)) {
                let key = (candidate.key.ns, gate.key.clone());
                let (_, latest) = said.entry(key).or_insert((gate.stored.rule, None));
                let own = Some((candidate.created, gate.own)).filter(|(_, own)| *own != LimitRule::default());
                *latest = latest.or(own).into_iter().chain(own).max_by_key(|(created, _)| *created);
            }
        }
        if said.is_empty() {
            return Ok(());
        }
        let asked = said.iter().map(|((ns, key), (rule, latest))| LimitRequest {
            submitted: *latest,
            ..LimitRequest::look(*ns, key.clone(), latest.map_or(*rule, |(_, own)| rule.over(own)))
        });
        let replies = self.judge(asked.collect()).await?;
        let rules =
            said.into_keys().zip(replies).map(|(key, reply)| (key, reply.submitted.map(|(_, rule)| rule).unwrap_or_default()));
        let rules: BTreeMap<(Ns, String), LimitRule> = rules.collect();
        for candidate in candidates {
            for gate in &mut candidate.gates {
                // Of built-in keys no task says anything.
                gate.own = rules.get(&(candidate.key.ns, gate.key.clone())).copied().unwrap_or_default();
            }
        }
        Ok(())
    }

    /// These were not taken after all: what may run at once is free again, the starts are lost.
    pub(crate) async fn release(&self, candidates: impl Iterator<Item = &Candidate>) {
        let mut back = Vec::new();
        for candidate in candidates {
            for gate in candidate.gates.iter().filter(|gate| gate.rule().concurrency.is_some()) {
                let mut request = LimitRequest::look(candidate.key.ns, gate.key.clone(), gate.rule());
                request.holds = vec![Hold { holder: candidate.holder(), count: 0, lease: LEASE }];
                back.push(request);
            }
        }
        self.give_back(back).await;
    }

    async fn give_back(&self, back: Vec<LimitRequest>) {
        match self.judge(back).await {
            Ok(replies) => drop(replies),
            // It ends by itself.
            Err(error) => error.log("give back what a task was granted"),
        }
    }

    /// Judges requests, and tells who waits for what they gave back.
    async fn judge(&self, mut requests: Vec<LimitRequest>) -> Result<Vec<LimitReply>, Error> {
        let most = self.store.caps().max_batch.max(1);
        let mut replies = Vec::new();
        while !requests.is_empty() {
            let rest = requests.split_off(requests.len().min(most));
            let keys: Vec<(Ns, String)> = requests.iter().map(|request| (request.ns, request.key.clone())).collect();
            // What the others were granted ends by itself.
            let judged: Vec<LimitReply> = self.store.limit(requests).await?.into_iter().collect::<Result<_, _>>()?;
            for (key, reply) in keys.into_iter().zip(&judged) {
                for session in &reply.wake {
                    // Who is not told asks again by itself.
                    if let Err(error) = self.store.wake(*session, std::slice::from_ref(&key)).await {
                        error.log("wake who waits for a limit");
                    }
                }
            }
            replies.extend(judged);
            requests = rest;
        }
        Ok(replies)
    }
}
