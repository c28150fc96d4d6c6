//! Who gets a free slot of a worker among the owners of this process: the one whose waiting task is the most urgent, and among
//! equals the one that has started the fewest, so that partitions share evenly.
//!
//! Nothing is handed over. All that wait are told of a free slot; whoever asks is refused while others are before it, and told
//! again when one of those has taken what it wanted. Who does not come soon has nothing to start any more, or waits for something
//! else as well, and loses its place: no slot stays free for long because of it.
//!
//! While nobody waits this costs one look.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lovage_core::Millis;
use parking_lot::Mutex;

/// A slot is kept so long for those who are before others: a claim of theirs may be on its way.
const KEPT: Duration = Duration::from_millis(20);
/// Of a worker with many slots, equal ones take this part of them in one go: one claim for each slot would cost too much.
const PART_AT_ONCE: u32 = 2;
const MOST_AT_ONCE: u32 = 256;

/// Who asks for a slot. The lower the number the more urgent is a task.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// Tells askers apart.
    pub number: u64,
    /// How urgent the task is that it asks for.
    pub wants: i64,
    /// The most urgent of its others that want one.
    pub waits: Option<i64>,
}

#[derive(Debug)]
struct Place {
    asker: u64,
    starts: u64,
    /// `None`: it does not wait.
    wants: Option<i64>,
    /// When a slot was first left to it that it has not taken.
    called: Option<Millis>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Line {
    somebody: AtomicBool,
    /// Somebody was, because others were before it.
    refused: AtomicBool,
    places: Mutex<Vec<Place>>,
}

impl Line {
    /// Whether this one may take a slot now; else when to ask again. `room`: free slots, and all slots.
    pub fn look(&self, now: Millis, asker: &Asker, room: impl FnOnce() -> (u32, u32)) -> Result<(), Millis> {
        if !self.somebody.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut places = self.places.lock();
        let starts = starts_of(&places, asker.number);
        let (free, slots) = room();
        let stride = u64::from((slots / PART_AT_ONCE).clamp(1, MOST_AT_ONCE));
        let is_before = |place: &Place| {
            let wants = place.wants.filter(|_| place.asker != asker.number);
            wants.is_some_and(|wants| wants < asker.wants || wants == asker.wants && place.starts + stride <= starts)
        };
        // With none free there is nothing to be left to anybody.
        if free == 0 || !places.iter().any(is_before) {
            return Ok(());
        }
        let mut is_refused = false;
        for place in places.iter_mut().filter(|place| is_before(place)) {
            if now.since(*place.called.get_or_insert(now)) >= KEPT {
                (place.wants, place.called) = (None, None);
            } else {
                is_refused = true;
            }
        }
        self.note(&mut places);
        if !is_refused {
            return Ok(());
        }
        self.refused.store(true, Ordering::SeqCst);
        Err(now.after(KEPT))
    }

    /// Whether anybody was refused since this was asked last.
    pub fn take_refused(&self) -> bool {
        self.refused.load(Ordering::SeqCst) && self.refused.swap(false, Ordering::SeqCst)
    }

    /// This one has taken a slot.
    pub fn took(&self, asker: &Asker) {
        if asker.waits.is_some() || self.somebody.load(Ordering::SeqCst) {
            self.seat(asker.number, asker.waits, 1);
        }
    }

    /// This one waits for a slot.
    pub fn wait(&self, asker: &Asker) {
        let most_urgent = asker.waits.map_or(asker.wants, |waits| waits.min(asker.wants));
        self.seat(asker.number, Some(most_urgent), 0);
    }

    /// This one waits for something else.
    pub fn leave(&self, asker: &Asker) {
        if self.somebody.load(Ordering::SeqCst) {
            self.seat(asker.number, None, 0);
        }
    }

