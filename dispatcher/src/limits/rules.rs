//! What limits are of, and what the stored documents say of them.

use std::fmt;

use lovage_core::{Ns, StoredLimit};

use crate::registry::Registry;

/// What a key is the key of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// A queue.
    Queue,
    /// A task name, also if the rule is of a pattern.
    Task,
    /// A worker; of its rate alone: how many tasks it takes at once is said of each of its instances.
    Worker,
    /// Chosen by a user.
    Own,
}

impl Kind {
    /// The kind and the name of a key as stores know it.
    pub(super) fn of(key: &str) -> (Self, &str) {
        let built_in = [("queue:", Self::Queue), ("task:", Self::Task), ("worker:", Self::Worker)];
        built_in.into_iter().find_map(|(prefix, kind)| Some((kind, key.strip_prefix(prefix)?))).unwrap_or((Self::Own, key))
    }

    /// What is stored of this key.
    pub(super) fn stored(self, registry: &Registry, ns: Ns, name: &str) -> StoredLimit {
        let rule = match self {
            Self::Queue => registry.queue(ns, name).map(|queue| queue.rule()),
            Self::Task => registry.task_rule(ns, name),
            Self::Worker => registry.named(ns, name).map(|worker| worker.config.rule()),
            Self::Own => return registry.limit(ns, name).unwrap_or_default(),
        };
        StoredLimit { rule: rule.unwrap_or_default(), paused_until: None }
    }
}

/// A key as stores and users know it.
pub(super) struct Key<'a>(pub Kind, pub &'a str);

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = match self.0 {
            Kind::Queue => "queue:",
            Kind::Task => "task:",
            Kind::Worker => "worker:",
            Kind::Own => "",
        };
        write!(f, "{prefix}{}", self.1)
    }
}
