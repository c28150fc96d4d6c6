//! What the document of the API says besides its routes.

use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::{OpenApi as Document, Ref, RefOr};
use utoipa::{OpenApi, ToSchema};

use crate::schema;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Lovage",
        description = "A task queue for HTTP: submit tasks, they are pushed to workers, results come back.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(schema::Problem, schema::FieldError, schema::Links)),
    tags(
        (name = "tasks", description = "Submit, watch and cancel"),
        (name = "attempts", description = "What workers report while they work"),
        (name = "task types", description = "Defaults and schemas for the tasks of a name"),
        (name = "limits", description = "How often and how many at once tasks of a key start"),
        (name = "workers", description = "Who does the work"),
        (name = "queues", description = "Where tasks wait"),
        (name = "keys", description = "Signing keys"),
        (name = "operation", description = "Health, metrics, documents"),
    )
)]
struct Base;

/// Title, licence, tags and the problem.
pub(crate) fn base() -> Document {
    Base::openapi()
}

/// Every operation may answer with a problem.
pub(crate) fn finish(mut api: Document) -> Document {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema::Problem::name()))).build();
    let problem =
        ResponseBuilder::new().description("Refused; `code` says why").content("application/problem+json", content).build();
    for item in api.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
        for operation in operations.into_iter().flatten() {
            operation.responses.responses.insert("default".to_owned(), RefOr::T(problem.clone()));
        }
    }
    api
}
