//! Which addresses and ports an outgoing request may reach.
//!
//! The rule is "global unicast only", as one table. Networks that the operator allows at start come on top;
//! a tenant can change nothing here. Addresses of cloud metadata services hand out credentials of the machine,
//! so they are judged apart: no allowed network covers them unless a switch of its own says so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::cidr::Cidr;

/// Every IPv4 network that is not global unicast.
const SPECIAL_V4: &[Cidr] = &[
    Cidr::v4(0, 0, 0, 0, 8),       // this network
    Cidr::v4(10, 0, 0, 0, 8),      // private
    Cidr::v4(100, 64, 0, 0, 10),   // shared by carriers
    Cidr::v4(127, 0, 0, 0, 8),     // loopback
    Cidr::v4(169, 254, 0, 0, 16),  // link-local
    Cidr::v4(172, 16, 0, 0, 12),   // private
    Cidr::v4(192, 0, 0, 0, 24),    // protocol assignments
    Cidr::v4(192, 0, 2, 0, 24),    // documentation
    Cidr::v4(192, 88, 99, 0, 24),  // 6to4 relays
    Cidr::v4(192, 168, 0, 0, 16),  // private
    Cidr::v4(198, 18, 0, 0, 15),   // benchmarks
    Cidr::v4(198, 51, 100, 0, 24), // documentation
    Cidr::v4(203, 0, 113, 0, 24),  // documentation
    Cidr::v4(224, 0, 0, 0, 4),     // multicast
    Cidr::v4(240, 0, 0, 0, 4),     // reserved and broadcast
];

/// All of IPv6 that is handed out as global unicast ...
const GLOBAL_V6: Cidr = Cidr::v6(0x2000, 0, 0, 0, 3);

/// ... and what inside it is not. What lies outside `2000::/3` needs no line: unspecified, loopback, compatible
/// (`::/96`), translated (`64:ff9b::/96`, `64:ff9b:1::/48`), discard (`100::/64`), `5f00::/16`, local
/// (`fc00::/7`, `fe80::/10`, `fec0::/10`) and multicast (`ff00::/8`).
const SPECIAL_V6: &[Cidr] = &[
    Cidr::v6(0x2001, 0, 0, 0, 23),     // protocol assignments, with Teredo and ORCHID
    Cidr::v6(0x2001, 0xdb8, 0, 0, 32), // documentation
    Cidr::v6(0x2002, 0, 0, 0, 16),     // 6to4
    Cidr::v6(0x3fff, 0, 0, 0, 20),     // documentation
];

/// What development mode admits: loopback, private and link-local unicast.
const PRIVATE: &[Cidr] = &[
    Cidr::v4(10, 0, 0, 0, 8),
    Cidr::v4(127, 0, 0, 0, 8),
    Cidr::v4(169, 254, 0, 0, 16),
    Cidr::v4(172, 16, 0, 0, 12),
    Cidr::v4(192, 168, 0, 0, 16),
    Cidr::v6(0xfc00, 0, 0, 0, 7),
    Cidr::v6(0xfe80, 0, 0, 0, 10),
];

/// Services of clouds that answer anyone on the machine with its credentials or configuration.
const METADATA: &[IpAddr] = &[
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), // AWS, Azure, Google and most others
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),   // AWS container credentials
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),  // AWS pod identity
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),   // Azure platform; looks global
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), // Alibaba
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),     // Oracle
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), // AWS
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)), // AWS pod identity
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)), // Google
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe)), // OpenStack
];

/// Ports from 1024 up of services that do not speak HTTP, or that carry out what a stray request says.
const DENIED_PORTS: &[u16] = &[
    1080, // SOCKS
    1433, 1434, // SQL Server
    1521, // Oracle
    1719, 1720, 1723, // H.323, PPTP
    2049, // NFS
    2181, // ZooKeeper
    2375, 2376, // Docker
    2379, 2380, // etcd
    3128, // web proxies
    3306, // MySQL
    3389, // remote desktop
    4045, 4190, // lockd, sieve
    5060, 5061, // SIP
    5432, // PostgreSQL
    5671, 5672, // AMQP
    5900, 5901, // VNC
    6000, // X11
    6379, 6380, // Redis
    6443, // Kubernetes
    6566, 6665, 6666, 6667, 6668, 6669, 6697, // sane, IRC
    9042, 9160, // Cassandra
    9092, // Kafka
    9200, 9300, // Elasticsearch
    10250, 10255, // kubelet
    11211, // memcached
    27017, 27018, 27019, // MongoDB
];

