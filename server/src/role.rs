//! What a process does of all that Lovage does: everything, or one role of a store that several processes share.

use std::net::SocketAddr;

use crate::config::Config;

/// What a process does, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Everything, for one developer on this machine.
    Dev,
    /// Everything, for others.
    Serve,
    /// Takes requests; others deliver the tasks.
    Gateway,
    /// Delivers tasks; others take the requests.
    Dispatcher,
}

/// Settings that do not fit the command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Misuse {
    /// `dev` on an address that others reach.
    #[error(
        "`lovage dev` asks for no credentials, so it listens on loopback addresses only, not on {0}; \
         use `lovage serve` for others to reach it"
    )]
    NotLoopback(SocketAddr),
    /// `serve` without a store.
    #[error("say where the data is to be kept: --data-dir DIR on this machine, or --redis-url URL")]
    NoStore,
    /// One of several processes on a store that only one can have.
    #[error(
        "`lovage {0}` is one of several processes on the same data, and a data directory belongs to one process alone: \
         say where Redis is with --redis-url URL, or use `lovage serve` for everything in one process"
    )]
    NotShared(&'static str),
    /// A URL of Redis that cannot be read.
    #[error("{0}")]
    RedisUrl(String),
    /// A dispatcher that takes no reports itself.
    #[error(
        "`lovage dispatcher` tells workers where to report, and takes no reports itself: \
         say where the gateways are reached with --public-url URL"
    )]
    NoPublicUrl,
}

impl Role {
    /// Whether it serves the API; a process that does not still tells how it is doing.
    pub fn takes_requests(self) -> bool {
        self != Self::Dispatcher
    }

    /// Whether it calls workers.
    pub fn delivers(self) -> bool {
        self != Self::Gateway
    }

    /// What others see of it.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Dev | Self::Serve => &["gateway", "dispatcher"],
            Self::Gateway => &["gateway"],
            Self::Dispatcher => &["dispatcher"],
        }
    }

    /// Refuses settings with which this role cannot do its work.
    pub fn check(self, config: &Config) -> Result<(), Misuse> {
        let stored = config.data_dir.is_some() || config.redis_url.is_some();
        match self {
            Self::Dev if !config.listen.ip().is_loopback() => Err(Misuse::NotLoopback(config.listen)),
            Self::Serve if !stored => Err(Misuse::NoStore),
            Self::Gateway if config.redis_url.is_none() => Err(Misuse::NotShared("gateway")),
            Self::Dispatcher if config.redis_url.is_none() => Err(Misuse::NotShared("dispatcher")),
            Self::Dispatcher if config.public_url.is_none() => Err(Misuse::NoPublicUrl),
            Self::Dev | Self::Serve | Self::Gateway | Self::Dispatcher => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_says_what_it_lacks() {
        let bare = Config::default();
        let redis = Config { redis_url: Some("redis://127.0.0.1".to_owned()), ..Config::default() };
        let folder = Config { data_dir: Some("data".into()), ..Config::default() };
        let public = Config { public_url: Some("http://gateways.example".to_owned()), ..redis.clone() };
        assert!(Role::Dev.check(&bare).is_ok());
        assert!(matches!(Role::Serve.check(&bare), Err(Misuse::NoStore)));
        for config in [&bare, &folder] {
            assert!(matches!(Role::Gateway.check(config), Err(Misuse::NotShared("gateway"))));
            assert!(matches!(Role::Dispatcher.check(config), Err(Misuse::NotShared("dispatcher"))));
        }
        assert!(matches!(Role::Dispatcher.check(&redis), Err(Misuse::NoPublicUrl)));
        assert!(
            Role::Serve.check(&folder).is_ok() && Role::Gateway.check(&redis).is_ok() && Role::Dispatcher.check(&public).is_ok()
        );
    }
}
