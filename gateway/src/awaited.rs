//! What a parent still needs of its children.
//!
//! A child that ended has arrived at the barrier of its parent, and that is counted once. If it were retried or deleted now, the
//! parent would be called again with a child that runs, or with none; so both are refused until the parent has no need of it: until
//! it is final, or waits for other children.

use lovage_core::problem::{Code, Problem};
use lovage_core::{AttemptEntry, Event, Flags, Head, Reason, Spec, State, TaskKey};
use lovage_store::{Parts, Stored};

use crate::app::App;
use crate::problem::Refusal;

impl App {
    /// Refuses with `wrong_state` an event that would change the end of a task that its parent needs.
    pub(crate) async fn not_awaited(&self, key: &TaskKey, head: &Head, spec: &Spec, event: &Event) -> Result<(), Refusal> {
        let what = match event {
            Event::Retry => "retried",
            Event::Delete => "deleted",
            Event::Forget => "made to forget its result",
            _ => return Ok(()),
        };
        let Some(arrival) = spec.arrives.as_ref().filter(|_| head.state.is_final()) else { return Ok(()) };
        let parent = TaskKey::new(key.ns, arrival.barrier.clone());
        let parts = Parts { attempts: true, ..Parts::default() };
        match self.find(&parent, parts).await? {
            Some((_, stored)) if needs(&stored, key) => {
                let detail = format!(
                    "it cannot be {what}: its parent {} waits for it, or was called again with it and has not ended",
                    parent.id
                );
                Err(Problem::new(Code::WrongState, detail).in_state(head.state.as_str()).into())
            }
            _ => Ok(()),
        }
    }
}

/// Whether the stored parent is called again with this child, now or later.
fn needs(parent: &Stored, child: &TaskKey) -> bool {
    let head = &parent.head;
    let waits = head.state == State::Blocked && head.reason == Reason::Children;
    if head.state.is_final() || !(waits || head.flags.has(Flags::RESUMED)) {
        return false;
    }
    let entries: Vec<AttemptEntry> = parent.attempts.iter().filter_map(|bytes| AttemptEntry::decode(bytes)).collect();
    AttemptEntry::waited_for(&entries).0.contains(&child.id)
}
