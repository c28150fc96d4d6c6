//! One connection of the worker: reads calls, records them, plays the replies.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::Shared;
use super::record::{Answered, Call, OpenCall};
use super::reply::{Action, Head, Reply, StreamEnd};
use super::wire::{Request, Wire, head_bytes};
use crate::clock::now_ns;

/// What is to become of the connection after a call.
#[derive(PartialEq, Eq)]
enum Then {
    Next,
    End,
}

/// Serves calls until either side ends the connection.
pub(crate) async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    // A connection that breaks is the other side's business; what it did is in the record.
    let _broken = converse(stream, &shared).await;
}

async fn converse(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
    let connection = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    let socket = Arc::new(stream.try_clone()?);
    let mut wire = Wire::new(TcpStream::from_std(stream)?);
    while let Some(request) = wire.request().await? {
        let keep_alive = request.keep_alive;
        let call = call_of(request, connection);
        let reply = shared.scripts.reply(&call);
        let open = shared.record.arrive(call, &socket);
        if play(&mut wire, &open, reply).await == Then::End || !keep_alive {
            break;
        }
    }
    Ok(())
}

fn call_of(request: Request, connection: u64) -> Call {
    let header = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    Call {
        id: header("webhook-id"),
        task: header("lovage-task"),
        attempt: header("lovage-attempt").parse().unwrap_or_default(),
        method: request.method,
        path: request.path,
        headers: request.headers,
        body: request.body,
        connection,
        started_ns: now_ns(),
        ended_ns: None,
        answered: Answered::Open,
    }
}

/// Plays a reply. The end is stamped before the bytes that end the call leave: the other side may react to them, even with
/// the next attempt, before this thread runs again.
async fn play(wire: &mut Wire, call: &OpenCall<'_>, reply: Reply) -> Then {
    let ready = async {
        if let Some(gate) = &reply.gate {
            gate.passed().await;
        }
        tokio::time::sleep(reply.delay).await;
    };
    if reply.gate.is_some() || !reply.delay.is_zero() {
        tokio::select! {
            () = ready => {}
            () = wire.left() => { call.end(Answered::ClientLeft); return Then::End; }
        }
    }
    let outcome = match reply.action {
        Action::Answer(head, body) => {
            let status = head.status;
            let mut bytes = head_bytes(&head, &framing(&head, body.len()));
            bytes.extend_from_slice(&body);
            call.end(Answered::Status(status));
            wire.write(&bytes).await.map(|()| Then::Next)
        }
        Action::Stream(head, parts, ending) => stream(wire, call, &head, parts, ending).await,
        Action::Raw(bytes) => {
            call.end(Answered::Closed);
            wire.write(&bytes).await.map(|()| Then::End)
        }
        Action::Reset => {
            call.end(Answered::Reset);
            wire.reset_at_end().map(|()| Then::End)
        }
        Action::Close => {
            call.end(Answered::Closed);
            Ok(Then::End)
        }
        Action::Never => {
            wire.left().await;
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    };
    outcome.unwrap_or_else(|_| {
        call.end(Answered::ClientLeft);
        Then::End
    })
}

/// A 204 has no body and must not announce one.
fn framing(head: &Head, length: usize) -> String {
    if head.status == 204 { "x-empty: true".to_owned() } else { format!("content-length: {length}") }
}

async fn stream(
    wire: &mut Wire,
    call: &OpenCall<'_>,
    head: &Head,
    parts: Vec<(Duration, Bytes)>,
    ending: StreamEnd,
) -> io::Result<Then> {
    wire.write(&head_bytes(head, "transfer-encoding: chunked")).await?;
    let last = parts.len().checked_sub(1);
    for (number, (pause, part)) in parts.into_iter().enumerate() {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = wire.left() => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        if Some(number) == last && ending == StreamEnd::Complete {
            call.end(Answered::Status(head.status));
        }
        let mut chunk = format!("{:x}\r\n", part.len()).into_bytes();
        chunk.extend_from_slice(&part);
        chunk.extend_from_slice(b"\r\n");
        wire.write(&chunk).await?;
    }
    match ending {
        StreamEnd::Complete => {
            call.end(Answered::Status(head.status));
            wire.write(b"0\r\n\r\n").await.map(|()| Then::Next)
        }
        StreamEnd::Reset => {
            call.end(Answered::Reset);
            wire.reset_at_end().map(|()| Then::End)
        }
    }
}
