//! The work every subject gets: one JSON object of a given size, the same bytes for each task and each peer.

/// A JSON object of exactly `bytes` bytes (at least 24) whose text looks like data rather than like a run of one letter.
pub fn payload(bytes: usize) -> String {
    const FRAME: usize = r#"{"text":""}"#.len();
    let mut random = fastrand::Rng::with_seed(8275);
    let text: String = std::iter::repeat_with(|| random.alphanumeric()).take(bytes.max(24) - FRAME).collect();
    format!(r#"{{"text":"{text}"}}"#)
}

/// A signature that pushes `payload` to whichever worker serves `task`. `fields` are further members of the object, as JSON
/// without its braces.
pub fn signature(task: &str, payload: &str, fields: Option<&str>) -> String {
    let fields = fields.map(|fields| format!("{fields},")).unwrap_or_default();
    format!(r#"{{"task":"{task}",{fields}"payload":{payload}}}"#)
}

/// `count` signatures as a JSON array.
pub fn array(signature: &str, count: usize) -> String {
    let mut body = String::with_capacity((signature.len() + 1) * count + 2);
    body.push('[');
    for index in 0..count {
        if index > 0 {
            body.push(',');
        }
        body.push_str(signature);
    }
    body.push(']');
    body
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn payload_has_the_size_asked_for_and_is_json() {
        for bytes in [24, 640, 5000] {
            let payload = payload(bytes);
            assert_eq!(payload.len(), bytes);
            serde_json::from_str::<serde_json::Value>(&payload).unwrap();
        }
        let items = array(&signature("bench.push", &payload(64), Some(r#""priority":9"#)), 3);
        let items: Vec<serde_json::Value> = serde_json::from_str(&items).unwrap();
        assert_eq!(items.len(), 3);
        assert_eq!(items[2]["task"], "bench.push");
    }
}
