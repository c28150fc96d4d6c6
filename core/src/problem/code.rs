//! The catalogue of problem codes. Each has a page `docs/errors/<code>.md`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One row per code keeps name, status and title together, where a forgotten one shows.
macro_rules! catalogue {
    ($($variant:ident $code:literal $status:literal $title:literal,)+) => {
        /// Why a request was refused, for programs. A code exists only where a client would act differently.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code {
            $(#[doc = concat!("`", $code, "`: ", $title, ".")] #[serde(rename = $code)] $variant),+
        }

        impl Code {
            /// All of them, by status.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The code as clients see it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            /// The code in words.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),+ }
            }

            /// The HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status),+ }
            }

            /// The code that clients see as `text`.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($code => Some(Self::$variant),)+ _ => None }
            }

            /// The page about it, in Markdown.
            pub const fn page(self) -> &'static str {
                match self { $(Self::$variant => include_str!(concat!("../../../docs/errors/", $code, ".md"))),+ }
            }
        }
    };
}

catalogue! {
    Malformed "malformed" 400 "Request cannot be read",
    BadCursor "bad_cursor" 400 "Cursor is not valid",
    Unauthenticated "unauthenticated" 401 "Credential missing or not valid",
    ScopeMissing "scope_missing" 403 "Credential does not allow this",
    DestinationForbidden "destination_forbidden" 403 "Destination is not allowed",
    ForeignOrigin "foreign_origin" 403 "Request comes from a foreign host or origin",
    TaskUnknown "task_unknown" 404 "No such task",
    QueueUnknown "queue_unknown" 404 "No such queue",
    WorkerUnknown "worker_unknown" 404 "No such worker",
    TaskTypeUnknown "task_type_unknown" 404 "No such task type",
    LimitUnknown "limit_unknown" 404 "No such limit",
    ScheduleUnknown "schedule_unknown" 404 "No such schedule",
    WorkflowUnknown "workflow_unknown" 404 "No such workflow",
    TokenUnknown "token_unknown" 404 "No such token",
    HookUnknown "hook_unknown" 404 "No such hook",
    NodeUnknown "node_unknown" 404 "No such node",
    KeyUnknown "key_unknown" 404 "No such key",
    RouteUnknown "route_unknown" 404 "No such route",
    MethodNotAllowed "method_not_allowed" 405 "Method is not allowed here",
    IdExists "id_exists" 409 "Id is taken by another task",
    UniqueConflict "unique_conflict" 409 "Unique key is held by another task",
    WrongState "wrong_state" 409 "State does not allow this",
    RequestInFlight "request_in_flight" 409 "Same request is still being worked on",
    AttemptSuperseded "attempt_superseded" 410 "Attempt is no longer the current one",
    ResultExpired "result_expired" 410 "Result is no longer kept",
    VersionMismatch "version_mismatch" 412 "Document has changed",
    PayloadTooLarge "payload_too_large" 413 "Body is too large",
    ContentTypeRefused "content_type_refused" 415 "Content type is not accepted",
    InvalidField "invalid_field" 422 "Field is not valid",
    UnknownField "unknown_field" 422 "Field is not known",
    BadSchedule "bad_schedule" 422 "Schedule is not valid",
    GraphCycle "graph_cycle" 422 "Workflow has a cycle",
    IdempotencyMismatch "idempotency_mismatch" 422 "Idempotency key was used with another body",
    ArgumentsRefused "arguments_refused" 422 "Arguments do not fit the task type",
    TaskFailed "task_failed" 424 "Task has failed",
    TaskCanceled "task_canceled" 424 "Task was canceled",
    TaskExpired "task_expired" 424 "Task has expired",
    ClientRateLimited "client_rate_limited" 429 "Too many requests",
    QuotaExceeded "quota_exceeded" 429 "Quota is used up",
    QueueFull "queue_full" 429 "Queue is full",
    StoreUnavailable "store_unavailable" 503 "Store cannot be reached",
    StoreFull "store_full" 503 "Store is full",
    QueuePaused "queue_paused" 503 "Queue takes no new tasks",
    Draining "draining" 503 "Server is shutting down",
    Overloaded "overloaded" 503 "Server is overloaded",
    Fault "fault" 503 "Server had a fault",
}

impl Code {
    /// Whether the same request may succeed later without anybody changing it.
    pub const fn retryable(self) -> bool {
        matches!(self.status(), 429 | 503) || matches!(self, Self::RequestInFlight)
    }

    /// Where a server shows the page about the code.
    pub fn page_path(self) -> String {
        format!("/docs/errors/{}", self.as_str())
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
