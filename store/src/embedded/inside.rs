//! What a move reads of the embedded store.

use async_trait::async_trait;
use lovage_core::{Ns, Partition, TaskKey};
use rusqlite::{Connection, OptionalExtension, params};

use super::{EmbeddedStore, barrier, books, footprint, keys, row};
use crate::moving::{Belongings, Inside, KeyPage};
use crate::{Cursor, Footprint, KeyKind, Result};

#[async_trait]
impl Inside for EmbeddedStore {
    async fn belongings(&self, p: Partition, keys: &[TaskKey]) -> Result<Vec<Option<Belongings>>> {
        self.caps.check_call(p, 0)?;
        let keys = keys.to_vec();
        let read = move |conn: &Connection| keys.iter().map(|key| belongings(conn, key)).collect();
        self.shared.readers.offload(read).await
    }

    async fn loose_keys(&self, p: Partition, from: Cursor, limit: usize) -> Result<KeyPage> {
        self.caps.check_call(p, 0)?;
        self.shared.readers.offload(move |conn| loose_keys(conn, &from, limit)).await
    }

    async fn footprint(&self) -> Result<Footprint> {
        self.shared.readers.offload(footprint::weigh).await
    }
}

fn belongings(conn: &Connection, key: &TaskKey) -> rusqlite::Result<Option<Belongings>> {
    let bytes = key.to_bytes();
    let found = conn.prepare_cached("SELECT seq, lane, root FROM task WHERE key = ?1")?.query_row([&bytes[..]], |found| {
        let root = found.get_ref(2)?.as_blob_or_null()?.map(|_| row::key(found, 2)).transpose()?;
        Ok((found.get::<_, i64>(0)?, found.get::<_, i64>(1)?, root))
    });
    let Some((seq, lane, root)) = found.optional()? else { return Ok(None) };
    let lane = conn
        .prepare_cached("SELECT id, ns, queue, task, origin, batch, more FROM lane WHERE id = ?1")?
        .query_row([lane], books::lane_def)?;
    let mut held = conn.prepare_cached(
        "SELECT task, value, until, kind, key FROM key INDEXED BY key_task WHERE task = ?1 AND kind IN (98, 117)",
    )?;
    let keys = held.query_map([&bytes[..]], |row| keys::named(row, 3))?.collect::<rusqlite::Result<_>>()?;
    Ok(Some(Belongings { lane, root, keys, barrier: barrier::read(conn, seq)? }))
}

/// A page in order of (namespace, kind, name), which the cursor holds.
fn loose_keys(conn: &Connection, from: &Cursor, limit: usize) -> rusqlite::Result<KeyPage> {
    let (ns, kind, name) = match from.0.split_first_chunk::<5>() {
        Some(([a, b, c, d, kind], name)) => (i64::from(u32::from_be_bytes([*a, *b, *c, *d])), *kind, name),
        None => (-1, 0, &[][..]),
    };
    let mut statement = conn.prepare_cached(
        "SELECT task, value, until, kind, key, ns FROM key WHERE (ns, kind, key) > (?1, ?2, ?3) AND kind NOT IN (98, 117) \
         ORDER BY ns, kind, key LIMIT ?4",
    )?;
    let rows = statement.query_map(params![ns, kind, name, limit as i64], |row| Ok((Ns(row.get(5)?), keys::named(row, 3)?)))?;
    let rows: Vec<(Ns, (KeyKind, bytes::Bytes, _))> = rows.collect::<rusqlite::Result<_>>()?;
    let place =
        |(ns, (kind, name, _)): &(Ns, (KeyKind, bytes::Bytes, _))| [&ns.0.to_be_bytes()[..], &[*kind as u8], name].concat();
    let next = rows.last().filter(|_| rows.len() == limit).map(|last| Cursor(place(last)));
    Ok(KeyPage { items: rows.into_iter().map(|(_, item)| item).collect(), next })
}
