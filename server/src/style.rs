//! How text looks on a terminal: colours only for people, and only for those who did not say no (<https://no-color.org>), and
//! nothing that steers the terminal but our own.

use std::borrow::Cow;
use std::fmt::Write;

/// Text of others, such as a worker's error, without what a terminal would obey: control characters but line feeds and tabs,
/// and marks that turn the direction of writing, become visible escapes.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    let steers =
        |c: char| (c.is_control() && !matches!(c, '\n' | '\t')) || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\r' => out.push_str("\\r"),
            // Writing to a string does not fail.
            c if steers(c) => drop(write!(out, "\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Whether output to this kind of place is coloured.
pub(crate) fn wanted(terminal: bool) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Text in a colour, or as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    on: bool,
}

impl Style {
    /// For standard output.
    pub fn stdout() -> Self {
        Self { on: wanted(std::io::IsTerminal::is_terminal(&std::io::stdout())) }
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// A state in its colour: green for success, red for failure, yellow for what goes on, dim for what will not.
    pub fn state(self, state: &str) -> String {
        let code = match state {
            "succeeded" => "32",
            "failed" => "31",
            "canceled" | "expired" => "2",
            _ => "33",
        };
        self.wrap(code, state)
    }
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn nothing_of_others_steers_the_terminal() {
        for harmless in ["", "no luck", "two\nlines\tand a tab", "Grüße, 日本 🌿"] {
            assert_eq!(plain(harmless), harmless);
        }
        let said = plain("\u{1b}]0;title\u{7}\u{1b}[31mred\r\u{9b}2J\u{7f}\u{202e}");
        assert_eq!(said, "\\u{1b}]0;title\\u{7}\\u{1b}[31mred\\r\\u{9b}2J\\u{7f}\\u{202e}");
    }
}
