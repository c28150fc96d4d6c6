//! Limits: rates and concurrency that hold for all who ask, and the line of those who wait.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use lovage_core::gcra::Lot;
use lovage_core::units::{Period, Rate};
use lovage_core::{LimitRule, Millis, Ns, Partition, SessionId};

use super::Fixture;
use super::kit::{Kit, LONG, OTHER, SESSION, eventually};
use crate::{Hold, Holder, LimitReply, LimitRequest, SlotWish, TokenWish};

const THIRD: SessionId = SessionId(0x5e55_0003);

/// Ten an hour: whatever a case takes of real time is nothing to it.
fn slow(burst: u32) -> LimitRule {
    LimitRule { rate: Rate::new(10, Period::Hour), burst: Some(burst), concurrency: None }
}

/// The time between two starts of [`slow`] in microseconds.
const INTERVAL: u64 = 360_000_000;

fn at_once(most: u32) -> LimitRule {
    LimitRule { rate: None, burst: None, concurrency: Some(most) }
}

fn look(key: &str, rule: LimitRule) -> LimitRequest {
    LimitRequest::look(Ns(1), key, rule)
}

fn starts(key: &str, rule: LimitRule, least: u32, most: u32) -> LimitRequest {
    LimitRequest { tokens: Some(TokenWish { least, most, ahead: Duration::ZERO }), ..look(key, rule) }
}

fn slots(key: &str, rule: LimitRule, session: SessionId, most: u32, wait: bool) -> LimitRequest {
    let wish = SlotWish { holder: Holder::Session(session), most, lease: LONG, wait: wait.then_some(session) };
    LimitRequest { slots: Some(wish), ..look(key, rule) }
}

fn holds(key: &str, rule: LimitRule, session: SessionId, count: u32) -> LimitRequest {
    LimitRequest { holds: vec![Hold { holder: Holder::Session(session), count, lease: LONG }], ..look(key, rule) }
}

async fn ask(kit: &Kit<'_>, request: LimitRequest) -> LimitReply {
    let mut replies = kit.store.limit(vec![request]).await.unwrap();
    assert_eq!(replies.len(), 1);
    replies.remove(0).unwrap()
}

/// How many starts a reply has.
fn count(reply: &LimitReply) -> u32 {
    reply.lot.map_or(0, |lot| lot.count)
}

/// Runs a case under keys of its own until it took so little time that no place in line was lost on the way.
async fn in_time(kit: &Kit<'_>, case: impl AsyncFn(&str)) {
    for n in 0.. {
        let began = kit.now();
        case(&format!("key-{n}")).await;
        if kit.now().since(began) < Duration::from_secs(1) {
            return;
        }
    }
}

/// A burst may start at once, then nothing until the rate allows it again; the reply says when that is.
pub async fn a_burst_then_the_rate(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let first = ask(&kit, starts("k", slow(3), 1, 10)).await;
    let lot = first.lot.unwrap();
    assert_eq!((lot.count, lot.base, lot.burst), (3, first.now, 3));
    assert!(lot.due(2) <= first.now);
    assert_eq!(first.tat, lot.base + 3 * INTERVAL);
    assert_eq!(first.retry_at, Some(lot.base + INTERVAL));
    let second = ask(&kit, starts("k", slow(3), 1, 10)).await;
    assert_eq!((second.lot, second.retry_at, second.tat), (None, first.retry_at, first.tat));
    assert!(second.now >= first.now);
    // The whole burst is there again when its last start is due.
    let more = ask(&kit, starts("k", slow(3), 3, 3)).await;
    assert_eq!((more.lot, more.retry_at), (None, Some(lot.base + 3 * INTERVAL)));
    if kit.pass_if_free(Duration::from_secs(360)) {
        assert_eq!(count(&ask(&kit, starts("k", slow(3), 1, 10)).await), 1);
    }
}

