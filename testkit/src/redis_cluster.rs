//! A Redis Cluster on loopback ports, set up by plain commands, ready in a second or two.
//!
//! Nodes are numbered: masters first, then their replicas, `0..masters` and so on as they were at the start. Who is a master
//! changes with failovers; [`RedisCluster::master_of`] and [`RedisCluster::replicas_of`] ask the nodes that answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::port::Port;
use crate::redis::{Redis, RedisOptions};
use crate::wait::wait_until;

/// Longest time for a cluster of nine to form on a busy machine.
const FORM_LIMIT: Duration = Duration::from_secs(60);
/// The number of slots of every cluster.
pub const SLOTS: u16 = 16_384;

/// What a test may choose about its cluster.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Masters; a cluster that is to fail over needs three.
    pub masters: usize,
    /// Replicas of each master.
    pub replicas: usize,
    /// `cluster-node-timeout`: how long a node may be silent before the others call it failed.
    pub node_timeout: Duration,
    /// Durability and further settings of every node.
    pub node: RedisOptions,
}

impl ClusterOptions {
    /// So many masters with so many replicas each, and a short time-out.
    pub fn new(masters: usize, replicas: usize) -> Self {
        Self { masters, replicas, node_timeout: Duration::from_secs(1), node: RedisOptions::default() }
    }

    /// The same with another time-out.
    #[must_use]
    pub fn node_timeout(mut self, timeout: Duration) -> Self {
        self.node_timeout = timeout;
        self
    }

    /// The same with other settings of every node.
    #[must_use]
    pub fn node(mut self, node: RedisOptions) -> Self {
        self.node = node;
        self
    }
}

/// A running Redis Cluster. All its processes end with the value.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
    /// Halted nodes are not asked: they would never answer.
    halted: Vec<AtomicBool>,
    /// Their ports for each other, kept as long as they run.
    bus: Vec<Port>,
}

/// A line of `CLUSTER NODES`.
struct Line {
    id: String,
    port: u16,
    master: Option<String>,
    epoch: u64,
    ranges: Vec<(u16, u16)>,
    usable: bool,
}

impl RedisCluster {
    /// Starts a cluster with appendonly files that are synced before every answer.
    pub fn start(masters: usize, replicas_per_master: usize) -> Self {
        Self::start_with(ClusterOptions::new(masters, replicas_per_master))
    }

    /// Starts a cluster and waits until every node says that it is fine and every replica follows its master.
    pub fn start_with(options: ClusterOptions) -> Self {
        let count = options.masters * (1 + options.replicas);
        let bus: Vec<Port> = (0..count).map(|_| Port::reserve()).collect();
        let timeout = options.node_timeout.as_millis().to_string();
        let spawn = |bus: &Port| {
            let mut node = RedisOptions { extra: Vec::new(), ..options.node.clone() }
                .with("cluster-enabled", "yes")
                .with("cluster-port", &bus.number().to_string())
                .with("cluster-node-timeout", &timeout)
                // A master without a replica left stays the only one of its slots, and the others go on meanwhile.
                .with("cluster-allow-replica-migration", "no")
                .with("cluster-require-full-coverage", "no")
                .with("repl-diskless-sync-delay", "0");
            node.extra.extend(options.node.extra.iter().cloned());
            Redis::spawn(node)
        };
        let mut nodes: Vec<Redis> = bus.iter().map(spawn).collect();
        nodes.iter_mut().for_each(Redis::wait_ready);
        let halted = nodes.iter().map(|_| AtomicBool::new(false)).collect();
        let cluster = Self { nodes, halted, bus };
        cluster.form(&options);
        cluster
    }

