//! The answer to an array under an `Idempotency-Key`, kept under the key.
//!
//! The key is taken before the first item is stored, or in one step with those that have generated ids; the answer is added
//! after the last item. An entry without an answer is that of a request that did not come to its end: a repetition goes on
//! with it. One with an answer is repeated: what was refused is refused again, however things stand by now. Only what was
//! refused for the time being (429, 503) is left open in it, and the repetition tries that again.
//!
//! If all items were stored in one step with the key, that is the answer, and nothing is added.

use lovage_core::problem::{Code, FieldError, Problem};
use lovage_core::{IdRun, Millis, Ns, Partition, TaskId, TaskKey};
use lovage_store::{KeyEntry, KeyTake};
use serde::{Deserialize, Serialize};

use super::Answer;
use crate::app::App;
use crate::intake::Idempotency;
use crate::problem::store_problem;

/// Refused fields that are kept of an item, and the characters of each text of a refusal.
const FIELDS: usize = 4;
const TEXT: usize = 200;

/// What is known of an earlier request.
pub(crate) struct Kept {
    /// Its answers by place; `None`: open. Empty if it did not come to its end.
    pub answers: Vec<Option<Answer>>,
    /// Open items that were stored together with the key.
    pub together: usize,
}

impl Kept {
    /// All answers, if none is open.
    pub(crate) fn whole(&self) -> Option<Vec<Answer>> {
        self.answers.iter().cloned().collect::<Option<Vec<_>>>().filter(|all| !all.is_empty())
    }

    fn read(entry: &KeyEntry, items: usize) -> Self {
        let (together, notes) = Idempotency::notes(entry);
        if let Ok(notes) = serde_json::from_slice::<Vec<Option<Note>>>(notes) {
            return Self { answers: notes.into_iter().map(|note| note?.answer()).collect(), together: 0 };
        }
        let answers = match IdRun::starting_at(&entry.task.id) {
            Some(run) if together as usize == items => (0..together).map(|n| Some(Answer::Existing(run.nth(n)))).collect(),
            _ => Vec::new(),
        };
        Self { answers, together: together as usize }
    }
}

/// The answer to an item as it is kept.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Note {
    Id(String),
    Refused { code: Code, detail: String, errors: Vec<FieldError>, existing: Option<String> },
}

impl Note {
    /// `None`: refused for the time being.
    fn of(answer: &Answer) -> Option<Self> {
        match answer {
            Answer::Stored(id) | Answer::Existing(id) => Some(Self::Id(id.to_string())),
            Answer::Refused(problem) if matches!(problem.code.status(), 429 | 500..) => None,
            Answer::Refused(problem) => {
                let errors = problem.errors.iter().filter(|error| error.pointer.len() <= TEXT).take(FIELDS);
                Some(Self::Refused {
                    code: problem.code,
                    detail: short(&problem.detail),
                    errors: errors.map(|error| FieldError::new(error.pointer.clone(), short(&error.message))).collect(),
                    existing: problem.existing_id.clone(),
                })
            }
        }
    }

    fn answer(self) -> Option<Answer> {
        match self {
            Self::Id(id) => TaskId::parse(&id).ok().map(Answer::Existing),
            Self::Refused { code, detail, errors, existing } => {
                Some(Answer::Refused(Problem { errors, existing_id: existing, ..Problem::new(code, detail) }))
            }
        }
    }
}

fn short(text: &str) -> String {
    text.chars().take(TEXT).collect()
}

impl App {
    fn home_of(&self, ns: Ns, idempotency: &Idempotency) -> Partition {
        idempotency.slot(ns).partition(self.partitions())
    }

    /// What is known of the request that has the key, which is this one with so many items; refused if it is another one.
    pub(crate) async fn kept(&self, ns: Ns, idempotency: &Idempotency, items: usize) -> Result<Option<Kept>, Problem> {
        let entry = self.key_entry(self.home_of(ns, idempotency), ns, idempotency).await;
        let Some(entry) = entry.map_err(|error| store_problem(&error))? else { return Ok(None) };
        idempotency.replay(&entry)?;
        Ok(Some(Kept::read(&entry, items)))
    }

    /// Takes the key for a request of which nothing is stored together with it.
    pub(crate) async fn begin(&self, ns: Ns, now: Millis, idempotency: &Idempotency) -> Result<(), Problem> {
        let id = IdRun::new(now, idempotency.slot(ns), self.random()).nth(0);
        let put = idempotency.put(self, now, 0);
        let taken = self.remember(self.home_of(ns, idempotency), put, TaskKey::new(ns, id)).await;
        let other = taken.map_err(|error| store_problem(&error))?;
        other.map_or(Ok(()), |entry| idempotency.replay(&entry).map(|_| ()))
    }

    /// Adds the answer to the key. It must not be given before: what it refuses could be stored by a repetition.
    pub(crate) async fn keep(&self, ns: Ns, idempotency: &Idempotency, answers: &[Answer]) -> Result<(), Problem> {
        let p = self.home_of(ns, idempotency);
        let entry = self.key_entry(p, ns, idempotency).await.map_err(|error| store_problem(&error))?;
        // Its time is over, or it is another's by now.
        let Some(entry) = entry.filter(|entry| idempotency.replay(entry).is_ok()) else { return Ok(()) };
        let notes: Vec<Option<Note>> = answers.iter().map(Note::of).collect();
        let notes = serde_json::to_vec(&notes).map_err(|error| Problem::new(Code::Fault, error.to_string()))?;
        let take: KeyTake = idempotency.noted(&entry, &notes);
        // If the same request was faster at the same time, its answer stays.
        self.store.put_key(p, take).await.map(|_| ()).map_err(|error| store_problem(&error))
    }
}
