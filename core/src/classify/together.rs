//! The answer to tasks that were delivered together: an array that says what became of each.
//!
//! What speaks of the request as a whole – a fault, a status that is no success, an outcome in a header or a document,
//! acceptance – is judged as for a single task and holds for all of them.

use ahash::AHashMap;
use bytes::Bytes;
use serde_json::value::RawValue;

use super::status_map::Class;
use super::{Response, StatusMap, classify, document};
use crate::answer::{Answer, TaskError};
use crate::outcome::RawOutcome;

/// The error type of a task that the answer to its batch leaves out.
pub const BATCH_ITEM_MISSING: &str = "BatchItemMissing";

/// What an answer means for one task of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// It.
    pub outcome: RawOutcome,
    /// The part of the body that says so; `None`: it is judged by the answer as a whole, or not in it.
    pub said: Option<Bytes>,
}

/// What an answer means for the tasks of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// One for each, in the order in which the ids were given.
    pub items: Vec<Judged>,
    /// Items of the answer that name no task of the batch, or one that was named before.
    pub unknown: usize,
}

/// Judges the answer to the tasks with these ids as [`classify`] does. `longest`: the bytes that one result may have.
pub fn classify_batch(answer: &Answer, map: &StatusMap, accepts: bool, now_ms: u64, ids: &[String], longest: usize) -> Batch {
    let whole = |outcome: RawOutcome| Batch { items: vec![Judged { outcome, said: None }; ids.len()], unknown: 0 };
    let Answer::Response { status, headers, body, truncated } = answer else {
        return whole(classify(answer, map, accepts, now_ms));
    };
    let response = Response { status: *status, headers, body, truncated: *truncated, accepts, now_ms };
    if truncated.is_some() || !response.is_plain_success(map) {
        return whole(response.classify(map));
    }
    read(*status, body, ids, longest).unwrap_or_else(|reason| {
        whole(RawOutcome::bad(format!("the answer to the batch cannot be read: {reason}")).with_status(*status))
    })
}

fn read(status: u16, body: &Bytes, ids: &[String], longest: usize) -> Result<Batch, String> {
    let parts: Vec<&RawValue> = if body.trim_ascii().is_empty() {
        Vec::new()
    } else {
        let text = std::str::from_utf8(body).map_err(|_| "it is not UTF-8")?;
        serde_json::from_str(text).map_err(|error| format!("it is no JSON array: {error}"))?
    };
    let places: AHashMap<&str, usize> = ids.iter().enumerate().map(|(n, id)| (id.as_str(), n)).collect();
    let mut found: Vec<Option<Judged>> = vec![None; ids.len()];
    let mut unknown = 0;
    for (index, part) in parts.into_iter().enumerate() {
        // The parts borrow from the body.
        let said = body.slice_ref(part.get().as_bytes());
        let (id, outcome) = document::read_item(status, index, &said);
        let place = id.and_then(|id| places.get(id.as_str())).and_then(|n| found.get_mut(*n));
        match place {
            Some(place @ None) => *place = Some(Judged { outcome: bounded(status, outcome, longest), said: Some(said) }),
            Some(Some(_)) | None => unknown += 1,
        }
    }
    let missing = || {
        let error = TaskError::new(BATCH_ITEM_MISSING, "the answer to the batch does not name this task").with_status(status);
        Judged { outcome: RawOutcome::Retry { after: None, error }, said: None }
    };
    Ok(Batch { items: found.into_iter().map(|item| item.unwrap_or_else(missing)).collect(), unknown })
}

fn bounded(status: u16, outcome: RawOutcome, longest: usize) -> RawOutcome {
    match &outcome {
        RawOutcome::Success { body: Some(body), .. } | RawOutcome::Spawn { result: Some(body), .. } if body.len() > longest => {
            RawOutcome::too_large(longest).with_status(status)
        }
        _ => outcome,
    }
}

