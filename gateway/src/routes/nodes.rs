//! `GET /v1/nodes`, `/v1/nodes/{node}`; `POST …/drain`, `…/resume`, `…/fence`

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use futures_util::future::try_join_all;
use http::StatusCode;
use lovage_core::board::Board;
use lovage_core::fields;
use lovage_core::problem::{Code, Problem};
use lovage_core::units::Dur;
use lovage_core::{NodeInfo, Ns, SessionId};
use lovage_store::{DocKind, Document, OwnRequest, Ownership, Stake, Want, all_docs, bell};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::{App, Shared};
use crate::ask::Ask;
use crate::auth::Caller;
use crate::documents::{Precondition, content};
use crate::problem::Refusal;
use crate::query::Query;
use crate::{schema, view};

/// A node that has been silent for so long has missed two renewals and may be taken for dead.
const SILENCE: Duration = Duration::from_secs(6);

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(drain))
        .routes(routes!(resume))
        .routes(routes!(fence))
}

#[derive(Serialize)]
struct NodeView {
    id: String,
    #[serde(flatten)]
    info: InfoView,
    state: &'static str,
    silent_for: Option<String>,
    partitions: Vec<u16>,
    open_attempts: Option<u64>,
}

#[derive(Serialize)]
struct InfoView {
    name: String,
    roles: Vec<String>,
    version: String,
    pid: u32,
    url: Option<String>,
    started_at: String,
}

/// What the partitions say of a session.
struct Seen {
    /// How long ago its youngest living lease was renewed; `None`: none lives.
    silent_for: Option<Duration>,
    partitions: Vec<u16>,
    fenced: bool,
}

impl App {
    async fn ownerships(&self) -> Result<Vec<Ownership>, Refusal> {
        Ok(try_join_all(self.all_partitions().map(|p| self.store.ownership(p))).await?)
    }

    fn seen(&self, ownerships: &[Ownership], session: SessionId) -> Seen {
        let mut seen = Seen { silent_for: None, partitions: Vec::new(), fenced: false };
        for (partition, ownership) in ownerships.iter().enumerate() {
            if ownership.owner.is_some_and(|(owner, _)| owner == session) {
                seen.partitions.push(partition as u16);
            }
            let Some(lease) = ownership.sessions.iter().find(|lease| lease.session == session) else { continue };
            seen.fenced |= matches!(lease.stake, Stake::Fenced | Stake::Buried);
            if lease.until > ownership.now {
                let silent_for = self.options.cluster.lease.saturating_sub(lease.until.since(ownership.now));
                seen.silent_for = Some(seen.silent_for.map_or(silent_for, |least| least.min(silent_for)));
            }
        }
        seen
    }

    fn node_view(&self, document: &Document, ownerships: &[Ownership], boards: &[Board]) -> Result<NodeView, Problem> {
        let info: NodeInfo = content(document)?;
        let session = document.name.parse().map_or(SessionId(0), SessionId);
        let seen = self.seen(ownerships, session);
        // One that has just started has no lease yet.
        let is_new = self.now().since(info.started_at) < self.options.cluster.lease && !seen.fenced;
        let state = match seen.silent_for {
            None if !is_new => "gone",
            _ if info.drain => "draining",
            _ => "active",
        };
        Ok(NodeView {
            id: document.name.clone(),
            info: InfoView {
                name: info.name,
                roles: info.roles,
                version: info.version,
                pid: info.pid,
                url: info.url,
                started_at: info.started_at.rfc3339(),
            },
            state,
            silent_for: seen.silent_for.map(|silent| Dur::from_millis(silent.as_millis() as u64).to_string()),
            partitions: seen.partitions,
            open_attempts: boards.iter().find(|board| board.node == session.0).and_then(|board| board.open),
        })
    }

    async fn show_node(&self, id: &str) -> Result<Response, Refusal> {
        let document = self.store.doc(DocKind::Node, Ns::DEFAULT, id).await?.ok_or_else(|| no_node(id))?;
        Ok(view::json(StatusCode::OK, &self.node_view(&document, &self.ownerships().await?, &self.boards().await)?))
    }

    async fn set_drain(&self, id: &str, drain: bool) -> Result<Response, Refusal> {
        let edited = self.edit_doc(DocKind::Node, Ns::DEFAULT, id, Precondition::None, |stored: Option<NodeInfo>| {
            Ok(NodeInfo { drain, ..stored.ok_or_else(|| no_node(id).0)? })
        });
        edited.await?;
        self.show_node(id).await
    }
}

fn no_node(id: &str) -> Refusal {
    Refusal::unknown(Code::NodeUnknown, "node", id)
}

