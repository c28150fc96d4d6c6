//! What a [`Batcher`](super::batch::Batcher) sends: inserts and commits of one partition.

use std::sync::Arc;

use bytes::Bytes;
use lovage_core::SessionId;

use super::batch::{Batched, Calls};
use super::clock::RedisClock;
use super::keys::PartitionKeys;
use super::link::{Kind, Link};
use super::{change, general, insert};
use crate::{Commit, Committed, Effect, Insert, Inserted, Mode, Result, StoreClock};

/// Sends the calls of one partition.
#[derive(Clone)]
pub(super) struct Sender {
    pub(super) link: Link,
    pub(super) names: Arc<PartitionKeys>,
    pub(super) clock: Arc<RedisClock>,
}

impl Batched for Insert {
    type Answer = Inserted;

    fn size(&self) -> usize {
        self.body.len()
    }
}

impl Calls<Insert> for Sender {
    async fn send(&self, _: SessionId, items: Vec<Insert>, mode: Mode) -> Result<Vec<Inserted>> {
        let call = insert::call(&self.names, self.clock.now(), &items, mode)?;
        let command = call.command(&self.names.fixed);
        let answer = self.link.run(Kind::Write, call.script, command, None).await?.pop().unwrap_or_default();
        insert::read(answer, items.len())
    }
}

impl Batched for Commit {
    type Answer = Committed;

    fn size(&self) -> usize {
        let spawned: usize =
            self.effects.iter().map(|effect| if let Effect::Spawn(child) = effect { child.body.len() } else { 0 }).sum();
        let result = self.result.iter().flatten().map(Bytes::len).sum::<usize>();
        spawned + result + self.body.as_ref().map_or(0, Bytes::len) + self.attempt.as_ref().map_or(0, Bytes::len)
    }
}

impl Calls<Commit> for Sender {
    async fn send(&self, source: SessionId, items: Vec<Commit>, mode: Mode) -> Result<Vec<Committed>> {
        let call = if general::is_needed(&items) {
            general::commit(&self.names, self.clock.now(), source, &items, mode)?
        } else {
            change::commit(&self.names, source, &items, mode)?
        };
        change::apply(&self.link, &self.names, &call, items.len(), None).await.map(|(answers, _)| answers)
    }
}