/// The operator's rule for outgoing addresses. The default is the strict one: global unicast only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    /// Development mode: loopback, private and link-local unicast addresses are fine too.
    pub allow_private: bool,
    /// Networks in which private workers live.
    pub allow: Vec<Cidr>,
    /// Lifts the ban on metadata services; such an address must still be covered by one of the two above.
    pub allow_metadata: bool,
}

/// Why an address was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// Not global unicast, and in no allowed network.
    #[error("the address is not a public unicast address")]
    NotGlobal,
    /// A metadata service.
    #[error("the address belongs to a metadata service")]
    Metadata,
    /// A port that is not for HTTP.
    #[error("the port is not allowed")]
    Port,
}

/// On which ground an address is fine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ground {
    Global,
    Allowed,
}

impl AddressPolicy {
    /// The policy of development mode.
    pub fn development() -> Self {
        Self { allow_private: true, ..Self::default() }
    }

    /// Whether `address` may be dialled, whatever the port.
    pub fn judge(&self, address: IpAddr) -> Result<(), Refusal> {
        self.ground(address.to_canonical()).map(|_| ())
    }

    /// Whether `address` may be dialled at its port. An address that the operator allowed may use any port.
    pub fn judge_socket(&self, address: SocketAddr) -> Result<(), Refusal> {
        match self.ground(address.ip().to_canonical())? {
            Ground::Allowed => Ok(()),
            Ground::Global if port_is_fine(address.port()) => Ok(()),
            Ground::Global => Err(Refusal::Port),
        }
    }

    /// Judges the port of a host that has no address yet: an error only if no address could make it fine.
    pub fn judge_port(&self, port: u16) -> Result<(), Refusal> {
        let liftable = self.allow_private || !self.allow.is_empty();
        if liftable || port_is_fine(port) { Ok(()) } else { Err(Refusal::Port) }
    }

    /// `address` is canonical: an IPv4-mapped address has become its inner one.
    fn ground(&self, address: IpAddr) -> Result<Ground, Refusal> {
        let metadata = is_metadata(address);
        if metadata && !self.allow_metadata {
            return Err(Refusal::Metadata);
        }
        let private = self.allow_private && (address.is_loopback() || within(PRIVATE, address));
        if private || within(&self.allow, address) {
            return Ok(Ground::Allowed);
        }
        if metadata {
            return Err(Refusal::Metadata);
        }
        let global = match address {
            IpAddr::V4(_) => !within(SPECIAL_V4, address),
            IpAddr::V6(_) => GLOBAL_V6.contains(address) && !within(SPECIAL_V6, address),
        };
        if global { Ok(Ground::Global) } else { Err(Refusal::NotGlobal) }
    }
}

fn within(networks: &[Cidr], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(address))
}

fn port_is_fine(port: u16) -> bool {
    port == 80 || port == 443 || (port >= 1024 && !DENIED_PORTS.contains(&port))
}

