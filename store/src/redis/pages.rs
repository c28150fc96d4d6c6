//! The reads that go page by page: indexes for the owner, listings for people.
//!
//! Sorted indexes go on behind the last record shown, whatever was added or removed meanwhile. Hashes and sets are
//! walked with Redis's own cursor, which shows everything that is there all the time; a step may bring more than a page
//! holds, so the cursor also names the last key taken of the step.

use lovage_core::{Head, LaneDef, LaneId, Placement, TaskKey, placement};
use redis::{Cmd, Value};
use smallvec::SmallVec;

use super::keys::{PartitionKeys, root_prefix};
use super::link::{Kind, Link};
use super::pack::{read_head, read_key};
use super::script::PAGE;
use super::{read, value};
use crate::{Cursor, Error, Index, ListQuery, Page, Result};

/// The most records of one page.
const MAX_PAGE: usize = 1_000;
/// The records that one step of a listing looks at, and the steps of one page.
const STEP: usize = 250;
const STEPS: usize = 4;

pub(super) async fn scan(link: &Link, names: &PartitionKeys, index: &Index, from: Cursor, limit: usize) -> Result<Page> {
    let limit = limit.clamp(1, MAX_PAGE);
    match index {
        Index::Lane { lane, after } => {
            let start = after.map(|score| (score.0.to_string(), vec![0xff; 160]));
            let keep = |place: &Placement| place.lane.is_some_and(|(id, _)| id == *lane);
            sorted(link, names, &names.lane(*lane), start, "+inf", from, limit, keep).await
        }
        Index::Timer { until } => {
            sorted(link, names, names.timers(), None, &until.0.to_string(), from, limit, |place| place.timer.is_some()).await
        }
        Index::Done { until } => {
            sorted(link, names, names.done(), None, &until.0.to_string(), from, limit, |place| place.done.is_some()).await
        }
        Index::Running { session } => {
            let mut step = Walk::read(&from)?;
            let mut cmd = redis::cmd("SSCAN");
            cmd.arg(names.running()).arg(step.cursor).arg("COUNT").arg(limit);
            let (next, found) = walk(link, &cmd).await?;
            let keys = step.cut(found, |id| read_key(&value::bytes(id)?.unwrap_or_default()), limit)?;
            let heads = read::heads(link, names, &keys.0).await?;
            let mine = |head: &Head| placement(head).running && session.is_none_or(|session| head.session == session);
            let items = keys.0.into_iter().zip(heads).filter_map(|(key, head)| Some((key, head.filter(mine)?))).collect();
            Ok(Page { items, next: step.next(keys.1, next) })
        }
        Index::Members { root } => members(link, names, root, from, limit).await,
    }
}

/// A page of a sorted index behind the cursor, or behind `start` if there is none.
#[allow(clippy::too_many_arguments)] // one private function for three indexes
async fn sorted(
    link: &Link,
    names: &PartitionKeys,
    index: &[u8],
    start: Option<(String, Vec<u8>)>,
    highest: &str,
    from: Cursor,
    limit: usize,
    keep: impl Fn(&Placement) -> bool,
) -> Result<Page> {
    let (score, id) = match read_place(&from)? {
        Some(place) => place,
        None => start.unwrap_or_default(),
    };
    let mut cmd = PAGE.call([index, names.heads()].into_iter());
    cmd.arg(score).arg(id).arg(highest).arg(limit);
    let answer = link.run(Kind::Read, &PAGE, cmd, None).await?.pop().unwrap_or_default();
    let [ids, scores, heads, more] = value::exactly(answer)?;
    let mut page = Page::default();
    let mut last = None;
    for ((id, score), head) in value::list(ids)?.into_iter().zip(value::list(scores)?).zip(value::list(heads)?) {
        let id = value::bytes(id)?.unwrap_or_default();
        if let Some(head) = value::bytes(head)? {
            let head = read_head(&head)?;
            if keep(&placement(&head)) {
                page.items.push((read_key(&id)?, head));
            }
        }
        last = Some((value::text(score)?, id));
    }
    if value::number(more)? > 0 {
        page.next = last.map(|(score, id)| Cursor([score.as_bytes(), b"\0", &id].concat()));
    }
    Ok(page)
}

/// Reads a cursor `score NUL id`.
fn read_place(cursor: &Cursor) -> Result<Option<(String, Vec<u8>)>> {
    if cursor.0.is_empty() {
        return Ok(None);
    }
    let place = cursor.0.iter().position(|byte| *byte == 0).and_then(|nul| {
        let score = std::str::from_utf8(&cursor.0[..nul]).ok()?;
        score.parse::<f64>().ok()?;
        Some((score.to_owned(), cursor.0[nul + 1..].to_vec()))
    });
    place.map(Some).ok_or_else(not_a_cursor)
}

fn not_a_cursor() -> Error {
    Error::Invalid("not a cursor of this store".into())
}

