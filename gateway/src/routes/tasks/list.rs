//! `GET /v1/tasks`

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use lovage_core::Record;
use serde::Serialize;

use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::filter::Filter;
use crate::problem::Refusal;
use crate::query::Query;
use crate::walk::{Place, STEPS, Walk};
use crate::{cursor, schema, view};

const KIND: &str = "tasks";

#[derive(Default, Serialize)]
struct Tasks {
    items: Vec<Record>,
    next_cursor: Option<String>,
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
    let filter = Filter::take(&mut query)?;
    page(&app, &caller, &filter, query).await
}

/// A page of the tasks that pass; the rest of the query says which.
pub(crate) async fn page(app: &App, caller: &Caller, filter: &Filter, query: Query) -> Result<Response, Refusal> {
    let (limit, from) = query.page()?;
    if filter.nothing {
        return Ok(view::json(StatusCode::OK, &Tasks::default()));
    }
    let walk = Walk { app, ns: caller.ns, filter, errors: true };
    let start = match from {
        Some(text) => Place::from_bytes(app, &cursor::decode(KIND, &text)?)?,
        None => Place::start(),
    };
    Ok(view::json(StatusCode::OK, &read(&walk, start, limit).await?))
}

async fn read(walk: &Walk<'_>, start: Place, limit: usize) -> Result<Tasks, Refusal> {
    let mut tasks = Tasks::default();
    let mut place = start;
    let mut budget = walk.app.options.limits.list_scan;
    for _ in 0..STEPS {
        let want = (limit - tasks.items.len()).min(budget);
        if want == 0 {
            break;
        }
        let step = walk.step(&place, want).await?;
        budget -= step.looked.min(budget);
        let record = |found: crate::walk::Found| {
            view::summary(walk.app, &found.key, &found.head, &found.spec).with_result(found.error.as_ref())
        };
        let found = walk.matching(place.partition, step.heads).await?;
        tasks.items.extend(found.into_iter().map(record));
        match step.next {
            Some(next) => place = next,
            None => return Ok(tasks),
        }
    }
    tasks.next_cursor = Some(cursor::encode(KIND, &place.to_bytes()));
    Ok(tasks)
}
