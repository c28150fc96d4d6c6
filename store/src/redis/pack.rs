//! Packed forms: arguments of scripts (MessagePack, as `cmsgpack` reads it), rows of the feed, entries of keys.

use bytes::Bytes;
use lovage_core::head::HEAD_BYTES;
use lovage_core::{Head, LaneDef, Millis, SessionId, TaskKey};

use crate::{Error, FeedRow, KeyEntry, KeyKind, Result};

/// Writes the few MessagePack forms that the scripts are given. Whoever opens an array writes that many values into it.
#[derive(Debug, Default)]
pub(super) struct Packer(Vec<u8>);

impl Packer {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(super) fn array(&mut self, len: usize) -> &mut Self {
        match len {
            0..=15 => self.0.push(0x90 | len as u8),
            16..=0xffff => self.sized(0xdc, &(len as u16).to_be_bytes()),
            _ => self.sized(0xdd, &(len as u32).to_be_bytes()),
        }
        self
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        match bytes.len() {
            len @ 0..=31 => self.0.push(0xa0 | len as u8),
            len @ 32..=0xff => self.sized(0xd9, &[len as u8]),
            len @ 0x100..=0xffff => self.sized(0xda, &(len as u16).to_be_bytes()),
            len => self.sized(0xdb, &(len as u32).to_be_bytes()),
        }
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn number(&mut self, number: u64) -> &mut Self {
        match number {
            0..=0x7f => self.0.push(number as u8),
            0x80..=0xffff => self.sized(0xcd, &(number as u16).to_be_bytes()),
            _ => self.sized(0xcf, &number.to_be_bytes()),
        }
        self
    }

    pub(super) fn minus_one(&mut self) -> &mut Self {
        self.0.push(0xff);
        self
    }

    pub(super) fn nothing(&mut self) -> &mut Self {
        self.0.push(0xc2);
        self
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }

    fn sized(&mut self, tag: u8, len: &[u8]) {
        self.0.push(tag);
        self.0.extend_from_slice(len);
    }
}

/// Starts a feed entry: the session that made the change.
pub(super) fn feed_prefix(source: SessionId) -> Vec<u8> {
    source.0.to_be_bytes().to_vec()
}

/// Appends a row: `[length of the key u8][head follows u8][key][head]`.
pub(super) fn push_row(rows: &mut Vec<u8>, key: &[u8], head: Option<&[u8]>) {
    rows.push(key.len() as u8);
    rows.push(u8::from(head.is_some()));
    rows.extend_from_slice(key);
    rows.extend_from_slice(head.unwrap_or_default());
}

/// Reads a feed entry: its source and its rows.
pub(super) fn read_entry(bytes: &[u8]) -> Result<(SessionId, Vec<FeedRow>)> {
    let bad = || Error::Corrupt("a feed entry does not end where it should".into());
    let (source, mut rest) = bytes.split_first_chunk::<8>().ok_or_else(bad)?;
    let mut rows = Vec::new();
    while !rest.is_empty() {
        let ([len, flag], tail) = rest.split_first_chunk::<2>().ok_or_else(bad)?;
        let (key, tail) = tail.split_at_checked(usize::from(*len)).ok_or_else(bad)?;
        let (head, tail) = tail.split_at_checked(if *flag == 0 { 0 } else { HEAD_BYTES }).ok_or_else(bad)?;
        let head = if *flag == 0 { None } else { Some(read_head(head)?) };
        rows.push(FeedRow { key: read_key(key)?, head });
        rest = tail;
    }
    Ok((SessionId(u64::from_be_bytes(*source)), rows))
}

/// Reads a head.
pub(super) fn read_head(bytes: &[u8]) -> Result<Head> {
    Head::unpack(bytes).ok_or_else(|| Error::Corrupt("a stored head cannot be read".into()))
}

/// Reads a task's key.
pub(super) fn read_key(bytes: &[u8]) -> Result<TaskKey> {
    TaskKey::from_bytes(bytes).ok_or_else(|| Error::Corrupt("a stored task key cannot be read".into()))
}

/// An end that never comes.
const NEVER: u64 = u64::MAX;

/// The definition of a lane as it is stored.
pub(super) fn pack_lane(lane: &LaneDef) -> Result<Vec<u8>> {
    rmp_serde::to_vec_named(lane).map_err(|error| Error::Invalid(format!("lane: {error}")))
}

/// What is stored under a key: `[end u64][length of the task's key u8][task's key][value]`.
pub(super) fn pack_key(entry: &KeyEntry) -> Vec<u8> {
    let task = entry.task.to_bytes();
    let mut out = entry.until.map_or(NEVER, |until| until.0).to_be_bytes().to_vec();
    out.push(task.len() as u8);
    out.extend_from_slice(&task);
    out.extend_from_slice(&entry.value);
    out
}

/// Reads what [`pack_key`] wrote.
pub(super) fn read_key_entry(bytes: &[u8]) -> Result<KeyEntry> {
    let bad = || Error::Corrupt("a stored key cannot be read".into());
    let (until, rest) = bytes.split_first_chunk::<8>().ok_or_else(bad)?;
    let (len, rest) = rest.split_first().ok_or_else(bad)?;
    let (task, value) = rest.split_at_checked(usize::from(*len)).ok_or_else(bad)?;
    let until = Some(u64::from_be_bytes(*until)).filter(|until| *until != NEVER).map(Millis);
    Ok(KeyEntry { task: read_key(task)?, value: Bytes::copy_from_slice(value), until })
}

/// When Redis may drop a key by itself; 0: never. A little after its end: what is stored, not the expiry, decides when it
/// is free.
pub(super) fn expiry(entry: &KeyEntry) -> u64 {
    entry.until.map_or(0, |until| until.0.saturating_add(1_000))
}

/// Reads the byte that names a kind of key.
pub(super) fn read_kind(byte: u8) -> Result<KeyKind> {
    let known = KeyKind::ALL.into_iter().find(|kind| *kind as u8 == byte);
    known.ok_or_else(|| Error::Corrupt(format!("{byte} is no kind of key")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lovage_core::{Ns, TaskId};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn junk_never_panics(bytes: Vec<u8>) {
            let _ = read_entry(&bytes);
            let _ = read_key_entry(&bytes);
        }

        #[test]
        fn keys_round_trip(id in "[a-z]{1,128}", value: Vec<u8>, until in prop::option::of(0u64..1 << 48)) {
            let task = TaskKey::new(Ns(3), TaskId::parse(&id).unwrap());
            let entry = KeyEntry { task, value: value.into(), until: until.map(Millis) };
            prop_assert_eq!(read_key_entry(&pack_key(&entry)).unwrap(), entry);
        }
    }

    #[test]
    fn an_entry_is_read_as_written() {
        let deleted = TaskKey::new(Ns(1), TaskId::parse("gone").unwrap());
        let mut bytes = feed_prefix(SessionId(7));
        push_row(&mut bytes, &deleted.to_bytes(), None);
        let (source, rows) = read_entry(&bytes).unwrap();
        assert_eq!((source, rows), (SessionId(7), vec![FeedRow { key: deleted, head: None }]));
        assert!(read_entry(&bytes[..bytes.len() - 1]).is_err());
    }
}
