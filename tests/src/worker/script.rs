//! Which reply a call gets.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};

use super::record::Call;
use super::reply::Reply;

/// How calls of one name are answered.
#[derive(Clone)]
pub struct Script(Kind);

#[derive(Clone)]
enum Kind {
    Sequence(Vec<Reply>),
    Function(Arc<dyn Fn(&Call) -> Reply + Send + Sync>),
}

impl Script {
    /// A function decides for each call.
    pub fn function(reply: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Self {
        Self(Kind::Function(Arc::new(reply)))
    }

    fn reply(&self, call: &Call, number: usize) -> Reply {
        match &self.0 {
            Kind::Sequence(replies) => replies[number.min(replies.len() - 1)].clone(),
            Kind::Function(function) => function(call),
        }
    }
}

impl From<Reply> for Script {
    fn from(reply: Reply) -> Self {
        Self(Kind::Sequence(vec![reply]))
    }
}

impl From<Vec<Reply>> for Script {
    fn from(replies: Vec<Reply>) -> Self {
        assert!(!replies.is_empty(), "a sequence of replies needs at least one");
        Self(Kind::Sequence(replies))
    }
}

impl<const N: usize> From<[Reply; N]> for Script {
    fn from(replies: [Reply; N]) -> Self {
        Self::from(replies.to_vec())
    }
}

/// Failures that strike by chance, the same ones for the same seed, whatever the order of arrival.
#[derive(Debug, Clone, Copy)]
pub struct Flaky {
    /// Decides together with the task id and the number of its call.
    pub seed: u64,
    /// Share of calls answered with 500, from 0 to 1.
    pub error: f64,
    /// Share of calls whose connection is reset, from 0 to 1.
    pub reset: f64,
}

impl Flaky {
    fn strikes(&self, id: &str, number: usize) -> Option<Reply> {
        let mut hasher = DefaultHasher::new();
        (self.seed, id, number).hash(&mut hasher);
        let chance = fastrand::Rng::with_seed(hasher.finish()).f64();
        if chance < self.error {
            Some(Reply::status(500))
        } else if chance < self.error + self.reset {
            Some(Reply::reset())
        } else {
            None
        }
    }
}

/// All scripts of a worker, with the count of calls that sequences and flakiness need.
#[derive(Default)]
pub(crate) struct Scripts(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    scripts: HashMap<String, Script>,
    flaky: Option<Flaky>,
    calls: HashMap<String, usize>,
}

impl Scripts {
    pub(crate) fn set(&self, name: &str, script: Script) {
        self.0.lock().expect("no holder panics").scripts.insert(name.to_owned(), script);
    }

    pub(crate) fn set_flaky(&self, flaky: Flaky) {
        self.0.lock().expect("no holder panics").flaky = Some(flaky);
    }

    /// Chooses the reply and counts the call.
    pub(crate) fn reply(&self, call: &Call) -> Reply {
        let (script, number) = {
            let mut inner = self.0.lock().expect("no holder panics");
            let counter = inner.calls.entry(call.id.clone()).or_default();
            let number = *counter;
            *counter += 1;
            if let Some(reply) = inner.flaky.and_then(|flaky| flaky.strikes(&call.id, number)) {
                return reply;
            }
            (find(&inner.scripts, call).cloned(), number)
        };
        // Outside the lock, so that a panicking or slow function of a test harms its own call only.
        match script {
            Some(script) => script.reply(call, number),
            None => Reply::bytes("text/plain", format!("the worker has no script for task {:?} at {}", call.task, call.path))
                .with_status(422),
        }
    }
}

fn find<'a>(scripts: &'a HashMap<String, Script>, call: &Call) -> Option<&'a Script> {
    let matches = |name: &str| match name.strip_suffix('*') {
        Some(prefix) => call.task.starts_with(prefix),
        None => name == call.task || name == call.path,
    };
    scripts.iter().filter(|(name, _)| matches(name)).max_by_key(|(name, _)| name.len()).map(|(_, script)| script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_the_same_for_the_same_seed_and_about_the_share_asked_for() {
        let flaky = Flaky { seed: 7, error: 0.05, reset: 0.05 };
        let struck = |number: usize| flaky.strikes(&format!("task-{number}"), 0).is_some();
        let first: Vec<bool> = (0..10_000).map(struck).collect();
        let second: Vec<bool> = (0..10_000).map(struck).collect();
        assert_eq!(first, second);
        let count = first.iter().filter(|struck| **struck).count();
        assert!((800..1_200).contains(&count), "{count} of 10000 calls failed");
    }
}
