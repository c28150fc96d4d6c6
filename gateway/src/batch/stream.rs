//! A stream of lines in, a stream of lines out, of any length in bounded memory.
//!
//! Lines are stored in chunks: what has arrived goes together, but nothing that has arrived waits for what has not. A few
//! chunks may be on their way to the store at once; answers come in the order of the lines. A chunk with lines that are kept in
//! order (`order_key`, a queue in order) waits for such lines before it.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use lovage_core::problem::Problem;
use lovage_core::{Ns, Trace};
use tokio::sync::oneshot;

use super::Answer;
use super::lines::{Line, Lines};
use crate::app::{App, Shared};
use crate::body::{Pieces, too_large};
use crate::problem::store_problem;

/// Lines of one chunk.
const CHUNK_LINES: usize = 256;
/// Bytes of lines after which a chunk is complete; one line may go beyond it.
const CHUNK_BYTES: usize = 1 << 20;
/// Chunks on their way to the store.
const IN_FLIGHT: usize = 4;

struct Source {
    pieces: Option<Pieces>,
    lines: Lines,
}

/// Lines to be stored together, and why reading stopped after them, if it did.
#[derive(Default)]
struct Chunk {
    lines: Vec<Line>,
    broken: Option<Problem>,
}

/// The answer lines for the lines of a body.
pub(crate) fn answers(
    app: Shared,
    ns: Ns,
    pieces: Pieces,
    trace: Option<Trace>,
    request_id: Arc<str>,
) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
    let source = Source { lines: Lines::new(app.options.limits.task_bytes), pieces: Some(pieces) };
    // The request goes on after the head of its answer.
    let open = app.open.token();
    let mut last: Option<oneshot::Receiver<()>> = None;
    stream::unfold(source, |mut source| async move {
        let chunk = source.chunk().await?;
        Some((chunk, source))
    })
    .map(move |chunk| {
        let _open = &open;
        let (done, next) = oneshot::channel();
        let turn = Turn { before: last.replace(next), done };
        store(app.clone(), ns, chunk, trace.clone(), turn, request_id.clone())
    })
    .buffered(IN_FLIGHT)
    .map(Ok)
}

/// The place of a chunk behind those before it.
struct Turn {
    /// Ends when all before it that are kept in order are stored.
    before: Option<oneshot::Receiver<()>>,
    /// Dropped when the same is true of this one.
    done: oneshot::Sender<()>,
}

async fn store(app: Shared, ns: Ns, chunk: Chunk, trace: Option<Trace>, turn: Turn, request_id: Arc<str>) -> Bytes {
    let now = app.now();
    let types = app.types(ns).await.map_err(|error| store_problem(&error));
    let read = |line: Line| match line {
        Line::Text(text) => {
            let types = types.as_ref().map_err(Clone::clone);
            types.and_then(|types| app.read_signature(types, trace.as_ref(), &text, &text))
        }
        Line::TooLong => Err(too_large("a task", app.options.limits.task_bytes)),
    };
    let mut items = Vec::with_capacity(chunk.lines.len());
    for line in chunk.lines {
        items.push(app.accept(ns, read(line), None).await);
    }
    let Turn { mut before, done: stored } = turn;
    let is_ordered = items.iter().flatten().any(|draft| draft.spec.order_name().is_some());
    if let Some(before) = before.take_if(|_| is_ordered) {
        // It ends with the one that held the other end, whether that was stored or not.
        let _ = before.await;
    }
    let done = App::insert_each(&app, ns, now, items, None).await;
    if let Some(before) = before {
        let _ = before.await;
    }
    drop(stored);
    let mut out = Vec::with_capacity(done.answers.len() * 64);
    for answer in done.answers.into_iter().chain(chunk.broken.map(Answer::Refused)) {
        answer.write(&mut out, &request_id);
        out.push(b'\n');
    }
    out.into()
}

impl Source {
    /// The next lines; `None` at the end of the stream.
    async fn chunk(&mut self) -> Option<Chunk> {
        let mut chunk = Chunk::default();
        let mut bytes = 0;
        loop {
            while let Some(line) = self.lines.next() {
                bytes += if let Line::Text(text) = &line { text.len() } else { 0 };
                chunk.lines.push(line);
                if chunk.lines.len() >= CHUNK_LINES || bytes >= CHUNK_BYTES {
                    return Some(chunk);
                }
            }
            let Some(pieces) = &mut self.pieces else {
                chunk.lines.extend(self.lines.last());
                return (!chunk.lines.is_empty() || chunk.broken.is_some()).then_some(chunk);
            };
            let next = pieces.next();
            let piece = if chunk.lines.is_empty() {
                next.await
            } else {
                // Something to store is at hand: take only what has arrived.
                match next.now_or_never() {
                    Some(piece) => piece,
                    None => return Some(chunk),
                }
            };
            match piece {
                Ok(Some(piece)) => self.lines.push(&piece),
                Ok(None) => self.pieces = None,
                Err(problem) => {
                    // The line that was being sent is not whole: it is dropped, and the last answer says why.
                    self.pieces = None;
                    self.lines = Lines::new(0);
                    chunk.broken = Some(problem);
                }
            }
        }
    }
}
