//! A connection that a test drives byte by byte, for clients that are slow, rude or of another origin.

use std::time::Duration;

use lovage_tests::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::site::PATIENCE;

/// An open connection to the server.
pub struct Wire {
    stream: TcpStream,
    seen: Vec<u8>,
}

impl Wire {
    pub async fn open(client: &Client) -> Self {
        let address = client.url().trim_start_matches("http://");
        Self { stream: TcpStream::connect(address).await.unwrap(), seen: Vec::new() }
    }

    /// Sends bytes. `false`: the server does not take them any more.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let sent = timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await;
        sent.is_ok_and(|sent| sent.is_ok())
    }

    /// Sends a chunk of a body in chunks.
    pub async fn send_chunk(&mut self, bytes: &str) -> bool {
        self.send(format!("{:x}\r\n{bytes}\r\n", bytes.len())).await
    }

    /// Reads until `text` has come and returns all that was read; panics when it does not come.
    pub async fn read_until(&mut self, text: &str) -> String {
        let found = timeout(PATIENCE, async {
            while !String::from_utf8_lossy(&self.seen).contains(text) {
                if !self.more().await {
                    return false;
                }
            }
            true
        });
        let found = found.await.unwrap_or(false);
        assert!(found, "no {text:?} in {:?}", String::from_utf8_lossy(&self.seen));
        self.read()
    }

    /// What has been read so far.
    pub fn read(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Reads to the end; `None`: the server still holds the connection after so long.
    pub async fn read_to_end(&mut self, patience: Duration) -> Option<String> {
        timeout(patience, async { while self.more().await {} }).await.ok()?;
        Some(self.read())
    }

    /// Reads what comes next; `false` at the end of the connection.
    async fn more(&mut self) -> bool {
        let mut piece = [0; 4_096];
        match self.stream.read(&mut piece).await {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.seen.extend_from_slice(&piece[..count]);
                true
            }
        }
    }
}