/// Starts that are not due yet are reserved, each with its own time.
pub async fn reserved_ahead(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let ahead = Duration::from_micros(2 * INTERVAL + 5_000_000);
    let wish = TokenWish { least: 1, most: 10, ahead };
    let reply = ask(&kit, LimitRequest { tokens: Some(wish), ..look("k", slow(1)) }).await;
    let lot = reply.lot.unwrap();
    assert_eq!((lot.count, lot.base), (3, reply.now));
    assert_eq!([0, 1, 2].map(|n| lot.due(n)), [reply.now, reply.now + INTERVAL, reply.now + 2 * INTERVAL]);
    assert_eq!(reply.retry_at, Some(lot.base + 3 * INTERVAL - ahead.as_micros() as u64));
    assert_eq!(ask(&kit, LimitRequest { tokens: Some(wish), ..look("k", slow(1)) }).await.lot, None);
}

/// Whoever comes when told to is served.
pub async fn what_is_told_to_come_again_comes(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let rule = LimitRule { rate: Rate::new(5, Period::Second), ..LimitRule::default() };
    let first = ask(&kit, starts("k", rule, 1, 1)).await;
    assert_eq!((count(&first), first.retry_at), (1, None));
    let refused = ask(&kit, starts("k", rule, 1, 1)).await;
    if let Some(at) = refused.retry_at {
        assert_eq!(at, first.now + 200_000);
        kit.pass(Duration::from_micros(at - refused.now) + Duration::from_millis(2)).await;
        eventually("the start is granted", async || {
            let reply = ask(&kit, starts("k", rule, 1, 1)).await;
            assert!(count(&reply) == 0 || reply.now >= at, "{reply:?}");
            count(&reply) == 1
        })
        .await;
    } else {
        // The machine was slow; then it was allowed.
        assert!(refused.now >= first.now + 200_000, "{refused:?}");
    }
}

/// A task that counts for several gets all of them or none, and never more than a burst.
pub async fn all_that_is_needed_or_none(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    assert_eq!(count(&ask(&kit, starts("k", slow(5), 3, 3)).await), 3);
    let refused = ask(&kit, starts("k", slow(5), 3, 3)).await;
    assert_eq!(refused.lot, None);
    assert_eq!(refused.retry_at, Some(refused.tat - 2 * INTERVAL));
    assert_eq!(count(&ask(&kit, starts("k", slow(5), 2, 4)).await), 2);
    let never = ask(&kit, starts("never", slow(5), 6, 6)).await;
    assert_eq!((never.lot, never.tat), (None, 0));
    assert!(never.retry_at.is_some_and(|at| at > never.now), "{never:?}");
}

/// What was reserved and is not needed is there again, unless somebody reserved since.
pub async fn unused_starts_are_given_back(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let first = ask(&kit, starts("k", slow(5), 5, 5)).await;
    let back = ask(&kit, LimitRequest { unused: Some((2, first.tat)), ..look("k", slow(5)) }).await;
    assert_eq!(back.tat, first.tat - 2 * INTERVAL);
    let again = ask(&kit, starts("k", slow(5), 1, 5)).await;
    assert_eq!((count(&again), again.tat), (2, first.tat));
    assert_eq!(again.lot.unwrap().due(0), first.lot.unwrap().due(3));
    let stale = ask(&kit, LimitRequest { unused: Some((5, back.tat)), ..look("k", slow(5)) }).await;
    assert_eq!(stale.tat, first.tat);
    // Given back and taken in one call.
    let both = LimitRequest { unused: Some((5, first.tat)), ..starts("k", slow(5), 1, 3) };
    assert_eq!(count(&ask(&kit, both).await), 3);
}

/// Without a rule everything is granted.
pub async fn without_a_rule_all_is_granted(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let rule = LimitRule::default();
    let both = LimitRequest { tokens: Some(TokenWish { least: 1, most: 9, ahead: LONG }), ..slots("k", rule, SESSION, 7, true) };
    let reply = ask(&kit, both).await;
    assert_eq!((reply.slots, reply.lot, reply.retry_at, reply.in_use, reply.waiting), (7, None, None, 7, 0));
    // The rule that comes later counts what runs already.
    assert_eq!(ask(&kit, slots("k", at_once(7), OTHER, 1, false)).await.slots, 0);
}

