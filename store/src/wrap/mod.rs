//! Stores around stores: measured, or made to fail. Written once for all stores.

mod faulty;
mod outage;
mod traced;

pub use faulty::{Fault, Faulty};
pub use traced::Traced;

/// The verbs of a store, to name them in metrics and fault plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// [`Store::insert`](crate::Store::insert).
    Insert,
    /// [`Store::claim`](crate::Store::claim).
    Claim,
    /// [`Store::commit`](crate::Store::commit).
    Commit,
    /// [`Store::own`](crate::Store::own).
    Own,
    /// [`Store::ownership`](crate::Store::ownership).
    Ownership,
    /// [`Store::tail`](crate::Store::tail).
    Tail,
    /// [`Store::feed`](crate::Store::feed).
    Feed,
    /// [`Store::heads`](crate::Store::heads).
    Heads,
    /// [`Store::get`](crate::Store::get).
    Get,
    /// [`Store::bodies`](crate::Store::bodies).
    Bodies,
    /// [`Store::scan`](crate::Store::scan).
    Scan,
    /// [`Store::lanes`](crate::Store::lanes).
    Lanes,
    /// [`Store::lane_defs`](crate::Store::lane_defs).
    LaneDefs,
    /// [`Store::lane_sizes`](crate::Store::lane_sizes).
    LaneSizes,
    /// [`Store::list`](crate::Store::list).
    List,
    /// [`Store::put_key`](crate::Store::put_key).
    PutKey,
    /// [`Store::lookup`](crate::Store::lookup).
    Lookup,
    /// [`Store::outbox`](crate::Store::outbox).
    Outbox,
    /// [`Store::delivered`](crate::Store::delivered).
    Delivered,
    /// [`Store::counts`](crate::Store::counts).
    Counts,
    /// [`Store::docs`](crate::Store::docs).
    Docs,
    /// [`Store::doc`](crate::Store::doc).
    Doc,
    /// [`Store::put_docs`](crate::Store::put_docs).
    PutDocs,
    /// [`Store::doc_version`](crate::Store::doc_version).
    DocVersion,
    /// [`Store::limit`](crate::Store::limit).
    Limit,
    /// [`Store::wake`](crate::Store::wake).
    Wake,
    /// [`Store::woken`](crate::Store::woken).
    Woken,
    /// [`Store::publish`](crate::Store::publish).
    Publish,
    /// [`Store::boards`](crate::Store::boards).
    Boards,
    /// [`Store::ping`](crate::Store::ping).
    Ping,
}

impl Verb {
    /// The word used in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Claim => "claim",
            Self::Commit => "commit",
            Self::Own => "own",
            Self::Ownership => "ownership",
            Self::Tail => "tail",
            Self::Feed => "feed",
            Self::Heads => "heads",
            Self::Get => "get",
            Self::Bodies => "bodies",
            Self::Scan => "scan",
            Self::Lanes => "lanes",
            Self::LaneDefs => "lane_defs",
            Self::LaneSizes => "lane_sizes",
            Self::List => "list",
            Self::PutKey => "put_key",
            Self::Lookup => "lookup",
            Self::Outbox => "outbox",
            Self::Delivered => "delivered",
            Self::Counts => "counts",
            Self::Docs => "docs",
            Self::Doc => "doc",
            Self::PutDocs => "put_docs",
            Self::DocVersion => "doc_version",
            Self::Limit => "limit",
            Self::Wake => "wake",
            Self::Woken => "woken",
            Self::Publish => "publish",
            Self::Boards => "boards",
            Self::Ping => "ping",
        }
    }

    /// Whether a call may have changed something although its answer got lost.
    pub fn writes(self) -> bool {
        matches!(
            self,
            Self::Insert
                | Self::Claim
                | Self::Commit
                | Self::Own
                | Self::PutKey
                | Self::Delivered
                | Self::PutDocs
                | Self::Limit
                | Self::Wake
                | Self::Publish
        )
    }

    /// Whether a call may wait for news: then its time says nothing about the store.
    pub fn waits(self) -> bool {
        matches!(self, Self::Feed | Self::DocVersion | Self::Woken)
    }
}

#[cfg(test)]
mod tests;
