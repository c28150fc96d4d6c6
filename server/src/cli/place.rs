//! Where data is, as commands name it: a data directory, or a Redis with prefix and partitions.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use lovage_core::id::SLOTS;
use lovage_store::embedded::documents_of;
use lovage_store::{DocKind, Document, all_docs};

use super::Failure;
use crate::config::Config;
use crate::role::Misuse;
use crate::storage::Storage;

/// A data directory, or `redis://…?prefix=TEXT&partitions=P`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A data directory.
    Folder(PathBuf),
    /// A Redis.
    Redis { url: String, prefix: String, partitions: u16 },
}

/// What a place is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// To be emptied. It has to be there.
    From,
    /// To be filled. It is made if it is not there, and what it takes is as safe as what a server acknowledges.
    To,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.contains("://") {
            return Ok(Self::Folder(text.into()));
        }
        if !text.starts_with("redis") {
            return Err("name a data directory, or a Redis as redis://HOST:PORT".to_owned());
        }
        let defaults = Config::default();
        let (mut prefix, mut partitions) = (defaults.redis_prefix, defaults.partitions);
        // Not parsed as a URL: several hosts may be in it.
        let (address, query) = text.split_once('?').unwrap_or((text, ""));
        let mut url = address.to_owned();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "prefix" => prefix = value.into_owned(),
                "partitions" => {
                    let count = value.parse().ok().filter(|count| (1..=SLOTS).contains(count));
                    partitions = count.ok_or_else(|| format!("partitions={value}: it must be a number from 1 to {SLOTS}"))?;
                }
                "protocol" => {
                    url.push(if url.contains('?') { '&' } else { '?' });
                    url.extend([&*name, "=", &*value]);
                }
                _ => return Err(format!("there is no parameter `{name}`; there are prefix, partitions and protocol")),
            }
        }
        Ok(Self::Redis { url, prefix, partitions })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "{}", folder.display()),
            Self::Redis { url, prefix, .. } => write!(f, "{} (prefix {prefix})", crate::storage::without_credentials(url)),
        }
    }
}

impl Place {
    /// Whether both name the same data.
    pub fn is_same(&self, other: &Self) -> bool {
        let folder = |folder: &PathBuf| folder.canonicalize().unwrap_or_else(|_| folder.clone());
        match (self, other) {
            (Self::Folder(one), Self::Folder(other)) => folder(one) == folder(other),
            (Self::Redis { url, prefix, .. }, Self::Redis { url: other, prefix: other_prefix, .. }) => {
                (url, prefix) == (other, other_prefix)
            }
            _ => false,
        }
    }

    /// All documents, also of a store that a server uses.
    pub async fn documents(&self, config: &Config) -> Result<Vec<Document>, Failure> {
        if let Self::Folder(folder) = self {
            self.check_there(config).await?;
            return documents_of(folder).map_err(|error| Failure::Refused(error.to_string()));
        }
        let storage = self.open(config, Side::From).await?;
        let mut all = Vec::new();
        for kind in DocKind::ALL {
            let documents = all_docs(&*storage.store, kind, None).await;
            all.extend(documents.map_err(|error| Failure::Unreachable(error.to_string()))?);
        }
        storage.close().await;
        Ok(all)
    }

    /// Whether there is a store. None is made.
    pub async fn is_there(&self, config: &Config) -> Result<bool, Failure> {
        match self {
            Self::Folder(folder) => Ok(folder.join("lovage.db").is_file()),
            Self::Redis { url, .. } => {
                let found = Storage::is_in_redis(&self.configured(config), url).await;
                found.map_err(|error| unreachable(&error))
            }
        }
    }

    async fn check_there(&self, config: &Config) -> Result<(), Failure> {
        if self.is_there(config).await? {
            return Ok(());
        }
        Err(Failure::Refused(match self {
            Self::Folder(folder) => format!("there is no store in {}", folder.display()),
            Self::Redis { url, prefix, .. } => {
                let place = crate::storage::without_credentials(url);
                format!("there is no store with the prefix `{prefix}` in {place}; name another one with ?prefix=TEXT")
            }
        }))
    }

    /// The configuration, whatever it says about places, with this one.
    fn configured(&self, config: &Config) -> Config {
        let config = Config { data_dir: None, redis_url: None, ..config.clone() };
        match self {
            Self::Folder(folder) => Config { data_dir: Some(folder.clone()), ..config },
            Self::Redis { url, prefix, partitions } => {
                Config { redis_url: Some(url.clone()), redis_prefix: prefix.clone(), partitions: *partitions, ..config }
            }
        }
    }

    /// Opens the store as the configuration says, whatever that says about places.
    pub async fn open(&self, config: &Config, side: Side) -> Result<Storage, Failure> {
        let mut config = self.configured(config);
        if side == Side::From {
            self.check_there(&config).await?;
            // What is left of a task in the old store is found by the next run: no need of replicas there.
            config.redis_wait = 0;
        }
        let opened = Storage::open(&config, config.data_dir.as_deref()).await;
        opened.map_err(|error| match self {
            Self::Folder(_) => Failure::Refused(format!("{error:#}")),
            Self::Redis { .. } => unreachable(&error),
        })
    }
}

fn unreachable(error: &anyhow::Error) -> Failure {
    let text = format!("{error:#}");
    if error.is::<Misuse>() { Failure::Usage(text) } else { Failure::Unreachable(text) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn folders_and_redis_are_told_apart() {
        let place = |text: &str| text.parse::<Place>();
        assert_eq!(place("data/one").unwrap(), Place::Folder("data/one".into()));
        let redis = |url: &str, prefix: &str, partitions| Place::Redis { url: url.into(), prefix: prefix.into(), partitions };
        assert_eq!(place("redis://:secret@host:6379/2").unwrap(), redis("redis://:secret@host:6379/2", "lv", 16));
        assert_eq!(
            place("rediss://host/?prefix=shop&partitions=32&protocol=resp3").unwrap(),
            redis("rediss://host/?protocol=resp3", "shop", 32)
        );
        assert!(!place("redis://:secret@host").unwrap().to_string().contains("secret"));
        assert_eq!(place("redis+cluster://a:1,b:2?prefix=shop").unwrap(), redis("redis+cluster://a:1,b:2", "shop", 16));
        for bad in ["http://host", "redis://h?partitions=many", "redis://h?partitions=0", "redis://h?partitions=4097"] {
            assert!(place(bad).is_err(), "{bad}");
        }
        let unknown = place("redis://host?partition=4").unwrap_err();
        assert!(unknown.contains("`partition`") && unknown.contains("partitions"), "{unknown}");
    }
}
