//! How much room tasks take in the database: the sizes of a few of them, and what a record costs besides.

use lovage_core::State;
use rusqlite::Connection;

use crate::footprint::{Footprint, LOOKED_AT, SAMPLE, Samples};

/// What a record takes besides body, result and attempts: its row, its places in the indexes, the parts of pages that stay
/// empty. Measured: docs/operations.md.
const RECORD: u64 = 180;

pub(super) fn weigh(conn: &Connection) -> rusqlite::Result<Footprint> {
    let pragma = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let bytes = (pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?;
    let mut newest = conn.prepare_cached("SELECT seq, state FROM task ORDER BY seq DESC LIMIT ?1")?;
    let mut weight = conn.prepare_cached(
        "SELECT coalesce((SELECT length(bytes) FROM body WHERE seq = ?1), 0) \
         + coalesce((SELECT length(bytes) FROM result WHERE seq = ?1), 0) \
         + coalesce((SELECT sum(length(bytes)) FROM attempt WHERE seq = ?1), 0)",
    )?;
    let mut rows = newest.query([LOOKED_AT as i64])?;
    let mut samples = Samples::default();
    let mut counts = [0; 9];
    while let Some(row) = rows.next()? {
        let state: u8 = row.get(1)?;
        let Some(state) = State::from_u8(state) else { continue };
        counts[state as usize] += 1;
        if counts[state as usize] <= SAMPLE {
            let own: i64 = weight.query_row([row.get::<_, i64>(0)?], |row| row.get(0))?;
            samples.add(state, own as u64 + RECORD);
        }
    }
    Ok(Footprint { bytes: bytes as u64, tasks: samples.means() })
}