/// The rule of each call is the one in force.
pub async fn a_rule_may_change(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    assert_eq!(count(&ask(&kit, starts("rate", slow(2), 1, 9)).await), 2);
    assert_eq!(count(&ask(&kit, starts("rate", slow(6), 1, 9)).await), 4);
    assert_eq!(count(&ask(&kit, starts("rate", slow(3), 1, 9)).await), 0);
    let fast = LimitRule { rate: Rate::new(1_000_000, Period::Second), ..slow(1) };
    // What was reserved under the old rate has to pass first.
    assert_eq!(count(&ask(&kit, starts("rate", fast, 1, 1)).await), 0);
    assert_eq!(ask(&kit, slots("most", at_once(4), SESSION, 9, false)).await.slots, 4);
    assert_eq!(ask(&kit, slots("most", at_once(2), OTHER, 1, false)).await.slots, 0);
    assert_eq!(ask(&kit, holds("most", at_once(2), SESSION, 1)).await.in_use, 1);
    assert_eq!(ask(&kit, slots("most", at_once(2), OTHER, 9, false)).await.slots, 1);
    assert_eq!(ask(&kit, slots("most", at_once(0), THIRD, 1, false)).await.slots, 0);
}

/// What is held is told as a whole: telling it twice counts once.
pub async fn counts_are_absolute(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    for told in [2, 2, 3, 1, 1] {
        assert_eq!(ask(&kit, holds("k", at_once(9), SESSION, told)).await.in_use, told);
    }
    let others = [Holder::Partition(Partition(7)), Holder::Attempt("a:b c".into())];
    let others = others.map(|holder| Hold { holder, count: 2, lease: LONG });
    let reply = ask(&kit, LimitRequest { holds: others.to_vec(), ..look("k", at_once(9)) }).await;
    assert_eq!(reply.in_use, 5);
    assert_eq!(ask(&kit, slots("k", at_once(9), SESSION, 3, false)).await.in_use, 8);
    // What was granted is known to whoever tells the next time.
    assert_eq!(ask(&kit, holds("k", at_once(9), SESSION, 2)).await.in_use, 6);
    let gone = others.map(|hold| Hold { count: 0, ..hold });
    assert_eq!(ask(&kit, LimitRequest { holds: gone.to_vec(), ..look("k", at_once(9)) }).await.in_use, 2);
    assert_eq!(ask(&kit, look("k", at_once(9))).await.in_use, 2);
    assert_eq!(ask(&kit, holds("k", at_once(9), SESSION, 0)).await.in_use, 0);
}

/// A holder that is not told of any more is none.
pub async fn holders_expire(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let short = Duration::from_millis(300);
    let hold = |holder, count, lease| Hold { holder, count, lease };
    let request = LimitRequest {
        holds: vec![hold(Holder::Session(SESSION), 1, LONG), hold(Holder::Attempt("x".into()), 1, short)],
        ..slots("k", at_once(3), OTHER, 9, false)
    };
    assert_eq!(ask(&kit, request).await.slots, 1);
    kit.pass(short + Duration::from_millis(2)).await;
    let reply = ask(&kit, slots("k", at_once(3), THIRD, 9, false)).await;
    assert_eq!((reply.slots, reply.in_use), (1, 3));
    // A grant is good for its lease as well.
    let wish = SlotWish { holder: Holder::Session(SESSION), most: 5, lease: short, wait: None };
    let reply = ask(&kit, LimitRequest { slots: Some(wish), ..look("grant", at_once(2)) }).await;
    assert_eq!((reply.slots, reply.in_use), (2, 2));
    kit.pass(short + Duration::from_millis(2)).await;
    assert_eq!(ask(&kit, look("grant", at_once(2))).await.in_use, 0);
}

