//! What can go wrong in a store. Callers outside see a 503; the cause is logged once where it is handled.

/// The result of a store verb.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a verb was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store cannot be reached or refused the call; nothing was written.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The call may or may not have been carried out. Settle it by reading, with the same id or idempotency key.
    #[error("the outcome of the write is unknown: {0}")]
    Unknown(String),
    /// There is no room; nothing was written.
    #[error("the store is full: {0}")]
    Full(String),
    /// The caller does not own the partition (any more); nothing was written.
    #[error("the partition has another owner")]
    Fenced,
    /// Stored bytes make no sense.
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
    /// The data was written by a newer version.
    #[error("the data has format {found}, this version knows up to {known}")]
    Format {
        /// The format found.
        found: u32,
        /// The newest format known.
        known: u32,
    },
    /// Another process uses the data.
    #[error("{0} is in use by another process")]
    Locked(String),
    /// The verb was called with arguments outside its contract: a bug of the caller.
    #[error("invalid call: {0}")]
    Invalid(String),
}

impl Error {
    /// Logs that `what` failed. What passes by itself is only for debugging: the wrapper `Traced` tells of it once for all
    /// callers, who would flood the log.
    pub fn log(&self, what: &str) {
        if self.is_transient() {
            tracing::debug!(error = %self, "cannot {what}");
        } else {
            tracing::warn!(error = %self, "cannot {what}");
        }
    }

    /// The same error once more: all that went together are answered with it.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Unavailable(text) => Self::Unavailable(text.clone()),
            Self::Unknown(text) => Self::Unknown(text.clone()),
            Self::Full(text) => Self::Full(text.clone()),
            Self::Fenced => Self::Fenced,
            Self::Corrupt(text) => Self::Corrupt(text.clone()),
            Self::Format { found, known } => Self::Format { found: *found, known: *known },
            Self::Locked(text) => Self::Locked(text.clone()),
            Self::Invalid(text) => Self::Invalid(text.clone()),
        }
    }

    /// Whether the fault lies in what the call named: the same call without one of its items may succeed.
    pub fn is_of_the_items(&self) -> bool {
        matches!(self, Self::Corrupt(_) | Self::Invalid(_))
    }

    /// Whether the same call may succeed later without anybody's help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unknown(_) | Self::Full(_))
    }
}
