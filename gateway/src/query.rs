//! Query parameters: each is known or refused.

use std::time::Duration;

use axum::extract::FromRequestParts;
use http::request::Parts;
use lovage_core::Millis;
use lovage_core::problem::{Code, FieldError, Problem, pointer_step};
use lovage_core::units::Dur;
use percent_encoding::percent_decode_str;

use crate::problem::Refusal;

/// The parameters of a request. Handlers take those they know, then call [`Query::done`].
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        Self::parse(parts.uri.query().unwrap_or_default()).map_err(Refusal)
    }
}

impl From<Vec<(String, String)>> for Query {
    fn from(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }
}

impl Query {
    fn parse(text: &str) -> Result<Self, Problem> {
        let decode = |part: &str| {
            let spaced = part.replace('+', " ");
            percent_decode_str(&spaced)
                .decode_utf8()
                .map(std::borrow::Cow::into_owned)
                .map_err(|_| Problem::new(Code::Malformed, "the query is not UTF-8"))
        };
        let mut pairs = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((decode(name)?, decode(value)?));
        }
        Ok(Self(pairs))
    }

    /// The values of a parameter that may be repeated.
    pub(crate) fn all(&mut self, name: &str) -> Vec<String> {
        let mut values = Vec::new();
        self.0.retain_mut(|(n, value)| {
            let mine = n == name;
            if mine {
                values.push(std::mem::take(value));
            }
            !mine
        });
        values
    }

    /// The value of a parameter that may come once.
    pub(crate) fn one(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let mut values = self.all(name);
        if values.len() > 1 {
            return Err(refuse(name, "may be given once"));
        }
        Ok(values.pop())
    }

    /// `true` or `false`, also without a value.
    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>, Problem> {
        match self.one(name)?.as_deref() {
            None => Ok(None),
            Some("" | "true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(_) => Err(refuse(name, "must be true or false")),
        }
    }

    /// `?wait=`, at most `longest`; zero if it is not given.
    pub(crate) fn wait(&mut self, longest: Duration) -> Result<Duration, Problem> {
        let Some(text) = self.one("wait")? else { return Ok(Duration::ZERO) };
        let wait: Dur = text.parse().map_err(|error: lovage_core::units::UnitError| refuse("wait", error.to_string()))?;
        Ok(wait.get().min(longest))
    }

    /// `?limit=`: 1 to 1000, 50 if it is not given.
    fn limit(&mut self) -> Result<usize, Problem> {
        let Some(text) = self.one("limit")? else { return Ok(50) };
        match text.parse() {
            Ok(limit @ 1..=1000) => Ok(limit),
            _ => Err(refuse("limit", "must be a whole number from 1 to 1000")),
        }
    }

    /// What a list is asked for that has no other parameters than were taken already: how many, and the cursor to go on from.
    pub(crate) fn page(mut self) -> Result<(usize, Option<String>), Problem> {
        let page = (self.limit()?, self.one("cursor")?);
        self.done()?;
        Ok(page)
    }

    /// An instant in RFC 3339.
    pub(crate) fn time(&mut self, name: &str) -> Result<Option<Millis>, Problem> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        Millis::parse_rfc3339(&text).map(Some).map_err(|why| refuse(name, why))
    }

    /// Refuses what nobody took.
    pub(crate) fn done(self) -> Result<(), Problem> {
        let Some((name, _)) = self.0.first() else { return Ok(()) };
        let shown: String = name.chars().take(64).collect();
        let message = "is not a query parameter of this route";
        let mut problem = Problem::new(Code::UnknownField, format!("`{shown}` {message}"));
        problem.errors = self.0.iter().map(|(name, _)| FieldError::new(pointer_step(name), message)).collect();
        Err(problem)
    }
}

/// A query parameter that is not valid; its pointer is its name.
pub(crate) fn refuse(name: &str, message: impl Into<String>) -> Problem {
    Problem::invalid(pointer_step(name), message)
}
