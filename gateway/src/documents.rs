//! Named documents: preconditions, guarded changes, pages.

use axum::response::Response;
use bytes::Bytes;
use http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use lovage_core::problem::{Code, Problem};
use lovage_core::{Ns, Version};
use lovage_store::{DocGuard, DocKind, DocOutcome, DocPut, Document};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::problem::{Refusal, store_problem};
use crate::{cursor, view};

/// How often a change without a precondition is tried again because somebody else was faster.
const TRIES: usize = 8;

/// What a request wants the stored document to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precondition {
    /// Anything.
    None,
    /// There must be one (`If-Match: *`).
    Exists,
    /// It must have this version (`If-Match: "7"`).
    Version(Version),
    /// There must be none (`If-None-Match: *`).
    Absent,
}

impl Precondition {
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().trim().to_owned();
        if let Some(value) = headers.get(IF_NONE_MATCH) {
            let wanted = (text(value) == "*").then_some(Self::Absent);
            return wanted.ok_or_else(|| Problem::invalid("/if_none_match", "the header If-None-Match must be *"));
        }
        let Some(value) = headers.get(IF_MATCH) else { return Ok(Self::None) };
        match text(value).as_str() {
            "*" => Ok(Self::Exists),
            tag => {
                // The tag of a compressed answer is weak, but it names the same version.
                let tag = tag.strip_prefix("W/").unwrap_or(tag);
                let number = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).and_then(|tag| tag.parse().ok());
                // A tag that was never given out matches nothing.
                Ok(Self::Version(number.unwrap_or(0)))
            }
        }
    }

    fn check(self, stored: Option<&Document>) -> Result<(), Problem> {
        self.check_version(stored.map(|document| document.version))
    }

    /// `version_mismatch` if that is not what is stored; `None`: nothing is.
    pub(crate) fn check_version(self, stored: Option<Version>) -> Result<(), Problem> {
        let holds = match self {
            Self::None => true,
            Self::Exists => stored.is_some(),
            Self::Version(version) => stored == Some(version),
            Self::Absent => stored.is_none(),
        };
        if holds { Ok(()) } else { Err(Problem::new(Code::VersionMismatch, "what is stored is another one than asked for")) }
    }
}

/// A document after a change.
pub(crate) struct Put<D> {
    pub content: D,
    pub version: Version,
    pub created: bool,
}

impl<D> Put<D> {
    /// What a `PUT` answers.
    pub(crate) fn status(&self) -> StatusCode {
        if self.created { StatusCode::CREATED } else { StatusCode::OK }
    }
}

impl App {
    /// Replaces a document by what `edit` makes of the stored one.
    pub(crate) async fn edit_doc<D: Serialize + DeserializeOwned>(
        &self,
        kind: DocKind,
        ns: Ns,
        name: &str,
        precondition: Precondition,
        mut edit: impl FnMut(Option<D>) -> Result<D, Problem>,
    ) -> Result<Put<D>, Refusal> {
        for _ in 0..TRIES {
            let stored = self.store.doc(kind, ns, name).await?;
            precondition.check(stored.as_ref())?;
            let guard = stored.as_ref().map_or(DocGuard::Absent, |document| DocGuard::Version(document.version));
            let content = edit(stored.as_ref().map(content).transpose()?)?;
            let put = DocPut { kind, ns, name: name.to_owned(), guard, bytes: Some(bytes_of(&content)?) };
            match self.store.put_docs(vec![put]).await?.pop() {
                Some(DocOutcome::Ok { version, created }) => return Ok(Put { content, version, created }),
                Some(DocOutcome::Refused(_)) | None => {}
            }
        }
        Err(Problem::new(Code::Overloaded, "the document changes too fast; try again").into())
    }

    /// Deletes a document; `false`: there was none.
    pub(crate) async fn delete_doc(
        &self,
        kind: DocKind,
        ns: Ns,
        name: &str,
        precondition: Precondition,
    ) -> Result<bool, Refusal> {
        for _ in 0..TRIES {
            let Some(stored) = self.store.doc(kind, ns, name).await? else {
                precondition.check(None)?;
                return Ok(false);
            };
            precondition.check(Some(&stored))?;
            let put = DocPut { kind, ns, name: name.to_owned(), guard: DocGuard::Version(stored.version), bytes: None };
            if let Some(DocOutcome::Ok { .. }) = self.store.put_docs(vec![put]).await?.pop() {
                return Ok(true);
            }
        }
        Err(Problem::new(Code::Overloaded, "the document changes too fast; try again").into())
    }

    /// A page of documents whose names begin with `prefix`.
    pub(crate) async fn page_docs(
        &self,
        kind: DocKind,
        ns: Ns,
        prefix: &str,
        from: Option<String>,
        limit: usize,
    ) -> Result<(Vec<Document>, Option<String>), Refusal> {
        // Differs by kind and prefix, so that a cursor works only for the list that gave it.
        let list = format!("doc-{}-{prefix}", kind as u8);
        let after = match from {
            Some(text) => String::from_utf8(cursor::decode(&list, &text)?).map_err(|_| cursor::refused())?,
            None => prefix.to_owned(),
        };
        let after = (!after.is_empty()).then_some((ns, after));
        let page = self.store.docs(kind, Some(ns), after, limit).await?;
        let complete = page.items.iter().all(|document| document.name.starts_with(prefix));
        let next = page.next.filter(|_| complete).map(|(_, name)| cursor::encode(&list, name.as_bytes()));
        let items = page.items.into_iter().filter(|document| document.name.starts_with(prefix)).collect();
        Ok((items, next))
    }
}

/// The content of a document.
pub(crate) fn content<T: DeserializeOwned>(document: &Document) -> Result<T, Problem> {
    let bytes = document.bytes.as_deref().unwrap_or_default();
    serde_json::from_slice(bytes).map_err(|error| {
        store_problem(&lovage_store::Error::Corrupt(format!("document {:?} {}: {error}", document.kind, document.name)))
    })
}

/// The bytes of a document.
pub(crate) fn bytes_of(value: &impl Serialize) -> Result<Bytes, Problem> {
    let bytes = serde_json::to_vec(value).map(Bytes::from);
    bytes.map_err(|error| store_problem(&lovage_store::Error::Invalid(format!("cannot write a document: {error}"))))
}

/// A document as the whole answer, with the `ETag` of its version; none: it is not stored.
pub(crate) fn shown(status: StatusCode, value: &impl Serialize, version: Option<Version>) -> Response {
    let mut response = view::json(status, value);
    if let Some(value) = version.and_then(|version| HeaderValue::from_str(&format!("\"{version}\"")).ok()) {
        response.headers_mut().insert(ETAG, value);
    }
    response
}
