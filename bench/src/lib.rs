//! Measures Lovage from outside, over HTTP, as a user would see it.
//!
//! Three programs share this crate: `bench-worker` (a worker that costs almost nothing), `bench-load` (a load
//! generator) and `bench-run` (starts everything, runs scenarios, compares with peers). They know Lovage by its public
//! contract alone, so a figure measured here never depends on the inside of the product.
//!
//! On a small machine the generator and the worker share the cores with the server. Whatever they burn is missing
//! from the figure, therefore both speak HTTP/1.1 by hand over kept connections ([`wire`], [`client`],
//! [`fast_worker`]) and run on one thread each.

pub mod client;
pub mod clock;
pub mod fast_worker;
pub mod fleet;
mod flow;
pub mod latency;
pub mod load;
pub mod machine;
pub mod payload;
pub mod process;
pub mod rate;
pub mod results;
pub mod scenarios;
pub mod subject;
mod tenants;
pub mod watch;
pub mod wire;
