//! The public contract as clients and workers meet it: real processes, real HTTP, each test on both stores.
//!
//! A test is an `async fn` that is given a [`Store`]; [`on_both_stores`] makes two tests of it. A test that is forgotten in
//! that list does not compile without a warning about dead code.

/// Two tests of each named function: `embedded::name` and `redis::name`.
macro_rules! on_both_stores {
    ($($name:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
            async fn $name() {
                super::$name($crate::contract::site::Store::Embedded).await;
            })+
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
            async fn $name() {
                super::$name($crate::contract::site::Store::Redis).await;
            })+
        }
    };
}

mod access;
mod answers;
mod attempts;
mod batch;
mod callbacks;
mod cancel;
mod create;
mod delivery;
mod documents;
mod errors;
mod flow;
mod flow_now;
mod flow_order;
mod formats;
mod idempotency;
mod instances;
mod keys;
mod limits;
mod links;
mod list;
mod operation;
mod pace;
mod policies;
mod queues;
mod queues_paused;
mod raw;
mod results;
mod signing;
pub(crate) mod site;
mod slow;
mod stream;
mod task_types;
mod time;
mod timing;
mod upkeep;
mod wait;
mod wire;
mod workers;
