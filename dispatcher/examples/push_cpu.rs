//! Prints what a push costs: CPU time of the pushing thread per request of 1 KiB on kept connections, on a
//! current-thread runtime against a minimal server on another thread. Linux only (reads `/proc`).
//!
//! `cargo run --release -p lovage-dispatcher --example push_cpu`

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderName, Method};
use lovage_dispatcher::egress::{AddressPolicy, EgressOptions, HeaderLines, HttpTransport, PushRequest, Target, Transport};
use lovage_dispatcher::signing::{Signer, secret_from};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const BODY: usize = 1024;
const CONCURRENT: usize = 32;
const PUSHES: usize = 200_000;
const ROUNDS: usize = 4;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\nnull";

fn main() -> Result<(), Box<dyn Error>> {
    let address = start_server()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(address))?;
    sign()
}

async fn measure(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let options = EgressOptions { policy: AddressPolicy::development(), ..EgressOptions::default() };
    let transport = HttpTransport::new(options)?;
    let target = Arc::new(Target::parse(&format!("http://{address}/hook"), transport.policy())?);
    let body = Bytes::from(vec![b'x'; BODY]);
    for round in 0..ROUNDS {
        let (started, cpu) = (Instant::now(), cpu_nanos()?);
        let lanes = (0..CONCURRENT).map(|_| async {
            let mut answered = 0;
            for _ in 0..PUSHES / CONCURRENT {
                let request = PushRequest::new(Arc::clone(&target), Method::POST, headers(), body.clone());
                answered += usize::from(transport.push(request).await.outcome.is_ok());
            }
            answered
        });
        let answered: usize = join_all(lanes).await.into_iter().sum();
        let per_push = (cpu_nanos()? - cpu) as f64 / 1000.0 / PUSHES as f64;
        let rate = PUSHES as f64 / started.elapsed().as_secs_f64();
        println!("round {round}: {per_push:.1} µs CPU per push, {rate:.0} pushes/s, {answered} of {PUSHES} answered");
    }
    Ok(())
}

/// About what the dispatcher sends with every task.
fn headers() -> HeaderLines {
    let mut headers = HeaderLines::with_capacity(512);
    for (name, value) in [
        ("content-type", "application/json"),
        ("webhook-id", "01J8ZQ6T0V3Y4M5N6P7Q8R9S0T"),
        ("webhook-timestamp", "1614265330"),
        ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        ("lovage-task", "mail.send"),
        ("lovage-queue", "mail"),
        ("lovage-attempt", "1"),
    ] {
        headers.push(&HeaderName::from_static(name), value.as_bytes());
    }
    headers
}

fn sign() -> Result<(), Box<dyn Error>> {
    let signer = Signer::new(&[secret_from([7; 32])])?;
    let body = vec![b'x'; BODY];
    let cpu = cpu_nanos()?;
    let mut bytes = 0;
    for at in 0..PUSHES {
        bytes += signer.sign("01J8ZQ6T0V3Y4M5N6P7Q8R9S0T", at as i64, &body).len();
    }
    let per_signature = (cpu_nanos()? - cpu) as f64 / 1000.0 / PUSHES as f64;
    println!("signing: {per_signature:.2} µs CPU per KiB ({bytes} bytes of signatures)");
    Ok(())
}

/// CPU time of this thread.
fn cpu_nanos() -> Result<u64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(stat.split(' ').next().unwrap_or_default().parse()?)
}

/// A server that counts bytes to the end of each request and parses nothing.
fn start_server() -> Result<SocketAddr, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        runtime.block_on(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::spawn(async move {
                    let mut buffer = vec![0; 16 * 1024];
                    let mut filled = 0;
                    while let Ok(n) = stream.read(&mut buffer[filled..]).await
                        && n > 0
                    {
                        filled += n;
                        let head = buffer[..filled].windows(4).position(|w| w == b"\r\n\r\n");
                        if head.is_some_and(|head| filled >= head + 4 + BODY) {
                            filled = 0;
                            if stream.write_all(ANSWER).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
    });
    Ok(address)
}
