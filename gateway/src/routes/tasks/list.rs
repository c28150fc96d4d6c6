//! `GET /v1/tasks`

use axum::extract::State;
use axum::response::Response;
use futures_util::future::try_join_all;
use http::StatusCode;
use lovage_core::problem::Problem;
use lovage_core::{Flags, Head, Ns, Partition, Record, ResultValue, State as TaskState, TaskKey};
use lovage_store::{Cursor, Index, Page, Parts};
use serde::Serialize;

use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::filter::Filter;
use crate::problem::Refusal;
use crate::query::Query;
use crate::{cursor, schema, view};

const KIND: &str = "tasks";
/// Calls of the store that one request makes at most.
const CALLS: usize = 64;

#[derive(Default, Serialize)]
struct Tasks {
    items: Vec<Record>,
    next_cursor: Option<String>,
}

/// A place in the list: a partition and a place in it.
struct Place {
    partition: Partition,
    cursor: Cursor,
}

/// List tasks
///
/// Partition by partition, newest first where the store can. A page may hold fewer items than asked for; only
/// `next_cursor: null` ends the list. Results are not shown, errors are.
#[utoipa::path(
    get, path = "/v1/tasks", operation_id = "listTasks", tag = "tasks",
    params(schema::TaskFilters, schema::PageQuery),
    responses((status = 200, description = "A page of records", body = schema::Tasks))
)]
pub(crate) async fn list(State(app): State<Shared>, caller: Caller, mut query: Query) -> Result<Response, Refusal> {
    let limit = query.limit()?;
    let filter = Filter::take(&mut query)?;
    let from = query.one("cursor")?;
    query.done()?;
    if filter.nothing {
        return Ok(view::json(StatusCode::OK, &Tasks::default()));
    }
    let first = filter.tree(caller.ns).map_or(Partition(0), |root| app.partition(&root));
    let start = match from {
        Some(text) => Place::decode(&app, &text)?,
        None => Place { partition: first, cursor: Cursor::default() },
    };
    Ok(view::json(StatusCode::OK, &page(&app, caller.ns, &filter, start, limit).await?))
}

async fn page(app: &App, ns: Ns, filter: &Filter, start: Place, limit: usize) -> Result<Tasks, Refusal> {
    let mut tasks = Tasks::default();
    let mut place = start;
    let mut budget = app.options.limits.list_scan;
    let most = app.store.caps().max_batch.max(1);
    for _ in 0..CALLS {
        let want = (limit - tasks.items.len()).min(budget).min(most);
        if want == 0 {
            break;
        }
        let Page { items, next } = read(app, ns, filter, &place, want).await?;
        budget -= items.len().min(budget);
        tasks.items.extend(matching(app, filter, place.partition, items).await?);
        place = if let Some(cursor) = next {
            Place { cursor, ..place }
        } else {
            let partition = Partition(place.partition.0 + 1);
            if filter.root.is_some() || partition.0 >= app.partitions() {
                return Ok(tasks);
            }
            Place { partition, cursor: Cursor::default() }
        };
    }
    tasks.next_cursor = Some(place.encode());
    Ok(tasks)
}

async fn read(app: &App, ns: Ns, filter: &Filter, place: &Place, want: usize) -> Result<Page, Refusal> {
    let from = place.cursor.clone();
    let page = match filter.tree(ns) {
        Some(root) => app.store.scan(place.partition, &Index::Members { root }, from, want).await,
        None => app.store.list(place.partition, &filter.query(ns), from, want).await,
    };
    match page {
        Ok(page) => Ok(page),
        // The cursor passed its check, so it was for another list of this kind.
        Err(lovage_store::Error::Invalid(_)) => Err(cursor::refused().into()),
        Err(error) => Err(error.into()),
    }
}

/// The records of those that pass, in order.
async fn matching(app: &App, filter: &Filter, p: Partition, items: Vec<(TaskKey, Head)>) -> Result<Vec<Record>, Refusal> {
    let items: Vec<_> = items.into_iter().filter(|(_, head)| filter.passes_head(head)).collect();
    if items.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<TaskKey> = items.iter().map(|(key, _)| key.clone()).collect();
    let bodies = app.store.bodies(p, &keys).await?;
    let candidates = items.into_iter().zip(bodies).filter_map(|((key, head), body)| {
        // Gone since the page was read, or damaged: the record's own route tells.
        let (spec, _) = view::read_body(body.as_ref())?;
        filter.passes_spec(&spec).then_some((key, head, spec))
    });
    let records = candidates.map(|(key, head, spec)| async move {
        let result = if head.state == TaskState::Failed && head.flags.has(Flags::HAS_RESULT) {
            let parts = Parts { result: true, ..Parts::default() };
            let stored = app.store.get(p, &key, parts).await?;
            stored.and_then(|stored| ResultValue::decode(&stored.result?))
        } else {
            None
        };
        let record = view::summary(app, &key, &head, &spec).with_result(result.as_ref());
        Ok::<_, lovage_store::Error>(filter.passes_error(result.as_ref()).then_some(record))
    });
    Ok(try_join_all(records).await?.into_iter().flatten().collect())
}

impl Place {
    fn encode(&self) -> String {
        let mut bytes = self.partition.0.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.cursor.0);
        cursor::encode(KIND, &bytes)
    }

    fn decode(app: &App, text: &str) -> Result<Self, Problem> {
        let bytes = cursor::decode(KIND, text)?;
        let (partition, rest) = bytes.split_first_chunk::<2>().ok_or_else(cursor::refused)?;
        let partition = Partition(u16::from_be_bytes(*partition));
        if partition.0 >= app.partitions() {
            return Err(cursor::refused());
        }
        Ok(Self { partition, cursor: Cursor(rest.to_vec()) })
    }
}
