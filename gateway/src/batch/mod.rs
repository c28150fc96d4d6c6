//! Many tasks in one request: an array, or a stream of lines.

pub(crate) mod array;
pub(crate) mod atomic;
pub(crate) mod insert;
pub(crate) mod kept;
pub(crate) mod lines;
pub(crate) mod stream;

use lovage_core::TaskId;
use lovage_core::problem::Problem;

/// What became of one item.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Stored now.
    Stored(TaskId),
    /// The same request was made before.
    Existing(TaskId),
    /// Not stored.
    Refused(Problem),
}

impl Answer {
    /// `{"status", "id" | "problem"}`.
    pub(crate) fn write(&self, out: &mut Vec<u8>, request_id: &str) {
        let (status, id) = match self {
            Self::Stored(id) => (202, id),
            Self::Existing(id) => (200, id),
            Self::Refused(problem) => {
                out.extend_from_slice(format!("{{\"status\":{},\"problem\":", problem.code.status()).as_bytes());
                out.extend_from_slice(&problem.to_json(request_id));
                out.push(b'}');
                return;
            }
        };
        // Ids have no character that JSON escapes.
        out.extend_from_slice(format!("{{\"status\":{status},\"id\":\"{id}\"}}").as_bytes());
    }
}
