//! Reading JSON objects field by field, so that every refusal names its place and payload bytes stay as they came.
//!
//! An object is read as names and raw values in one pass over the text; values are then read one by one. All refused
//! fields of a document are collected, not just the first.

use std::borrow::Cow;
use std::fmt;

use crate::problem::{Code, FieldError, Problem, pointer_step};
use serde::Deserialize;
use serde::de::{self, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;
use smallvec::SmallVec;

/// The refused fields of one document.
#[derive(Debug, Default)]
pub struct Errors {
    list: Vec<FieldError>,
    unknown: bool,
    /// How many of them are arguments that do not fit a schema.
    arguments: usize,
    forbidden: Option<String>,
}

impl Errors {
    /// A field that is known and not valid.
    pub fn invalid(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        self.list.push(FieldError::new(pointer, message));
    }

    /// A field that does not exist, with the nearest of `known` as a hint.
    pub fn unknown(&mut self, at: &str, name: &str, known: &[&str]) {
        self.unknown = true;
        let hint = nearest(name, known).map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
        self.list.push(FieldError::new(format!("{at}{}", pointer_step(name)), format!("is not a known field{hint}")));
    }

    /// A field of the API that this version does not have.
    pub fn unsupported(&mut self, at: &str, name: &str) {
        self.unknown = true;
        self.list.push(FieldError::new(format!("{at}{}", pointer_step(name)), "is not supported by this version"));
    }

    /// A destination that must not be called; reported only if nothing else is wrong.
    pub fn forbidden(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        let (pointer, message) = (pointer.into(), message.into());
        self.forbidden = Some(message.clone());
        self.list.push(FieldError::new(pointer, message));
    }

    /// An argument that does not fit the schema of its task type.
    pub fn argument(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        self.arguments += 1;
        self.list.push(FieldError::new(pointer, message));
    }

    /// A refusal that was made elsewhere.
    pub fn push(&mut self, error: FieldError) {
        self.list.push(error);
    }

    /// Takes over what was noted apart.
    pub fn join(&mut self, other: Self) {
        self.list.extend(other.list);
        self.unknown |= other.unknown;
        self.arguments += other.arguments;
        self.forbidden = self.forbidden.take().or(other.forbidden);
    }

    /// Takes over what was noted about the part of the document at `at`.
    pub fn join_under(&mut self, at: &str, other: Self) {
        let list = other.list.into_iter().map(|error| error.under(at)).collect();
        self.join(Self { list, ..other });
    }

    /// Takes over the refused fields of a part of the document at `at` that was read apart.
    pub fn refuse_under(&mut self, at: &str, problem: Problem) {
        self.unknown |= problem.code == Code::UnknownField;
        if problem.errors.is_empty() {
            self.invalid(at, problem.detail);
        } else {
            self.list.extend(problem.errors.into_iter().map(|error| error.under(at)));
        }
    }

    /// Whether nothing was refused.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether nothing was refused but arguments that do not fit their schema.
    pub(crate) fn only_arguments(&self) -> bool {
        self.list.len() == self.arguments
    }

    /// The problem that these fields make; `None` if there are none.
    pub fn problem(self) -> Option<Problem> {
        let first = self.list.first()?;
        let detail =
            if first.pointer.is_empty() { first.message.clone() } else { format!("{}: {}", first.pointer, first.message) };
        let code = match (&self.forbidden, self.unknown) {
            (Some(_), _) if self.list.len() == 1 => Code::DestinationForbidden,
            (_, true) => Code::UnknownField,
            (_, false) if self.arguments == self.list.len() => Code::ArgumentsRefused,
            (_, false) => Code::InvalidField,
        };
        let mut problem = Problem::new(code, detail);
        problem.errors = self.list;
        Some(problem)
    }
}

/// An object as names and raw values, in order.
pub type Object<'a> = SmallVec<[(Cow<'a, str>, &'a RawValue); 10]>;

/// The object that is the whole of `text`. `Err` if it is no JSON (400) or no object (422).
pub fn document(text: &str) -> Result<Object<'_>, Problem> {
    serde_json::from_str::<Fields<'_>>(text).map(|fields| fields.0).map_err(|error| json_problem(&error))
}

/// What is wrong with a text that should have been JSON of a certain form.
pub fn json_problem(error: &serde_json::Error) -> Problem {
    match error.classify() {
        Category::Data => Problem::invalid("", bare(error)),
        Category::Syntax | Category::Eof | Category::Io => {
            Problem::new(Code::Malformed, format!("the body is not JSON: {error}"))
        }
    }
}