/// Who came first is served first, and told when there is something.
pub async fn first_come_first_served(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    in_time(&kit, async |key| {
        assert_eq!(ask(&kit, slots(key, at_once(1), SESSION, 1, true)).await.slots, 1);
        let second = ask(&kit, slots(key, at_once(1), OTHER, 1, true)).await;
        assert_eq!((second.slots, second.waiting, second.wake.len()), (0, 1, 0));
        assert_eq!(ask(&kit, slots(key, at_once(1), THIRD, 1, true)).await.waiting, 2);
        // The second asks again and keeps its place.
        assert_eq!(ask(&kit, slots(key, at_once(1), OTHER, 1, true)).await.slots, 0);
        let free = ask(&kit, holds(key, at_once(1), SESSION, 0)).await;
        assert_eq!((free.wake, free.waiting), (vec![OTHER], 2));
        // It is told once.
        assert_eq!(ask(&kit, holds(key, at_once(1), SESSION, 0)).await.wake, []);
        assert_eq!(ask(&kit, slots(key, at_once(1), THIRD, 1, true)).await.slots, 0);
        assert_eq!(ask(&kit, slots(key, at_once(1), SESSION, 1, true)).await.slots, 0);
        let second = ask(&kit, slots(key, at_once(1), OTHER, 1, true)).await;
        assert_eq!((second.slots, second.waiting), (1, 2));
        let free = ask(&kit, holds(key, at_once(1), OTHER, 0)).await;
        assert_eq!(free.wake, [THIRD]);
        // Whoever wants nothing any more leaves, and whoever is next is told.
        assert_eq!(ask(&kit, slots(key, at_once(1), THIRD, 0, true)).await.wake, [SESSION]);
        assert_eq!(ask(&kit, slots(key, at_once(1), SESSION, 1, true)).await.waiting, 0);
    })
    .await;
}

/// Whoever always wants more than there is takes turns with the others.
pub async fn all_have_their_turn(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    in_time(&kit, async |key| {
        let mut turns = Vec::new();
        for _ in 0..4 {
            for session in [SESSION, OTHER, THIRD] {
                let got = ask(&kit, slots(key, at_once(2), session, 50, true)).await.slots;
                turns.extend((0..got).map(|_| session));
                ask(&kit, holds(key, at_once(2), session, 0)).await;
            }
        }
        let of = |session| turns.iter().filter(|turn| **turn == session).count();
        assert!([SESSION, OTHER, THIRD].into_iter().all(|session| of(session) >= 6), "{turns:?}");
    })
    .await;
}

/// More becomes free than those in front want: those behind are told and served too.
pub async fn what_is_left_goes_on(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    in_time(&kit, async |key| {
        assert_eq!(ask(&kit, slots(key, at_once(5), SESSION, 5, false)).await.slots, 5);
        ask(&kit, slots(key, at_once(5), OTHER, 2, true)).await;
        ask(&kit, slots(key, at_once(5), THIRD, 9, true)).await;
        assert_eq!(ask(&kit, holds(key, at_once(5), SESSION, 3)).await.wake, [OTHER]);
        assert_eq!(ask(&kit, holds(key, at_once(5), SESSION, 1)).await.wake, [THIRD]);
        // Two of the four that are free are kept for the one in front.
        assert_eq!(ask(&kit, slots(key, at_once(5), THIRD, 9, true)).await.slots, 2);
        assert_eq!(ask(&kit, slots(key, at_once(5), SessionId(4), 9, false)).await.slots, 0);
        assert_eq!(ask(&kit, slots(key, at_once(5), OTHER, 2, true)).await.slots, 2);
    })
    .await;
}

/// A session that does not ask any more loses its place.
pub async fn a_place_in_line_is_lost(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    ask(&kit, holds("k", at_once(1), SESSION, 1)).await;
    assert_eq!(ask(&kit, slots("k", at_once(1), OTHER, 1, true)).await.waiting, 1);
    kit.pass(Duration::from_millis(2_050)).await;
    assert_eq!(ask(&kit, look("k", at_once(1))).await.waiting, 0);
    ask(&kit, holds("k", at_once(1), SESSION, 0)).await;
    assert_eq!(ask(&kit, slots("k", at_once(1), THIRD, 1, true)).await.slots, 1);
}

/// Who gets no slot reserves no start.
pub async fn without_a_slot_no_start(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let rule = LimitRule { concurrency: Some(1), ..slow(5) };
    let both = |session| LimitRequest {
        tokens: Some(TokenWish { least: 1, most: 1, ahead: Duration::ZERO }),
        ..slots("k", rule, session, 1, false)
    };
    let first = ask(&kit, both(SESSION)).await;
    assert_eq!((first.slots, count(&first)), (1, 1));
    let second = ask(&kit, both(OTHER)).await;
    assert_eq!((second.slots, second.lot, second.tat), (0, None, first.tat));
    // Who has one already may need the start for that, whoever else it wants another one for.
    let third = ask(&kit, both(SESSION)).await;
    assert_eq!((third.slots, count(&third)), (0, 1));
}

