//! Writing JSON text value by value, within bounds, knowing at each moment where it is.

use std::collections::HashSet;

use ahash::RandomState;
use bytes::Bytes;
use lovage_core::problem::{Problem, pointer_step};

use super::Bounds;
use crate::body::too_large;

/// JSON text that is being written.
pub(super) struct Text {
    out: Vec<u8>,
    open: Vec<Open>,
    bounds: Bounds,
}

/// An array or object that is not yet closed.
enum Open {
    /// With the number of values begun.
    Array(usize),
    Object {
        /// The keys so far. Randomly seeded, so that nobody can choose keys that collide.
        keys: HashSet<Box<str>, RandomState>,
        /// The latest one.
        key: Box<str>,
        /// Its value has begun, so a key is next.
        begun: bool,
    },
}

impl Text {
    pub(super) fn new(room: usize, bounds: Bounds) -> Self {
        Self { out: Vec::with_capacity((room + room / 4).min(bounds.bytes)), open: Vec::new(), bounds }
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.out.into()
    }

    /// Whether what comes next is a key and not a value.
    pub(super) fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open::Object { begun: true, .. }))
    }

    /// Begins a value; from here on [`Self::refuse`] speaks of it.
    pub(super) fn value(&mut self) {
        match self.open.last_mut() {
            Some(Open::Array(begun)) => {
                if *begun > 0 {
                    self.out.push(b',');
                }
                *begun += 1;
            }
            Some(Open::Object { begun, .. }) => *begun = true,
            None => {}
        }
    }

    /// Begins a field of the open object.
    pub(super) fn key(&mut self, name: &str) -> Result<(), Problem> {
        let Some(Open::Object { keys, key, begun }) = self.open.last_mut() else { return Ok(()) };
        *key = name.into();
        *begun = false;
        if !keys.insert(name.into()) {
            return Err(self.refuse("is given twice"));
        }
        let first = keys.len() == 1;
        if !first {
            self.out.push(b',');
        }
        self.quote(name)?;
        self.out.push(b':');
        Ok(())
    }

    /// The value is an array.
    pub(super) fn array(&mut self) -> Result<(), Problem> {
        self.enter(b'[', Open::Array(0))
    }

    /// The value is an object.
    pub(super) fn object(&mut self) -> Result<(), Problem> {
        self.enter(b'{', Open::Object { keys: HashSet::default(), key: "".into(), begun: true })
    }

    /// Ends the open array or object.
    pub(super) fn close(&mut self) -> Result<(), Problem> {
        match self.open.pop() {
            Some(Open::Array(_)) => self.write(b"]"),
            Some(Open::Object { .. }) => self.write(b"}"),
            None => Ok(()),
        }
    }

    /// The value is this string.
    pub(super) fn string(&mut self, text: &str) -> Result<(), Problem> {
        self.quote(text)
    }

    /// The value is this JSON: a word or a number.
    pub(super) fn literal(&mut self, json: &str) -> Result<(), Problem> {
        self.write(json.as_bytes())
    }

    /// The value is this number.
    pub(super) fn float(&mut self, number: f64) -> Result<(), Problem> {
        match serde_json::Number::from_f64(number) {
            Some(number) => self.literal(&number.to_string()),
            None => Err(self.not_finite()),
        }
    }

    /// The refusal of a number that JSON does not have.
    pub(super) fn not_finite(&self) -> Problem {
        self.refuse("is not a finite number, and JSON has no others")
    }

    /// The refusal of the value or key that was begun last.
    pub(super) fn refuse(&self, message: &str) -> Problem {
        self.refuse_at(self.open.len(), message)
    }

    /// The refusal of the array or object that is open.
    pub(super) fn refuse_around(&self, message: &str) -> Problem {
        self.refuse_at(self.open.len().saturating_sub(1), message)
    }

    /// The refusal of too many levels. A pointer with all of them would help nobody.
    pub(super) fn too_deep(&self) -> Problem {
        self.refuse_at(1, &format!("is nested deeper than {} levels", self.bounds.depth))
    }

    /// How many levels it may have.
    pub(super) fn depth(&self) -> usize {
        self.bounds.depth
    }

    /// The refusal of the value that is reached by so many steps.
    fn refuse_at(&self, levels: usize, message: &str) -> Problem {
        let mut pointer = String::new();
        for open in self.open.iter().take(levels) {
            match open {
                Open::Array(begun) => pointer.push_str(&pointer_step(&begun.saturating_sub(1).to_string())),
                Open::Object { key, .. } => pointer.push_str(&pointer_step(key)),
            }
        }
        Problem::invalid(&pointer, message)
    }

    fn enter(&mut self, bracket: u8, open: Open) -> Result<(), Problem> {
        if self.open.len() >= self.bounds.depth {
            return Err(self.too_deep());
        }
        self.write(&[bracket])?;
        self.open.push(open);
        Ok(())
    }

    fn quote(&mut self, text: &str) -> Result<(), Problem> {
        self.fits(text.len())?;
        // Writing a string into memory cannot fail.
        let _ = serde_json::to_writer(&mut self.out, text);
        self.fits(0)
    }

    fn write(&mut self, json: &[u8]) -> Result<(), Problem> {
        self.fits(json.len())?;
        self.out.extend_from_slice(json);
        Ok(())
    }

    fn fits(&self, more: usize) -> Result<(), Problem> {
        if self.out.len() + more > self.bounds.bytes {
            return Err(too_large(&format!("{}, written as JSON,", self.bounds.what), self.bounds.bytes));
        }
        Ok(())
    }
}
