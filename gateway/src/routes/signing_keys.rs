//! `GET /v1/signing-keys`, `POST /v1/signing-keys/rotate`

use axum::response::Response;
use http::StatusCode;
use lovage_core::Ns;
use lovage_core::worker::SigningKey;
use lovage_store::{DocGuard, DocKind, DocPut, Store};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::Shared;
use crate::ask::Ask;
use crate::documents::{Precondition, content};
use crate::problem::Refusal;
use crate::{schema, secrets, view};

/// The key of a namespace for bare URLs and callbacks.
const NAME: &str = "default";

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(rotate))
}

/// Makes the signing key of `default`, so that bare URLs and callbacks are signed from the first delivery on. Does nothing if
/// there is one. Nobody is shown this first secret: whoever wants to verify asks for a new one by `rotate`.
pub async fn ensure_signing_key(store: &dyn Store) -> Result<(), EnsureError> {
    let secret = secrets::make().map_err(|_| EnsureError::Random)?;
    let mut key = SigningKey::default();
    secrets::rotate(&mut key.secrets, secret, store.clock().now());
    let bytes = serde_json::to_vec(&key).map(Into::into).ok();
    let put = DocPut { kind: DocKind::SigningKey, ns: Ns::DEFAULT, name: NAME.to_owned(), guard: DocGuard::Absent, bytes };
    // Refused: there is one.
    store.put_docs(vec![put]).await?;
    Ok(())
}

/// Why a key that every store has could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    /// The system gave no random numbers.
    #[error("no random numbers")]
    Random,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] lovage_store::Error),
}

#[derive(Serialize)]
struct KeyView {
    name: &'static str,
    secrets: Vec<SecretView>,
}

/// A secret without itself.
#[derive(Serialize)]
struct SecretView {
    expires_at: Option<String>,
}

/// List signing keys
///
/// Deliveries to bare URLs and callbacks are signed with the secrets of `default`; they are shown only when made.
#[utoipa::path(
    get, path = "/v1/signing-keys", operation_id = "listSigningKeys", tag = "keys",
    responses((status = 200, description = "The keys, without secrets", body = schema::SigningKeys))
)]
async fn list(Ask { app, ns, .. }: Ask<()>) -> Result<Response, Refusal> {
    let now = app.now();
    let mut items = Vec::new();
    if let Some(document) = app.store.doc(DocKind::SigningKey, ns, NAME).await? {
        let key: SigningKey = content(&document)?;
        let live = key.secrets.into_iter().filter(|secret| secret.until.is_none_or(|until| until > now));
        let secrets = live.map(|secret| SecretView { expires_at: secret.until.map(lovage_core::Millis::rfc3339) }).collect();
        items.push(KeyView { name: NAME, secrets });
    }
    Ok(view::json(StatusCode::OK, &serde_json::json!({ "items": items, "next_cursor": null })))
}

/// Make a new secret for bare URLs and callbacks
///
/// It is shown once. The one before is used beside it for 24 hours.
#[utoipa::path(
    post, path = "/v1/signing-keys/rotate", operation_id = "rotateSigningKey", tag = "keys",
    responses((status = 200, description = "The new secret", body = schema::NewSecret))
)]
async fn rotate(ask: Ask<()>) -> Result<Response, Refusal> {
    ask.nothing().await?;
    let (secret, now) = (secrets::make()?, ask.app.now());
    let edited = ask.app.edit_doc(DocKind::SigningKey, ask.ns, NAME, Precondition::None, |stored: Option<SigningKey>| {
        let mut key = stored.unwrap_or_default();
        secrets::rotate(&mut key.secrets, secret.clone(), now);
        Ok(key)
    });
    edited.await?;
    Ok(view::json(StatusCode::OK, &serde_json::json!({ "signing": secret })))
}