/// A look changes nothing, and finds nothing where nothing is.
pub async fn looks_change_nothing(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let nothing = ask(&kit, look("unknown", slow(3))).await;
    assert_eq!(nothing, LimitReply { now: nothing.now, ..LimitReply::default() });
    assert!(Millis(nothing.now / 1_000).since(kit.now()) < Duration::from_secs(60), "{nothing:?}");
    let rule = LimitRule { concurrency: Some(2), ..slow(3) };
    in_time(&kit, async |key| {
        let took = ask(&kit, starts(key, rule, 2, 2)).await;
        ask(&kit, slots(key, rule, SESSION, 2, true)).await;
        ask(&kit, slots(key, rule, OTHER, 1, true)).await;
        // Nobody is told by a look although something is free by this rule.
        let more = LimitRule { concurrency: Some(9), ..rule };
        let mut seen = Vec::new();
        for _ in 0..2 {
            seen.push(LimitReply { now: 0, ..ask(&kit, look(key, more)).await });
        }
        assert_eq!(seen[0], seen[1]);
        assert_eq!((seen[0].tat, seen[0].in_use, seen[0].waiting), (took.tat, 2, 1));
        assert_eq!(ask(&kit, holds(key, more, SESSION, 2)).await.wake, [OTHER]);
    })
    .await;
}

/// The rule that the latest task told is remembered, whoever told it when.
pub async fn the_latest_rule_of_a_task_is_remembered(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    ask(&kit, holds("k", at_once(9), SESSION, 1)).await;
    let said = |at, most| Some((Millis(at), at_once(most)));
    let tell = |at, most| LimitRequest { submitted: said(at, most), ..look("k", at_once(9)) };
    assert_eq!(ask(&kit, look("k", at_once(9))).await.submitted, None);
    assert_eq!(ask(&kit, tell(1_000, 5)).await.submitted, said(1_000, 5));
    assert_eq!(ask(&kit, tell(999, 6)).await.submitted, said(1_000, 5));
    let full = LimitRule { concurrency: Some(3), ..slow(2) };
    let latest = LimitRequest { submitted: Some((Millis(10_000), full)), ..look("k", at_once(9)) };
    assert_eq!(ask(&kit, latest).await.submitted, Some((Millis(10_000), full)));
    assert_eq!(ask(&kit, look("k", at_once(9))).await.submitted, Some((Millis(10_000), full)));
}

/// The largest numbers are as good as any.
pub async fn the_largest_numbers(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let rule = LimitRule { rate: Rate::new(1, Period::Hour), burst: Some(u32::MAX), concurrency: Some(u32::MAX) };
    let wish = SlotWish { holder: Holder::Session(SESSION), most: u32::MAX, lease: Duration::MAX, wait: Some(SESSION) };
    let tokens = TokenWish { least: 1, most: u32::MAX, ahead: Duration::from_secs(1) };
    let request = LimitRequest { slots: Some(wish), tokens: Some(tokens), ..look("k", rule) };
    let reply = ask(&kit, request.clone()).await;
    assert_eq!((reply.slots, reply.in_use), (u32::MAX, u32::MAX));
    let lot = reply.lot.unwrap();
    assert!(lot.count >= 600_000 && lot.due(lot.count - 1) <= reply.now + 1_000_000, "{reply:?}");
    let again = ask(&kit, request).await;
    assert_eq!((again.slots, again.lot, again.tat), (0, None, reply.tat));
    let fast = LimitRule { rate: Rate::new(u32::MAX / 2, Period::Hour), burst: Some(u32::MAX), concurrency: Some(u32::MAX) };
    let reply = ask(&kit, starts("fast", fast, u32::MAX, u32::MAX)).await;
    assert_eq!(count(&reply), u32::MAX);
}

