//! Loopback ports for servers that must come back at the same address after a crash.
//!
//! A server that binds to port 0 gets a port from the range that the kernel also uses for outgoing connections. While such a
//! server is down, a client that keeps trying to reach it may be given that very port as its own source port: it then talks to
//! itself, and the server can no longer bind. Ports from here lie below that range, and a lock file keeps other tests away for
//! as long as the [`Port`] lives, also while nothing listens.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions};
use std::hash::BuildHasher;
use std::net::TcpListener;

/// Below the default `ip_local_port_range` of Linux (32768) and of the IANA dynamic range, above the well-known services.
const FIRST: u16 = 16_000;
const LAST: u16 = 31_999;

/// A loopback port that no other test is given while this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Reserves a port on which nothing listens.
    pub fn reserve() -> Self {
        let folder = std::env::temp_dir().join("lovage-test-ports");
        fs::create_dir_all(&folder).expect("the folder for port locks can be made");
        for round in 0..1_000_u32 {
            let span = u64::from(LAST - FIRST) + 1;
            let number = FIRST + (RandomState::new().hash_one(round) % span) as u16;
            let path = folder.join(number.to_string());
            let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path).expect("a port lock can be opened");
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Self { number, _lock: lock };
            }
        }
        panic!("no free loopback port between {FIRST} and {LAST} in 1000 attempts");
    }

    /// The port's number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_can_be_bound() {
        let ports: Vec<Port> = (0..50).map(|_| Port::reserve()).collect();
        let listeners: Vec<TcpListener> =
            ports.iter().map(|port| TcpListener::bind(("127.0.0.1", port.number())).unwrap()).collect();
        assert_eq!(listeners.len(), 50);
    }
}
