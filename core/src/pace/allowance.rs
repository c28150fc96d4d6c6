//! What a worker says about how many more requests it takes: `RateLimit`, `RateLimit-*`, `X-RateLimit-*`.
//!
//! Drafts and habits differ in all details, so whatever can be understood is, and junk is as if it were missing.

use std::time::Duration;

use crate::classify::retry_after;

/// No allowance lasts longer.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);
/// A reset from this number on is a time and no wait: seconds since 1970, …
const EPOCH: f64 = 1e9;
/// … and from this on milliseconds.
const EPOCH_MILLIS: f64 = 1e12;

/// So many requests more until a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Requests that are left.
    pub remaining: u64,
    /// Until there are more.
    pub reset: Duration,
    /// Requests of the whole window, if it says so.
    pub limit: Option<u64>,
}

impl Allowance {
    /// The header names that tell whether there is any.
    pub const SIGNS: [&str; 3] = ["ratelimit", "ratelimit-remaining", "x-ratelimit-remaining"];

    /// Reads the headers of an answer, which `header` gives by their names in lower case.
    pub fn read<H: AsRef<str>>(header: impl Fn(&'static str) -> Option<H>, now_ms: u64) -> Option<Self> {
        if let Some(text) = header("ratelimit") {
            let policy = header("ratelimit-policy");
            return of_list(text.as_ref(), policy.as_ref().map_or("", H::as_ref), now_ms);
        }
        let parts = [
            ["ratelimit-remaining", "ratelimit-reset", "ratelimit-limit"],
            ["x-ratelimit-remaining", "x-ratelimit-reset", "x-ratelimit-limit"],
        ];
        parts.into_iter().find_map(|[remaining, until, limit]| {
            let (text, limit) = (header(remaining)?, header(limit));
            let window = [Some(&text), limit.as_ref()].into_iter().flatten().find_map(|text| param(text.as_ref(), "w"));
            let reset = match header(until) {
                Some(text) => reset(text.as_ref(), now_ms),
                None => reset(window?, now_ms),
            };
            Some(Self { remaining: whole(text.as_ref())?, reset: reset?, limit: limit.and_then(|text| whole(text.as_ref())) })
        })
    }
}

/// `"name";r=50;t=30, …` with its policies `"name";q=100;w=60, …`, or `limit=100, remaining=50, reset=30`. Of several the one that
/// leaves least in a time.
fn of_list(text: &str, policies: &str, now_ms: u64) -> Option<Allowance> {
    let policy = |name: &str| policies.split(',').find(|policy| first(policy) == name);
    let item = |item: &str| {
        let policy = policy(first(item));
        let of_policy = |key| policy.and_then(|policy| param(policy, key));
        let remaining = whole(param(item, "r")?)?;
        let reset = reset(param(item, "t").or_else(|| of_policy("w"))?, now_ms)?;
        Some(Allowance { remaining, reset, limit: of_policy("q").and_then(whole) })
    };
    let tightness = |one: &Allowance| one.remaining as f64 / one.reset.as_secs_f64().max(0.001);
    let items = text.split(',').filter_map(item);
    items.min_by(|a, b| tightness(a).total_cmp(&tightness(b)).then(b.reset.cmp(&a.reset))).or_else(|| {
        let field = |name| text.split([',', ';']).find_map(|part| value(part, name));
        let reset = reset(field("reset")?, now_ms)?;
        Some(Allowance { remaining: whole(field("remaining")?)?, reset, limit: field("limit").and_then(whole) })
    })
}

fn first(item: &str) -> &str {
    item.split(';').next().unwrap_or_default().trim()
}

/// The value of a parameter.
fn param<'t>(item: &'t str, name: &str) -> Option<&'t str> {
    item.split([';', ',']).skip(1).find_map(|part| value(part, name))
}

fn value<'t>(part: &'t str, name: &str) -> Option<&'t str> {
    let (key, value) = part.split_once('=')?;
    key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
}

/// The number that a text begins with.
fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    // A number too long to count is infinite, which the casts below cut off.
    text[..end].parse().ok()
}

fn whole(text: &str) -> Option<u64> {
    number(text).map(|number| number as u64)
}

fn reset(text: &str, now_ms: u64) -> Option<Duration> {
    let day = LONGEST.as_secs_f64();
    let Some(number) = number(text).filter(|_| !text.contains(' ')) else { return retry_after(text, now_ms) };
    let now = now_ms as f64 / 1e3;
    let seconds = match number {
        at if at >= EPOCH_MILLIS => at / 1e3 - now,
        at if at >= EPOCH => at - now,
        wait => wait,
    };
    Some(Duration::from_secs_f64(seconds.clamp(0.0, day)))
}
