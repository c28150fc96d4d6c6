//! Where a signature stands: by itself, or inside others.

use std::cell::Cell;

/// Bytes of defaults that task types may add to all links of one signature together. Without it a short list of links could
/// become large in memory.
pub(super) const LINK_DEFAULTS: usize = 64 << 10;

/// What makes a task of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// A client submits it.
    Submit,
    /// Another task starts it: it has no unique or debounce key of its own.
    Child,
    /// It takes the place of another task, and keeps the order key of that as well.
    Replacement,
}

/// The place of a signature. Links of one signature share what types may add to them.
#[derive(Clone, Copy)]
pub(super) struct Nest<'n> {
    /// Links above it.
    pub depth: usize,
    /// What makes a task of it.
    pub start: Start,
    left: &'n Cell<usize>,
}

impl<'n> Nest<'n> {
    /// A signature that stands in no other; `left` is what types may still add to its links.
    pub(super) fn outer(start: Start, left: &'n Cell<usize>) -> Self {
        Self { depth: 0, start, left }
    }

    /// The place of a link of it.
    pub(super) fn link(self) -> Self {
        Self { depth: self.depth + 1, start: Start::Child, ..self }
    }

    /// Whether it is a link.
    pub(super) fn is_link(self) -> bool {
        self.depth > 0
    }

    /// Takes what a type adds from what is left; `false`: it is too much.
    pub(super) fn take(self, bytes: usize) -> bool {
        let rest = self.left.get().checked_sub(bytes);
        if let Some(rest) = rest.filter(|_| self.is_link()) {
            self.left.set(rest);
        }
        rest.is_some() || !self.is_link()
    }
}
