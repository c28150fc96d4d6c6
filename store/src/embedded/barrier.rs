//! Barriers in the database: who has arrived at the tasks that wait for members.
//!
//! Arrivals are bits in pages of a bounded size, so that a barrier of a million members is a hundred rows and not a
//! million. A barrier is found by the order of acceptance of its task, which is never used twice.

use rusqlite::{Connection, OptionalExtension, Statement, params};

use crate::moving::{Barrier, set_bits};

/// Members of one page.
const PAGE_MEMBERS: u32 = 8 * 1024;

/// The statements, prepared once per connection.
pub(super) struct Barriers<'c> {
    make: Statement<'c>,
    find: Statement<'c>,
    count: Statement<'c>,
    remove: Statement<'c>,
    read_page: Statement<'c>,
    put_page: Statement<'c>,
    remove_pages: Statement<'c>,
}

impl<'c> Barriers<'c> {
    pub(super) fn prepare(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            make: conn.prepare("INSERT INTO barrier VALUES (?1, ?2, 0)")?,
            find: conn.prepare("SELECT members, arrived FROM barrier WHERE seq = ?1")?,
            count: conn.prepare("UPDATE barrier SET arrived = arrived + 1 WHERE seq = ?1")?,
            remove: conn.prepare("DELETE FROM barrier WHERE seq = ?1")?,
            read_page: conn.prepare("SELECT bits FROM arrival WHERE seq = ?1 AND page = ?2")?,
            put_page: conn.prepare("INSERT OR REPLACE INTO arrival VALUES (?1, ?2, ?3)")?,
            remove_pages: conn.prepare("DELETE FROM arrival WHERE seq = ?1")?,
        })
    }

    /// Makes a barrier in place of the one before. `true`: there is nobody to wait for, and none is kept.
    pub(super) fn make(&mut self, seq: u64, members: u32) -> rusqlite::Result<bool> {
        self.remove(seq)?;
        if members > 0 {
            self.make.execute(params![seq as i64, members])?;
        }
        Ok(members == 0)
    }

    /// Notes an arrival. `true`: it was the last one, and the barrier is gone.
    pub(super) fn arrive(&mut self, seq: u64, index: u32) -> rusqlite::Result<bool> {
        let found = self.find.query_row([seq as i64], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, u32>(1)?)));
        let Some((members, arrived)) = found.optional()?.filter(|(members, _)| index < *members) else { return Ok(false) };
        let place = params![seq as i64, index / PAGE_MEMBERS];
        let mut bits: Vec<u8> = self.read_page.query_row(place, |row| row.get(0)).optional()?.unwrap_or_default();
        let (byte, bit) = ((index % PAGE_MEMBERS / 8) as usize, 1 << (index % 8));
        if bits.len() <= byte {
            bits.resize(byte + 1, 0);
        }
        if bits[byte] & bit != 0 {
            return Ok(false);
        }
        if arrived + 1 == members {
            self.remove(seq)?;
            return Ok(true);
        }
        bits[byte] |= bit;
        self.put_page.execute(params![seq as i64, index / PAGE_MEMBERS, bits])?;
        self.count.execute([seq as i64])?;
        Ok(false)
    }

    /// Forgets the barrier of a task.
    pub(super) fn remove(&mut self, seq: u64) -> rusqlite::Result<()> {
        if self.remove.execute([seq as i64])? > 0 {
            self.remove_pages.execute([seq as i64])?;
        }
        Ok(())
    }
}

/// The barrier of the task with this order of acceptance.
pub(super) fn read(conn: &Connection, seq: i64) -> rusqlite::Result<Option<Barrier>> {
    let members =
        conn.prepare_cached("SELECT members FROM barrier WHERE seq = ?1")?.query_row([seq], |row| row.get(0)).optional()?;
    let Some(members) = members else { return Ok(None) };
    let mut pages = conn.prepare_cached("SELECT page, bits FROM arrival WHERE seq = ?1 ORDER BY page")?;
    let mut rows = pages.query([seq])?;
    let mut arrived = Vec::new();
    while let Some(row) = rows.next()? {
        let first = row.get::<_, u32>(0)? * PAGE_MEMBERS;
        arrived.extend(set_bits(row.get_ref(1)?.as_blob()?, true).map(|index| first + index));
    }
    Ok(Some(Barrier { members, arrived }))
}
