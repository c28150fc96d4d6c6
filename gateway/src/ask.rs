//! A request whose query has no parameters: who asks about what, and what was sent along.

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use lovage_core::fields::{self, Errors};
use lovage_core::problem::Problem;
use lovage_core::queue::read_pause;
use lovage_core::{Ns, Pause, TaskKey};
use lovage_store::DocKind;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::body;
use crate::documents::{Precondition, Put};
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;

/// See the module; `T` is what the path names.
pub(crate) struct Ask<T = String> {
    pub app: Shared,
    pub ns: Ns,
    pub name: T,
    pub headers: HeaderMap,
    /// Taken by whoever reads it; behind a lock, because a body alone cannot be shared between threads.
    body: Mutex<Body>,
}

impl<T: DeserializeOwned + Send> FromRequest<Shared> for Ask<T> {
    type Rejection = Response;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let Caller { ns } = Caller::from_request_parts(&mut parts, app).await?;
        let refused = IntoResponse::into_response;
        let PathOf(name) = PathOf::from_request_parts(&mut parts, app).await.map_err(refused)?;
        let query = Query::from_request_parts(&mut parts, app).await.map_err(refused)?;
        query.done().map_err(|problem| refused(problem.into()))?;
        Ok(Self { app: app.clone(), ns, name, headers: parts.headers, body: Mutex::new(body) })
    }
}

impl<T> Ask<T> {
    /// What the request wants the stored version to be.
    pub(crate) fn wanted(&self) -> Result<Precondition, Problem> {
        Precondition::of(&self.headers)
    }

    /// The body, which must be JSON and is `what` to whoever sends too much.
    pub(crate) async fn json(&self, what: &str) -> Result<String, Problem> {
        body::require_json(&self.headers)?;
        self.text(what).await
    }

    /// The same of a body that may be left out: then it is empty.
    pub(crate) async fn json_if_any(&self) -> Result<String, Problem> {
        let text = self.text("this body").await?;
        if !text.is_empty() {
            body::require_json(&self.headers)?;
        }
        Ok(text)
    }

    async fn text(&self, what: &str) -> Result<String, Problem> {
        let (body, options) = (std::mem::take(&mut *self.body.lock()), &self.app.options);
        let bytes = body::read(body, &self.headers, what, options.limits.document_bytes, &options.times).await?;
        Ok(body::utf8(&bytes)?.to_owned())
    }

    /// Reads a body that says nothing: it must be empty, an empty object, or null.
    pub(crate) async fn nothing(&self) -> Result<(), Problem> {
        let text = self.json_if_any().await?;
        if text.is_empty() || text.trim() == "null" {
            return Ok(());
        }
        let mut errors = Errors::default();
        for (name, _) in fields::document(&text)? {
            errors.unknown("", &name, &[]);
        }
        errors.problem().map_or(Ok(()), Err)
    }

    /// What a pause is to be; an empty body says nothing.
    pub(crate) async fn pause(&self) -> Result<Pause, Problem> {
        read_pause(&self.json_if_any().await?, self.app.now())
    }
}

impl Ask {
    /// Replaces the document of this name by what `edit` makes of it.
    pub(crate) async fn edit<D: Serialize + DeserializeOwned>(
        &self,
        kind: DocKind,
        edit: impl FnMut(Option<D>) -> Result<D, Problem>,
    ) -> Result<Put<D>, Refusal> {
        self.app.edit_doc(kind, self.ns, &self.name, self.wanted()?, edit).await
    }

    /// Deletes the document of this name; `false`: there was none.
    pub(crate) async fn remove(&self, kind: DocKind) -> Result<bool, Refusal> {
        self.app.delete_doc(kind, self.ns, &self.name, self.wanted()?).await
    }

    /// The task of this id.
    pub(crate) fn task(&self) -> Result<TaskKey, Refusal> {
        App::key(self.ns, &self.name).ok_or_else(|| self.no_task())
    }

    /// `task_unknown`
    pub(crate) fn no_task(&self) -> Refusal {
        Refusal::no_task(&self.name)
    }
}
