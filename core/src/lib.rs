//! The domain of Lovage: ids, heads, states, rules.
//!
//! Everything here is a pure function or plain data: no I/O, no clock, no randomness. Time and random numbers are
//! arguments, so every rule can be tested at any instant and a simulation is decided by its seed.

pub mod answer;
pub mod asked;
pub mod attempt;
pub mod body;
pub mod callback;
pub mod classify;
pub mod decide;
pub mod destinations;
pub mod event;
pub mod fields;
pub mod head;
pub mod id;
pub mod keys;
pub mod lane;
pub mod names;
pub mod ndjson;
mod node;
pub mod outcome;
pub mod placement;
pub mod problem;
pub mod readable;
pub mod redact;
pub mod report;
pub mod resume;
pub mod retry;
pub mod signature;
pub mod spec;
pub mod standing;
pub mod state;
pub mod submit;
pub mod task_type;
pub mod time;
pub mod token;
pub mod trace;
pub mod units;
pub mod view;
pub mod worker;

pub use answer::{Answer, AnswerHeaders, Fault, TaskError};
pub use attempt::AttemptEntry;
pub use body::{Body, ResultValue};
pub use callback::{Callback, CallbackKind, Callbacks};
pub use decide::{Refusal, Transition, decide};
pub use destinations::{Destinations, HeaderRefusal, UrlRefusal};
pub use event::{Event, Patch, When};
pub use head::{Attempt, Flags, Head, LaneId, SessionId, Version, worker_mark};
pub use id::{IdRun, Ns, Partition, Slot, SlotKind, TaskId, TaskKey};
pub use keys::{Batching, Debounce, HeldKey, OnConflict, Unique, UniqueScope, is_debouncing, unique_holds};
pub use lane::{LaneDef, Route, Score};
pub use node::NodeInfo;
pub use outcome::{Outcome, RawOutcome, Then};
pub use placement::{Placement, count_delta, placement};
pub use report::Report;
pub use signature::{Draft, Rules, SignatureLimits};
pub use spec::{Arrival, Form, Spec};
pub use state::{Reason, State};
pub use submit::NewTask;
pub use task_type::{TaskType, TaskTypes};
pub use time::Millis;
pub use token::{AttemptToken, AttemptUrls, TokenKey};
pub use trace::Trace;
pub use view::Record;
