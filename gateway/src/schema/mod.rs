//! The shapes of requests and answers, for the document of the API.
//!
//! Signatures are read by hand so that payload bytes stay as they came; a test compares the names here with those read.
#![allow(dead_code, reason = "these types describe, they are never made")]
#![allow(clippy::struct_field_names, clippy::large_enum_variant, reason = "the names and shapes are those of the wire")]

mod bulk;
mod dry_run;
mod events;
mod insight;
mod leases;
mod limits;
mod nodes;
mod queues;
mod reports;
mod requests;
mod signature;
mod task_types;
mod tasks;
mod workers;

pub(crate) use bulk::*;
pub(crate) use dry_run::*;
pub(crate) use events::*;
pub(crate) use insight::*;
pub(crate) use leases::*;
pub(crate) use limits::*;
pub(crate) use nodes::*;
pub(crate) use queues::*;
pub(crate) use reports::*;
pub(crate) use requests::*;
pub(crate) use signature::*;
pub(crate) use task_types::*;
pub(crate) use tasks::*;
pub(crate) use workers::*;
