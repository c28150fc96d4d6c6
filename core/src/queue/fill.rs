//! Giving a signature what it and its task type leave out.

use super::{QueueConfig, Queues};
use crate::signature::Signature;
use crate::spec::DEFAULT_QUEUE;

impl QueueConfig {
    /// Fills the fields that a signature leaves out; whatever it says stays.
    pub(crate) fn fill(&self, s: &mut Signature<'_>) {
        s.soft_time_limit = s.soft_time_limit.or(self.soft_time_limit);
        s.time_limit = s.time_limit.or(self.time_limit);
        s.max_run = s.max_run.or(self.max_run);
        s.retention = s.retention.or(self.retention);
        if s.retry.is_none() {
            s.retry.clone_from(&self.retry);
        }
    }
}

/// What the queue of a signature says; `None`: it names the default one.
pub(crate) fn of<'q>(queues: Option<&'q Queues>, name: Option<&str>) -> Option<&'q QueueConfig> {
    queues?.get(name.unwrap_or(DEFAULT_QUEUE)).map(|queue| &**queue)
}
