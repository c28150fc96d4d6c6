//! Walks over the tasks that pass a filter, step by step. Lists show what a walk finds, bulk verbs change it.
//!
//! A step is one bounded call of the store, and its place can be kept in a cursor: whatever happens to tasks meanwhile, a walk
//! goes on behind the records that it has seen.

use futures_util::future::try_join_all;
use lovage_core::problem::Problem;
use lovage_core::{Body, Flags, Head, Ns, Partition, ResultValue, Spec, State, TaskKey};
use lovage_store::{Cursor, Index, Page, Parts};

use crate::app::App;
use crate::filter::Filter;
use crate::problem::Refusal;
use crate::{cursor, view};

/// Calls of the store that one request makes at most.
pub(crate) const STEPS: usize = 64;

/// A task that passes.
pub(crate) struct Found {
    pub key: TaskKey,
    pub head: Head,
    pub spec: Spec,
    pub body: Body,
    /// The error of a failed task, if the walk was asked for errors.
    pub error: Option<ResultValue>,
}

/// A place in a walk: a partition and a place in it.
#[derive(Clone)]
pub(crate) struct Place {
    pub partition: Partition,
    cursor: Cursor,
}

/// What one step found.
pub(crate) struct Step {
    /// Records that were looked at.
    pub looked: usize,
    /// Those whose heads pass, all of the partition in which the step was made.
    pub heads: Vec<(TaskKey, Head)>,
    /// Where to go on; `None`: this was the end.
    pub next: Option<Place>,
}

/// What to walk over.
pub(crate) struct Walk<'a> {
    pub app: &'a App,
    pub ns: Ns,
    pub filter: &'a Filter,
    /// Whether the errors of failed tasks are wanted.
    pub errors: bool,
}

impl Walk<'_> {
    /// Looks at up to `want` records behind `place`.
    pub(crate) async fn step(&self, place: &Place, want: usize) -> Result<Step, Refusal> {
        let Page { items, next } = self.read(place, want).await?;
        let looked = items.len();
        let heads = items.into_iter().filter(|(_, head)| self.filter.passes_head(head)).collect();
        let following = Partition(place.partition.0 + 1);
        let next = match next {
            Some(cursor) => Some(Place { cursor, partition: place.partition }),
            None if following.0 >= self.app.partitions() => None,
            None => Some(Place { partition: following, cursor: Cursor::default() }),
        };
        Ok(Step { looked, heads, next })
    }

    async fn read(&self, place: &Place, want: usize) -> Result<Page, Refusal> {
        let from = place.cursor.clone();
        let store = &self.app.store;
        let page = match self.filter.tree(self.ns) {
            Some(root) => store.scan(place.partition, &Index::Members { root }, from, want).await,
            None => store.list(place.partition, &self.filter.query(self.ns), from, want).await,
        };
        match page {
            Ok(page) => Ok(page),
            // The cursor passed its check, so it was for another list of this kind.
            Err(lovage_store::Error::Invalid(_)) => Err(cursor::refused().into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Those of the heads of a step whose tasks pass, in order.
    pub(crate) async fn matching(&self, p: Partition, heads: Vec<(TaskKey, Head)>) -> Result<Vec<Found>, Refusal> {
        if heads.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<TaskKey> = heads.iter().map(|(key, _)| key.clone()).collect();
        let mut bodies = Vec::with_capacity(keys.len());
        for keys in keys.chunks(self.app.store.caps().max_batch.max(1)) {
            bodies.extend(self.app.store.bodies(p, keys).await?);
        }
        let candidates = heads.into_iter().zip(bodies).filter_map(|((key, head), body)| {
            // Gone since the page was read, or damaged: the record's own route tells.
            let (spec, body) = view::read_body(body.as_ref())?;
            self.filter.passes_spec(&spec).then_some(Found { key, head, spec, body, error: None })
        });
        let errors = self.errors || self.filter.asks_for_errors();
        let found = candidates.map(|mut found| async move {
            if errors && found.head.state == State::Failed && found.head.flags.has(Flags::HAS_RESULT) {
                let stored = self.app.store.get(p, &found.key, Parts { result: true, ..Parts::default() }).await?;
                found.error = stored.and_then(|stored| ResultValue::decode(&stored.result?));
            }
            Ok::<_, lovage_store::Error>(self.filter.passes_error(found.error.as_ref()).then_some(found))
        });
        Ok(try_join_all(found).await?.into_iter().flatten().collect())
    }
}

impl Place {
    /// Where every walk begins.
    pub(crate) fn start() -> Self {
        Self { partition: Partition(0), cursor: Cursor::default() }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.partition.0.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.cursor.0);
        bytes
    }

    pub(crate) fn from_bytes(app: &App, bytes: &[u8]) -> Result<Self, Problem> {
        let (partition, rest) = bytes.split_first_chunk::<2>().ok_or_else(cursor::refused)?;
        let partition = Partition(u16::from_be_bytes(*partition));
        if partition.0 >= app.partitions() {
            return Err(cursor::refused());
        }
        Ok(Self { partition, cursor: Cursor(rest.to_vec()) })
    }
}
