//! Colours: only for people, and only for those who did not say no (<https://no-color.org>).

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
