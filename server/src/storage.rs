//! Opens the store that the configuration names, and explains what stands in the way.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use lovage_core::SessionId;
use lovage_store::moving::Inside;
use lovage_store::wrap::Traced;
use lovage_store::{EmbeddedOptions, EmbeddedStore, Error, RedisOptions, RedisStore, RedisTls, RedisWait, Store};

use crate::config::{Config, Durability};
use crate::role::Misuse;

/// Tells others who uses a data directory.
const PID_FILE: &str = "lovage.pid";

/// How often a Redis that reads its files is asked whether it is ready.
const LOADING_PAUSE: Duration = Duration::from_millis(500);

/// An open store.
pub(crate) struct Storage {
    /// The store, with its calls measured.
    pub store: Arc<dyn Store>,
    /// The same store, for who moves all of it.
    pub inside: Arc<dyn Inside>,
    /// A number that no life of any process had before.
    pub session: SessionId,
    /// Where the data is, for people.
    pub place: String,
    embedded: Option<Arc<EmbeddedStore>>,
}

impl Storage {
    /// Opens the store in Redis if one is named, else the embedded one in `data_dir`.
    pub async fn open(config: &Config, data_dir: Option<&Path>) -> anyhow::Result<Self> {
        match (&config.redis_url, data_dir) {
            (Some(url), _) => redis(config, url).await,
            (None, Some(dir)) => embedded(config, dir),
            (None, None) => Err(anyhow!("no place for the data is given")),
        }
    }

    /// Whether there is a store in the Redis at `url`. None is made.
    pub async fn is_in_redis(config: &Config, url: &str) -> anyhow::Result<bool> {
        let (shown, options) = (without_credentials(url), redis_options(config, url)?);
        let found = when_loaded(&shown, async || RedisStore::exists(&options).await).await;
        found.map_err(|error| explain_redis(&shown, error))
    }

    /// Whether other processes may use it at the same time.
    pub fn is_shared(&self) -> bool {
        self.embedded.is_none()
    }

    /// Writes what is waiting and lets go of the data directory.
    pub async fn close(self) {
        if let Some(embedded) = self.embedded {
            embedded.close().await;
        }
    }

    /// Notes who uses the data directory.
    pub fn sign(&self, data_dir: Option<&Path>, url: &str) {
        let Some(path) = self.embedded.as_ref().and(data_dir).map(|dir| dir.join(PID_FILE)) else { return };
        let text = format!("process {} at {url}\n", std::process::id());
        if let Err(error) = std::fs::write(&path, text) {
            tracing::warn!(%error, "cannot write {}", path.display());
        }
    }
}

fn embedded(config: &Config, dir: &Path) -> anyhow::Result<Storage> {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let options = EmbeddedOptions {
        durability: match config.durability {
            Durability::Strict => lovage_store::Durability::Strict,
            Durability::Relaxed => lovage_store::Durability::Relaxed,
        },
        min_free: config.min_free.bytes(),
        feed_rows: config.embedded.feed_rows,
        page_cache: config.embedded.page_cache.as_len(),
        body_cache: config.embedded.body_cache.as_len(),
        wal_bytes: config.embedded.wal_bytes.bytes(),
        ..EmbeddedOptions::new(&dir)
    };
    let store = EmbeddedStore::open(options).map_err(|error| explain_embedded(&dir, error))?;
    Ok(Storage {
        session: store.session(),
        store: Arc::new(Traced::new(store.clone())),
        inside: store.clone(),
        place: dir.display().to_string(),
        embedded: Some(store),
    })
}

fn explain_embedded(dir: &Path, error: Error) -> anyhow::Error {
    let folder = dir.display();
    match error {
        Error::Locked(_) => {
            let holder = std::fs::read_to_string(dir.join(PID_FILE));
            let holder = holder.map_or_else(|_| "another process".to_owned(), |text| text.trim().to_owned());
            anyhow!("the data directory {folder} is in use by {holder}; stop that one, or choose another folder with --data-dir")
        }
        Error::Format { found, known } => anyhow!(
            "the data in {folder} was written by a newer Lovage (format {found}, this one knows up to {known}); \
             use that version, or another folder"
        ),
        Error::Corrupt(why) => {
            anyhow!(
                "{folder} holds something else than data of Lovage, or it is damaged ({why}); choose another folder with --data-dir"
            )
        }
        other => anyhow::Error::new(other).context(format!("cannot open the data directory {folder}")),
    }
}

