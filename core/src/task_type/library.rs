//! The task types of all namespaces, compiled once per version of their documents.

use std::sync::Arc;

use ahash::AHashMap;

use super::{TaskType, TaskTypes};
use crate::head::Version;
use crate::id::Ns;
use crate::problem::Problem;

/// A stored task type.
#[derive(Clone, Copy, Debug)]
pub struct StoredType<'a> {
    /// Its namespace.
    pub ns: Ns,
    /// Its name.
    pub pattern: &'a str,
    /// Rises with every change.
    pub version: Version,
    /// What [`super::merge`] made.
    pub bytes: &'a [u8],
}

/// All task types at one moment.
#[derive(Debug, Default)]
pub struct Library {
    tables: AHashMap<Ns, Arc<TaskTypes>>,
    compiled: AHashMap<(Ns, Box<str>), (Version, Arc<TaskType>)>,
}

impl Library {
    /// The types that are stored now; those that this library knows are not compiled again. One that cannot be read is left
    /// out and told.
    #[must_use]
    pub fn next<'a>(
        &self,
        stored: impl Iterator<Item = StoredType<'a>>,
        mut unreadable: impl FnMut(StoredType<'a>, Problem),
    ) -> Self {
        let mut compiled = AHashMap::new();
        let mut groups: AHashMap<Ns, Vec<Arc<TaskType>>> = AHashMap::new();
        for document in stored {
            let name = (document.ns, document.pattern.into());
            let known = self.compiled.get(&name).filter(|(version, _)| *version == document.version);
            let text = std::str::from_utf8(document.bytes).unwrap_or_default();
            let read = || TaskType::read(document.pattern, text).map(Arc::new);
            match known.map_or_else(read, |(_, one)| Ok(one.clone())) {
                Ok(one) => {
                    groups.entry(document.ns).or_default().push(one.clone());
                    compiled.insert(name, (document.version, one));
                }
                Err(problem) => unreadable(document, problem),
            }
        }
        let tables = groups.into_iter().map(|(ns, types)| (ns, Arc::new(TaskTypes::new(types)))).collect();
        Self { tables, compiled }
    }

    /// Whether these are the same versions of the same types.
    pub fn is_same(&self, other: &Self) -> bool {
        let version = |library: &Self, name| library.compiled.get(name).map(|(version, _)| *version);
        let mut names = self.compiled.keys();
        self.compiled.len() == other.compiled.len() && names.all(|name| version(self, name) == version(other, name))
    }

    /// The types of a namespace; `None`: it has none.
    pub fn of(&self, ns: Ns) -> Option<&Arc<TaskTypes>> {
        self.tables.get(&ns)
    }
}
