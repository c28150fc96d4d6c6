//! What a worker may do with a call: answer it well, answer it badly, or not at all.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;

/// One reaction to one call. Built by a constructor and refined by methods: `Reply::json(&json!(5)).after(SECOND)`.
#[derive(Debug, Clone)]
pub struct Reply {
    pub(crate) action: Action,
    pub(crate) delay: Duration,
    pub(crate) gate: Option<Gate>,
}

#[derive(Debug, Clone)]
pub(crate) enum Action {
    Answer(Head, Bytes),
    Stream(Head, Vec<(Duration, Bytes)>, StreamEnd),
    Raw(Bytes),
    Reset,
    Close,
    Never,
}

#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    Complete,
    Reset,
}

impl Reply {
    /// 200 with a JSON body.
    pub fn json(value: &Value) -> Self {
        Self::bytes("application/json", value.to_string())
    }

    /// 200 with any body.
    pub fn bytes(content_type: &str, body: impl Into<Bytes>) -> Self {
        let head = Head { status: 200, headers: vec![("content-type".to_owned(), content_type.to_owned())] };
        Self::of(Action::Answer(head, body.into()))
    }

    /// A status with an empty body.
    pub fn status(status: u16) -> Self {
        Self::of(Action::Answer(Head { status, headers: Vec::new() }, Bytes::new()))
    }

    /// 202 with `Lovage-Lease`: the worker will report to the attempt URL.
    pub fn accepted(lease: &str) -> Self {
        Self::status(202).header("lovage-lease", lease)
    }

    /// 200 in chunks, each sent after its pause. The content type is NDJSON unless `header` says otherwise.
    pub fn stream(parts: impl IntoIterator<Item = (Duration, Bytes)>) -> Self {
        let head = Head { status: 200, headers: vec![("content-type".to_owned(), "application/x-ndjson".to_owned())] };
        Self::of(Action::Stream(head, parts.into_iter().collect(), StreamEnd::Complete))
    }

    /// 200 with one NDJSON line per value, each after `pause`.
    pub fn ndjson(pause: Duration, lines: &[Value]) -> Self {
        Self::stream(lines.iter().map(|line| (pause, Bytes::from(format!("{line}\n")))))
    }

    /// These bytes and then the end of the connection, whether they are HTTP or not.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self::of(Action::Raw(bytes.into()))
    }

    /// Resets the connection (TCP RST) without an answer.
    pub fn reset() -> Self {
        Self::of(Action::Reset)
    }

    /// Closes the connection in order (TCP FIN) without an answer.
    pub fn close() -> Self {
        Self::of(Action::Close)
    }

    /// Never answers; the call ends when the other side gives up.
    pub fn never() -> Self {
        Self::of(Action::Never)
    }

    /// The same reply with another status; only for replies that have one.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.head().status = status;
        self
    }

    /// The same reply with a header set (replacing one of the same name); only for replies that have headers.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let headers = &mut self.head().headers;
        headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same reply, given this long after the call arrived (or after its gate opened).
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// The same reply, held until the gate opens.
    #[must_use]
    pub fn behind(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// The same stream, ended by a reset instead of its last chunk.
    #[must_use]
    pub fn then_reset(mut self) -> Self {
        match &mut self.action {
            Action::Stream(_, _, end) => *end = StreamEnd::Reset,
            other => panic!("only a stream can be cut at its end, not {other:?}"),
        }
        self
    }

    fn of(action: Action) -> Self {
        Self { action, delay: Duration::ZERO, gate: None }
    }

    fn head(&mut self) -> &mut Head {
        match &mut self.action {
            Action::Answer(head, _) | Action::Stream(head, ..) => head,
            other => panic!("{other:?} has neither status nor headers"),
        }
    }
}

/// Holds replies back until it is opened; stays open from then on. Clones are the same gate.
#[derive(Debug, Clone)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Lets all replies through, those that wait and those to come.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub(crate) async fn passed(&self) {
        let mut opened = self.0.subscribe();
        opened.wait_for(|open| *open).await.expect("the gate's sender lives as long as the gate");
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}
