//! How much work a schema makes, found without running it.
//!
//! References are followed, so a schema that is short as a text but long when written out is counted in full, and one that
//! leads in a circle is refused.

use serde_json::Value;

/// The most values that a schema may have with its references written out.
const MAX_VALUES: usize = 5_000;
/// The most levels of schemas within schemas, references included.
const MAX_DEPTH: usize = 64;

/// A schema with its references written out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    /// Its values: keywords, subschemas, constants.
    pub values: usize,
    /// Its regular expressions.
    pub patterns: usize,
}

/// Why a schema is not taken.
#[derive(Debug)]
pub(super) struct Refused {
    /// Where, as a pointer into the schema.
    pub at: String,
    pub message: String,
}

/// Keywords that name schemas or change what a reference means; a reference is a pointer from the root and nothing else.
const NAMING: [&str; 6] = ["$id", "$schema", "$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveRef"];
const DIALECT: [&str; 2] = ["https://json-schema.org/draft/2020-12/schema", "https://json-schema.org/draft/2020-12/schema#"];

/// Keywords that hold a schema, a list of them, or an object of them.
const ONE: [&str; 12] = [
    "items",
    "additionalProperties",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contains",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
    "contentSchema",
    "additionalItems",
];
const LIST: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
const MAP: [&str; 4] = ["properties", "patternProperties", "dependentSchemas", "dependencies"];
/// Schemas that count only where they are referred to.
const STORE: [&str; 2] = ["$defs", "definitions"];

/// Counts a schema.
pub(super) fn weigh(root: &Value) -> Result<Weight, Refused> {
    refuse_names(root, &mut String::new(), true)?;
    let mut walk = Walk { root, weight: Weight::default(), open: Vec::new() };
    walk.schema(root, "")?;
    Ok(walk.weight)
}

/// The values of a JSON document.
pub(super) fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

/// Looks at the whole text, whatever is a schema in it: a name anywhere would change what references mean.
fn refuse_names(value: &Value, at: &mut String, is_root: bool) -> Result<(), Refused> {
    let length = at.len();
    match value {
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                at.push_str(&crate::problem::pointer_step(&n.to_string()));
                refuse_names(item, at, false)?;
                at.truncate(length);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                at.push_str(&crate::problem::pointer_step(name));
                if let Value::String(text) = field
                    && NAMING.contains(&&**name)
                    && !(is_root && name == "$schema" && DIALECT.contains(&&**text))
                {
                    let message = if name == "$schema" {
                        "must be \"https://json-schema.org/draft/2020-12/schema\", and only at the root".to_owned()
                    } else {
                        format!("`{name}` is not supported: refer to a place in the schema, such as \"#/$defs/size\"")
                    };
                    return Err(Refused { at: std::mem::take(at), message });
                }
                refuse_names(field, at, false)?;
                at.truncate(length);
            }
        }
        _ => {}
    }
    Ok(())
}

struct Walk<'a> {
    root: &'a Value,
    weight: Weight,
    /// The targets of the references that lead to where the walk is.
    open: Vec<&'a str>,
}

impl<'a> Walk<'a> {
    fn schema(&mut self, schema: &'a Value, at: &str) -> Result<(), Refused> {
        self.nested(schema, at, 0)
    }

    fn nested(&mut self, schema: &'a Value, at: &str, depth: usize) -> Result<(), Refused> {
        self.add(1, at)?;
        if depth > MAX_DEPTH {
            return Err(refused(at, format!("is nested deeper than {MAX_DEPTH} levels")));
        }
        // Anything but an object is refused by the compiler, or is true or false.
        let Some(keywords) = schema.as_object() else { return Ok(()) };
        for (name, value) in keywords {
            let here = format!("{at}{}", crate::problem::pointer_step(name));
            match (&**name, value) {
                ("$ref", Value::String(target)) => self.reference(target, &here, depth)?,
                (one, schema) if ONE.contains(&one) => self.nested(schema, &here, depth + 1)?,
                (list, Value::Array(schemas)) if LIST.contains(&list) => {
                    for (n, schema) in schemas.iter().enumerate() {
                        self.nested(schema, &format!("{here}/{n}"), depth + 1)?;
                    }
                }
                (map, Value::Object(schemas)) if MAP.contains(&map) => {
                    self.weight.patterns += if map == "patternProperties" { schemas.len() } else { 0 };
                    for (name, schema) in schemas {
                        self.nested(schema, &format!("{here}{}", crate::problem::pointer_step(name)), depth + 1)?;
                    }
                }
                (store, _) if STORE.contains(&store) => {}
                (other, value) => {
                    self.weight.patterns += usize::from(other == "pattern");
                    self.add(count(value), &here)?;
                }
            }
        }
        Ok(())
    }

    fn reference(&mut self, target: &'a str, at: &str, depth: usize) -> Result<(), Refused> {
        let Some(pointer) = target.strip_prefix('#').filter(|pointer| pointer.is_empty() || pointer.starts_with('/')) else {
            return Err(refused(at, "must be a place in this schema, such as \"#/$defs/size\""));
        };
        if pointer.contains('%') {
            return Err(refused(at, "must not have percent-encoded characters"));
        }
        if self.open.contains(&pointer) {
            return Err(refused(at, "leads in a circle; schemas that contain themselves are not supported"));
        }
        let Some(schema) = self.root.pointer(pointer) else {
            return Err(refused(at, "leads nowhere"));
        };
        self.open.push(pointer);
        self.nested(schema, at, depth + 1)?;
        self.open.pop();
        Ok(())
    }

    fn add(&mut self, values: usize, at: &str) -> Result<(), Refused> {
        self.weight.values += values;
        if self.weight.values > MAX_VALUES {
            return Err(refused(at, format!("up to here the schema has more than {MAX_VALUES} values, references written out")));
        }
        Ok(())
    }
}

fn refused(at: &str, message: impl Into<String>) -> Refused {
    Refused { at: at.to_owned(), message: message.into() }
}
