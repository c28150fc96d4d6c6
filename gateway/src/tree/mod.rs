//! The tree of a task: its first ancestor and all that came of it, with states and kinds (API: `GET /v1/tasks/{id}/tree`).
//!
//! Read from the stores' indexes of members, up to a limit, and put in the order in which they were made: tasks with an order of
//! their own live in other partitions than the root.

mod draw;

use lovage_core::callback::CallbackKind;
use lovage_core::redact::Redaction;
use lovage_core::spec::Linked;
use lovage_core::{Head, Partition, Reason, Spec, TaskId, TaskKey};
use lovage_store::{Cursor, Index, Parts};
use serde::Serialize;

pub(crate) use draw::{dot, mermaid};

use crate::app::App;
use crate::problem::Refusal;
use crate::view;

/// Records that are read at once.
const PAGE: usize = 250;

/// How a task came to be in its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// It was submitted.
    Root,
    /// A worker spawned it.
    Child,
    /// It follows the success of its parent.
    Link,
    /// It follows the failure of its parent.
    LinkError,
    /// It tells somebody of its parent.
    Callback,
}

impl Kind {
    fn of(spec: &Spec) -> Self {
        match (spec.callback, spec.linked) {
            (Some(_), _) => Self::Callback,
            (None, Some(Linked::Success)) => Self::Link,
            (None, Some(Linked::Failure)) => Self::LinkError,
            (None, None) if spec.parent.is_some() => Self::Child,
            (None, None) => Self::Root,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Child => "child",
            Self::Link => "link",
            Self::LinkError => "link_error",
            Self::Callback => "callback",
        }
    }
}

/// A task of a tree.
#[derive(Debug, Serialize)]
pub(crate) struct Node {
    pub id: TaskId,
    pub parent: Option<TaskId>,
    pub kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callback: Option<CallbackKind>,
    pub task: Option<String>,
    pub url: Option<String>,
    pub name: Option<String>,
    pub state: &'static str,
    pub reason: Option<&'static str>,
    pub attempt: u32,
    pub created_at: String,
    pub finished_at: Option<String>,
}

/// A tree, its root first if that is still kept.
#[derive(Debug, Serialize)]
pub(crate) struct Tree {
    pub root: TaskId,
    pub nodes: Vec<Node>,
    /// There are more tasks than are shown.
    pub truncated: bool,
}

impl App {
    /// The tree that a task belongs to.
    pub(crate) async fn tree(&self, key: &TaskKey) -> Result<Option<Tree>, Refusal> {
        let Some((head, spec)) = self.head_and_spec(key).await? else { return Ok(None) };
        let root = spec.root.clone().map_or_else(|| key.clone(), |root| TaskKey::new(key.ns, root));
        let first = if root == *key { Some((head, spec)) } else { self.head_and_spec(&root).await? };
        let mut tree = Tree { root: root.id.clone(), nodes: Vec::new(), truncated: false };
        tree.nodes.extend(first.map(|(head, spec)| node(&root, &head, spec)));
        self.members(&root, &mut tree).await?;
        Ok(Some(tree))
    }

    async fn head_and_spec(&self, key: &TaskKey) -> Result<Option<(Head, Spec)>, Refusal> {
        let parts = Parts { body: true, ..Parts::default() };
        let Some((_, stored)) = self.find(key, parts).await? else { return Ok(None) };
        let (spec, _) = view::taken_apart(&stored)?;
        Ok(Some((stored.head, spec)))
    }

    async fn members(&self, root: &TaskKey, tree: &mut Tree) -> Result<(), Refusal> {
        let index = Index::Members { root: root.clone() };
        let page = PAGE.min(self.store.caps().max_batch.max(1));
        let mut room = self.options.limits.tree_tasks.saturating_sub(tree.nodes.len());
        for p in (0..self.partitions()).map(Partition) {
            let mut next = Some(Cursor::default());
            while let Some(from) = next.take() {
                // Without room one is enough to know that there are more.
                let found = self.store.scan(p, &index, from, page.min(room.max(1))).await?;
                if room == 0 {
                    tree.truncated |= !found.items.is_empty();
                    break;
                }
                room -= found.items.len().min(room);
                let keys: Vec<TaskKey> = found.items.iter().map(|(key, _)| key.clone()).collect();
                let bodies = if keys.is_empty() { Vec::new() } else { self.store.bodies(p, &keys).await? };
                for ((key, head), body) in found.items.into_iter().zip(bodies) {
                    // Gone since the page was read, or damaged: the record's own route tells.
                    let Some((spec, _)) = view::read_body(body.as_ref()) else { continue };
                    tree.nodes.push(node(&key, &head, spec));
                }
                next = found.next;
            }
        }
        // All times are written alike; the root was there before all others.
        tree.nodes.sort_by(|a, b| (a.kind != Kind::Root, &a.created_at).cmp(&(b.kind != Kind::Root, &b.created_at)));
        Ok(())
    }
}

fn node(key: &TaskKey, head: &Head, spec: Spec) -> Node {
    let url = Redaction::of(&spec.redact).url(&spec);
    Node {
        id: key.id.clone(),
        kind: Kind::of(&spec),
        parent: spec.parent,
        callback: spec.callback,
        task: spec.task,
        url,
        name: spec.name,
        state: head.state.as_str(),
        reason: (head.reason != Reason::None).then(|| head.reason.as_str()),
        attempt: head.attempt,
        created_at: head.created.rfc3339(),
        finished_at: (head.ended.0 != 0).then(|| head.ended.rfc3339()),
    }
}
