//! A network in CIDR notation.
//!
//! Parsing is strict: bits behind the prefix are an error, because `10.1.2.3/8` in an allow list is more often
//! a slip than a wish.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network such as `10.0.0.0/8` or `fd00::/8`; a bare address stands for itself alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a network: {why}")]
pub struct CidrError {
    text: String,
    why: &'static str,
}

impl Cidr {
    /// An IPv4 network of the built-in table. Bits behind the prefix are ignored.
    pub(crate) const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    /// An IPv6 network of the built-in table, given by its first four groups.
    pub(crate) const fn v6(a: u16, b: u16, c: u16, d: u16, prefix: u8) -> Self {
        Self { address: IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)), prefix }
    }

    /// Whether `address` lies in this network. The two families never match each other; the caller
    /// unwraps IPv4-mapped addresses first.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let mask = mask(32, self.prefix) as u32;
                u32::from(net) & mask == u32::from(ip) & mask
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let mask = mask(128, self.prefix);
                u128::from(net) & mask == u128::from(ip) & mask
            }
            _ => false,
        }
    }
}

/// The upper `prefix` of `width` bits set, right-aligned in 128 bits.
fn mask(width: u32, prefix: u8) -> u128 {
    let all = u128::MAX >> (128 - width);
    let host_bits = width - u32::from(prefix);
    // A shift by the full width is undefined for the type, hence the checked form for /0.
    all & u128::MAX.checked_shl(host_bits).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |why| CidrError { text: text.to_owned(), why };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error("the address cannot be read"))?;
        let width: u8 = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => width,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| error("the prefix length cannot be read"))?
            }
            Some(_) => return Err(error("the prefix length cannot be read")),
        };
        if prefix > width {
            return Err(error("the prefix is longer than the address"));
        }
        let bits = match address {
            IpAddr::V4(ip) => u128::from(u32::from(ip)),
            IpAddr::V6(ip) => u128::from(ip),
        };
        if bits & !mask(u32::from(width), prefix) != 0 {
            return Err(error("bits are set behind the prefix"));
        }
        if matches!(address, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some()) {
            return Err(error("write an IPv4-mapped network in its IPv4 form"));
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_network_holds_its_first_and_last_address_and_no_neighbour() {
        let net: Cidr = "172.16.0.0/12".parse().unwrap();
        assert!(net.contains("172.16.0.0".parse().unwrap()));
        assert!(net.contains("172.31.255.255".parse().unwrap()));
        assert!(!net.contains("172.15.255.255".parse().unwrap()));
        assert!(!net.contains("172.32.0.0".parse().unwrap()));
        assert!(!net.contains("::1".parse().unwrap()));

        let net: Cidr = "fd00:1::/32".parse().unwrap();
        assert!(net.contains("fd00:1:ffff::1".parse().unwrap()));
        assert!(!net.contains("fd00:2::1".parse().unwrap()));
    }

    #[test]
    fn the_extreme_prefixes_work() {
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.255.255.255".parse().unwrap()));
        let all: Cidr = "::/0".parse().unwrap();
        assert!(all.contains("ffff::1".parse().unwrap()));
        let one: Cidr = "10.0.0.7".parse().unwrap();
        assert_eq!(one.to_string(), "10.0.0.7/32");
        assert!(!one.contains("10.0.0.6".parse().unwrap()));
    }

    #[test]
    fn slips_are_refused() {
        for text in ["", "10.0.0.0/33", "10.1.0.0/8", "10.0.0.0/", "10.0.0.0/+8", "fe80::/129", "x/8", "::ffff:10.0.0.0/104"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