/// Also looks at the IPv4 address inside compatible, translated and 6to4 addresses, so that an operator who
/// allows such a network does not open a way around.
fn is_metadata(address: IpAddr) -> bool {
    if METADATA.contains(&address) {
        return true;
    }
    let IpAddr::V6(v6) = address else { return false };
    let inner = match v6.segments() {
        [0, 0, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low]
        | [0x2002, high, low, ..] => (high, low),
        _ => return false,
    };
    METADATA.contains(&IpAddr::V4(Ipv4Addr::from((u32::from(inner.0) << 16) | u32::from(inner.1))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// First and last address of every refused network, with a neighbour on each side where that one is public.
    #[test]
    fn the_strict_table() {
        let refused = [
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.0",
            "127.255.255.255",
            "169.254.0.0",
            "169.254.255.255",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.0",
            "192.0.0.255",
            "192.0.2.0",
            "192.0.2.255",
            "192.88.99.0",
            "192.88.99.255",
            "192.168.0.0",
            "192.168.255.255",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.0",
            "198.51.100.255",
            "203.0.113.0",
            "203.0.113.255",
            "224.0.0.0",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.255",
            "::",
            "::1",
            "::8.8.8.8",
            "::2:0:0",
            "64:ff9b::",
            "64:ff9b::8.8.8.8",
            "64:ff9b:1::",
            "64:ff9b:1:ffff::1",
            "100::",
            "100::ffff",
            "1fff:ffff::1",
            "2001::",
            "2001:0:1::1",
            "2001:1ff:ffff::1",
            "2001:db8::",
            "2001:db8:ffff::1",
            "2002::",
            "2002:808:808::1",
            "2002:ffff::1",
            "3fff::",
            "3fff:fff::1",
            "4000::",
            "5f00::",
            "5f00:ffff::1",
            "8000::1",
            "fbff::1",
            "fc00::",
            "fdff:ffff::1",
            "fe80::",
            "febf:ffff::1",
            "fec0::",
            "feff:ffff::1",
            "ff00::",
            "ff02::1",
            "ffff:ffff::1",
            "::ffff:0.0.0.0",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.1.1",
            "::ffff:192.168.0.1",
            "::ffff:100.64.0.1",
            "::fffe:8.8.8.8",
        ];
        let policy = AddressPolicy::default();
        for text in refused {
            assert_eq!(policy.judge(ip(text)), Err(Refusal::NotGlobal), "{text}");
        }
        let accepted = [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.0.3.0",
            "192.88.98.255",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "8.8.8.8",
            "2000::1",
            "2001:200::1",
            "2001:db7:ffff::1",
            "2001:db9::1",
            "2001:ffff::1",
            "2003::1",
            "2606:4700::1111",
            "3ffe:ffff::1",
            "3fff:1000::1",
            "::ffff:8.8.8.8",
        ];
        for text in accepted {
            assert_eq!(policy.judge(ip(text)), Ok(()), "{text}");
        }
    }

    #[test]
    fn metadata_services_are_refused_in_every_mode_and_wrapping() {
        let wide = AddressPolicy {
            allow_private: true,
            allow: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
            allow_metadata: false,
        };
        for text in [
            "169.254.169.254",
            "169.254.170.2",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::169.254.169.254",
            "2002:a9fe:a9fe::1",
            "::ffff:168.63.129.16",
        ] {
            for policy in [&wide, &AddressPolicy::development(), &AddressPolicy::default()] {
                assert_eq!(policy.judge(ip(text)), Err(Refusal::Metadata), "{text}");
            }
        }
        let lifted = AddressPolicy { allow_metadata: true, ..AddressPolicy::development() };
        assert_eq!(lifted.judge(ip("169.254.169.254")), Ok(()));
        // The switch alone opens nothing.
        let alone = AddressPolicy { allow_metadata: true, ..AddressPolicy::default() };
        assert_eq!(alone.judge(ip("168.63.129.16")), Err(Refusal::Metadata));
        assert_eq!(alone.judge(ip("169.254.169.254")), Err(Refusal::Metadata));
    }

    #[test]
    fn development_mode_admits_private_networks_and_nothing_stranger() {
        let policy = AddressPolicy::development();
        for text in
            ["127.0.0.1", "::1", "10.1.2.3", "172.20.0.1", "192.168.1.1", "169.254.1.1", "fd12::1", "fe80::1", "::ffff:127.0.0.1"]
        {
            assert_eq!(policy.judge(ip(text)), Ok(()), "{text}");
        }
        for text in ["0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1", "203.0.113.1", "2002::1"] {
            assert_eq!(policy.judge(ip(text)), Err(Refusal::NotGlobal), "{text}");
        }
    }

    #[test]
    fn ports_are_judged_by_the_ground_of_the_address() {
        let strict = AddressPolicy::default();
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        for port in [80, 443, 1024, 3000, 8080, 8443, 65535] {
            assert_eq!(strict.judge_socket(SocketAddr::new(ip("8.8.8.8"), port)), Ok(()), "{port}");
            assert_eq!(strict.judge_port(port), Ok(()));
        }
        for port in [0, 22, 25, 81, 1023, 2375, 3306, 5432, 6379, 11211, 27017] {
            assert_eq!(strict.judge_socket(SocketAddr::new(ip("8.8.8.8"), port)), Err(Refusal::Port), "{port}");
            assert_eq!(strict.judge_port(port), Err(Refusal::Port));
        }
        let allowing = AddressPolicy { allow: vec!["10.0.0.0/8".parse().unwrap()], ..AddressPolicy::default() };
        assert_eq!(allowing.judge_socket(at("10.0.0.1:22")), Ok(()));
        assert_eq!(allowing.judge_socket(at("[::ffff:10.0.0.1]:22")), Ok(()));
        assert_eq!(allowing.judge_socket(at("8.8.8.8:22")), Err(Refusal::Port));
        assert_eq!(allowing.judge_socket(at("11.0.0.1:80")), Ok(()));
        assert_eq!(allowing.judge_socket(at("192.168.0.1:80")), Err(Refusal::NotGlobal));
        assert_eq!(AddressPolicy::development().judge_socket(at("127.0.0.1:25")), Ok(()));
    }
}
