//! What crosses partitions: messages, written to the outbox of the partition that causes them in the step of the change
//! that does, and delivered by its owner until the other partition has answered.
//!
//! A message may be delivered more than once, and after whatever the same partition did meanwhile. So each names what it means
//! closely enough that the second time does nothing.

use std::sync::Arc;

use bytes::Bytes;
use lovage_core::{Head, LaneDef, Millis, Slot, TaskKey};
use serde::{Deserialize, Serialize};

use crate::{FeedPos, Insert, KeyKind, KeyPut, OnExists};

/// The first byte of a stored message.
const FORMAT: u8 = 1;

/// Something that another partition is told.
#[derive(Clone, Debug)]
pub enum Message {
    /// A new task, with an id that follows from its cause. One that is there already is left alone; if another task has one of its
    /// keys, or its time is over, it is not stored. It steals no keys.
    Insert(Box<Insert>),
    /// A member has arrived at the barrier of a task. Each counts once.
    Arrive {
        /// The task that waits.
        barrier: TaskKey,
        /// Which member, from 0.
        index: u32,
        /// The attempt after which it waits: at a later barrier of the same task the member does not count.
        attempt: u32,
        /// The generation in which it waits.
        generation: u8,
    },
    /// A task is called off, unless it is final or was made after this message.
    Cancel {
        /// The task.
        key: TaskKey,
        /// Later generations go on.
        generation: u8,
    },
    /// A task is gone that lived away from the home of its id: its directory entry is struck out, unless that is of a later
    /// task. (The other keys go with their task or at their end.)
    Free {
        /// The task.
        task: TaskKey,
        /// Where it lived.
        slot: Slot,
        /// When it was created.
        created: Millis,
    },
}

/// A message in an outbox.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its place; later messages have higher ones, and none has one that was used before.
    pub pos: FeedPos,
    /// When it was sent.
    pub at: Millis,
    /// The slot it is for, and what it says; `None` if that cannot be read.
    pub content: Option<(Slot, Message)>,
}

/// The oldest messages of an outbox.
#[derive(Clone, Debug, Default)]
pub struct OutboxPage {
    /// In the order in which they were sent.
    pub messages: Vec<Sent>,
    /// How many there are in all.
    pub waiting: u64,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    to: u16,
    what: What,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Insert {
        key: Bytes,
        head: Bytes,
        body: Bytes,
        lane: Arc<LaneDef>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_after: Option<Millis>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        keys: Vec<Put>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        root: Option<Bytes>,
    },
    Arrive {
        barrier: Bytes,
        index: u32,
        attempt: u32,
        generation: u8,
    },
    Cancel {
        key: Bytes,
        generation: u8,
    },
    Free {
        task: Bytes,
        slot: u16,
        created: Millis,
    },
}

#[derive(Serialize, Deserialize)]
struct Put {
    kind: u8,
    key: Bytes,
    value: Bytes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Millis>,
}

impl Message {
    /// As it is stored: a format byte, then named MessagePack.
    pub(crate) fn encode(&self, to: Slot) -> Bytes {
        let mut out = vec![FORMAT];
        // Serialising plain data into a Vec cannot fail: no maps with odd keys, no I/O.
        let _ = rmp_serde::encode::write_named(&mut out, &Stored { to: to.number(), what: What::of(self) });
        out.into()
    }

    /// Reads what [`Message::encode`] wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Slot, Self)> {
        let stored: Stored = rmp_serde::from_slice(bytes.strip_prefix(&[FORMAT])?).ok()?;
        Some((Slot::new(stored.to), stored.what.read()?))
    }
}

impl What {
    fn of(message: &Message) -> Self {
        let bytes = |key: &TaskKey| Bytes::copy_from_slice(&key.to_bytes());
        match message {
            Message::Insert(item) => Self::Insert {
                key: bytes(&item.key),
                head: Bytes::copy_from_slice(&item.head.pack()),
                body: item.body.clone(),
                lane: Arc::clone(&item.lane),
                not_after: item.not_after,
                keys: item.keys.iter().map(Put::of).collect(),
                root: item.root.as_ref().map(bytes),
            },
            Message::Arrive { barrier, index, attempt, generation } => {
                Self::Arrive { barrier: bytes(barrier), index: *index, attempt: *attempt, generation: *generation }
            }
            Message::Cancel { key, generation } => Self::Cancel { key: bytes(key), generation: *generation },
            Message::Free { task, slot, created } => Self::Free { task: bytes(task), slot: slot.number(), created: *created },
        }
    }