/// List the processes of the cluster
#[utoipa::path(
    get, path = "/v1/nodes", operation_id = "listNodes", tag = "operation",
    responses((status = 200, description = "All of them", body = schema::Nodes))
)]
async fn list(State(app): State<Shared>, _: Caller, query: Query) -> Result<Response, Refusal> {
    query.done()?;
    let ownerships = app.ownerships().await?;
    let documents = all_docs(&*app.store, DocKind::Node, Some(Ns::DEFAULT)).await?;
    let boards = app.boards().await;
    let mut items =
        documents.iter().map(|document| app.node_view(document, &ownerships, &boards)).collect::<Result<Vec<_>, _>>()?;
    items.sort_by_key(|node| node.id.parse::<u64>().unwrap_or_default());
    Ok(view::json(StatusCode::OK, &serde_json::json!({ "items": items, "next_cursor": null })))
}

/// Show a process of the cluster
#[utoipa::path(
    get, path = "/v1/nodes/{node}", operation_id = "getNode", tag = "operation",
    params(("node" = String, Path, description = "Its id")),
    responses((status = 200, description = "The node", body = schema::Node))
)]
async fn get(ask: Ask) -> Result<Response, Refusal> {
    ask.app.show_node(&ask.name).await
}

/// Let a node take nothing new
///
/// It gives up its partitions, which other nodes take at once, and lets its open attempts end. `/readyz` of its gateway
/// answers 503. It goes on like this until `resume` or its next start.
#[utoipa::path(
    post, path = "/v1/nodes/{node}/drain", operation_id = "drainNode", tag = "operation",
    params(("node" = String, Path, description = "Its id")),
    responses((status = 200, description = "The node", body = schema::Node))
)]
async fn drain(ask: Ask) -> Result<Response, Refusal> {
    ask.nothing().await?;
    ask.app.set_drain(&ask.name, true).await
}

/// Let a drained node work again
#[utoipa::path(
    post, path = "/v1/nodes/{node}/resume", operation_id = "resumeNode", tag = "operation",
    params(("node" = String, Path, description = "Its id")),
    responses((status = 200, description = "The node", body = schema::Node))
)]
async fn resume(ask: Ask) -> Result<Response, Refusal> {
    ask.nothing().await?;
    ask.app.set_drain(&ask.name, false).await
}

/// End a dead node's lease now
///
/// Its partitions change hands and its open attempts are made again at once, instead of when its lease runs out. For a node
/// that is known to be dead: if it still works, its attempts are open twice until it hears of it, and it ends. A node that was
/// heard of in the last six seconds is refused unless `force` is given.
#[utoipa::path(
    post, path = "/v1/nodes/{node}/fence", operation_id = "fenceNode", tag = "operation",
    params(("node" = String, Path, description = "Its id")),
    request_body(content = Option<schema::Fence>),
    responses(
        (status = 200, description = "The node", body = schema::Node),
        (status = 409, description = "It lives", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
async fn fence(ask: Ask) -> Result<Response, Refusal> {
    let force = fields::only(&ask.json_if_any().await?, "force", fields::boolean)?.unwrap_or(false);
    let Ask { app, name: id, .. } = ask;
    let document = app.store.doc(DocKind::Node, Ns::DEFAULT, &id).await?.ok_or_else(|| no_node(&id))?;
    let session = document.name.parse().map(SessionId).map_err(|_| no_node(&id))?;
    let ownerships = app.ownerships().await?;
    if let Some(silent) = app.seen(&ownerships, session).silent_for.filter(|silent| *silent < SILENCE && !force) {
        let shown = Dur::from_millis(silent.as_millis() as u64);
        let detail = format!("the node was heard of {shown} ago; if its process is dead all the same, use `force`");
        return Err(Problem::new(Code::WrongState, detail).in_state("active").into());
    }
    let fence = OwnRequest { session, want: Want::Fence, lease: Duration::ZERO, drop: Vec::new() };
    try_join_all(app.all_partitions().map(|p| app.store.own(p, fence.clone()))).await?;
    tracing::warn!(node = session.0, "fenced a node");
    // Without it the others see it with their next renewals.
    if let Err(error) = bell::ring(&*app.store).await {
        error.log("tell the others of a fenced node");
    }
    Ok(view::json(StatusCode::OK, &app.node_view(&document, &app.ownerships().await?, &app.boards().await)?))
}

/// `draining` if this very node is to take nothing new.
pub(super) fn check_drain(app: &App) -> Result<(), Problem> {
    if app.options.cluster.drain.load(Ordering::Relaxed) {
        return Err(Problem::new(Code::Draining, "this node is to take nothing new; `resume` lets it work again"));
    }
    Ok(())
}
