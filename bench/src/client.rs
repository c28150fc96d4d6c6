//! A kept HTTP/1.1 connection that sends prepared bytes, and small calls for control requests.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::wire::{ChunkDecoder, parse_head};

const READ_SIZE: usize = 16 * 1024;

/// An `http://host:port` address, resolved once.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Where to connect.
    pub address: SocketAddr,
    /// Bearer credential, for servers that ask for one.
    pub key: Option<String>,
}

impl Origin {
    /// Reads `http://host:port`, with or without a slash at the end. Only plain HTTP is spoken.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let authority =
            url.strip_prefix("http://").with_context(|| format!("{url} does not start with http://"))?.trim_end_matches('/');
        let address = authority
            .to_socket_addrs()
            .with_context(|| format!("no address for {authority}"))?
            .next()
            .with_context(|| format!("no address for {authority}"))?;
        Ok(Self { address, key: None })
    }

    /// The head of a request up to and without its empty line, so that a caller can add fields.
    pub fn head(&self, method: &str, target: &str) -> String {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.address);
        if let Some(key) = &self.key {
            head.push_str("Authorization: Bearer ");
            head.push_str(key);
            head.push_str("\r\n");
        }
        head
    }

    /// A whole request with a JSON body, ready to be sent any number of times.
    pub fn json_request(&self, method: &str, target: &str, body: &str) -> Vec<u8> {
        let mut request = self.head(method, target);
        if !body.is_empty() {
            request.push_str("Content-Type: application/json\r\n");
        }
        request.push_str("Content-Length: ");
        request.push_str(&body.len().to_string());
        request.push_str("\r\n\r\n");
        request.push_str(body);
        request.into_bytes()
    }

    /// One request on a connection of its own. The body of the answer is `Null` when it is empty or no JSON.
    pub async fn call(&self, method: &str, target: &str, body: &str) -> anyhow::Result<(u16, Value)> {
        let mut connection = Connection::open(self.address).await?;
        let answer =
            connection.request(&self.json_request(method, target, body)).await.with_context(|| format!("{method} {target}"))?;
        Ok((answer.status, serde_json::from_slice(answer.body).unwrap_or(Value::Null)))
    }

    /// As [`Origin::call`], but any status outside 2xx is an error.
    pub async fn expect(&self, method: &str, target: &str, body: &str) -> anyhow::Result<Value> {
        let (status, answer) = self.call(method, target, body).await?;
        if !(200..300).contains(&status) {
            bail!("{method} {target} answered {status}: {answer}");
        }
        Ok(answer)
    }
}

/// The answer to a request; its body lies in the connection's buffer.
#[derive(Debug)]
pub struct Answer<'a> {
    /// HTTP status.
    pub status: u16,
    /// The decoded body.
    pub body: &'a [u8],
}

/// One kept connection, one request at a time. Buffers are reused: after the first requests nothing is allocated.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    body: Vec<u8>,
}

impl Connection {
    /// Connects, with Nagle's algorithm off.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, input: Vec::with_capacity(READ_SIZE), body: Vec::new() })
    }

    /// Sends `request` and reads the whole answer.
    pub async fn request(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        self.input.clear();
        let (status, head_length, content_length, chunked) = loop {
            read_more(&mut self.stream, &mut self.input).await?;
            if let Some(head) = parse_head(&self.input) {
                let status = head.status().ok_or_else(|| invalid("broken status line"))?;
                break (status, head.length, head.content_length, head.chunked);
            }
        };
        if chunked {
            let mut decoder = ChunkDecoder::default();
            self.body.clear();
            let mut done = decoder.decode(&self.input[head_length..], &mut self.body)?;
            while !done {
                self.input.clear();
                read_more(&mut self.stream, &mut self.input).await?;
                done = decoder.decode(&self.input, &mut self.body)?;
            }
            return Ok(Answer { status, body: &self.body });
        }
        let end = head_length + content_length.unwrap_or(0);
        while self.input.len() < end {
            read_more(&mut self.stream, &mut self.input).await?;
        }
        Ok(Answer { status, body: &self.input[head_length..end] })
    }

    /// Gives up the one-request-at-a-time view, for requests whose answer begins before they end.
    pub fn into_halves(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        self.stream.into_split()
    }
}

/// Appends what the peer sent next; the end of the stream is an error because the caller expects more.
pub async fn read_more<R: AsyncReadExt + Unpin>(stream: &mut R, input: &mut Vec<u8>) -> io::Result<()> {
    input.reserve(READ_SIZE);
    if stream.read_buf(input).await? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed within an answer"));
    }
    Ok(())
}

/// An error for a peer that does not speak HTTP as expected.
pub fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