    fn read(self) -> Option<Message> {
        let key = |bytes: &Bytes| TaskKey::from_bytes(bytes);
        Some(match self {
            Self::Insert { key: id, head, body, lane, not_after, keys, root } => Message::Insert(Box::new(Insert {
                key: key(&id)?,
                head: Head::unpack(&head)?,
                body,
                lane,
                exists: OnExists::Return,
                not_after,
                keys: keys.into_iter().map(Put::read).collect::<Option<_>>()?,
                root: root.map(|root| key(&root).ok_or(())).transpose().ok()?,
            })),
            Self::Arrive { barrier, index, attempt, generation } => {
                Message::Arrive { barrier: key(&barrier)?, index, attempt, generation }
            }
            Self::Cancel { key: id, generation } => Message::Cancel { key: key(&id)?, generation },
            Self::Free { task, slot, created } => Message::Free { task: key(&task)?, slot: Slot::new(slot), created },
        })
    }
}

impl Put {
    fn of(put: &KeyPut) -> Self {
        Self { kind: put.kind as u8, key: put.key.clone(), value: put.value.clone(), until: put.until }
    }

    fn read(self) -> Option<KeyPut> {
        let kind = KeyKind::ALL.into_iter().find(|kind| *kind as u8 == self.kind)?;
        Some(KeyPut { kind, key: self.key, value: self.value, until: self.until, steal: None })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lovage_core::{Ns, TaskId};
    use proptest::prelude::*;

    use super::*;
    use crate::conformance::kit::{first_head, lane};

    fn messages() -> Vec<Message> {
        let key = |id: &str| TaskKey::new(Ns(3), TaskId::parse(id).unwrap());
        let lane = lane(Ns(3), "mail", "send");
        let put =
            KeyPut { kind: KeyKind::Unique, key: "k\u{e9}y".into(), value: "\0v".into(), until: Some(Millis(9)), steal: None };
        let insert = Insert {
            key: key("order-1"),
            head: first_head(lane.id(), Millis(1_767_225_600_000)),
            body: Bytes::from_static(b"\0body\xff"),
            lane,
            exists: OnExists::Return,
            not_after: Some(Millis(8)),
            keys: vec![put.clone(), KeyPut { until: None, ..put }],
            root: Some(key("root")),
        };
        vec![
            Message::Insert(Box::new(Insert { not_after: None, keys: Vec::new(), root: None, ..insert.clone() })),
            Message::Insert(Box::new(insert)),
            Message::Arrive { barrier: key("chord"), index: 7, attempt: 2, generation: 1 },
            Message::Cancel { key: key("order-2"), generation: 255 },
            Message::Free { task: key("order-3"), slot: Slot::new(4_000), created: Millis(77) },
        ]
    }

    #[test]
    fn messages_are_read_as_they_were_written() {
        for message in messages() {
            let bytes = message.encode(Slot::new(4_095));
            let (to, read) = Message::decode(&bytes).unwrap();
            assert_eq!((to, format!("{read:?}")), (Slot::new(4_095), format!("{message:?}")));
            for end in 0..bytes.len() {
                assert!(Message::decode(&bytes[..end]).is_none(), "{end} bytes of {message:?}");
            }
        }
        let newer = [&[FORMAT + 1], &messages()[2].encode(Slot::new(1))[1..]].concat();
        assert!(Message::decode(&newer).is_none());
    }

    /// Outboxes outlive an upgrade.
    #[test]
    fn the_format_of_an_earlier_release_is_read() {
        const FREE: &[u8] = b"\x01\x82\xa2to\xcd\x0f\xa0\xa4what\x81\xa4free\x83\
            \xa4task\xc4\x0c\0\0\0\x03\x01order-3\xa4slot\xcd\x0f\xa0\xa7created\x4d";
        let (to, message) = Message::decode(FREE).unwrap();
        assert_eq!((to, format!("{message:?}")), (Slot::new(4_000), format!("{:?}", messages()[4])));
        assert_eq!(message.encode(to), FREE);
    }

    proptest! {
        #[test]
        fn junk_never_panics(mut bytes: Vec<u8>) {
            let _ = Message::decode(&bytes);
            bytes.insert(0, FORMAT);
            let _ = Message::decode(&bytes);
        }
    }
}