    fn form(&self, options: &ClusterOptions) {
        let run = |node: &Redis, words: &[&str]| {
            node.command(words).unwrap_or_else(|error| panic!("{words:?} was refused: {error}"));
        };
        for (i, node) in self.nodes.iter().enumerate() {
            run(node, &["CLUSTER", "SET-CONFIG-EPOCH", &(i + 1).to_string()]);
            for (other, bus) in self.nodes[..i].iter().zip(&self.bus) {
                let (port, bus) = (other.port().to_string(), bus.number().to_string());
                run(node, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
            }
        }
        let share = |i: usize| (i * usize::from(SLOTS) / options.masters) as u16;
        for (i, node) in self.nodes[..options.masters].iter().enumerate() {
            run(node, &["CLUSTER", "ADDSLOTSRANGE", &share(i).to_string(), &(share(i + 1) - 1).to_string()]);
        }
        let count = self.nodes.len();
        wait_until("all nodes know each other", FORM_LIMIT, || {
            self.nodes.iter().all(|node| view(node).is_some_and(|lines| lines.iter().filter(|line| line.usable).count() == count))
        });
        for (i, node) in self.nodes[options.masters..].iter().enumerate() {
            run(node, &["CLUSTER", "REPLICATE", &self.id(i % options.masters)]);
        }
        self.wait_ok(FORM_LIMIT);
    }

    /// Waits until every running node says that all slots are served and every running replica follows its master.
    pub fn wait_ok(&self, limit: Duration) {
        let fine = |node: &Redis| {
            node.command(&["CLUSTER", "INFO"]).is_ok_and(|info| info.contains("cluster_state:ok"))
                && node
                    .command(&["INFO", "replication"])
                    .is_ok_and(|info| info.contains("role:master") || info.contains("master_link_status:up"))
        };
        wait_until("the cluster is fine", limit, || self.awake().all(fine));
    }

    /// `redis+cluster://` with the addresses of all nodes.
    pub fn url(&self) -> String {
        let addresses: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis+cluster://{}", addresses.join(","))
    }

    /// All nodes by number.
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// A node.
    pub fn node(&self, node: usize) -> &Redis {
        &self.nodes[node]
    }

    /// One command to one node, as [`Redis::command`].
    pub fn command(&self, node: usize, words: &[&str]) -> std::io::Result<String> {
        self.nodes[node].command(words)
    }

    /// The slot of a key.
    pub fn slot_of(&self, key: &str) -> u16 {
        let answers = self
            .nodes
            .iter()
            .filter(|node| node.pid().is_some())
            .find_map(|node| node.command(&["CLUSTER", "KEYSLOT", key]).ok()?.parse().ok());
        answers.expect("a node that answers")
    }

    /// The node that serves the slot of `key`, as the nodes believe that answer; `None` if nobody does.
    pub fn master_of(&self, key: &str) -> Option<usize> {
        let slot = self.slot_of(key);
        let lines = self.lines();
        let owners = lines.iter().filter(|line| line.ranges.iter().any(|(first, last)| (*first..=*last).contains(&slot)));
        self.number(owners.max_by_key(|line| line.epoch)?.port)
    }

    /// The replicas of a node, as the nodes believe that answer.
    pub fn replicas_of(&self, master: usize) -> Vec<usize> {
        let id = self.id(master);
        let lines = self.lines();
        let mut found: Vec<usize> =
            lines.iter().filter(|line| line.master.as_ref() == Some(&id)).filter_map(|line| self.number(line.port)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The id of a node, which never changes.
    pub fn id(&self, node: usize) -> String {
        let port = self.nodes[node].port();
        let line = self.lines().into_iter().find(|line| line.port == port);
        line.expect("a node that knows this one").id
    }

    /// The nodes that run.
    fn awake(&self) -> impl Iterator<Item = &Redis> {
        let halted = self.halted.iter().map(|halted| halted.load(Ordering::Relaxed));
        self.nodes.iter().zip(halted).filter(|(node, halted)| !halted && node.pid().is_some()).map(|(node, _)| node)
    }

    fn lines(&self) -> Vec<Line> {
        self.awake().filter_map(view).flatten().collect()
    }

    fn number(&self, port: u16) -> Option<usize> {
        self.nodes.iter().position(|node| node.port() == port)
    }

    /// Ends a node with SIGKILL.
    pub fn kill9(&mut self, node: usize) {
        self.halted[node].store(false, Ordering::Relaxed);
        self.nodes[node].kill9();
    }

    /// Halts a node without closing its connections.
    pub fn pause(&self, node: usize) {
        self.halted[node].store(true, Ordering::Relaxed);
        self.nodes[node].pause();
    }

    /// Lets a halted node go on.
    pub fn resume(&self, node: usize) {
        self.nodes[node].resume();
        self.halted[node].store(false, Ordering::Relaxed);
    }

    /// Starts a killed node again with its data on its port.
    pub fn restart(&mut self, node: usize) {
        self.nodes[node].restart();
    }

    /// Keeps a replica from hearing of its master's writes until [`reconnect`](Self::reconnect): it offers a password that
    /// nobody knows.
    pub fn cut_off(&self, replica: usize) {
        for (name, value) in [("masteruser", "nobody"), ("masterauth", "wrong")] {
            self.command(replica, &["CONFIG", "SET", name, value]).expect("a running Redis can be configured");
        }
        for node in self.awake() {
            let _none = node.command(&["CLIENT", "KILL", "TYPE", "replica"]);
        }
        wait_until("the replica is cut off", FORM_LIMIT, || {
            self.command(replica, &["INFO", "replication"]).is_ok_and(|info| info.contains("master_link_status:down"))
        });
    }

    /// Lets a replica hear of its master's writes again.
    pub fn reconnect(&self, replica: usize) {
        for name in ["masteruser", "masterauth"] {
            self.command(replica, &["CONFIG", "SET", name, ""]).expect("a running Redis can be configured");
        }
        self.nodes[replica].wait_until_it_follows();
    }

    /// Makes a replica master of its master's slots at once, with whatever data it has and without asking anybody.
    pub fn take_over(&self, replica: usize) {
        self.command(replica, &["CLUSTER", "FAILOVER", "TAKEOVER"]).expect("a replica can take over");
        wait_until("the replica is master", FORM_LIMIT, || {
            self.command(replica, &["INFO", "replication"]).is_ok_and(|info| info.contains("role:master"))
        });
    }

    /// Begins to move the slot of `key` to another master: from now on its keys may be here or there.
    pub fn begin_move(&self, key: &str, to: usize) {
        let slot = self.slot_of(key).to_string();
        let from = self.master_of(key).expect("somebody serves the slot");
        let moving = |node, word, other: usize| {
            self.command(node, &["CLUSTER", "SETSLOT", &slot, word, &self.id(other)]).expect("a slot can be moved");
        };
        moving(to, "IMPORTING", from);
        moving(from, "MIGRATING", to);
    }

    /// Moves up to `count` keys of the slot that is moving; answers how many there were.
    pub fn move_keys(&self, key: &str, to: usize, count: usize) -> usize {
        let slot = self.slot_of(key).to_string();
        let from = self.master_of(key).expect("somebody serves the slot");
        let count = count.to_string();
        let wanted: [&[u8]; 4] = [b"CLUSTER", b"GETKEYSINSLOT", slot.as_bytes(), count.as_bytes()];
        let keys = self.nodes[from].command_bytes(&wanted).expect("keys can be listed");
        let port = self.nodes[to].port().to_string();
        for key in &keys {
            let moving: [&[u8]; 6] = [b"MIGRATE", b"127.0.0.1", port.as_bytes(), key, b"0", b"5000"];
            self.nodes[from].command_bytes(&moving).expect("a key can be moved");
        }
        keys.len()
    }

    /// Ends the move of a slot: all its keys are there.
    pub fn end_move(&self, key: &str, to: usize) {
        let slot = self.slot_of(key).to_string();
        let id = self.id(to);
        let from = self.master_of(key).expect("somebody serves the slot");
        for node in [to, from] {
            self.command(node, &["CLUSTER", "SETSLOT", &slot, "NODE", &id]).expect("a slot can be moved");
        }
    }
}

/// How a node sees the cluster.
fn view(node: &Redis) -> Option<Vec<Line>> {
    let text = node.command(&["CLUSTER", "NODES"]).ok()?;
    text.lines().map(read_line).collect()
}

/// Reads `id ip:port@bus,… flags master ping pong epoch link slot…`.
fn read_line(line: &str) -> Option<Line> {
    let words: Vec<&str> = line.split(' ').collect();
    let (id, address, flags, master) = (*words.first()?, *words.get(1)?, *words.get(2)?, *words.get(3)?);
    let range = |word: &&str| {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    Some(Line {
        id: id.to_owned(),
        port: address.split('@').next()?.rsplit(':').next()?.parse().ok()?,
        master: (master != "-").then(|| master.to_owned()),
        epoch: words.get(6)?.parse().ok()?,
        // Slots that are moving stand in brackets behind the others.
        ranges: words.get(8..).unwrap_or_default().iter().filter_map(range).collect(),
        usable: !flags.contains("handshake") && !flags.contains("fail") && !flags.contains("noaddr"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::Fsync;

    #[test]
    fn a_killed_master_is_replaced_by_its_replica() {
        let quick = ClusterOptions::new(3, 1).node(RedisOptions::default().fsync(Fsync::Never));
        let mut cluster = RedisCluster::start_with(quick);
        let key = "{p00}a";
        let master = cluster.master_of(key).unwrap();
        let replica = cluster.replicas_of(master)[0];
        cluster.command(master, &["SET", key, "1"]).unwrap();
        assert!(cluster.command((master + 1) % 3, &["GET", key]).unwrap_err().to_string().contains("MOVED"));
        assert_eq!(cluster.command(master, &["WAIT", "1", "5000"]).unwrap(), "1");
        cluster.kill9(master);
        wait_until("the replica takes over", Duration::from_secs(30), || cluster.master_of(key) == Some(replica));
        wait_until("it serves", Duration::from_secs(30), || cluster.command(replica, &["GET", key]).is_ok_and(|a| a == "1"));
        cluster.restart(master);
        cluster.wait_ok(Duration::from_secs(30));
        assert_eq!(cluster.replicas_of(replica), [master]);
    }

    #[test]
    fn a_slot_moves_and_a_replica_that_was_cut_off_lacks_what_came_later() {
        let cluster = RedisCluster::start_with(ClusterOptions::new(3, 1).node(RedisOptions::default().fsync(Fsync::Never)));
        let key = "{p01}a";
        let from = cluster.master_of(key).unwrap();
        let to = (from + 1) % 3;
        cluster.command(from, &["SET", key, "1"]).unwrap();
        cluster.begin_move(key, to);
        assert_eq!(cluster.move_keys(key, to, 10), 1);
        assert!(cluster.command(from, &["GET", key]).unwrap_err().to_string().contains("ASK"));
        cluster.end_move(key, to);
        assert_eq!(cluster.command(to, &["GET", key]).unwrap(), "1");
        let replica = cluster.replicas_of(to)[0];
        assert_eq!(cluster.command(to, &["WAIT", "1", "5000"]).unwrap(), "1");
        cluster.cut_off(replica);
        cluster.command(to, &["SET", key, "2"]).unwrap();
        cluster.take_over(replica);
        assert_eq!(cluster.command(replica, &["GET", key]).unwrap(), "1");
    }
}
