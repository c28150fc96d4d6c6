//! How much room tasks take in Redis: what `MEMORY USAGE` says of the keys of a few of them, and their shares of the hashes
//! and sorted sets that all have in common.

use std::collections::HashMap;

use lovage_core::{Head, Ns, Partition, placement};
use redis::{Pipeline, Value};

use super::link::{Kind, Link};
use super::{RedisStore, pages, value};
use crate::footprint::{Footprint, LOOKED_AT, Samples};
use crate::{Cursor, ListQuery, Result, Store};

/// Elements of a hash or sorted set that Redis weighs.
const WEIGHED: usize = 20;

impl RedisStore {
    /// See [`Inside::footprint`](crate::moving::Inside::footprint). Looks at one partition, another one every minute.
    pub(super) async fn weigh(&self) -> Result<Footprint> {
        let p = Partition((self.clock().now().0 / 60_000 % u64::from(self.caps.partitions)) as u16);
        let part = self.part(p, 0)?;
        let names = &part.names;
        let mut info = redis::cmd("INFO");
        let info = match part.link.send(Kind::Read, info.arg("memory")).await? {
            Value::VerbatimString { text, .. } => text,
            other => value::text(other)?,
        };
        let bytes = info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok()).unwrap_or_default();

        let namespaces: std::collections::BTreeSet<Ns> = self.counts(p).await?.into_iter().map(|counts| counts.ns).collect();
        let mut found = Vec::new();
        for ns in namespaces.into_iter().take(4) {
            let query = ListQuery { ns, ..ListQuery::default() };
            found.extend(pages::list(&part.link, names, &query, Cursor::default(), LOOKED_AT).await?.items);
        }
        let chosen = Samples::choose(found);
        if chosen.is_empty() {
            return Ok(Footprint { bytes, tasks: Vec::new() });
        }
        let mut shares = Shares::default();
        shares.ask("HLEN", names.heads().to_vec());
        for (_, head) in &chosen {
            let place = placement(head);
            if let Some((lane, _)) = place.lane {
                shares.ask("ZCARD", names.lane(lane));
            }
            for (key, is_in) in [(names.timers(), place.timer.is_some()), (names.done(), place.done.is_some())] {
                if is_in {
                    shares.ask("ZCARD", key.to_vec());
                }
            }
            if place.running {
                shares.ask("SCARD", names.running().to_vec());
            }
        }
        let shares = shares.answers(&part.link).await?;
        let mut pipe = Pipeline::new();
        for (key, _) in &chosen {
            let id = key.to_bytes();
            for name in [names.body(&id), names.result(&id), names.attempts(&id)] {
                pipe.cmd("MEMORY").arg("USAGE").arg(name);
            }
        }
        let mut weights = part.link.send_all(Kind::Read, &pipe).await?.into_iter();
        let mut samples = Samples::default();
        for (_, head) in &chosen {
            let mut own = 0;
            for weight in weights.by_ref().take(3) {
                own += value::number(weight)?;
            }
            samples.add(head.state, own + self.share(p, head, &shares)?);
        }
        Ok(Footprint { bytes, tasks: samples.means() })
    }

    /// The bytes of a task in what it shares with others.
    fn share(&self, p: Partition, head: &Head, shares: &HashMap<Vec<u8>, u64>) -> Result<u64> {
        let names = &self.part(p, 0)?.names;
        let place = placement(head);
        let lane = place.lane.map(|(lane, _)| names.lane(lane));
        let mut keys = vec![names.heads().to_vec()];
        keys.extend(lane);
        keys.extend(place.timer.map(|_| names.timers().to_vec()));
        keys.extend(place.done.map(|_| names.done().to_vec()));
        keys.extend(place.running.then(|| names.running().to_vec()));
        Ok(keys.iter().filter_map(|key| shares.get(key)).sum())
    }
}

/// What one element of each of these keys weighs.
#[derive(Default)]
struct Shares(Vec<(&'static str, Vec<u8>)>);

impl Shares {
    fn ask(&mut self, count: &'static str, key: Vec<u8>) {
        if !self.0.iter().any(|(_, known)| *known == key) {
            self.0.push((count, key));
        }
    }

    async fn answers(self, link: &Link) -> Result<HashMap<Vec<u8>, u64>> {
        let mut pipe = Pipeline::new();
        for (count, key) in &self.0 {
            pipe.cmd("MEMORY").arg("USAGE").arg(key).arg("SAMPLES").arg(WEIGHED);
            pipe.cmd(count).arg(key);
        }
        let mut answers = link.send_all(Kind::Read, &pipe).await?.into_iter();
        let mut shares = HashMap::new();
        for (_, key) in self.0 {
            let weight = value::number(answers.next().unwrap_or_default())?;
            let count = value::number(answers.next().unwrap_or_default())?;
            shares.insert(key, weight / count.max(1));
        }
        Ok(shares)
    }
}
