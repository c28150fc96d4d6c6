//! An array of tasks: the whole array goes to the store in as few calls as it allows.

use std::fmt;

use bytes::Bytes;
use http::HeaderMap;
use lovage_core::problem::{Code, Problem};
use lovage_core::{Millis, Ns};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::Answer;
use super::atomic::Whole;
use super::insert::Item;
use super::kept::Kept;
use crate::app::App;
use crate::body;
use crate::intake::{Idempotency, trace};
use crate::problem::store_problem;
use lovage_core::fields::json_problem;

const TARGET: &str = "POST /v1/tasks:batch";

/// The answers of an array, in order.
pub(crate) struct Answers {
    pub items: Vec<Answer>,
    pub replayed: bool,
}

impl App {
    /// Stores an array of tasks.
    pub(crate) async fn insert_array(
        &self,
        ns: Ns,
        headers: &HeaderMap,
        bytes: &Bytes,
        atomic: bool,
    ) -> Result<Answers, Problem> {
        let now = self.now();
        let target = if atomic { "POST /v1/tasks:batch?atomic=true" } else { TARGET };
        let idempotency = Idempotency::of(headers, target, bytes)?;
        let texts = split(bytes, self.options.limits.array_items)?;
        let kept = match &idempotency {
            Some(idempotency) if !atomic => self.kept(ns, idempotency, texts.len()).await?,
            _ => None,
        };
        if let Some(items) = kept.as_ref().and_then(Kept::whole) {
            return Ok(Answers { items, replayed: true });
        }
        let types = self.types(ns).await.map_err(|error| store_problem(&error))?;
        let trace = trace(headers);
        let read = texts.into_iter().map(|text| self.read_signature(&types, trace.as_ref(), text.get().as_bytes(), bytes));
        if atomic {
            let mut whole = Whole { drafts: Vec::new(), idempotency, refused: None };
            for (index, read) in read.enumerate() {
                let (draft, refused) = read.map_err(|problem| problem.at_index(index))?;
                if refused.is_some() {
                    let accepted = self.accept(ns, Ok((draft.clone(), refused)), None).await;
                    whole.refused = whole.refused.or(accepted.err().map(|problem| problem.at_index(index)));
                }
                whole.drafts.push(draft);
            }
            return self.insert_atomic(ns, now, whole).await;
        }
        let mut items: Vec<Item> = Vec::new();
        for read in read {
            items.push(self.accept(ns, read, None).await);
        }
        if let Some(idempotency) = idempotency {
            return self.insert_with_key(ns, now, items, &idempotency, kept).await;
        }
        let done = self.insert_each(ns, now, items, None).await;
        match done.failed {
            Some(problem) => Err(problem),
            None => Ok(Answers { items: done.answers, replayed: false }),
        }
    }

    /// Each item on its own, but the tasks with generated ids together under the key: all of them or, if the key is
    /// taken, none. Items with an id of their own are told apart by it; those with a unique or debounce key live where that
    /// key does and take a key of their own that follows from this one. What [is kept](super::kept) is not tried again.
    async fn insert_with_key(
        &self,
        ns: Ns,
        now: Millis,
        items: Vec<Item>,
        idempotency: &Idempotency,
        kept: Option<Kept>,
    ) -> Result<Answers, Problem> {
        let begun = kept.as_ref().map(|kept| kept.together);
        let mut replayed = kept.is_some();
        let mut answers = kept.map_or_else(Vec::new, |kept| kept.answers);
        answers.resize_with(items.len(), || None);
        let (mut keyed, mut others) = (Vec::new(), Vec::new());
        let (mut keyed_places, mut other_places) = (Vec::new(), Vec::new());
        for (place, item) in items.into_iter().enumerate().filter(|(place, _)| answers[*place].is_none()) {
            match item {
                Ok(draft) if draft.id.is_none() && draft.spec.bound(ns).is_none() => {
                    keyed_places.push(place);
                    keyed.push(draft);
                }
                other => {
                    other_places.push(place);
                    others.push(other);
                }
            }
        }
        if begun.is_some_and(|together| together != keyed.len()) {
            let detail = "the request was begun under other task types and did not come to its end; use a new key";
            return Err(Problem::new(Code::IdempotencyMismatch, detail));
        }
        if !keyed.is_empty() {
            let whole = Whole { drafts: keyed, idempotency: Some(idempotency.clone()), refused: None };
            let whole = self.insert_atomic(ns, now, whole).await?;
            replayed |= whole.replayed;
            for (place, answer) in keyed_places.into_iter().zip(whole.items) {
                answers[place] = Some(answer);
            }
        } else if begun.is_none() && !others.is_empty() {
            self.begin(ns, now, idempotency).await?;
        }
        if others.is_empty() {
            return Ok(Answers { items: answers.into_iter().flatten().collect(), replayed });
        }
        let done = self.insert_each(ns, now, others, Some((idempotency, &other_places))).await;
        replayed |= done.replayed;
        if let Some(problem) = done.failed.filter(|_| !answers.iter().any(Option::is_some)) {
            return Err(problem);
        }
        for (place, answer) in other_places.into_iter().zip(done.answers) {
            answers[place] = Some(answer);
        }
        let items: Vec<Answer> = answers.into_iter().flatten().collect();
        self.keep(ns, idempotency, &items).await?;
        Ok(Answers { items, replayed })
    }
}

/// The items of an array as texts; nothing in them is read yet.
fn split(bytes: &Bytes, most: usize) -> Result<Vec<&RawValue>, Problem> {
    struct Texts<'a>(Vec<&'a RawValue>);

    impl<'de> Deserialize<'de> for Texts<'de> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct TextsVisitor;
            impl<'de> Visitor<'de> for TextsVisitor {
                type Value = Texts<'de>;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an array of signatures")
                }
                fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Texts<'de>, A::Error> {
                    let mut texts = Vec::new();
                    while let Some(text) = seq.next_element::<&'de RawValue>()? {
                        texts.push(text);
                    }
                    Ok(Texts(texts))
                }
            }
            deserializer.deserialize_seq(TextsVisitor)
        }
    }

    let text = body::utf8(bytes)?;
    let texts = serde_json::from_str::<Texts<'_>>(text).map_err(|error| json_problem(&error))?.0;
    if texts.len() > most {
        let detail = format!("an array may have at most {most} items; send more as application/x-ndjson");
        return Err(Problem::new(Code::PayloadTooLarge, detail));
    }
    Ok(texts)
}
