//! Reads the configuration from its four sources.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use figment::error::Kind;
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::keys::{self, Key};
use super::{Config, FILE};

/// Variables with our prefix that are not settings of a server: what clients use, and what Kubernetes gives to every
/// container beside a service that is called `lovage`.
const OTHER_VARIABLES: [&str; 4] = ["LOVAGE_CONFIG", "LOVAGE_URL", "LOVAGE_KEY", "LOVAGE_PORT"];
const OTHER_PREFIXES: [&str; 2] = ["LOVAGE_SERVICE_", "LOVAGE_PORT_"];

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// Keys with their values as text; lists are joined by commas.
    pub values: Vec<(String, String)>,
}

impl Flags {
    /// From `--config` and every `--set KEY=VALUE`.
    pub fn new(file: Option<PathBuf>, set: &[String]) -> anyhow::Result<Self> {
        let mut flags = Self { file, values: Vec::new() };
        for item in set {
            let (key, value) = item.split_once('=').with_context(|| format!("--set {item}: write it as KEY=VALUE"))?;
            flags.set(key.trim(), Some(value));
        }
        Ok(flags)
    }

    /// Sets a key if the flag was given.
    pub fn set(&mut self, key: &str, value: Option<impl ToString>) {
        self.values.extend(value.map(|value| (key.to_owned(), value.to_string())));
    }
}

/// The configuration in force and where it came from.
pub(crate) struct Loaded {
    pub config: Config,
    pub(super) figment: Figment,
    pub(super) keys: Vec<Key>,
}

impl Loaded {
    /// The origin of a value in words.
    pub fn source(&self, key: &str) -> String {
        let metadata = self.figment.find_metadata(key).map_or("default", |metadata| &metadata.name);
        match (metadata, self.keys.iter().find(|known| known.path == key)) {
            (ENVIRONMENT, Some(key)) => key.variable(),
            (FLAG, Some(key)) => key.flag(),
            (other, _) => other.to_owned(),
        }
    }
}

/// The source of what nobody has set.
pub(crate) const DEFAULT: &str = "default";
const ENVIRONMENT: &str = "environment";
const FLAG: &str = "flag";

/// Values of one source.
struct Layer {
    name: String,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

/// What is in force in the folder and the environment of this process.
pub(crate) fn load_here(flags: &Flags) -> anyhow::Result<Loaded> {
    let folder = std::env::current_dir().unwrap_or_default();
    // Names and values that are not Unicode cannot be settings of ours.
    let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    load(Config::default(), flags, variables, &folder)
}

/// Puts the sources together. `variables` is the environment.
pub(crate) fn load(
    defaults: Config,
    flags: &Flags,
    variables: impl IntoIterator<Item = (String, String)>,
    folder: &Path,
) -> anyhow::Result<Loaded> {
    let variables: Vec<(String, String)> = variables.into_iter().filter(|(name, _)| name.starts_with("LOVAGE_")).collect();
    let named = variables.iter().find(|(name, _)| name == "LOVAGE_CONFIG").map(|(_, value)| PathBuf::from(value));

    let base = values_of(&Serialized::defaults(&defaults))?;
    let keys = keys::all(&base);
    let mut figment = Figment::from(Layer { name: DEFAULT.to_owned(), values: base });
    if let Some(layer) = file_layer(flags.file.clone().or(named), folder, &keys)? {
        figment = figment.merge(layer);
    }
    figment = figment.merge(environment_layer(&variables, &keys)?).merge(flag_layer(&flags.values, &keys)?);

    let config = figment.extract().map_err(|error| readable(&error, &keys))?;
    let loaded = Loaded { config, figment, keys };
    super::check::check(&loaded)?;
    Ok(loaded)
}

fn values_of(provider: &impl Provider) -> anyhow::Result<Dict> {
    Ok(provider.data()?.into_values().next().unwrap_or_default())
}

fn file_layer(named: Option<PathBuf>, folder: &Path, keys: &[Key]) -> anyhow::Result<Option<Layer>> {
    let path = match named {
        Some(path) => folder.join(path),
        None if folder.join(FILE).exists() => folder.join(FILE),
        None => return Ok(None),
    };
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("cannot read the configuration file {}", path.display()))?;
    let name = path.display().to_string();
    let values = values_of(&Toml::string(&text)).with_context(|| format!("{name} is not a configuration file"))?;
    check_names(&name, &values, keys)?;
    Ok(Some(Layer { name, values }))
}

fn check_names(file: &str, values: &Dict, keys: &[Key]) -> anyhow::Result<()> {
    let mut unknown = Vec::new();
    keys::walk("", values, &mut |path, _| {
        if !keys.iter().any(|key| key.path == path) {
            unknown.push(path);
        }
    });
    match unknown.first() {
        None => Ok(()),
        Some(path) => bail!("{file}: {}", unknown_key("key", path, keys.iter().map(|key| key.path.as_str()))),
    }
}

fn environment_layer(variables: &[(String, String)], keys: &[Key]) -> anyhow::Result<Layer> {
    let mut values = Dict::new();
    for (name, text) in variables {
        if OTHER_VARIABLES.contains(&name.as_str()) || OTHER_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let Some(key) = keys.iter().find(|key| key.variable() == *name) else {
            let names: Vec<String> = keys.iter().map(Key::variable).collect();
            bail!(unknown_key("environment variable", name, names.iter().map(String::as_str)));
        };
        put(&mut values, &key.path, key.read(text).map_err(|why| anyhow::anyhow!("{name}: {why}"))?);
    }
    Ok(Layer { name: ENVIRONMENT.to_owned(), values })
}

fn flag_layer(flags: &[(String, String)], keys: &[Key]) -> anyhow::Result<Layer> {
    let mut values = Dict::new();
    for (path, text) in flags {
        let Some(key) = keys.iter().find(|key| key.path == *path) else {
            bail!(unknown_key("key", path, keys.iter().map(|key| key.path.as_str())));
        };
        put(&mut values, path, key.read(text).map_err(|why| anyhow::anyhow!("{}: {why}", key.flag()))?);
    }
    Ok(Layer { name: FLAG.to_owned(), values })
}

/// `what` is unknown; names the nearest one that is not.
fn unknown_key<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    match keys::nearest(name, known) {
        Some(near) => format!("unknown {what} `{name}`; did you mean `{near}`?"),
        None => format!("unknown {what} `{name}`; `lovage config` shows all keys"),
    }
}

fn put(values: &mut Dict, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(values.insert(path.to_owned(), value)),
        Some((table, rest)) => {
            let inner = values.entry(table.to_owned()).or_insert_with(|| Dict::new().into());
            if let Value::Dict(_, inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// A value of the wrong kind, said with its key and where it stands.
fn readable(error: &figment::Error, keys: &[Key]) -> anyhow::Error {
    let path = error.path.join(".");
    let source = error.metadata.as_ref().map_or(DEFAULT, |metadata| &metadata.name);
    let place = match (source, keys.iter().find(|key| key.path == path)) {
        (ENVIRONMENT, Some(key)) => key.variable(),
        (FLAG, Some(key)) => key.flag(),
        (DEFAULT, _) => format!("`{path}`"),
        (file, _) => format!("{file}: `{path}`"),
    };
    match &error.kind {
        Kind::UnknownVariant(found, known) => anyhow::anyhow!("{place}: `{found}` is none of `{}`", known.join("`, `")),
        kind => anyhow::anyhow!("{place}: {kind}"),
    }
}
