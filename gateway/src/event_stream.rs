//! The changes of one task as server-sent events.
//!
//! A stream holds what it showed last and nothing else. When it is told that the task changed it reads the record as it is
//! then, so a reader that is slow misses states in between and never the newest. What no reader could tell apart, such as
//! a lease that was renewed, is no event.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{Stream, stream};
use lovage_core::callback::event_type;
use lovage_core::{Flags, Head, Millis, ResultValue, State, TaskKey, Version};
use lovage_store::Stored;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::app::Shared;
use crate::feed_hub::Waiter;
use crate::view;

/// Says nothing, so that proxies and clients know that the connection lives.
const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// One reader.
struct Reader {
    app: Shared,
    key: TaskKey,
    waiter: Waiter,
    /// The record, until it was looked at.
    fresh: Option<Stored>,
    /// Versions up to this one are known to the reader.
    known: Version,
    /// What was looked at last.
    seen: Option<Seen>,
    /// The final state was shown.
    over: bool,
    keep_alive: Instant,
    /// A credential does not last for ever either: the client comes again with its own.
    until: Instant,
    _open: TaskTrackerToken,
}

/// What of a record makes an event.
#[derive(PartialEq)]
struct Seen {
    head: Head,
    /// Progress, while it runs.
    progress: Option<Bytes>,
}

impl Seen {
    fn of(stored: &Stored) -> Self {
        let mut head = stored.head.clone();
        head.version = 0;
        let mut progress = None;
        if head.state == State::Running {
            // That an attempt is accepted is an event; how long its lease is, is none.
            (head.due, head.deadline) = (Millis(0), Millis(u64::from(head.is_accepted())));
            head.flags = head.flags.without(Flags::HAS_ATTEMPTS).without(Flags::INTERIM);
            let value = stored.result.as_ref().and_then(ResultValue::decode);
            progress = value.and_then(|value| if let ResultValue::Progress(bytes) = value { Some(bytes) } else { None });
        }
        Self { head, progress }
    }

    /// The name of the event by which this follows `before`.
    fn event(&self, before: Option<&Self>) -> &'static str {
        let moved_on = before.is_some_and(|before| before.head == self.head && before.progress != self.progress);
        if moved_on && self.progress.is_some() {
            return "task.progress";
        }
        event_type(&self.head)
    }
}

/// The events of a task from its record on; of what is up to `known`, none.
pub(crate) fn events(
    app: Shared,
    key: TaskKey,
    waiter: Waiter,
    stored: Stored,
    known: Version,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let now = Instant::now();
    let reader = Reader {
        // A stop waits for the stream, which ends at once.
        _open: app.open.token(),
        keep_alive: now + app.options.times.keep_alive,
        until: now + app.options.times.stream,
        app,
        key,
        waiter,
        fresh: Some(stored),
        known,
        seen: None,
        over: false,
    };
    stream::unfold(reader, |mut reader| async move { reader.next().await.map(|bytes| (Ok(bytes), reader)) })
}

impl Reader {
    /// The next piece of the stream; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.over {
            let Some(stored) = self.fresh.take() else {
                tokio::select! {
                    // Deleted, or the store is away: the client comes again, and is told so.
                    () = self.waiter.changed() => self.fresh = Some(self.app.load(&self.key).await.ok().flatten()?),
                    () = sleep_until(self.keep_alive) => {
                        self.put_off_keep_alive();
                        return Some(KEEP_ALIVE);
                    }
                    () = sleep_until(self.until) => return None,
                    () = self.app.draining.cancelled() => return None,
                }
                continue;
            };
            self.over = stored.head.state.is_final();
            let seen = Seen::of(&stored);
            let is_news = stored.head.version > self.known && self.seen.as_ref() != Some(&seen);
            let event = is_news.then(|| seen.event(self.seen.as_ref()));
            self.seen = Some(seen);
            if let Some(event) = event {
                self.known = stored.head.version;
                self.put_off_keep_alive();
                let record = view::record_bytes(&self.app, &self.key, &stored).ok()?;
                return Some(write(self.known, event, &record));
            }
        }
        None
    }

    fn put_off_keep_alive(&mut self) {
        self.keep_alive = Instant::now() + self.app.options.times.keep_alive;
    }
}

/// An event. What users and workers wrote into the record may have line breaks between its parts, where each line needs its
/// own field; the reader joins them again.
fn write(id: Version, event: &str, data: &[u8]) -> Bytes {
    let mut out = format!("id: {id}\nevent: {event}\n").into_bytes();
    for line in data.split(|byte| matches!(byte, b'\n' | b'\r')).filter(|line| !line.is_empty()) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
    out.into()
}

#[cfg(test)]
mod tests {
    use lovage_core::{NewTask, Ns, Reason, Spec};

    use super::*;

    fn running() -> Stored {
        let head = NewTask::first_head(&Spec::default().lane(Ns::DEFAULT, 4), 4, None, None, Millis(1));
        let head = Head { state: State::Running, reason: Reason::Accepted, attempt: 1, deadline: Millis(5), ..head };
        Stored { head, body: None, result: None, attempts: Vec::new() }
    }

    fn progress(stored: &Stored, json: &'static str) -> Stored {
        let value = ResultValue::Progress(Bytes::from_static(json.as_bytes())).encode();
        let mut next = Stored { result: Some(value), ..stored.clone() };
        next.head.version += 1;
        next.head.flags = next.head.flags.with(Flags::INTERIM);
        next
    }

    #[test]
    fn a_renewed_lease_and_log_lines_are_no_event() {
        let was = running();
        let mut next = was.clone();
        (next.head.version, next.head.deadline, next.head.due) = (9, Millis(77), Millis(66));
        next.head.flags = next.head.flags.with(Flags::HAS_ATTEMPTS);
        assert!(Seen::of(&was) == Seen::of(&next));
        next.head.flags = next.head.flags.with(Flags::CANCEL);
        assert_eq!(Seen::of(&next).event(Some(&Seen::of(&was))), "task.accepted");
    }

    #[test]
    fn progress_is_told_apart_from_states() {
        let was = running();
        let (one, two) = (progress(&was, "1"), progress(&was, "2"));
        assert_eq!(Seen::of(&one).event(None), "task.accepted");
        assert_eq!(Seen::of(&one).event(Some(&Seen::of(&was))), "task.progress");
        assert_eq!(Seen::of(&two).event(Some(&Seen::of(&one))), "task.progress");
        let mut again = two.clone();
        again.head.attempt = 2;
        assert_eq!(Seen::of(&again).event(Some(&Seen::of(&two))), "task.accepted");
    }

    #[test]
    fn line_breaks_are_within_fields() {
        let text = write(7, "task.queued", b"{\"a\":\r\n[1,\n2],\r\"b\":1}");
        assert_eq!(text, "id: 7\nevent: task.queued\ndata: {\"a\":\ndata: [1,\ndata: 2],\ndata: \"b\":1}\n\n");
    }
}