impl Response<'_> {
    /// Whether nothing but the body can say more than that it went well.
    fn is_plain_success(&self, map: &StatusMap) -> bool {
        let accepted = self.status == 202 && (self.accepts || self.headers.lovage_lease.is_some());
        self.word().is_none() && !self.is_document() && !accepted && matches!(map.class(self.status), Class::Success)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::answer::{AnswerHeaders, Fault};

    fn answer(status: u16, body: &'static str) -> Answer {
        let body = Bytes::from_static(body.as_bytes());
        Answer::Response { status, headers: AnswerHeaders::default(), body, truncated: None }
    }

    fn judged(answer: &Answer) -> Batch {
        let ids = ["a", "b", "c"].map(str::to_owned);
        classify_batch(answer, &StatusMap::default(), false, 0, &ids, 100)
    }

    fn kinds(batch: &Batch) -> Vec<&str> {
        let kind = |item: &Judged| match &item.outcome {
            RawOutcome::Success { .. } => "success".to_owned(),
            RawOutcome::Retry { error, .. } | RawOutcome::Permanent { error } | RawOutcome::Throttled { error, .. } => {
                error.kind.clone()
            }
            other => format!("{other:?}"),
        };
        batch.items.iter().map(|item| &*kind(item).leak()).collect()
    }

    #[test]
    fn each_item_says_what_became_of_its_task() {
        let batch = judged(&answer(
            200,
            r#" [{"outcome":"fail","error":{"type":"E","message":"m"},"id":"c"}, {"id":"a","outcome":"success","result":1.50}]"#,
        ));
        assert_eq!(kinds(&batch), ["success", BATCH_ITEM_MISSING, "E"]);
        assert_eq!(batch.unknown, 0);
        let RawOutcome::Success { content_type, body } = &batch.items[0].outcome else { unreachable!() };
        assert_eq!((content_type.as_deref(), body.as_deref()), (Some("application/json"), Some(&b"1.50"[..])));
        assert!(batch.items[0].said.as_ref().unwrap().starts_with(b"{\"id\":\"a\""));
    }

    #[test]
    fn what_names_no_task_is_counted() {
        let batch = judged(&answer(
            200,
            r#"[{"id":"x","outcome":"success"},7,{"outcome":"success"},{"id":"b","outcome":"success"},{"id":"b","outcome":"fail"}]"#,
        ));
        assert_eq!(kinds(&batch), [BATCH_ITEM_MISSING, "success", BATCH_ITEM_MISSING]);
        assert_eq!(batch.unknown, 4);
    }

    #[test]
    fn an_item_that_cannot_be_read_fails_alone() {
        let batch = judged(&answer(200, r#"[{"id":"a"},{"id":"b","outcome":"well"},{"id":"c","outcome":"success","extra":1}]"#));
        assert_eq!(kinds(&batch), ["BadOutcome"; 3]);
        assert_eq!(batch.unknown, 0);
    }

    #[test]
    fn an_answer_without_items_leaves_all_out() {
        for body in ["", " ", "[]"] {
            assert_eq!(kinds(&judged(&answer(200, body))), [BATCH_ITEM_MISSING; 3], "{body:?}");
        }
        assert_eq!(kinds(&judged(&answer(204, ""))), [BATCH_ITEM_MISSING; 3]);
    }

    #[test]
    fn what_speaks_of_the_whole_holds_for_all() {
        assert_eq!(kinds(&judged(&answer(200, r#"{"ok":true}"#))), ["BadOutcome"; 3]);
        assert_eq!(kinds(&judged(&answer(200, "[1"))), ["BadOutcome"; 3]);
        assert_eq!(kinds(&judged(&answer(500, "[]"))), ["HttpStatus"; 3]);
        assert_eq!(kinds(&judged(&answer(429, ""))), ["HttpStatus"; 3]);
        assert_eq!(kinds(&judged(&Answer::Fault(Fault::Reset))), ["ConnectionReset"; 3]);
        let mut truncated = answer(200, "[");
        if let Answer::Response { truncated, .. } = &mut truncated {
            *truncated = Some(1);
        }
        assert_eq!(kinds(&judged(&truncated)), ["ResultTooLarge"; 3]);
        let headers = AnswerHeaders { lovage_outcome: Some("retry".into()), ..AnswerHeaders::default() };
        let header = Answer::Response { status: 200, headers, body: Bytes::from_static(b"[]"), truncated: None };
        assert_eq!(kinds(&judged(&header)), ["HttpStatus"; 3]);
        let headers = AnswerHeaders { lovage_lease: Some("5m".into()), ..AnswerHeaders::default() };
        let accepted = judged(&Answer::Response { status: 202, headers, body: Bytes::new(), truncated: None });
        assert!(accepted.items.iter().all(|item| matches!(item.outcome, RawOutcome::Accepted { lease: Some(_) })));
    }

    #[test]
    fn a_result_is_as_long_as_a_single_one_may_be() {
        let long = format!(r#"[{{"id":"a","outcome":"success","result":"{}"}}]"#, "x".repeat(99));
        let batch = judged(&answer(200, long.leak()));
        assert_eq!(kinds(&batch)[0], "ResultTooLarge");
    }
}
