//! The callbacks of a task, as its record shows them: they are members of its family.

use lovage_core::callback::CALLBACK_QUEUE;
use lovage_core::spec::DEFAULT_PRIORITY;
use lovage_core::{CallbackKind, Callbacks, LaneDef, LaneId, Ns, Spec, TaskKey};
use lovage_store::{Cursor, Index};
use serde::Serialize;

use crate::app::App;
use crate::problem::Refusal;
use crate::view::read_body;

/// A callback that was made for a task.
#[derive(Serialize)]
pub(crate) struct Told {
    kind: CallbackKind,
    id: String,
    state: &'static str,
}

impl App {
    /// The callbacks of a task, in the order in which they were made; `None` if it asks for none. Of a large family only a part is
    /// looked at, as lists do.
    pub(crate) async fn told(&self, key: &TaskKey, spec: &Spec) -> Result<Option<Vec<Told>>, Refusal> {
        if spec.callbacks.is_empty() {
            return Ok(None);
        }
        let p = self.home(key).await?;
        let lanes = lanes(key.ns, &spec.callbacks);
        let root = spec.root.clone().map_or_else(|| key.clone(), |root| TaskKey::new(key.ns, root));
        let index = Index::Members { root };
        let (mut told, mut from) = (Vec::new(), Cursor::default());
        let mut left = self.options.limits.list_scan;
        let most = self.store.caps().max_batch.max(1);
        while left > 0 {
            let page = self.store.scan(p, &index, from, left.min(most)).await?;
            left -= page.items.len().min(left);
            let (keys, heads): (Vec<_>, Vec<_>) = page.items.into_iter().filter(|(_, head)| lanes.contains(&head.lane)).unzip();
            let bodies = if keys.is_empty() { Vec::new() } else { self.store.bodies(p, &keys).await? };
            for ((member, head), body) in keys.into_iter().zip(heads).zip(bodies) {
                let Some((child, _)) = read_body(body.as_ref()) else { continue };
                if let Some(kind) = child.callback.filter(|_| child.parent.as_ref() == Some(&key.id)) {
                    told.push(Told { kind, id: member.id.to_string(), state: head.state.as_str() });
                }
            }
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        Ok(Some(told))
    }
}

/// The lanes of callbacks: the members of a family that are in none of them need no second look.
fn lanes(ns: Ns, callbacks: &Callbacks) -> Vec<LaneId> {
    let lane = |kind| {
        let callback = callbacks.get(kind)?;
        let spec = Spec { url: Some(callback.url.clone()), queue: CALLBACK_QUEUE.to_owned(), ..Spec::default() };
        Some(LaneDef::id(&spec.lane(ns, DEFAULT_PRIORITY)))
    };
    CallbackKind::ALL.into_iter().filter_map(lane).collect()
}
