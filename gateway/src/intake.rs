//! From a request's text to inserts: reading, hashing, choosing ids, telling repetitions from collisions.

use bytes::Bytes;
use http::HeaderMap;
use lovage_core::fields::Errors;
use lovage_core::problem::{Code, Problem};
use lovage_core::{Body, Draft, IdRun, Millis, Ns, Partition, Rules, Slot, SlotKind, Spec, TaskId, TaskKey, Trace, signature};
use lovage_store::{Inserted, KeyEntry, KeyKind, KeyPut, KeyTake, Result as StoreResult};
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::body::{self, too_large};
use crate::problem::store_problem;
use crate::raw;
use crate::types::Types;

/// A task as it was asked for, and why it is refused unless it is a repetition: by the schema of its type, or because its
/// queue takes no new tasks.
pub(crate) type AsRead = Result<(Draft, Option<Problem>), Problem>;

/// The trace that a request belongs to. It is no part of what is asked for: a repetition may belong to another one.
pub(crate) fn trace(headers: &HeaderMap) -> Option<Trace> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // A list of states may be spread over several headers.
    let states: Vec<&str> = headers.get_all("tracestate").iter().filter_map(|value| value.to_str().ok()).collect();
    Trace::read(text("traceparent"), &states.join(","))
}

impl App {
    /// What signatures, and addresses and headers in other documents, are checked against.
    pub(crate) fn rules(&self) -> Rules<'_> {
        Rules {
            limits: &self.signature_limits,
            destinations: &*self.options.destinations,
            types: None,
            queues: None,
            source: None,
        }
    }

    /// The task that a JSON signature asks for; `text` is a part of `source`, whose bytes its payload shares.
    /// [`App::accept`] says whether it may be stored.
    pub(crate) fn read_signature(&self, types: &Types, trace: Option<&Trace>, text: &[u8], source: &Bytes) -> AsRead {
        if text.len() > self.options.limits.task_bytes {
            return Err(too_large("a task", self.options.limits.task_bytes));
        }
        let text = body::utf8(text)?;
        let mut errors = Errors::default();
        let signature = signature::read(text, &mut errors)?;
        let rules = Rules { source: Some(source), ..types.rules(self.rules()) };
        let (mut draft, refused) = rules.check_apart(signature, errors)?;
        if draft.id.is_some() {
            draft.spec.request_hash = Some(short_hash(&[text.trim().as_bytes()]));
        }
        draft.spec.trace = trace.cloned();
        let refused = refused.or_else(|| types.refusal(&draft, self.now()));
        Ok((draft, refused))
    }

    /// The task that headers beside a raw body ask for.
    pub(crate) fn read_raw(&self, types: &Types, headers: &HeaderMap, body: Bytes) -> AsRead {
        let mut errors = Errors::default();
        let hash = short_hash(&[&raw::fingerprint(headers), &body]);
        let signature = raw::read(headers, body, &mut errors);
        let (mut draft, refused) = types.rules(self.rules()).check_apart(signature, errors)?;
        if draft.id.is_some() {
            draft.spec.request_hash = Some(hash);
        }
        draft.spec.trace = trace(headers);
        let refused = refused.or_else(|| types.refusal(&draft, self.now()));
        Ok((draft, refused))
    }

    /// What was read, unless it is refused. What a schema or a pause of today refuses is no hindrance for what is stored
    /// already: that is answered as before.
    pub(crate) async fn accept(&self, ns: Ns, read: AsRead, idempotency: Option<&Idempotency>) -> Result<Draft, Problem> {
        let (draft, refused) = read?;
        let Some(refused) = refused else { return Ok(draft) };
        let known = self.is_known(ns, &draft, idempotency).await.map_err(|error| store_problem(&error))?;
        if known { Ok(draft) } else { Err(refused) }
    }

    /// Whether the same request was made before, by its client-chosen id or its key.
    pub(crate) async fn is_known(&self, ns: Ns, draft: &Draft, idempotency: Option<&Idempotency>) -> StoreResult<bool> {
        if let Some(id) = &draft.id {
            let key = TaskKey::new(ns, id.clone());
            if self.is_same(self.home(&key).await?, &key, draft.spec.request_hash).await? {
                return Ok(true);
            }
        }
        let Some(idempotency) = idempotency else { return Ok(false) };
        let p = self.coming(ns, draft.clone(), Some(idempotency.clone()), self.now()).partition;
        Ok(self.key_entry(p, ns, idempotency).await?.is_some_and(|entry| idempotency.replay(&entry).is_ok()))
    }

    /// Who took this key before.
    pub(crate) async fn key_entry(&self, p: Partition, ns: Ns, idempotency: &Idempotency) -> StoreResult<Option<KeyEntry>> {
        self.store.lookup(p, ns, KeyKind::Idempotency, &idempotency.key).await
    }

    /// Makes sure that the queues of these tasks, and of their callbacks, exist.
    pub(crate) async fn ensure_queues(&self, ns: Ns, specs: impl Iterator<Item = &Spec> + Clone) -> StoreResult<()> {
        let callbacks = specs.clone().any(|spec| !spec.callbacks.is_empty()).then_some(lovage_core::callback::CALLBACK_QUEUE);
        self.directory.ensure_queues(self, ns, specs.map(Spec::queue).chain(callbacks)).await
    }

    /// For tasks whose client-chosen id is taken: whether each is the same request again. `Ok`: it is.
    pub(crate) async fn repeated(&self, taken: &[(TaskKey, Option<u64>)]) -> StoreResult<Vec<Result<(), Problem>>> {
        let mut answers = Vec::with_capacity(taken.len());
        let max = self.store.caps().max_batch.max(1);
        let parts = taken.chunk_by(|a, b| self.partition(&a.0) == self.partition(&b.0));
        for part in parts.flat_map(|part| part.chunks(max)) {
            let keys: Vec<TaskKey> = part.iter().map(|(key, _)| key.clone()).collect();
            let bodies = self.store.bodies(self.partition(&keys[0]), &keys).await?;
            for ((key, hash), body) in part.iter().zip(bodies) {
                let stored = body.and_then(|body| Spec::decode(&Body::decode(&body)?.spec)?.request_hash);
                let same = hash.is_some() && stored == *hash;
                answers.push(if same { Ok(()) } else { Err(id_exists(&key.id)) });
            }
        }
        Ok(answers)
    }
}

