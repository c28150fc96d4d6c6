//! Power cuts: what a disk may hold when the power goes, at any instant of a recorded run.
//!
//! `kill -9` does not test durability: the kernel keeps what a process has written, synced or not. Here a process runs on a
//! [`Disk`], a folder whose every write, sync and rename is recorded by a small preloaded library. From that record
//! [`History`] rebuilds the folder as a power cut at an instant could have left it: what was synced is there exactly, what was
//! not is lost wholly or in part ([`Loss`]). One run thus gives any number of cuts, each repeatable by its seed.
//!
//! ```no_run
//! # use lovage_tests::{Lovage, power::Disk};
//! # use serde_json::json;
//! # async fn example() {
//! let disk = Disk::new();
//! let mut lovage = Lovage::dev().on_disk(&disk).start().await;
//! let answer = lovage.client().post_task(&json!({"task": "demo.add", "args": [2, 3]})).await;
//! lovage.stop().await;
//! let history = disk.history();
//! for (cut, image) in history.images(&history.cuts(1, 50)) {
//!     let folder = image.restore();
//!     let revived = Lovage::dev().data_dir(folder.path()).start().await;
//!     if answer.received_ns <= cut.at_ns {
//!         assert_eq!(revived.client().task(&answer.id()).await["task"], "demo.add", "lost by {cut:?}");
//!     }
//! }
//! # }
//! ```
//!
//! # The disk that is modelled
//!
//! - A change counts from the moment its system call returned; a sync covers the changes that had returned before it was
//!   called, and counts once it has returned. Nothing else makes file contents durable.
//! - The smallest unit of writing is a sector of 512 bytes: it is written whole or not at all.
//! - Creating and renaming a file becomes durable with an `fsync` (or `fdatasync`) of that file or of its folder, removing one
//!   with an `fsync` of its folder; changes of names happen in order. Ext4, XFS and Btrfs promise at least this.
//! - Sub-folders are durable at once, and empty ones are not rebuilt.
//! - After a failed sync the changes it should have covered never become durable, as on Linux, where the kernel marks such
//!   pages clean: a program that tries again and believes the second answer loses data.
//!
//! A killed process may have changed a file without having recorded it: call [`Disk::reconcile`] before it is started again.

mod disk;
mod history;
mod log;
mod model;
mod shim;

pub use disk::Disk;
pub use history::{History, Image, Loss, PowerCut};
