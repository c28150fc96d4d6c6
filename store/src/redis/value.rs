//! Replies of Redis, taken apart. A reply of another form is an error, never a panic.

use redis::{RedisResult, Value};

use crate::{Error, Result};

fn unexpected(what: &Value) -> Error {
    let text: String = format!("{what:?}").chars().take(80).collect();
    Error::Corrupt(format!("unexpected reply of redis: {text}"))
}

/// The answer unless it is a refusal.
pub(super) fn no_error(answer: Value) -> RedisResult<Value> {
    match answer {
        Value::ServerError(error) => Err(error.into()),
        answer => Ok(answer),
    }
}

/// A string; `None` for nil.
pub(super) fn bytes(value: Value) -> Result<Option<Vec<u8>>> {
    match value {
        Value::Nil | Value::Boolean(false) => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes)),
        Value::SimpleString(text) => Ok(Some(text.into_bytes())),
        Value::Int(number) => Ok(Some(number.to_string().into_bytes())),
        other => Err(unexpected(&other)),
    }
}

/// A string as text; empty for nil.
pub(super) fn text(value: Value) -> Result<String> {
    let bytes = bytes(value)?.unwrap_or_default();
    String::from_utf8(bytes).map_err(|_| Error::Corrupt("redis answered with something that is no text".into()))
}

/// A whole number; 0 for nil.
pub(super) fn number(value: Value) -> Result<u64> {
    match value {
        Value::Int(number) => Ok(number as u64),
        Value::Nil => Ok(0),
        other => {
            let text = text(other)?;
            text.parse().map_err(|_| Error::Corrupt(format!("redis answered {text:?} instead of a number")))
        }
    }
}

/// A list; empty for nil. Maps become lists of keys and values.
pub(super) fn list(value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Nil => Ok(Vec::new()),
        Value::Array(items) | Value::Set(items) => Ok(items),
        Value::Map(pairs) => Ok(pairs.into_iter().flat_map(|(key, value)| [key, value]).collect()),
        other => Err(unexpected(&other)),
    }
}

/// A list of exactly `N` values.
pub(super) fn exactly<const N: usize>(value: Value) -> Result<[Value; N]> {
    let items = list(value)?;
    items.try_into().map_err(|items: Vec<_>| Error::Corrupt(format!("redis answered {} values instead of {N}", items.len())))
}

/// A list as pairs.
pub(super) fn pairs(value: Value) -> Result<Vec<(Value, Value)>> {
    let mut items = list(value)?.into_iter();
    let mut out = Vec::with_capacity(items.len() / 2);
    while let Some(key) = items.next() {
        out.push((key, items.next().unwrap_or_default()));
    }
    Ok(out)
}
