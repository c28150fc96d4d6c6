//! The records of a run, as the recorder appends them (`tests/power/shim.c`).

use std::ops::Range;

const MAGIC: u32 = 0x4c56_5057;
const HEADER: usize = 40;

/// One recorded operation. Data stays in the log's bytes.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) at_ns: u64,
    pub(crate) op: Op,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// A name was opened with the right to create it.
    Create {
        inode: u64,
        name: String,
    },
    /// `data` is a range of the log.
    Write {
        inode: u64,
        offset: u64,
        data: Range<usize>,
    },
    Truncate {
        inode: u64,
        length: u64,
    },
    Unlink {
        name: String,
    },
    Rename {
        from: String,
        to: String,
    },
    SyncBegin {
        number: u64,
    },
    SyncEnd {
        target: Target,
        number: u64,
    },
    SyncFailed {
        target: Target,
        number: u64,
    },
}

/// What a sync was called on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    File(u64),
    /// The path of a folder below the disk's own, empty for that itself.
    Folder(String),
}

/// Reads all complete records. The second value is their length: what follows was cut by a kill.
pub(crate) fn read(log: &[u8]) -> (Vec<Record>, usize) {
    let mut records = Vec::new();
    let mut at = 0;
    while let Some((record, end)) = read_one(log, at) {
        records.push(record);
        at = end;
    }
    (records, at)
}

fn read_one(log: &[u8], start: usize) -> Option<(Record, usize)> {
    let header = log.get(start..start + HEADER)?;
    let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_ne_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    assert_eq!(word(0), MAGIC, "the log of the disk is damaged at byte {start}");
    let (inode, offset) = (long(16), long(24));
    let name_end = start + HEADER + word(32) as usize;
    let end = name_end + word(36) as usize;
    let name = String::from_utf8_lossy(log.get(start + HEADER..name_end)?).into_owned();
    let data = log.get(name_end..end)?;
    let target = || if inode == 0 { Target::Folder(name.clone()) } else { Target::File(inode) };
    let op = match word(4) {
        1 => Op::Create { inode, name },
        2 => Op::Write { inode, offset, data: name_end..end },
        3 => Op::Truncate { inode, length: offset },
        4 => Op::Unlink { name },
        5 => Op::Rename { from: name, to: String::from_utf8_lossy(data).into_owned() },
        6 => Op::SyncBegin { number: offset },
        7 => Op::SyncEnd { target: target(), number: offset },
        8 => Op::SyncFailed { target: target(), number: offset },
        other => panic!("the log of the disk holds an unknown operation {other}"),
    };
    Some((Record { at_ns: long(8), op }, end))
}

/// A record as the recorder would have written it, for changes that a killed process made unrecorded.
pub(crate) fn encode(at_ns: u64, op: u32, inode: u64, offset: u64, name: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + name.len() + data.len());
    bytes.extend(MAGIC.to_ne_bytes());
    bytes.extend(op.to_ne_bytes());
    for long in [at_ns, inode, offset] {
        bytes.extend(long.to_ne_bytes());
    }
    bytes.extend((name.len() as u32).to_ne_bytes());
    bytes.extend((data.len() as u32).to_ne_bytes());
    bytes.extend(name.as_bytes());
    bytes.extend(data);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_a_torn_tail_is_left_out() {
        let mut log = encode(7, 2, 42, 512, "", b"hello");
        let whole = log.len();
        log.extend(encode(8, 5, 0, 0, "from", b"to"));
        let (records, length) = read(&log);
        assert_eq!(length, log.len());
        assert_eq!(records[0].op, Op::Write { inode: 42, offset: 512, data: 40..45 });
        assert_eq!(records[1].op, Op::Rename { from: "from".to_owned(), to: "to".to_owned() });
        for cut in whole..log.len() {
            let (records, length) = read(&log[..cut]);
            assert_eq!((records.len(), length), (1, whole));
        }
    }
}
