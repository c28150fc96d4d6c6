//! YAML 1.2 with the core schema, and nothing beyond what JSON has.
//!
//! Tags are refused, so no type can be named; aliases are refused, so nothing can grow by repetition; a merge key is a key
//! like any other. Numbers keep their digits.

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, options};
use lovage_core::problem::{Code, Problem};

use super::text::Text;
use crate::body;

const TAG: &str = "has a tag; only plain YAML without tags is taken";
const ALIAS: &str = "is an alias; write the value where it is needed";
const NO_STRING: &str = "has a key that is not a string; put it in quotes";

/// Characters that the parser looks ahead for the end of a key. What opens within them counts before it is read here, so
/// its own limit of depth has to leave room for ours to speak first.
const LOOKAHEAD: usize = 1024;

/// Writes the one document of `bytes`.
pub(super) fn read(bytes: &[u8], text: &mut Text) -> Result<(), Problem> {
    let yaml = body::utf8(bytes)?;
    let depth = text.depth() + LOOKAHEAD + 1;
    let options = options! {
        emit_comments: false,
        simple_key_max_lookahead: LOOKAHEAD,
        flow_nesting_limit: depth,
        block_nesting_limit: depth,
    };
    let mut documents = 0;
    for event in Parser::new_from_str_with_options(yaml, options) {
        let (event, _) = event.map_err(|error| scan_problem(&error, text))?;
        match event {
            Event::DocumentStart(..) => {
                documents += 1;
                if documents > 1 {
                    return Err(Problem::new(Code::Malformed, "the body has more than one YAML document"));
                }
            }
            Event::Scalar(value, style, _, tag) => {
                let plain = if style == ScalarStyle::Plain { Plain::of(&value) } else { Plain::Text };
                if text.wants_key() {
                    if tag.is_some() {
                        return Err(text.refuse_around(TAG));
                    }
                    if plain != Plain::Text {
                        return Err(text.refuse_around(NO_STRING));
                    }
                    text.key(&value)?;
                    continue;
                }
                text.value();
                if tag.is_some() {
                    return Err(text.refuse(TAG));
                }
                match plain {
                    Plain::Text => text.string(&value)?,
                    Plain::Json(json) => text.literal(&json)?,
                    Plain::NotFinite => return Err(text.not_finite()),
                    Plain::TooLarge => return Err(text.refuse("is too large a number for this notation")),
                }
            }
            Event::SequenceStart(_, _, tag) => {
                begin(text, tag.is_some())?;
                text.array()?;
            }
            Event::MappingStart(_, _, tag) => {
                begin(text, tag.is_some())?;
                text.object()?;
            }
            Event::SequenceEnd | Event::MappingEnd => text.close()?,
            Event::Alias(_) => return Err(alias(text)),
            // The stream's own ends, and what was not asked for.
            _ => {}
        }
    }
    if documents == 0 { Err(Problem::new(Code::Malformed, "the body has no YAML document")) } else { Ok(()) }
}

fn begin(text: &mut Text, tagged: bool) -> Result<(), Problem> {
    if text.wants_key() {
        return Err(text.refuse_around(NO_STRING));
    }
    text.value();
    if tagged { Err(text.refuse(TAG)) } else { Ok(()) }
}

fn alias(text: &mut Text) -> Problem {
    if text.wants_key() {
        return text.refuse_around(ALIAS);
    }
    text.value();
    text.refuse(ALIAS)
}

fn scan_problem(error: &ScanError, text: &mut Text) -> Problem {
    match error.kind() {
        ErrorKind::RecursionLimitExceeded => text.too_deep(),
        // An alias of what was never named is an alias all the same.
        ErrorKind::UnknownAnchor => alias(text),
        _ => Problem::new(Code::Malformed, format!("the body is not YAML: {error}")),
    }
}

/// What a scalar without quotes means.
#[derive(Debug, PartialEq, Eq)]
enum Plain {
    Text,
    /// A word or a number, as JSON writes it.
    Json(String),
    NotFinite,
    TooLarge,
}

impl Plain {
    /// The core schema's rules (YAML 1.2.2, 10.3.2).
    fn of(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Self::Json("null".into()),
            "true" | "True" | "TRUE" => return Self::Json("true".into()),
            "false" | "False" | "FALSE" => return Self::Json("false".into()),
            ".nan" | ".NaN" | ".NAN" => return Self::NotFinite,
            _ => {}
        }
        if let Some(digits) = text.strip_prefix("0o") {
            return Self::of_radix(digits, 8);
        }
        if let Some(digits) = text.strip_prefix("0x") {
            return Self::of_radix(digits, 16);
        }
        let (minus, unsigned) = match text.strip_prefix(['-', '+']) {
            Some(rest) => (text.starts_with('-'), rest),
            None => (false, text),
        };
        if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
            return Self::NotFinite;
        }
        decimal(minus, unsigned).map_or(Self::Text, Self::Json)
    }

    fn of_radix(digits: &str, radix: u32) -> Self {
        if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
            return Self::Text;
        }
        u128::from_str_radix(digits, radix).map_or(Self::TooLarge, |number| Self::Json(number.to_string()))
    }
}

/// The number as JSON writes it: with digits on both sides of the point, and without needless zeros before it.
fn decimal(minus: bool, text: &str) -> Option<String> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let any = !whole.is_empty() || fraction.is_some_and(|fraction| !fraction.is_empty());
    if !any || !digits(whole) || !digits(fraction.unwrap_or_default()) {
        return None;
    }
    let mut json = String::with_capacity(text.len() + 3);
    if minus {
        json.push('-');
    }
    let whole = whole.trim_start_matches('0');
    json.push_str(if whole.is_empty() { "0" } else { whole });
    if let Some(fraction) = fraction {
        json.push('.');
        json.push_str(if fraction.is_empty() { "0" } else { fraction });
    }
    if let Some(exponent) = exponent {
        let unsigned = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        if unsigned.is_empty() || !digits(unsigned) {
            return None;
        }
        json.push('e');
        json.push_str(exponent);
    }
    Some(json)
}
