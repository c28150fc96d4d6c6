//! The trace that a task belongs to (W3C Trace Context): what the client said of it, handed on to whoever is called.
//!
//! Nothing here makes spans. What is not valid counts as not given, as the standard asks for.

use serde::{Deserialize, Serialize};

/// The longest `tracestate` that is handed on, in bytes; a longer one is dropped.
const MAX_STATE: usize = 512;
/// The longest `traceparent`, of a version to come.
const MAX_PARENT: usize = 256;

/// A trace context.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trace {
    /// `traceparent`, as it came.
    pub parent: String,
    /// `tracestate`, as it came; empty: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
}

impl Trace {
    /// The context that these headers give; `None`: none that is valid.
    pub fn read(parent: &str, state: &str) -> Option<Self> {
        let (parent, state) = (parent.trim(), state.trim());
        if !is_parent(parent) {
            return None;
        }
        let printable = state.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        let state = if printable && state.len() <= MAX_STATE { state } else { "" };
        Some(Self { parent: parent.to_owned(), state: state.to_owned() })
    }
}

impl Trace {
    /// The names and values of what it has.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let state = Some(("tracestate", &*self.state)).filter(|(_, state)| !state.is_empty());
        std::iter::once(("traceparent", &*self.parent)).chain(state)
    }
}

/// `00-TRACE-SPAN-FLAGS` in small hex digits, ids not zero; later versions may go on behind it.
fn is_parent(text: &str) -> bool {
    let mut parts = text.splitn(5, '-');
    let mut hex = |digits: usize| {
        let part = parts.next().unwrap_or_default();
        let fits = part.len() == digits && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        fits.then_some(part)
    };
    let (Some(version), Some(trace), Some(span), Some(_)) = (hex(2), hex(32), hex(16), hex(2)) else { return false };
    let zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    let goes_on = parts.next().is_none_or(|rest| version != "00" && rest.bytes().all(|byte| matches!(byte, b'!'..=b'~')));
    version != "ff" && !zero(trace) && !zero(span) && goes_on && text.len() <= MAX_PARENT
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_valid_is_handed_on_as_it_came() {
        for (parent, state) in [(PARENT, ""), (PARENT, "a=1,b@c=2"), (&*format!("cc{}-more-of-it", &PARENT[2..]), "")] {
            assert_eq!(Trace::read(parent, state), Some(Trace { parent: parent.into(), state: state.into() }), "{parent}");
        }
        for state in ["\u{e9}", "a\nb", &"x".repeat(MAX_STATE + 1)] {
            assert_eq!(Trace::read(PARENT, state).unwrap().state, "", "{state:?}");
        }
    }

    #[test]
    fn what_is_not_valid_is_not_there() {
        for parent in [
            "",
            "junk",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            &format!("{PARENT}-more"),
            &format!("cc{}-{}", &PARENT[2..], "x".repeat(MAX_PARENT)),
            &format!("cc{}-\r\nevil: 1", &PARENT[2..]),
        ] {
            assert_eq!(Trace::read(parent, "a=1"), None, "{parent}");
        }
    }

    proptest! {
        #[test]
        fn junk_never_becomes_a_header_that_breaks_a_message(parent in "[0-9a-f\\-\\x00-\\x7f]{0,80}", state: String) {
            if let Some(trace) = Trace::read(&parent, &state) {
                prop_assert!(trace.parent.bytes().chain(trace.state.bytes()).all(|byte| (b' '..=b'~').contains(&byte)));
            }
        }
    }
}
