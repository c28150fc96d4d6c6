//! What names may look like.

/// What no name may be: clients take these steps out of the path of a URL, percent-encoded or not.
fn is_dots(text: &str) -> bool {
    matches!(text, "." | "..")
}

/// Queues, workers, instances: `[A-Za-z0-9._:-]{1,128}`, but for `.` and `..`.
pub fn is_name(text: &str) -> bool {
    !is_dots(text)
        && (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
}

/// [`is_name`] in words.
pub const NAME_RULE: &str = "must have 1 to 128 characters out of A-Z a-z 0-9 . _ : - and not be . or ..";

/// Keys of a user's own choice: for order, fairness, limits, uniqueness, debouncing, batches.
pub fn is_key(text: &str) -> bool {
    !is_dots(text) && (1..=255).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// [`is_key`] in words.
pub const KEY_RULE: &str = "must have 1 to 255 bytes and no control characters, and not be . or ..";

/// Task names travel in a header and in URLs, and `*` is what patterns are made of.
pub fn is_task_name(text: &str) -> bool {
    !is_dots(text) && (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'*')
}

/// [`is_task_name`] in words.
pub const TASK_RULE: &str = "must have 1 to 255 visible ASCII characters other than *, and not be . or ..";

/// Patterns of task names.
pub fn is_task_pattern(text: &str) -> bool {
    !is_dots(text) && (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// [`is_task_pattern`] in words.
pub const PATTERN_RULE: &str = "must have 1 to 255 visible ASCII characters, with * for any run of them, and not be . or ..";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_a_step_of_a_path() {
        for check in [is_name, is_key, is_task_name, is_task_pattern] {
            assert!(!check(".") && !check("..") && !check(""));
            assert!(check("...") && check(".a") && check("a..") && check("a:b-c_d.e"));
        }
    }
}