pub(crate) fn id_exists(id: &TaskId) -> Problem {
    Problem::new(Code::IdExists, format!("there is another task with the id `{id}`"))
}

/// What the store should never answer to the inserts made here.
pub(crate) fn odd_answer(answer: &Inserted) -> Problem {
    store_problem(&lovage_store::Error::Invalid(format!("unexpected answer to an insert: {answer:?}")))
}

/// The first eight bytes of SHA-256 over these parts.
pub(crate) fn short_hash(parts: &[&[u8]]) -> u64 {
    let digest = digest(parts);
    let mut word = [0; 8];
    word.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(word)
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        // With its length, so that parts cannot flow into each other.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Bytes of the hash of a request and of the number of ids that it made.
const HASH_AND_COUNT: usize = 36;

/// An `Idempotency-Key` with what its request was.
#[derive(Clone, Debug)]
pub(crate) struct Idempotency {
    key: Bytes,
    hash: [u8; 32],
    of_item: bool,
}

impl Idempotency {
    /// The key that the request carries, if any.
    pub(crate) fn of(headers: &HeaderMap, target: &str, body: &[u8]) -> Result<Option<Self>, Problem> {
        let mut values = headers.get_all("idempotency-key").iter();
        let Some(value) = values.next() else { return Ok(None) };
        let key = value.as_bytes();
        if values.next().is_some() || !(1..=255).contains(&key.len()) {
            return Err(Problem::invalid("/idempotency_key", "the header Idempotency-Key has 1 to 255 bytes and comes once"));
        }
        let fingerprint = raw::fingerprint(headers);
        let hash = digest(&[target.as_bytes(), &fingerprint, body]);
        Ok(Some(Self { key: Bytes::copy_from_slice(key), hash, of_item: false }))
    }

    /// The key of one item that is stored apart from the others of its request. No client can send it.
    pub(crate) fn of_item(&self, place: usize) -> Self {
        let key = [&self.key[..], &[0], &(place as u32).to_be_bytes()].concat();
        Self { key: key.into(), hash: self.hash, of_item: true }
    }

    /// Whether it is that of one item, which follows from the request's.
    pub(crate) fn is_of_item(&self) -> bool {
        self.of_item
    }

    /// Where the tasks of this key live, unless they have an id of their own.
    pub(crate) fn slot(&self, ns: Ns) -> Slot {
        Slot::of(ns, SlotKind::Idempotency, &self.key)
    }

    /// What the first insert takes along: the hash of the request and how many ids it made.
    pub(crate) fn put(&self, app: &App, now: Millis, ids: u32) -> KeyPut {
        let mut value = Vec::with_capacity(HASH_AND_COUNT);
        value.extend_from_slice(&self.hash);
        value.extend_from_slice(&ids.to_be_bytes());
        let until = now.after(app.options.times.idempotency);
        KeyPut { kind: KeyKind::Idempotency, key: self.key.clone(), value: value.into(), until: Some(until), steal: None }
    }

    /// The same for a request whose answer names tasks of other requests at some places: `run` and those places stand behind.
    pub(crate) fn put_with(&self, app: &App, now: Millis, ids: u32, run: &IdRun, given: &[(u32, TaskKey)]) -> KeyPut {
        let put = self.put(app, now, ids);
        if given.is_empty() {
            return put;
        }
        let mut value = put.value.to_vec();
        for (place, id) in std::iter::once((0, run.nth(0))).chain(given.iter().map(|(place, key)| (*place, key.id.clone()))) {
            let id = id.to_string();
            value.extend_from_slice(&place.to_be_bytes());
            value.push(id.len() as u8);
            value.extend_from_slice(id.as_bytes());
        }
        KeyPut { value: value.into(), ..put }
    }

    /// The ids that the request made which took the key, and those that it was given by place.
    pub(crate) fn made(entry: &KeyEntry) -> (Option<IdRun>, Vec<(u32, TaskId)>) {
        let mut rest = entry.value.get(HASH_AND_COUNT..).unwrap_or_default();
        let mut ids = Vec::new();
        while let Some((place, more)) = rest.split_first_chunk::<4>()
            && let Some((len, more)) = more.split_first()
            && let Some((id, more)) = more.split_at_checked(usize::from(*len))
            && let Some(id) = std::str::from_utf8(id).ok().and_then(|id| TaskId::parse(id).ok())
        {
            ids.push((u32::from_be_bytes(*place), id));
            rest = more;
        }
        if ids.is_empty() {
            return (IdRun::starting_at(&entry.task.id), ids);
        }
        let (_, first) = ids.remove(0);
        (IdRun::starting_at(&first), ids)
    }

    /// How many ids the request made together with its key, and what it noted behind that.
    pub(crate) fn notes(entry: &KeyEntry) -> (u32, &[u8]) {
        let count = entry.value.get(HASH_AND_COUNT - 4..).and_then(|rest| rest.split_first_chunk::<4>());
        count.map_or((0, &[]), |(count, notes)| (u32::from_be_bytes(*count), notes))
    }

    /// The entry with these notes instead of those behind it.
    pub(crate) fn noted(&self, entry: &KeyEntry, notes: &[u8]) -> KeyTake {
        let value = [entry.value.get(..HASH_AND_COUNT).unwrap_or_default(), notes].concat();
        let new = KeyEntry { value: value.into(), ..entry.clone() };
        KeyTake { kind: KeyKind::Idempotency, key: self.key.clone(), entry: new, seen: Some(entry.clone()) }
    }

    /// The first task of the request that took the key, if that was this same request.
    pub(crate) fn replay(&self, entry: &KeyEntry) -> Result<TaskKey, Problem> {
        if entry.value.get(..32) == Some(&self.hash[..]) {
            return Ok(entry.task.clone());
        }
        let detail = "the idempotency key was used with another request; use a new key for a new request";
        Err(Problem::new(Code::IdempotencyMismatch, detail))
    }
}
