//! Which status code means what: a preset and a worker's own exceptions to it.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use crate::problem::FieldError;

/// The meaning of a status code, without its body and headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Done.
    Success,
    /// Failed and charged; another attempt may help.
    Retry,
    /// Slow down; not charged.
    Throttled,
    /// The endpoint is at fault; not charged, counted by its breaker.
    Endpoint,
    /// Failed for good.
    Permanent,
}

/// A ready-made meaning for every status code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// The table of the API: for workers written for Lovage.
    #[default]
    Lovage,
    /// Every status but 2xx is tried again and charged, as Cloud Tasks does.
    CloudTasks,
    /// The same, as `QStash` does: for URLs that know nothing of Lovage.
    Qstash,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Lovage, Self::CloudTasks, Self::Qstash];

    fn parse(name: &str) -> Option<Self> {
        match name {
            "lovage" => Some(Self::Lovage),
            "cloud-tasks" => Some(Self::CloudTasks),
            "qstash" => Some(Self::Qstash),
            _ => None,
        }
    }

    /// The meaning of `status`. Codes outside 100–599 are an answer of a broken worker: tried again.
    pub fn class(self, status: u16) -> Class {
        match (self, status) {
            (_, 200..=299) => Class::Success,
            (Self::Lovage, _) => lovage_class(status),
            (Self::CloudTasks | Self::Qstash, _) => Class::Retry,
        }
    }
}

/// The failures of the API's own table.
fn lovage_class(status: u16) -> Class {
    match status {
        429 | 503 => Class::Throttled,
        // Redirects are never followed, and a final 1xx is no answer to a POST.
        100..=199 | 300..=399 | 401 | 403 | 404 | 405 | 407 | 421 | 501 => Class::Endpoint,
        400..=499 if !matches!(status, 408 | 409 | 423 | 425) => Class::Permanent,
        _ => Class::Retry,
    }
}

/// A preset with exceptions: the `status_map` of a worker, a preset's name or an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusMap {
    /// What holds for every status that is in no list.
    pub preset: Preset,
    /// Failed and charged.
    pub retry: Vec<u16>,
    /// Failed for good.
    pub permanent: Vec<u16>,
    /// The endpoint's fault.
    pub endpoint: Vec<u16>,
}

impl From<Preset> for StatusMap {
    fn from(preset: Preset) -> Self {
        Self { preset, ..Self::default() }
    }
}

impl StatusMap {
    /// The meaning of `status`. A success is never in a list: a worker that means otherwise says so with `Lovage-Outcome`.
    pub fn class(&self, status: u16) -> Class {
        if (200..=299).contains(&status) {
            Class::Success
        } else if self.permanent.contains(&status) {
            Class::Permanent
        } else if self.endpoint.contains(&status) {
            Class::Endpoint
        } else if self.retry.contains(&status) {
            Class::Retry
        } else {
            self.preset.class(status)
        }
    }

    /// Refuses codes that are no status, successes, and codes listed twice. The pointer is relative to the map.
    pub fn validate(&self) -> Result<(), FieldError> {
        let lists = [("retry", &self.retry), ("permanent", &self.permanent), ("endpoint", &self.endpoint)];
        let mut seen = Vec::new();
        for (name, list) in lists {
            for (index, status) in list.iter().enumerate() {
                let refuse = |message: String| Err(FieldError::new(format!("/{name}/{index}"), message));
                if !(100..=599).contains(status) {
                    return refuse(format!("{status} is not a status code"));
                }
                if (200..=299).contains(status) {
                    return refuse(format!("{status} is always a success"));
                }
                if seen.contains(&status) {
                    return refuse(format!("{status} is listed twice"));
                }
                seen.push(status);
            }
        }
        Ok(())
    }
}

/// The object form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    #[serde(default)]
    preset: Preset,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    retry: Vec<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    permanent: Vec<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    endpoint: Vec<u16>,
}

impl Serialize for StatusMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { preset, retry, permanent, endpoint } = self.clone();
        if retry.is_empty() && permanent.is_empty() && endpoint.is_empty() {
            return preset.serialize(serializer);
        }
        Object { preset, retry, permanent, endpoint }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for StatusMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EitherForm)
    }
}

/// By hand rather than untagged, because then serde could only say that nothing matched.
struct EitherForm;

impl<'de> Visitor<'de> for EitherForm {
    type Value = StatusMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a preset (\"lovage\", \"cloud-tasks\" or \"qstash\") or an object with preset, retry, permanent, endpoint")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<StatusMap, E> {
        Preset::parse(name).map(StatusMap::from).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(name), &self))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<StatusMap, A::Error> {
        let Object { preset, retry, permanent, endpoint } = Object::deserialize(MapAccessDeserializer::new(map))?;
        Ok(StatusMap { preset, retry, permanent, endpoint })
    }
}