fn redis_options(config: &Config, url: &str) -> anyhow::Result<RedisOptions> {
    let tls = RedisTls {
        ca: config.redis.ca_file.as_deref().map(pem).transpose()?,
        client: match (&config.redis.cert_file, &config.redis.key_file) {
            (Some(cert), Some(key)) => Some((pem(cert)?, pem(key)?)),
            _ => None,
        },
    };
    let timeout = config.redis.wait_timeout.get();
    Ok(RedisOptions {
        tls,
        wait: (config.redis_wait > 0).then_some(RedisWait { replicas: config.redis_wait, timeout }),
        prefix: config.redis_prefix.clone(),
        partitions: config.partitions,
        timeout: config.redis.timeout.get(),
        feed_keep: config.redis.feed_keep.get(),
        feed_bytes: config.redis.feed_bytes.bytes(),
        ..RedisOptions::new(url)
    })
}

async fn redis(config: &Config, url: &str) -> anyhow::Result<Storage> {
    let (shown, options) = (without_credentials(url), redis_options(config, url)?);
    let store = when_loaded(&shown, async || RedisStore::open(options.clone()).await)
        .await
        .map_err(|error| explain_redis(&shown, error))?;
    let session = store.next_session().context("cannot register with Redis")?;
    Ok(Storage { session, inside: store.clone(), store: Arc::new(Traced::new(store)), place: shown, embedded: None })
}

/// A Redis that reads its files, and hardly answers meanwhile, is on its way up, unlike one that is away, which may be a slip in
/// the URL.
async fn when_loaded<T>(shown: &str, open: impl AsyncFn() -> lovage_store::Result<T>) -> lovage_store::Result<T> {
    let mut told = false;
    loop {
        match open().await {
            Err(Error::Unavailable(why)) if why.contains("loading the dataset") || why.contains("cannot be reached yet") => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(error = why, "Redis at {shown} is there and not ready; waiting for it");
                }
                tokio::time::sleep(LOADING_PAUSE).await;
            }
            opened => return opened,
        }
    }
}

fn pem(file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

fn explain_redis(shown: &str, error: Error) -> anyhow::Error {
    match error {
        Error::Format { found, known } => anyhow!(
            "the data in {shown} was written by a newer Lovage (format {found}, this one knows up to {known}); \
             use that version, or another --redis-prefix"
        ),
        Error::Unavailable(why) if why.contains("noeviction") => {
            anyhow!("{shown} is not fit: {why} (`redis-cli config set maxmemory-policy noeviction`, and in redis.conf)")
        }
        Error::Unavailable(why) if why.contains("NOAUTH") || why.contains("WRONGPASS") => {
            anyhow!("{shown} wants a password, or another one: write it into the URL as redis://:PASSWORD@HOST:PORT ({why})")
        }
        Error::Unavailable(why) if why.contains("NOPERM") || why.contains("replica") => {
            anyhow!("cannot use Redis at {shown}: {why}")
        }
        Error::Unavailable(why) | Error::Unknown(why) => {
            anyhow!(
                "cannot use Redis at {shown}: {why}; check that it runs and that --redis-url is right (`redis-cli -u URL ping`)"
            )
        }
        Error::Invalid(why) => Misuse::RedisUrl(why).into(),
        other => anyhow::Error::new(other).context(format!("cannot use Redis at {shown}")),
    }
}

/// The URL without user and password, for logs and the screen. Lists of hosts are no URLs to a parser of URLs, so they are
/// cut out by hand: up to the last `@`, for a password may have one that should have been escaped.
pub(crate) fn without_credentials(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return "the given URL".to_owned() };
    format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, hosts)| hosts))
}

/// The folder that the embedded store would use.
pub(crate) fn data_dir(config: &Config, default: Option<&str>) -> Option<PathBuf> {
    if config.redis_url.is_some() {
        return None;
    }
    config.data_dir.clone().or_else(|| default.map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::without_credentials;

    #[test]
    fn credentials_are_not_shown() {
        for (url, shown) in [
            ("redis://h:1/2", "redis://h:1/2"),
            ("rediss://user:p@ss@h", "rediss://h"),
            ("redis+cluster://user:p%40ss@h1:1,h2:2", "redis+cluster://h1:1,h2:2"),
            ("redis+sentinel://:secret@h1,[::1]:2/main", "redis+sentinel://h1,[::1]:2/main"),
            ("secret", "the given URL"),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
    }
}
