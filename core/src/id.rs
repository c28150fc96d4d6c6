//! Who a task is and where it lives.
//!
//! A generated id carries its slot in its last 12 bits, so that any task is found in one read; the slot of a
//! client-chosen id is a hash of the id. `slot * partitions / 4096` names the partition, so the number of
//! partitions may differ between stores while ids stay valid.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use uuid::Uuid;

use crate::time::Millis;

/// Number of hash slots. Fixed for ever: it is part of every generated id.
pub const SLOTS: u16 = 4096;

/// A namespace: tenants are kept apart by it in every key. `Ns::DEFAULT` is `default`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ns(pub u32);

impl Ns {
    /// The namespace of development mode and of credentials that name none.
    pub const DEFAULT: Self = Self(0);
}

/// One of [`SLOTS`] hash slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

/// A share of the store with one owner at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub u16);

/// What a placement key is, so that equal texts of different kinds spread over different slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SlotKind {
    /// A client-chosen task id.
    Id = b'i',
    /// An `Idempotency-Key`.
    Idempotency = b'k',
    /// The key of `unique`.
    Unique = b'u',
    /// The key of `debounce`.
    Debounce = b'd',
    /// The key of `batch`.
    Batch = b'b',
    /// An `order_key`.
    Order = b'o',
    /// A queue whose tasks start in order of acceptance.
    Queue = b'q',
    /// A limit: where its state is kept.
    Limit = b'l',
}

const CRC: crc::Crc<u16> = crc::Crc::<u16>::new(&crc::CRC_16_XMODEM);

impl Slot {
    /// The slot with this number modulo [`SLOTS`].
    pub fn new(number: u16) -> Self {
        Self(number & (SLOTS - 1))
    }

    /// The slot of a placement key: CRC16 (XMODEM) over namespace, kind and key.
    pub fn of(ns: Ns, kind: SlotKind, key: &[u8]) -> Self {
        let mut digest = CRC.digest();
        digest.update(&ns.0.to_be_bytes());
        digest.update(&[kind as u8]);
        digest.update(key);
        Self::new(digest.finalize())
    }

    /// The slot's number, below [`SLOTS`].
    pub fn number(self) -> u16 {
        self.0
    }

    /// The partition that holds this slot in a store of `partitions`.
    pub fn partition(self, partitions: u16) -> Partition {
        Partition((u32::from(self.0) * u32::from(partitions.max(1)) / u32::from(SLOTS)) as u16)
    }

    /// The `n`-th slot (wrapping) of those that live in `partition` of a store of `partitions`.
    pub fn in_partition(partition: Partition, partitions: u16, n: u16) -> Self {
        let partitions = u32::from(partitions.max(1));
        let first = (u32::from(partition.0) * u32::from(SLOTS)).div_ceil(partitions);
        let end = ((u32::from(partition.0) + 1) * u32::from(SLOTS)).div_ceil(partitions);
        Self::new((first + u32::from(n) % (end - first).max(1)) as u16)
    }
}

/// A task's id, unique in its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskId {
    /// Made by Lovage: a time-ordered UUID (version 8) with the slot in its last 12 bits.
    Generated(u128),
    /// Chosen by the client: `[A-Za-z0-9._:-]{1,128}`, not of the generated form, and not `.` or `..`, which nobody can address:
    /// they vanish from a path (RFC 3986, 5.2.4).
    Client(Arc<str>),
}

/// Why a text is no task id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id has 1 to 128 characters out of A-Z a-z 0-9 . _ : - and is not . or ..")]
pub struct BadId;

impl TaskId {
    /// Reads an id. A UUID of version 8 in canonical form is a generated id, whoever wrote it.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        if let Some(generated) = Self::parse_generated(text) {
            return Ok(generated);
        }
        let fits = (1..=128).contains(&text.len())
            && !matches!(text, "." | "..")
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'));
        if fits { Ok(Self::Client(text.into())) } else { Err(BadId) }
    }

    fn parse_generated(text: &str) -> Option<Self> {
        if text.len() != 36 || text.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        let uuid = Uuid::try_parse(text).ok()?;
        let ours = uuid.get_version_num() == 8 && uuid.get_variant() == uuid::Variant::RFC4122;
        ours.then(|| Self::Generated(uuid.as_u128()))
    }

    /// The slot in which the task of this id lives.
    pub fn slot(&self, ns: Ns) -> Slot {
        match self {
            Self::Generated(n) => Slot::new((*n & 0xfff) as u16),
            Self::Client(text) => Slot::of(ns, SlotKind::Id, text.as_bytes()),
        }
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Generated(n) => {
                let mut buffer = Uuid::encode_buffer();
                f.write_str(Uuid::from_u128(*n).hyphenated().encode_lower(&mut buffer))
            }
            Self::Client(text) => f.write_str(text),
        }
    }
}

impl FromStr for TaskId {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        Self::parse(text)
    }
}

impl Serialize for TaskId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TaskId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Makes a run of ids of one flush: same millisecond, same slot, rising.
///
/// The 62 bits between time and slot start at a random number and count up, so a run is ordered and two
/// processes do not meet.
#[derive(Clone, Copy, Debug)]
pub struct IdRun {
    base: u128,
}

impl IdRun {
    /// Ids of the millisecond `now` in `slot`; `random` seeds the counter.
    pub fn new(now: Millis, slot: Slot, random: u64) -> Self {
        // 48 bits time | 4 version | 12 counter high | 2 variant | 38 counter low | 12 more low | 12 slot
        let time = u128::from(now.0 & 0xffff_ffff_ffff) << 80;
        let base = time | u128::from(slot.number());
        // The top counter bit stays clear so that a run of a million cannot overflow into the version.
        Self { base: with_counter(base, random & ((1 << 61) - 1)) }
    }