/// The members of a tree in order of acceptance.
async fn members(link: &Link, names: &PartitionKeys, root: &TaskKey, from: Cursor, limit: usize) -> Result<Page> {
    let prefix = root_prefix(root);
    let first = if from.0.is_empty() { [b"[", &prefix[..]].concat() } else { [b"(", &prefix[..], &from.0].concat() };
    let end = [b"(", &prefix[..], &[0xff; 160]].concat();
    let mut cmd = redis::cmd("ZRANGE");
    cmd.arg(names.members()).arg(first).arg(end).arg("BYLEX").arg("LIMIT").arg(0).arg(limit + 1);
    let mut keys = Vec::new();
    let mut last = None;
    let found = value::list(link.send(Kind::Read, &cmd).await?)?;
    let more = found.len() > limit;
    for member in found.into_iter().take(limit) {
        let member = value::bytes(member)?.unwrap_or_default();
        let place = member.get(prefix.len()..).unwrap_or_default();
        // The order of acceptance, then the key.
        keys.push(read_key(place.get(8..).unwrap_or_default())?);
        last = Some(place.to_vec());
    }
    let next = last.filter(|_| more).map(Cursor);
    let heads = read::heads(link, names, &keys).await?;
    Ok(Page { items: keys.into_iter().zip(heads).filter_map(|(key, head)| Some((key, head?))).collect(), next })
}

pub(super) async fn list(link: &Link, names: &PartitionKeys, query: &ListQuery, from: Cursor, limit: usize) -> Result<Page> {
    let limit = limit.clamp(1, MAX_PAGE);
    let mut step = Walk::read(&from)?;
    let mut page = Page::default();
    for _ in 0..STEPS {
        let mut cmd = redis::cmd("HSCAN");
        cmd.arg(names.heads()).arg(step.cursor).arg("COUNT").arg(STEP);
        let (next, found) = walk(link, &cmd).await?;
        let mut wanted = Vec::new();
        for (id, head) in value::pairs(Value::Array(found))? {
            let key = read_key(&value::bytes(id)?.unwrap_or_default())?;
            let head = read_head(&value::bytes(head)?.unwrap_or_default())?;
            let fits = key.ns == query.ns
                && (query.states.is_empty() || query.states.contains(&head.state))
                && query.created_after.is_none_or(|first| head.created >= first)
                && query.created_before.is_none_or(|end| head.created < end);
            if fits {
                wanted.push((key, head));
            }
        }
        let (items, cut) = step.cut(wanted, Ok, limit - page.items.len())?;
        page.items.extend(items);
        page.next = step.next(cut, next);
        // A step that may not fit is not begun: a place inside a step is lost when the hash shrinks before the walk goes on.
        match &page.next {
            Some(cursor) if page.items.len() + 2 * STEP <= limit => step = Walk::read(cursor)?,
            Some(cursor) if page.items.is_empty() => step = Walk::read(cursor)?,
            _ => break,
        }
    }
    Ok(page)
}

/// A step of a walk with Redis's cursor.
pub(super) struct Walk {
    pub(super) cursor: u64,
    /// The last key taken of this step, if it did not fit into one page.
    taken: Vec<u8>,
}

/// What a step sorts its findings by.
pub(super) trait Keyed {
    fn key(&self) -> SmallVec<[u8; 32]>;
}

impl Keyed for TaskKey {
    fn key(&self) -> SmallVec<[u8; 32]> {
        SmallVec::from_slice(&self.to_bytes())
    }
}

impl Keyed for (TaskKey, Head) {
    fn key(&self) -> SmallVec<[u8; 32]> {
        self.0.key()
    }
}

impl Keyed for (LaneId, LaneDef) {
    fn key(&self) -> SmallVec<[u8; 32]> {
        SmallVec::from_slice(&self.0.0.to_be_bytes())
    }
}

impl Walk {
    pub(super) fn read(cursor: &Cursor) -> Result<Self> {
        if cursor.0.is_empty() {
            return Ok(Self { cursor: 0, taken: Vec::new() });
        }
        let (number, taken) = cursor.0.split_first_chunk::<8>().ok_or_else(not_a_cursor)?;
        Ok(Self { cursor: u64::from_be_bytes(*number), taken: taken.to_vec() })
    }

    /// The findings behind those taken before, at most `room`, in order; and the last one if some are left.
    pub(super) fn cut<V, T: Keyed>(
        &mut self,
        found: Vec<V>,
        read: impl Fn(V) -> Result<T>,
        room: usize,
    ) -> Result<(Vec<T>, Option<Vec<u8>>)> {
        let mut items: Vec<_> = found
            .into_iter()
            .map(|value| read(value).map(|item| (item.key(), item)))
            .filter(|item| item.as_ref().map_or(true, |(key, _)| key[..] > self.taken[..]))
            .collect::<Result<_>>()?;
        items.sort_by(|(a, _), (b, _)| a.cmp(b));
        let more = items.len() > room;
        items.truncate(room);
        let last = items.last().filter(|_| more).map(|(key, _)| key.to_vec());
        Ok((items.into_iter().map(|(_, item)| item).collect(), last))
    }

    /// Where to go on: in this step if something is left of it, else with the next.
    pub(super) fn next(&self, cut: Option<Vec<u8>>, next: u64) -> Option<Cursor> {
        match cut {
            Some(last) => Some(Cursor([&self.cursor.to_be_bytes()[..], &last].concat())),
            None if next == 0 => None,
            None => Some(Cursor(next.to_be_bytes().to_vec())),
        }
    }
}

/// One step: where to go on, 0 at the end, and what was found.
pub(super) async fn walk(link: &Link, cmd: &Cmd) -> Result<(u64, Vec<Value>)> {
    let [next, found] = value::exactly(link.send(Kind::Read, cmd).await?)?;
    let next = value::text(next)?.parse().map_err(|_| Error::Corrupt("a cursor of redis cannot be read".into()))?;
    Ok((next, value::list(found)?))
}
