//! Path parameters whose refusal is a problem like any other.

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use lovage_core::problem::Code;
use serde::de::DeserializeOwned;

use crate::problem::Refusal;

/// The parameters of the path, percent-decoded.
pub(crate) struct PathOf<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathOf<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(_) => Err(Refusal::new(Code::Malformed, "the path is not UTF-8")),
        }
    }
}