    /// The `n`-th id of the run.
    #[must_use]
    pub fn nth(&self, n: u32) -> TaskId {
        TaskId::Generated(with_counter(self.base, counter(self.base) + u64::from(n)))
    }

    /// The `n`-th id of the run, moved to another slot.
    #[must_use]
    pub fn nth_in(&self, n: u32, slot: Slot) -> TaskId {
        let moved = Self { base: self.base & !u128::from(SLOTS - 1) | u128::from(slot.number()) };
        moved.nth(n)
    }

    /// The run that starts with this id; `None` for a client-chosen one.
    pub fn starting_at(id: &TaskId) -> Option<Self> {
        match id {
            TaskId::Generated(base) => Some(Self { base: *base }),
            TaskId::Client(_) => None,
        }
    }
}

const VERSION: u128 = 0x8 << 76;
const VARIANT: u128 = 0b10 << 62;
const COUNTER_HIGH: u128 = 0xfff << 64;
const COUNTER_LOW: u128 = ((1 << 50) - 1) << 12;

fn with_counter(base: u128, counter: u64) -> u128 {
    let high = u128::from((counter >> 50) & 0xfff) << 64;
    let low = u128::from(counter & ((1 << 50) - 1)) << 12;
    (base & !(COUNTER_HIGH | COUNTER_LOW)) | VERSION | VARIANT | high | low
}

fn counter(id: u128) -> u64 {
    let high = ((id & COUNTER_HIGH) >> 64) as u64;
    let low = ((id & COUNTER_LOW) >> 12) as u64;
    high << 50 | low
}

/// A task in the store: its namespace and its id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey {
    /// The tenant.
    pub ns: Ns,
    /// The id within it.
    pub id: TaskId,
}

/// The bytes of a [`TaskKey`]: `ns (4, big-endian) ‖ tag ‖ id`, where tag 0 is followed by the 16 bytes of a
/// generated id and tag 1 by the text of a client's.
pub type KeyBytes = SmallVec<[u8; 24]>;

impl TaskKey {
    /// The key of `id` in `ns`.
    pub fn new(ns: Ns, id: TaskId) -> Self {
        Self { ns, id }
    }

    /// The slot in which the task lives.
    pub fn slot(&self) -> Slot {
        self.id.slot(self.ns)
    }

    /// The form in which stores keep it.
    pub fn to_bytes(&self) -> KeyBytes {
        let mut bytes = KeyBytes::new();
        bytes.extend_from_slice(&self.ns.0.to_be_bytes());
        match &self.id {
            TaskId::Generated(n) => {
                bytes.push(0);
                bytes.extend_from_slice(&n.to_be_bytes());
            }
            TaskId::Client(text) => {
                bytes.push(1);
                bytes.extend_from_slice(text.as_bytes());
            }
        }
        bytes
    }

    /// Reads what [`TaskKey::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (ns, rest) = bytes.split_first_chunk::<4>()?;
        let ns = Ns(u32::from_be_bytes(*ns));
        let (tag, rest) = rest.split_first()?;
        let id = match tag {
            0 => TaskId::Generated(u128::from_be_bytes(rest.try_into().ok()?)),
            1 => TaskId::Client(std::str::from_utf8(rest).ok()?.into()),
            _ => return None,
        };
        Some(Self { ns, id })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn generated_ids_keep_their_slot_and_rise(now in 0u64..1 << 48, slot in 0u16..SLOTS, random: u64, n in 0u32..100_000) {
            let run = IdRun::new(Millis(now), Slot::new(slot), random);
            let id = run.nth(n);
            prop_assert_eq!(id.slot(Ns(7)), Slot::new(slot));
            prop_assert!(run.nth(n + 1) > id);
            let text = id.to_string();
            prop_assert_eq!(TaskId::parse(&text).unwrap(), id.clone());
            prop_assert_eq!(IdRun::starting_at(&id).unwrap().nth(1), run.nth(n + 1));
        }

        #[test]
        fn keys_round_trip(ns: u32, text in "[A-Za-z0-9._:-]{0,127}[A-Za-z0-9_:-]") {
            let key = TaskKey::new(Ns(ns), TaskId::parse(&text).unwrap());
            prop_assert_eq!(TaskKey::from_bytes(&key.to_bytes()).unwrap(), key.clone());
            prop_assert_eq!(key.id.to_string(), text);
        }

        #[test]
        fn every_slot_has_one_partition(slot in 0u16..SLOTS, partitions in 1u16..=256, n: u16) {
            let partition = Slot::new(slot).partition(partitions);
            prop_assert!(partition.0 < partitions);
            prop_assert_eq!(Slot::in_partition(partition, partitions, n).partition(partitions), partition);
        }

        #[test]
        fn junk_never_panics(text in ".{0,200}", bytes: Vec<u8>) {
            let _ = TaskId::parse(&text);
            let _ = TaskKey::from_bytes(&bytes);
        }
    }

    #[test]
    fn a_bad_id_is_refused() {
        for text in ["", "a b", "ü", &"x".repeat(129), "a/b", ".", ".."] {
            assert_eq!(TaskId::parse(text), Err(BadId), "{text}");
        }
        assert!(matches!(TaskId::parse("550e8400-e29b-41d4-a716-446655440000"), Ok(TaskId::Client(_))));
    }

    const GOLDEN_SLOT: u16 = 1651;

    #[test]
    fn slots_do_not_change_between_releases() {
        assert_eq!(Slot::of(Ns(0), SlotKind::Id, b"order-1").number(), GOLDEN_SLOT);
        let golden = TaskKey::new(Ns(1), TaskId::parse("order-1").unwrap());
        assert_eq!(golden.to_bytes().as_slice(), b"\0\0\0\x01\x01order-1");
    }
}
