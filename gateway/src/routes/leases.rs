//! `POST /v1/leases`

use std::collections::BTreeMap;
use std::time::Duration;

use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use lovage_core::fields::{self, Errors};
use lovage_core::problem::Problem;
use lovage_core::resume::{Children, as_json};
use lovage_core::units::Dur;
use lovage_core::{AttemptToken, Form, Millis, Ns, Trace, report};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::{App, Shared};
use crate::ask::Ask;
use crate::problem::Refusal;
use crate::pull::{Taken, Wish};
use crate::{schema, view};

const FIELDS: [&str; 4] = ["worker", "max", "wait", "lease"];
const MOST: u64 = 100;

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(lease))
}

/// A task as the worker that took it sees it.
#[derive(Default, Serialize)]
struct Item {
    id: String,
    task: Option<String>,
    queue: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kwargs: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    children: Option<Children>,
    attempt: u32,
    max_attempts: u32,
    attempt_url: String,
    deadline: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    soft_deadline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eta: Option<String>,
    parent: Option<String>,
    root: Option<String>,
    #[serde(flatten)]
    trace: BTreeMap<&'static str, String>,
    labels: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Items {
    items: Vec<Item>,
}

/// Take tasks
///
/// For workers that cannot be called (`pull: true`). Each task is an accepted attempt: report to its `attempt_url`, and
/// before its lease runs out.
#[utoipa::path(
    post, path = "/v1/leases", operation_id = "leaseTasks", tag = "workers",
    request_body = schema::LeaseIn,
    responses(
        (status = 200, description = "The tasks; none if there was none within `wait`", body = schema::LeasedTasks),
        (status = 404, description = "There is no such worker, or no more", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn lease(ask: Ask<()>) -> Result<Response, Refusal> {
    let text = ask.json("this body").await?;
    let Ask { app, ns, .. } = ask;
    let wish = read(&text, ns, app.options.times.wait)?;
    let items = app.take(&wish).await?.into_iter().map(|taken| show(&app, taken)).collect();
    Ok(view::json(StatusCode::OK, &Items { items }))
}

fn read(text: &str, ns: Ns, longest: Duration) -> Result<Wish, Problem> {
    let mut errors = Errors::default();
    let mut wish = Wish { ns, worker: "".into(), most: 1, wait: Duration::ZERO, lease: None };
    for (name, raw) in fields::document(text)? {
        match &*name {
            _ if fields::is_null(raw) && FIELDS.contains(&&*name) => {}
            "worker" => wish.worker = fields::string(raw, "/worker", &mut errors).unwrap_or_default().into(),
            "max" => wish.most = fields::number(raw, 1, MOST, "/max", &mut errors).map_or(1, |most| most as usize),
            "wait" => {
                let wait: Option<Dur> = fields::value(raw, "/wait", &mut errors);
                wish.wait = wait.map_or(Duration::ZERO, Dur::get).min(longest);
            }
            "lease" => wish.lease = report::lease(raw, "/lease", &mut errors),
            other => errors.unknown("", other, &FIELDS),
        }
    }
    if wish.worker.is_empty() && errors.is_empty() {
        errors.invalid("/worker", "must be the name of a worker");
    }
    errors.problem().map_or(Ok(wish), Err)
}

fn show(app: &App, taken: Taken) -> Item {
    #[derive(Deserialize)]
    struct Call {
        args: Box<RawValue>,
        kwargs: Box<RawValue>,
    }
    let Taken { key, head, spec, body, children } = taken;
    let token = AttemptToken::of(&key, &head);
    let mut item = Item {
        id: key.id.to_string(),
        task: spec.task.clone(),
        queue: spec.queue().to_owned(),
        children,
        attempt: head.attempt,
        max_attempts: spec.max_attempts().into(),
        attempt_url: app.options.attempt_urls.write(&token),
        deadline: head.deadline.rfc3339(),
        soft_deadline: spec.soft_time_limit.map(|soft| head.started.after(soft.get()).rfc3339()),
        eta: spec.eta.map(Millis::rfc3339),
        parent: spec.parent.as_ref().map(ToString::to_string),
        root: spec.root.as_ref().map(ToString::to_string),
        trace: spec.trace.iter().flat_map(Trace::fields).map(|(name, value)| (name, value.to_owned())).collect(),
        labels: spec.labels.clone(),
        ..Item::default()
    };
    if spec.form == Form::Call {
        if let Ok(call) = serde_json::from_slice::<Call>(&body.payload) {
            (item.args, item.kwargs) = (Some(call.args), Some(call.kwargs));
        }
        return item;
    }
    let content_type = String::from_utf8_lossy(&body.content_type);
    item.payload = as_json(&content_type, &body.payload);
    if item.payload.is_none() {
        item.payload_base64 = Some(STANDARD.encode(&body.payload));
    }
    item.content_type = Some(if content_type.is_empty() { "application/json".to_owned() } else { content_type.into_owned() });
    item
}
