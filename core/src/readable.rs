//! JSON that every reader can read.
//!
//! The grammar of JSON allows what many parsers refuse, and then with it the whole document around it: numbers beyond those of
//! a double, halves of surrogate pairs, nesting without end. A value that a worker sent is only put inside another document
//! (a record, the arguments of a link, the children of a parent) if it has none of that.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::fields::{self, bare};
use crate::problem::{FieldError, pointer_step};
use crate::view::{INLINE_DEPTH, deeper_than};

/// The longest text, in bytes, in which the place of a fault is looked for: each level of nesting reads it once more.
const LONGEST_SEARCH: usize = 16 << 10;

/// Refuses what is no JSON, is nested deeper than [`INLINE_DEPTH`] levels, or holds a value that some parsers refuse; says
/// where and why; of a long text only why.
pub fn check(json: &[u8]) -> Result<(), FieldError> {
    if deeper_than(json, INLINE_DEPTH) {
        return Err(FieldError::new("", format!("is nested deeper than {INLINE_DEPTH} levels")));
    }
    let text = std::str::from_utf8(json).map_err(|_| FieldError::new("", "is not UTF-8"))?;
    match serde_json::from_str::<Plain>(text) {
        Ok(Plain) => Ok(()),
        Err(error) if text.len() <= LONGEST_SEARCH => Err(place(text, String::new(), &error)),
        Err(error) => Err(fault_at(String::new(), &error)),
    }
}

/// The innermost value of this text that has the fault.
fn place(text: &str, at: String, error: &serde_json::Error) -> FieldError {
    let fault = |raw: &RawValue| serde_json::from_str::<Plain>(raw.get()).err();
    let members = fields::document(text).unwrap_or_default();
    if let Some((step, raw, error)) = members.iter().find_map(|(name, raw)| Some((pointer_step(name), raw, fault(raw)?))) {
        return place(raw.get(), at + &step, &error);
    }
    let items: Vec<&RawValue> = serde_json::from_str(text).unwrap_or_default();
    if let Some((n, raw, error)) = items.iter().enumerate().find_map(|(n, raw)| Some((n, raw, fault(raw)?))) {
        return place(raw.get(), format!("{at}/{n}"), &error);
    }
    fault_at(at, error)
}

fn fault_at(at: String, error: &serde_json::Error) -> FieldError {
    FieldError::new(at, format!("is not JSON that every reader can read: {}", bare(error)))
}

/// Any value, read to its end and dropped.
struct Plain;

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlainVisitor)
    }
}

struct PlainVisitor;

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Plain;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Plain, A::Error> {
        while let Some(Plain) = seq.next_element()? {}
        Ok(Plain)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Plain, A::Error> {
        while let Some((Plain, Plain)) = map.next_entry()? {}
        Ok(Plain)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_some_parsers_refuse_is_refused_with_its_place() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        for (json, pointer, why) in [
            ("1e999", "", "out of range"),
            ("-1e999", "", "out of range"),
            ("NaN", "", "expected value"),
            ("[NaN]", "", "expected value"),
            ("Infinity", "", "expected value"),
            (r#""\ud800""#, "", "hex escape"),
            (r#""\udc00\ud800""#, "", "hex escape"),
            (r#"{"a/b":[1,{"c":"\ud800x"}]}"#, "/a~1b/1/c", "hex escape"),
            (r#"{"a":{"\ud800":1}}"#, "/a", "hex escape"),
            (r#"{"a":1,"a":1e999}"#, "", "out of range"),
            (&deep, "", "deeper than 100 levels"),
            ("", "", "EOF"),
            ("1 2", "", "trailing"),
        ] {
            let error = check(json.as_bytes()).unwrap_err();
            assert_eq!(error.pointer, pointer, "{json:.40}: {error:?}");
            assert!(error.message.contains(why), "{json:.40}: {error:?}");
        }
        assert!(check(b"\"\xff\"").is_err());
        let long = format!(r#"{{"a":"{}","b":1e999}}"#, "x".repeat(LONGEST_SEARCH));
        assert_eq!(check(long.as_bytes()).unwrap_err().pointer, "");
    }

    #[test]
    fn what_all_can_read_passes() {
        let limit = format!("{}{}", "[".repeat(INLINE_DEPTH), "]".repeat(INLINE_DEPTH));
        for json in
            ["null", " 1.50 ", "1e308", "123456789012345678901234567890", r#""\ud83d\ude00""#, r#"{"a":[true,{}]}"#, &limit]
        {
            assert_eq!(check(json.as_bytes()), Ok(()), "{json}");
        }
    }

    proptest! {
        /// What passes can be read by a parser that builds values.
        #[test]
        fn nothing_passes_that_a_strict_parser_refuses(json in r#"[\[\]{}:,"0-9eE.\\ud8a-f+-]{0,40}"#) {
            let read = serde_json::from_str::<serde_json::Value>(&json);
            prop_assert_eq!(check(json.as_bytes()).is_ok(), read.is_ok());
        }
    }
}
