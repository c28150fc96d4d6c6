//! Signatures inside others: links, what a worker spawns, and what takes the place of another. The ids of their tasks follow from
//! the one that starts them, so they have none of their own, and no unique or debounce key, which another task could have. With an
//! order key, or in a queue that is kept in order, they live where that belongs.

use std::cell::Cell;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::check::Rules;
use super::nest::{LINK_DEFAULTS, Nest, Start};
use super::{Draft, json};
use crate::answer::{BAD_OUTCOME, TaskError};
use crate::fields::Errors;

/// The most signatures in one `link` or `link_error`.
pub const MAX_LINKS: usize = 16;
/// How deep links may have links of their own.
pub const MAX_LINK_DEPTH: usize = 8;
/// The most tasks that one answer or report may spawn.
pub const MAX_CHILDREN: usize = 1_000;

const OWN_KEYS: &str = "cannot be given for a task that another task starts";

impl Rules<'_> {
    /// `link` or `link_error`: one signature or a list.
    pub(super) fn links(&self, raw: Option<&RawValue>, at: &str, nest: Nest<'_>, errors: &mut Errors) -> Vec<Draft> {
        let Some(raw) = raw else { return Vec::new() };
        if nest.depth >= MAX_LINK_DEPTH {
            errors.invalid(at, format!("is nested deeper than {MAX_LINK_DEPTH} levels"));
            return Vec::new();
        }
        if !raw.get().starts_with('[') {
            return self.child(raw.get(), at, nest.link(), errors).into_iter().collect();
        }
        let list: Vec<&RawValue> = match serde_json::from_str(raw.get()) {
            Ok(list) => list,
            Err(error) => {
                errors.invalid(at, error.to_string());
                return Vec::new();
            }
        };
        if list.len() > MAX_LINKS {
            errors.invalid(at, format!("may have at most {MAX_LINKS} signatures"));
            return Vec::new();
        }
        list.iter().enumerate().filter_map(|(n, raw)| self.child(raw.get(), &format!("{at}/{n}"), nest.link(), errors)).collect()
    }

    /// A signature of a task that another one starts.
    fn child(&self, text: &str, at: &str, nest: Nest<'_>, errors: &mut Errors) -> Option<Draft> {
        let mut mine = Errors::default();
        let draft = match json::read(text, &mut mine) {
            Ok(signature) => {
                let own = [
                    ("/id", signature.id.is_some()),
                    ("/unique", signature.unique.is_some()),
                    ("/debounce", signature.debounce.is_some()),
                ];
                for (pointer, given) in own {
                    if given {
                        mine.invalid(pointer, OWN_KEYS);
                    }
                }
                self.draft(signature, nest, &mut mine)
            }
            Err(problem) => {
                problem.errors.into_iter().for_each(|error| mine.push(error));
                if mine.is_empty() {
                    mine.invalid("", problem.detail);
                }
                None
            }
        };
        errors.join_under(at, mine);
        draft
    }

    /// The tasks that a worker spawns, from the texts of their signatures; `at` is where they stand in its document.
    pub fn children(&self, raw: &[Bytes], at: &str, errors: &mut Errors) -> Vec<Draft> {
        let mut drafts = Vec::with_capacity(raw.len().min(MAX_CHILDREN));
        if raw.is_empty() || raw.len() > MAX_CHILDREN {
            errors.invalid(at, format!("must have 1 to {MAX_CHILDREN} signatures"));
            return drafts;
        }
        for (n, bytes) in raw.iter().enumerate() {
            drafts.extend(self.raw_child(bytes, Start::Child, &format!("{at}/{n}"), errors));
        }
        drafts
    }

    /// The signature that takes the place of another. Whether it may: [`Outcome::fits`](crate::Outcome::fits).
    pub fn replacement(&self, raw: &Bytes, at: &str, errors: &mut Errors) -> Option<Draft> {
        self.raw_child(raw, Start::Replacement, at, errors)
    }

    fn raw_child(&self, raw: &Bytes, start: Start, at: &str, errors: &mut Errors) -> Option<Draft> {
        if let Ok(text) = std::str::from_utf8(raw) {
            return self.child(text, at, Nest::outer(start, &Cell::new(LINK_DEFAULTS)), errors);
        }
        errors.invalid(at, "is not UTF-8");
        None
    }
}

/// The tasks that a worker's answer spawns. An error says what is wrong and where, for the attempt's entry.
pub fn read_children(raw: &[Bytes], rules: &Rules<'_>) -> Result<Vec<Draft>, TaskError> {
    let mut errors = Errors::default();
    let drafts = rules.children(raw, "/tasks", &mut errors);
    refused(errors).map_or(Ok(drafts), Err)
}

/// What was refused of a worker's document, as the error of its attempt.
pub(crate) fn refused(errors: Errors) -> Option<TaskError> {
    errors.problem().map(|problem| TaskError::new(BAD_OUTCOME, problem.detail))
}
