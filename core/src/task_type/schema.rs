//! The JSON Schema (2020-12) of a type's arguments.
//!
//! It sees what is delivered, as an object whose pointers are those of the request: `{"args": […], "kwargs": {…}}` of a
//! call, `{"payload": …}` of anything else. Checking takes bounded time whatever the schema: references lead to places in the
//! same schema and not in circles, patterns are matched in linear time, and the work is known before it is begun.

use jsonschema::{PatternOptions, Validator};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::weight::{self, Weight};
use crate::fields::Errors;
use crate::signature::Payload;
use crate::view::is_json;

/// The most bytes of a schema.
pub const MAX_SCHEMA_BYTES: usize = 64 << 10;
/// The most memory of one compiled pattern, in bytes; about the length times the repetitions.
const MAX_PATTERN: usize = 64 << 10;
/// The most steps of one check: values of the arguments times values of the schema, and bytes times patterns.
const MAX_WORK: usize = 50_000_000;
/// Checks with more steps than this say only that the arguments are refused: telling every place would take much memory.
const MAX_TOLD_WORK: usize = 1_000_000;
/// The most refused places that are told.
const MAX_TOLD: usize = 20;
/// The longest message, in characters.
const MAX_MESSAGE: usize = 300;

/// A compiled schema.
#[derive(Debug)]
pub struct Schema {
    validator: Validator,
    weight: Weight,
}

impl Schema {
    /// Compiles a schema that stands at `at`; `None` if it was refused.
    pub(super) fn compile(raw: &RawValue, at: &str, errors: &mut Errors) -> Option<Self> {
        if raw.get().len() > MAX_SCHEMA_BYTES {
            errors.invalid(at, format!("may have at most {MAX_SCHEMA_BYTES} bytes"));
            return None;
        }
        let Ok(mut schema) = serde_json::from_str::<Value>(raw.get()) else {
            errors.invalid(at, "is nested too deep");
            return None;
        };
        if let Some(root) = schema.as_object_mut() {
            // A name for the whole says nothing here, and no reference can use it.
            root.remove("$id");
        }
        let weight = match weight::weigh(&schema) {
            Ok(weight) => weight,
            Err(refused) => {
                errors.invalid(format!("{at}{}", refused.at), refused.message);
                return None;
            }
        };
        let built = jsonschema::draft202012::options()
            .offline()
            .with_pattern_options(PatternOptions::regex().size_limit(MAX_PATTERN))
            .build(&schema);
        match built {
            Ok(validator) => Some(Self { validator, weight }),
            Err(error) => {
                errors.invalid(format!("{at}{}", error.instance_path()), short(&error.masked().to_string()));
                None
            }
        }
    }

    /// Checks what a signature delivers; refusals are noted with pointers into it.
    pub(crate) fn check(&self, payload: &Payload<'_>, errors: &mut Errors) {
        let Some((delivered, bytes)) = delivered(payload, errors) else { return };
        let work = self.weight.values.saturating_mul(weight::count(&delivered));
        let work = work.saturating_add(self.weight.patterns.saturating_mul(bytes));
        if work > MAX_WORK {
            errors.argument("", "are too many to be checked by the schema of the task type");
        } else if !self.validator.is_valid(&delivered) {
            self.tell(&delivered, work, errors);
        }
    }

    fn tell(&self, delivered: &Value, work: usize, errors: &mut Errors) {
        if work > MAX_TOLD_WORK {
            errors.argument("", "do not fit the schema of the task type");
            return;
        }
        for error in self.validator.iter_errors(delivered).take(MAX_TOLD) {
            errors.argument(error.instance_path().to_string(), short(&error.masked().to_string()));
        }
    }
}

/// What the schema sees, and the length of its text.
fn delivered(payload: &Payload<'_>, errors: &mut Errors) -> Option<(Value, usize)> {
    let mut object = Map::new();
    let mut bytes = 0;
    let mut put = |name: &str, text: &[u8]| {
        bytes += text.len();
        if let Ok(value) = serde_json::from_slice(text) {
            object.insert(name.to_owned(), value);
        } else {
            errors.argument(format!("/{name}"), "must be JSON of up to 127 levels: the task type has an args_schema");
        }
    };
    match payload {
        Payload::None => (put("args", b"[]"), put("kwargs", b"{}")),
        Payload::Call { args, kwargs } => {
            (put("args", args.unwrap_or("[]").as_bytes()), put("kwargs", kwargs.unwrap_or("{}").as_bytes()))
        }
        Payload::Json(text) => (put("payload", text.as_bytes()), ()),
        // Bytes of another type are never taken for JSON, whatever they look like.
        Payload::Raw { content_type, bytes } => (put("payload", if is_json(content_type) { bytes } else { b"" }), ()),
    };
    errors.is_empty().then_some((Value::Object(object), bytes))
}

fn short(message: &str) -> String {
    match message.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}