/// The fields of a nested object; a refusal is noted at `at`.
pub fn object<'a>(raw: &'a RawValue, at: &str, errors: &mut Errors) -> Option<Object<'a>> {
    match serde_json::from_str::<Fields<'a>>(raw.get()) {
        Ok(fields) => Some(fields.0),
        Err(error) => {
            errors.invalid(at, bare(&error));
            None
        }
    }
}

/// Whether a field counts as not given.
pub fn is_null(raw: &RawValue) -> bool {
    raw.get() == "null"
}

/// A string, borrowed from the text where it has no escapes.
pub fn string<'a>(raw: &'a RawValue, at: &str, errors: &mut Errors) -> Option<Cow<'a, str>> {
    if let Ok(text) = serde_json::from_str::<Text<'a>>(raw.get()) {
        Some(text.0)
    } else {
        errors.invalid(at, "must be a string");
        None
    }
}

/// A value that serde reads, with its message where it does not.
pub fn value<T: DeserializeOwned>(raw: &RawValue, at: &str, errors: &mut Errors) -> Option<T> {
    match serde_json::from_str(raw.get()) {
        Ok(value) => Some(value),
        Err(error) => {
            errors.invalid(at, bare(&error));
            None
        }
    }
}

/// A whole number within bounds.
pub fn number(raw: &RawValue, min: u64, max: u64, at: &str, errors: &mut Errors) -> Option<u64> {
    match serde_json::from_str::<u64>(raw.get()) {
        Ok(number) if (min..=max).contains(&number) => Some(number),
        _ => {
            errors.invalid(at, format!("must be a whole number from {min} to {max}"));
            None
        }
    }
}

/// `true` or `false`.
pub fn boolean(raw: &RawValue, at: &str, errors: &mut Errors) -> Option<bool> {
    match raw.get() {
        "true" => Some(true),
        "false" => Some(false),
        _ => {
            errors.invalid(at, "must be true or false");
            None
        }
    }
}

/// The message without the place in the text: that of a nested value would be counted from its own beginning.
pub(crate) fn bare(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// What `read` makes of the one field that a document may have; `None` if it is not given, or nothing is.
pub fn only<'a, T>(
    text: &'a str,
    field: &str,
    read: impl Fn(&'a RawValue, &str, &mut Errors) -> Option<T>,
) -> Result<Option<T>, Problem> {
    let (mut value, mut errors) = (None, Errors::default());
    for (name, raw) in if text.trim().is_empty() { Object::new() } else { document(text)? } {
        if *name != *field {
            errors.unknown("", &name, &[field]);
        } else if !is_null(raw) {
            value = read(raw, &format!("/{field}"), &mut errors);
        }
    }
    errors.problem().map_or(Ok(value), Err)
}

/// The known name that `name` was probably meant to be.
pub fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    if name.len() > 40 {
        return None;
    }
    let near = known.iter().map(|candidate| (distance(name, candidate), *candidate)).min()?;
    let allowed = if name.len() < 5 { 1 } else { 2 };
    (near.0 <= allowed).then_some(near.1)
}

/// Levenshtein's distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

struct Fields<'a>(Object<'a>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Object::new();
                while let Some((Text(name), raw)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    if fields.iter().any(|(earlier, _)| *earlier == name) {
                        return Err(de::Error::custom(format_args!("has the field `{name}` twice")));
                    }
                    if fields.len() == MAX_FIELDS {
                        return Err(de::Error::custom(format_args!("has more than {MAX_FIELDS} fields")));
                    }
                    fields.push((name, raw));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// More than any document has; it bounds the search for repeated names.
const MAX_FIELDS: usize = 256;

/// A string that borrows where it can: serde's own `Cow<str>` always copies.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hints_are_near() {
        let known = ["queue", "priority", "delay", "task"];
        assert_eq!(nearest("que", &known), None);
        assert_eq!(nearest("quue", &known), Some("queue"));
        assert_eq!(nearest("prioritty", &known), Some("priority"));
        assert_eq!(nearest("banana", &known), None);
        assert_eq!(nearest("tsk", &known), Some("task"));
    }

    #[test]
    fn a_field_given_twice_is_refused() {
        let problem = document(r#"{"a":1,"\u0061":2}"#).unwrap_err();
        assert_eq!(problem.code, Code::InvalidField);
        assert!(problem.detail.contains("twice"), "{}", problem.detail);
    }
}
