//! Limits.

use serde::Serialize;
use utoipa::ToSchema;

/// What holds for all tasks of a key; a field that is not set holds as the newest task says it that was tried.
#[derive(ToSchema, Serialize)]
pub(crate) struct LimitIn {
    /// Starts per second, minute or hour, over all nodes.
    #[schema(example = "10/s")]
    pub rate: Option<String>,
    /// Starts that may come at once (1).
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub burst: Option<u32>,
    /// Tasks that may run at once, over all nodes; 0 stops all.
    #[schema(minimum = 0, maximum = 1_000_000)]
    pub concurrency: Option<u32>,
    /// No task of the key starts before this time, which has to be to come.
    #[schema(format = DateTime)]
    pub paused_until: Option<String>,
}

/// A limit, as it is stored and as it is used now.
#[derive(ToSchema, Serialize)]
pub(crate) struct Limit {
    /// Its key.
    pub key: String,
    #[serde(flatten)]
    pub stored: LimitIn,
    /// No task of it starts now: until `paused_until`, or until it is resumed if that is null.
    pub paused: bool,
    /// What holds now: what is stored, completed by what the newest task says that was tried.
    pub in_force: Rule,
    /// Tasks of the key that run.
    pub in_use: u32,
    /// Tasks of the key that wait, but for those that wait in an order; in lists null.
    pub waiting: Option<u64>,
    /// There are more than were counted.
    pub waiting_more: bool,
    /// Starts that the rate allows now; null without a rate.
    pub tokens: Option<u32>,
    /// When the next one may start, if rate or pause keep it from starting now.
    #[schema(format = DateTime)]
    pub next_at: Option<String>,
    /// Also the `ETag`; null if nothing is stored.
    pub version: Option<u64>,
}

/// Rate and concurrency.
#[derive(ToSchema, Serialize)]
pub(crate) struct Rule {
    /// Starts per second, minute or hour.
    pub rate: Option<String>,
    /// Starts that may come at once.
    pub burst: Option<u32>,
    /// Tasks that may run at once.
    pub concurrency: Option<u32>,
}

/// A page of limits.
#[derive(ToSchema, Serialize)]
pub(crate) struct Limits {
    /// By key.
    pub items: Vec<Limit>,
    /// Where to go on; null at the end.
    pub next_cursor: Option<String>,
}

/// For how long.
#[derive(ToSchema, Serialize)]
pub(crate) struct LimitPause {
    /// Until then; null or not given: until it is resumed.
    #[schema(format = DateTime)]
    pub until: Option<String>,
}
