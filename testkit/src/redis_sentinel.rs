//! A master with replicas and three sentinels that put a replica in its place when it is silent.

use std::time::Duration;

use crate::redis::{Redis, RedisOptions};
use crate::wait::wait_until;

/// The name under which the sentinels know the master.
pub const MASTER: &str = "lab";
const SENTINELS: usize = 3;
const FORM_LIMIT: Duration = Duration::from_secs(60);

/// Servers and the sentinels that watch them. Server 0 begins as the master.
#[derive(Debug)]
pub struct RedisSentinels {
    servers: Vec<Redis>,
    sentinels: Vec<Redis>,
}

impl RedisSentinels {
    /// Starts a master with so many replicas, and three sentinels that call it failed after a second of silence.
    pub fn start(replicas: usize, options: RedisOptions) -> Self {
        let master = Redis::start_with(options);
        let mut servers = vec![master];
        for _ in 0..replicas {
            let replica = Redis::start_replica_of(&servers[0]);
            servers.push(replica);
        }
        let config = format!(
            "sentinel monitor {MASTER} 127.0.0.1 {} 2\nsentinel down-after-milliseconds {MASTER} 1000\n\
             sentinel failover-timeout {MASTER} 5000\n",
            servers[0].port()
        );
        let mut sentinels: Vec<Redis> = (0..SENTINELS).map(|_| Redis::spawn_sentinel(&config)).collect();
        sentinels.iter_mut().for_each(Redis::wait_ready);
        let (others, known) = (format!("num-other-sentinels\n{}", SENTINELS - 1), format!("num-slaves\n{replicas}"));
        wait_until("the sentinels know everybody", FORM_LIMIT, || {
            sentinels.iter().all(|sentinel| {
                sentinel
                    .command(&["SENTINEL", "MASTER", MASTER])
                    .is_ok_and(|facts| facts.contains(&others) && facts.contains(&known))
            })
        });
        Self { servers, sentinels }
    }

    /// `redis+sentinel://` with the addresses of the sentinels and the name of the master.
    pub fn url(&self) -> String {
        let addresses: Vec<_> = self.sentinels.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis+sentinel://{}/{MASTER}", addresses.join(","))
    }

    /// The master as the first sentinel sees it.
    pub fn master(&self) -> usize {
        let answer = self.sentinels[0].command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]).expect("a sentinel answers");
        let port = answer.lines().last().and_then(|port| port.parse().ok()).unwrap_or(0);
        self.servers.iter().position(|server| server.port() == port).expect("the master is one of ours")
    }

    /// The servers; the first one began as the master.
    pub fn servers(&self) -> &[Redis] {
        &self.servers
    }

    /// A server, to be killed or restarted.
    pub fn server(&mut self, number: usize) -> &mut Redis {
        &mut self.servers[number]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_master_is_replaced() {
        let mut lab = RedisSentinels::start(1, RedisOptions::default());
        assert_eq!(lab.master(), 0);
        lab.server(0).kill9();
        wait_until("the replica is master", Duration::from_secs(30), || lab.master() == 1);
        wait_until("it takes writes", Duration::from_secs(30), || lab.servers()[1].command(&["SET", "a", "1"]).is_ok());
    }
}
