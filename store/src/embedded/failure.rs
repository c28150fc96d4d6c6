//! Translates what SQLite says into the errors of the contract.

use rusqlite::ErrorCode;

use crate::Error;

/// The error for callers of a statement that failed before anything was committed.
#[allow(clippy::needless_pass_by_value)] // the shape that `map_err` wants
pub(super) fn failed(e: rusqlite::Error) -> Error {
    match &e {
        rusqlite::Error::SqliteFailure(cause, _) => match cause.code {
            ErrorCode::DiskFull => Error::Full(e.to_string()),
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Error::Corrupt(e.to_string()),
            _ => Error::Unavailable(e.to_string()),
        },
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..) => Error::Corrupt(e.to_string()),
        _ => Error::Unavailable(e.to_string()),
    }
}

/// The error for callers of a transaction whose COMMIT failed. A full disk means that the log's last frame is not
/// whole, so nothing was stored; after any other error the frames may have reached the disk.
pub(super) fn failed_commit(e: rusqlite::Error) -> Error {
    unknown(failed(e))
}

/// The same error for work that may have been carried out.
pub(super) fn unknown(e: Error) -> Error {
    match e {
        Error::Unavailable(text) => Error::Unknown(text),
        other => other,
    }
}
