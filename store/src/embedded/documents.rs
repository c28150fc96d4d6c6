//! Documents: guarded puts in the writer's transaction, and reads.
//!
//! A deleted document leaves its version behind (a row without bytes), so that a version is never reused.

use std::path::Path;

use bytes::Bytes;
use lovage_core::Ns;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::failure::failed;
use super::schema;
use crate::{DocGuard, DocKind, DocOutcome, DocPage, DocPut, Document};

/// Applies puts one by one; whether any applied.
pub(super) fn put(conn: &Connection, items: &[DocPut]) -> rusqlite::Result<(Vec<DocOutcome>, bool)> {
    let mut changed = false;
    let mut answers = Vec::with_capacity(items.len());
    for item in items {
        let stored = read(conn, item.kind, item.ns, &item.name)?;
        let version = stored.as_ref().map_or(0, |d| d.version);
        let stored = stored.filter(|d| d.bytes.is_some());
        let holds = match item.guard {
            DocGuard::Absent => stored.is_none(),
            DocGuard::Version(expected) => stored.as_ref().is_some_and(|d| d.version == expected),
            DocGuard::Any => true,
        };
        answers.push(if !holds {
            DocOutcome::Refused(stored)
        } else if stored.is_none() && item.bytes.is_none() {
            // Nothing to delete.
            DocOutcome::Ok { version, created: false }
        } else {
            changed = true;
            let version = version + 1;
            conn.prepare_cached("INSERT OR REPLACE INTO document VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
                item.kind as u8,
                item.ns.0,
                item.name,
                version as i64,
                item.bytes.as_deref()
            ])?;
            DocOutcome::Ok { version, created: stored.is_none() }
        });
    }
    if changed {
        conn.prepare_cached("UPDATE meta SET value = value + 1 WHERE name = 'docs'")?.execute([])?;
    }
    Ok((answers, changed))
}

/// The number that rises with every change of documents.
pub(super) fn change_number(conn: &Connection) -> rusqlite::Result<u64> {
    conn.query_row("SELECT value FROM meta WHERE name = 'docs'", [], |row| row.get::<_, i64>(0)).map(|n| n as u64)
}

/// One document, or what a deleted one left.
pub(super) fn read(conn: &Connection, kind: DocKind, ns: Ns, name: &str) -> rusqlite::Result<Option<Document>> {
    conn.prepare_cached("SELECT ns, name, version, bytes FROM document WHERE kind = ?1 AND ns = ?2 AND name = ?3")?
        .query_row(params![kind as u8, ns.0, name], |row| document(kind, row))
        .optional()
}

/// A page of documents in order of (namespace, name).
pub(super) fn page(
    conn: &Connection,
    kind: DocKind,
    ns: Option<Ns>,
    after: Option<&(Ns, String)>,
    limit: usize,
) -> rusqlite::Result<DocPage> {
    let (low, high) = ns.map_or((0, u32::MAX), |ns| (ns.0, ns.0));
    // No document has an empty name's predecessor, so "from the first" is "behind the name before all names".
    let (after_ns, after_name) = after.map_or((-1, ""), |(ns, name)| (i64::from(ns.0), name.as_str()));
    let mut statement = conn.prepare_cached(
        "SELECT ns, name, version, bytes FROM document WHERE kind = ?1 AND (ns, name) > (?2, ?3) AND ns >= ?4 AND ns <= ?5 \
         AND bytes IS NOT NULL ORDER BY ns, name LIMIT ?6",
    )?;
    let limit = limit.max(1);
    let rows =
        statement.query_map(params![kind as u8, after_ns, after_name, low, high, limit as i64], |row| document(kind, row))?;
    let items = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let next = if items.len() == limit { items.last().map(|d| (d.ns, d.name.clone())) } else { None };
    Ok(DocPage { items, next })
}

fn document(kind: DocKind, row: &Row<'_>) -> rusqlite::Result<Document> {
    Ok(Document {
        kind,
        ns: Ns(row.get(0)?),
        name: row.get(1)?,
        version: row.get::<_, i64>(2)? as u64,
        bytes: row.get_ref(3)?.as_blob_or_null()?.map(Bytes::copy_from_slice),
    })
}

/// All documents of the store in `dir`, also while a server uses it.
pub fn documents_of(dir: &Path) -> crate::Result<Vec<Document>> {
    let conn = schema::connect_reader(dir)?;
    schema::check(&conn)?;
    let all = |kind| page(&conn, kind, None, None, i64::MAX as usize).map(|page| page.items);
    Ok(DocKind::ALL.into_iter().map(all).collect::<rusqlite::Result<Vec<_>>>().map_err(failed)?.into_iter().flatten().collect())
}
