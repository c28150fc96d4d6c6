//! Which dispatcher should own which partition: the same answer in every process that sees the same candidates.
//!
//! Rendezvous hashing with exact bounds. Every pair of partition and candidate has a weight that depends on nothing else. The
//! heaviest pair is a match, then the next one of which neither is taken, and so on; a candidate is taken once it has its share.
//! So shares differ by one at most, and few partitions move when a candidate comes or goes.

use lovage_core::SessionId;

/// Who should own each partition; `candidates` are different and at least one.
pub(crate) fn shares(partitions: u16, candidates: &[SessionId]) -> Vec<SessionId> {
    let each = usize::from(partitions) / candidates.len();
    let mut larger = usize::from(partitions) % candidates.len();
    let pairs = (0..partitions).flat_map(|p| (0..candidates.len()).map(move |c| (p, c)));
    let mut pairs: Vec<_> = pairs.map(|(p, c)| (weight(p, candidates[c]), p, c)).collect();
    pairs.sort_unstable_by(|a, b| b.cmp(a));
    let mut taken = vec![0; candidates.len()];
    let mut owners: Vec<Option<SessionId>> = vec![None; usize::from(partitions)];
    for (_, p, c) in pairs {
        let owner = &mut owners[usize::from(p)];
        if owner.is_some() || taken[c] > each || (taken[c] == each && larger == 0) {
            continue;
        }
        larger -= usize::from(taken[c] == each);
        taken[c] += 1;
        *owner = Some(candidates[c]);
    }
    // There is room for all, so that none is left.
    owners.into_iter().map(|owner| owner.unwrap_or(candidates[0])).collect()
}

/// Two rounds of a mixer with good avalanche (splitmix64).
fn weight(partition: u16, session: SessionId) -> u64 {
    let mix = |n: u64| {
        let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    };
    mix(mix(session.0) ^ u64::from(partition))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn sessions() -> impl Strategy<Value = Vec<SessionId>> {
        let near = proptest::collection::btree_set(1u64..40, 1..9);
        let far = proptest::collection::btree_set(any::<u64>(), 1..9);
        prop_oneof![near, far].prop_map(|numbers: BTreeSet<u64>| numbers.into_iter().map(SessionId).collect())
    }

    proptest! {
        #[test]
        fn shares_differ_by_one_at_most(partitions in prop_oneof![Just(16u16), Just(64), 1u16..300], sessions in sessions()) {
            let owners = shares(partitions, &sessions);
            let share = |session: &SessionId| owners.iter().filter(|owner| *owner == session).count();
            let counts: Vec<usize> = sessions.iter().map(share).collect();
            prop_assert_eq!(counts.iter().sum::<usize>(), usize::from(partitions));
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{:?}", counts);
        }

        /// Every process gives the same answer, in whatever order it was told the candidates.
        #[test]
        fn the_order_of_candidates_does_not_matter(sessions in sessions().prop_shuffle()) {
            let mut sorted = sessions.clone();
            sorted.sort_unstable();
            prop_assert_eq!(shares(64, &sessions), shares(64, &sorted));
        }

        /// Who comes gets a share, and few move between the others for the sake of equal shares; the same when it goes.
        #[test]
        fn few_partitions_move(sessions in sessions(), last in any::<u64>().prop_map(SessionId)) {
            prop_assume!(!sessions.contains(&last));
            for partitions in [16, 64] {
                let before = shares(partitions, &sessions);
                let more: Vec<SessionId> = sessions.iter().copied().chain([last]).collect();
                let after = shares(partitions, &more);
                let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
                let share = usize::from(partitions).div_ceil(more.len());
                prop_assert!(moved <= 2 * share + usize::from(partitions) / 4 + 2, "{} moved, a share is {}", moved, share);
            }
        }
    }
}
