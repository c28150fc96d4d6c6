//! The pause of a task type: kept in its document, set by its own verbs and not with the fields.

use super::document;
use crate::fields;
use crate::problem::Problem;
use crate::queue::Pause;

const PAUSED: &str = "paused";

/// A stored document without its pause, and the pause.
pub fn take_pause(text: &str) -> Result<(String, Option<Pause>), Problem> {
    let all = fields::document(text)?;
    let pause = all.iter().find(|(name, _)| name == PAUSED).map(|(_, raw)| serde_json::from_str(raw.get()));
    let pause = pause.transpose().map_err(|error| fields::json_problem(&error))?;
    Ok((document::object(all.iter().filter(|(name, _)| name != PAUSED).map(|(name, raw)| (&**name, *raw))), pause))
}

/// A document with this pause instead of the one that it has.
pub fn with_pause(text: &str, pause: Option<Pause>) -> Result<String, Problem> {
    let (mut text, _) = take_pause(text)?;
    if let Some(pause) = pause {
        let pause = serde_json::to_string(&pause).map_err(|error| fields::json_problem(&error))?;
        text.pop();
        let comma = if text.len() > 1 { "," } else { "" };
        text.push_str(&format!("{comma}\"{PAUSED}\":{pause}}}"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::task_type::TaskType;
    use crate::time::Millis;

    #[test]
    fn a_pause_is_kept_beside_the_fields() {
        let pause = Pause { intake: true, dispatch: true, until: Some(Millis(1_767_225_600_000)) };
        for text in ["{}", r#"{"queue":"q","retry":{"factor":2.50}}"#] {
            let paused = with_pause(text, Some(pause)).unwrap();
            assert_eq!(take_pause(&paused).unwrap(), (text.to_owned(), Some(pause)));
            assert_eq!(with_pause(&paused, Some(pause)).unwrap(), paused);
            assert_eq!(with_pause(&paused, None).unwrap(), text);
            let one = TaskType::read("a.*", &paused).unwrap();
            assert_eq!((one.pause(Millis(1)), one.pause(Millis(1_767_225_600_000))), (Some(pause), None));
        }
    }
}