/// Each request is judged alone and in order, of whatever keys.
pub async fn many_keys_in_one_call(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let mut requests: Vec<_> = (0..150).map(|n| starts(&format!("k{n}"), slow(n % 7 + 1), 1, 9)).collect();
    requests.push(starts("k0", slow(1), 1, 1));
    requests.push(LimitRequest { ns: Ns(2), ..starts("k0", slow(1), 1, 1) });
    requests.push(starts("k{}0 \u{e9}\n\0:", slow(1), 1, 1));
    let replies = kit.store.limit(requests).await.unwrap();
    let counts: Vec<_> = replies.iter().map(|reply| count(reply.as_ref().unwrap())).collect();
    let expected: Vec<_> = (0..150).map(|n| n % 7 + 1).chain([0, 1, 1]).collect();
    assert_eq!(counts, expected);
    assert!(kit.store.limit(Vec::new()).await.unwrap().is_empty());
}

/// A session as the property below plays it: what it runs and since when it may start more.
#[derive(Default)]
struct Player {
    running: u32,
    unused: Option<(u32, u64)>,
}

/// Whatever is asked in whatever order: never more starts than rate × window + burst, never more at once than allowed.
pub async fn nobody_gets_too_much(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    for seed in 0..12 {
        let mut rng = Rng::with_seed(seed);
        let rate = Rate::new(rng.u32(1..400), Period::ALL[rng.usize(0..2)]).unwrap();
        let rule = LimitRule { rate: Some(rate), burst: Some(rng.u32(1..8)), concurrency: Some(rng.u32(1..6)) };
        let key = format!("k{seed}");
        let mut players: BTreeMap<SessionId, Player> = [SESSION, OTHER, THIRD].map(|session| (session, Player::default())).into();
        // When each was reserved, and the arrival time that came with it.
        let mut lots: Vec<(u64, Lot, u64)> = Vec::new();
        for _ in 0..80 {
            let session = [SESSION, OTHER, THIRD][rng.usize(0..3)];
            let player = players.get_mut(&session).unwrap();
            player.running = rng.u32(0..=player.running);
            let mut request = LimitRequest { unused: player.unused.take(), ..holds(&key, rule, session, player.running) };
            let most = rng.u32(0..6);
            let wish = slots(&key, rule, session, most, rng.bool()).slots;
            request.slots = wish.filter(|_| rng.u8(0..4) > 0);
            let tokens = TokenWish { least: 1, most: rng.u32(1..10), ahead: Duration::from_millis(rng.u64(0..300)) };
            request.tokens = Some(tokens).filter(|_| rng.bool());
            if let Some((count, tat)) = request.unused {
                // Only as long as nobody reserved since: the store has to see that by itself.
                let (_, lot, of_lot) = lots.last_mut().unwrap();
                if *of_lot == tat {
                    lot.count -= count;
                    *of_lot = 0;
                }
            }
            let reply = ask(&kit, request).await;
            player.running += reply.slots;
            if let Some(lot) = reply.lot {
                if rng.u8(0..3) == 0 {
                    player.unused = Some((rng.u32(1..=lot.count), reply.tat));
                }
                lots.push((reply.now, lot, reply.tat));
            }
            let running: u32 = players.values().map(|player| player.running).sum();
            assert!(running <= rule.concurrency.unwrap(), "seed {seed}: {running} of {rule:?}");
            assert_eq!(reply.in_use, running, "seed {seed}");
            if rng.u8(0..3) == 0 {
                kit.pass(Duration::from_millis(rng.u64(1..30))).await;
            }
        }
        let starts = lots.iter().flat_map(|(now, lot, _)| (0..lot.count).map(move |n| lot.due(n).max(*now)));
        let mut starts: Vec<_> = starts.collect();
        starts.sort_unstable();
        for (first, from) in starts.iter().enumerate() {
            for (n, to) in starts[first..].iter().enumerate() {
                let micros = u128::from(to - from) * u128::from(rate.count());
                let allowed = micros / u128::from(rate.per().secs() * 1_000_000) + u128::from(rule.burst()) + 1;
                assert!((n as u128) < allowed, "seed {seed}: {} starts in {} µs under {rule:?}", n + 1, to - from);
            }
        }
    }
}