    fn seat(&self, asker: u64, wants: Option<i64>, started: u64) {
        let mut places = self.places.lock();
        let starts = starts_of(&places, asker) + started;
        let new = Place { asker, starts, wants, called: None };
        match places.iter_mut().find(|place| place.asker == asker) {
            Some(place) => *place = new,
            None => places.push(new),
        }
        self.note(&mut places);
    }

    fn note(&self, places: &mut Vec<Place>) {
        let somebody = places.iter().any(|place| place.wants.is_some());
        if !somebody {
            // They begin anew when they meet again.
            places.clear();
        }
        self.somebody.store(somebody, Ordering::SeqCst);
    }
}

/// How many starts count for this one. Whoever comes back goes on where the others are: idling earns nothing, nor does it cost.
fn starts_of(places: &[Place], asker: u64) -> u64 {
    let own = places.iter().find(|place| place.asker == asker);
    let starts = own.map_or(0, |place| place.starts);
    if own.is_some_and(|place| place.wants.is_some()) {
        return starts;
    }
    let others = || places.iter().filter(|place| place.asker != asker && place.wants.is_some()).map(|place| place.starts);
    others().min().zip(others().max()).map_or(starts, |(least, most)| starts.clamp(least, most + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Millis = Millis(1_000);

    fn asker(number: u64, wants: i64) -> Asker {
        Asker { number, wants, waits: None }
    }

    #[test]
    fn the_most_urgent_goes_first_and_equal_ones_in_turn() {
        let line = Line::default();
        let one_free = || (1, 2);
        assert_eq!(line.look(T0, &asker(1, 5), one_free), Ok(()), "nobody waits");
        line.wait(&asker(2, 3));
        line.wait(&asker(3, 5));
        assert_eq!(line.look(T0, &asker(1, 5), one_free), Err(T0.after(KEPT)));
        assert!(line.take_refused() && !line.take_refused());
        assert_eq!(line.look(T0, &asker(1, 2), one_free), Ok(()));
        line.took(&Asker { waits: Some(5), ..asker(2, 3) });
        // All are alike now, and 2 has had a start.
        assert_eq!(line.look(T0, &asker(2, 5), one_free), Err(T0.after(KEPT)));
        assert_eq!(line.look(T0, &asker(3, 5), one_free), Ok(()));
        line.took(&Asker { waits: Some(5), ..asker(3, 5) });
        assert_eq!(line.look(T0, &asker(2, 5), one_free), Ok(()));
        // Of many slots several go at once.
        assert_eq!(line.look(T0, &asker(3, 5), || (1, 100)), Ok(()));
    }

    #[test]
    fn who_does_not_come_loses_its_place() {
        let line = Line::default();
        let one_free = || (1, 2);
        line.wait(&asker(2, 3));
        let again = line.look(T0, &asker(1, 5), || (0, 2));
        assert_eq!(again, Ok(()), "none is free for anybody");
        let again = line.look(T0, &asker(1, 5), one_free);
        assert_eq!(again, Err(T0.after(KEPT)));
        assert_eq!(line.look(T0.after(KEPT), &asker(1, 5), one_free), Ok(()));
        assert!(!line.somebody.load(Ordering::SeqCst));
    }

    #[test]
    fn whoever_comes_back_has_saved_up_nothing_and_owes_nothing() {
        let line = Line::default();
        let starts = || line.places.lock().iter().map(|place| (place.asker, place.starts)).collect::<Vec<_>>();
        line.wait(&asker(2, 5));
        for _ in 0..1_000 {
            line.took(&Asker { waits: Some(5), ..asker(1, 5) });
        }
        line.leave(&asker(1, 5));
        line.wait(&asker(1, 5));
        assert_eq!(starts(), [(2, 0), (1, 1)]);
        for _ in 0..10 {
            line.took(&Asker { waits: Some(5), ..asker(2, 5) });
        }
        line.leave(&asker(1, 5));
        line.wait(&asker(1, 5));
        assert_eq!(starts(), [(2, 10), (1, 10)]);
    }
}
