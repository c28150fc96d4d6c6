//! What [`Target::parse`] lets through.

use proptest::prelude::*;

use crate::egress::policy::Refusal;
use crate::egress::{AddressPolicy, Scheme, Target, TargetError};

fn strict(url: &str) -> Result<Target, TargetError> {
    Target::parse(url, &AddressPolicy::default())
}

#[test]
fn public_targets_are_ready_to_send() {
    let target = strict("https://Example.COM/a/../b%20c?x=1&y=a b#frag".replace(' ', "+").as_str()).unwrap();
    assert_eq!(target.origin().scheme(), Scheme::Https);
    assert_eq!(target.origin().host(), "example.com");
    assert_eq!(target.origin().port(), 443);
    assert_eq!(target.host_header(), "example.com");
    assert_eq!(target.path(), "/b%20c?x=1&y=a+b");
    assert_eq!(target.to_string(), "https://example.com");

    let target = strict("http://example.com:8080").unwrap();
    assert_eq!(target.host_header(), "example.com:8080");
    assert_eq!(target.path(), "/");
    assert_eq!(target.origin().to_string(), "http://example.com:8080");

    let target = strict("http://[2606:4700::1111]:8080/x").unwrap();
    assert_eq!(target.host_header(), "[2606:4700::1111]:8080");
    assert_eq!(target.origin().literal(), Some("2606:4700::1111".parse().unwrap()));

    for url in [
        "http://8.8.8.8/",
        "http://134744072/",
        "http://[::ffff:8.8.8.8]/",
        "https://a.b-c.example./",
        "http://xn--bcher-kva.example/",
        "http://bücher.example/",
        "http://under_score.example/",
        "https://example.com:443/",
        "http://example.com/?q={x}|^",
    ] {
        assert!(strict(url).is_ok(), "{url}: {:?}", strict(url));
    }
}

#[test]
fn what_is_not_a_url_is_invalid() {
    let long = format!("http://example.com/{}", "a".repeat(2048));
    for url in [
        "",
        "example.com",
        "/path",
        "//example.com",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "javascript:alert(1)",
        "unix:/run/x.sock",
        "http://",
        "http:///",
        "https://user@example.com/",
        "http://u:p@example.com/",
        "http://:p@example.com/",
        "http://exa mple.com/",
        "http://example.com/a b",
        "http://exa\tmple.com/",
        "http://example.com/\r\nHost: x",
        " http://example.com/",
        "http://example.com/\0",
        "http://example.com:65536/",
        "http://example.com:x/",
        "http://a..b/",
        "http://.example.com/",
        "http://exa{task}mple.com/",
        "http://exa*mple.com/",
        "http://[::1",
        "http://[fe80::1%25eth0]/",
        "http://1.2.3.4.5/",
        "http://256.1.1.1/",
        "http://0x100000000/",
        "http://%00/",
        "http://a%2fb/",
        long.as_str(),
    ] {
        assert!(matches!(strict(url), Err(TargetError::Invalid(_))), "{url:?}: {:?}", strict(url));
    }
}

#[test]
fn forbidden_literals_are_refused_in_every_spelling() {
    for url in [
        // loopback
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0177.1/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://127.0.0.1./",
        "http://0x7F.0x0.0x0.0x1/",
        "http://127.0x0.1/",
        "http://１２７.０.０.１/",
        "http://①②⑦.⓪.⓪.①/",
        "http://127。0。0。1/",
        "http://%31%32%37.0.0.1/",
        "http://localhost/",
        "http://LOCALHOST:8080/",
        "http://localhost./",
        "http://a.localhost/",
        "http://ⓛocalhost/",
        "http:\\\\127.0.0.1\\",
        "http:127.0.0.1",
        "http://example.com@127.0.0.1.:80/".replace("example.com@", "").as_str(),
        "http://[::1]/",
        "http://[0:0:0:0:0:0:0:1]/",
        "http://[::127.0.0.1]/",
        // mapped, compatible, translated, tunnelled
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[0:0:0:0:0:ffff:10.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[64:ff9b::8.8.8.8]/",
        "http://[64:ff9b:1::1]/",
        "http://[2002:7f00:1::]/",
        "http://[2001:0:4136:e378::]/",
        // unspecified, private, shared, link-local, reserved
        "http://0/",
        "http://0.0.0.0/",
        "http://[::]/",
        "http://10.0.0.1/",
        "http://012.1/",
        "http://192.168.0.1/",
        "http://3232235521/",
        "http://172.16.0.1/",
        "http://100.64.0.1/",
        "http://169.254.1.1/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://4294967295/",
        "http://[fe80::1]/",
        "http://[fec0::1]/",
        "http://[fc00::1]/",
        "http://[fd12::1]/",
        "http://[ff02::1]/",
        "http://[2001:db8::1]/",
        "http://[3fff::1]/",
        "http://[5f00::1]/",
        "http://[100::1]/",
        "http://192.0.2.1/",
        "http://198.51.100.1/",
    ] {
        assert_eq!(strict(url).err(), Some(TargetError::Forbidden(Refusal::NotGlobal)), "{url}");
    }
    for url in [
        "http://169.254.169.254/latest/meta-data/",
        "http://2852039166/",
        "http://0xA9FEA9FE/",
        "http://0251.0376.0251.0376/",
        "http://[::ffff:169.254.169.254]/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://[fd00:ec2::254]/",
        "http://168.63.129.16/",
        "http://[64:ff9b::a9fe:a9fe]/",
    ] {
        assert_eq!(strict(url).err(), Some(TargetError::Forbidden(Refusal::Metadata)), "{url}");
        let development = Target::parse(url, &AddressPolicy::development());
        assert_eq!(development.err(), Some(TargetError::Forbidden(Refusal::Metadata)), "{url}");
    }
    for url in ["http://example.com:22/", "http://8.8.8.8:25/", "http://example.com:6379/", "https://example.com:0/"] {
        assert_eq!(strict(url).err(), Some(TargetError::Forbidden(Refusal::Port)), "{url}");
    }
}

#[test]
fn allowed_networks_and_development_mode_open_their_part_only() {
    let policy = AddressPolicy { allow: vec!["10.0.0.0/8".parse().unwrap()], ..AddressPolicy::default() };
    assert!(Target::parse("http://10.1.2.3:81/", &policy).is_ok());
    assert!(Target::parse("http://[::ffff:10.1.2.3]/", &policy).is_ok());
    assert!(Target::parse("http://worker.internal:81/", &policy).is_ok(), "the lookup decides");
    assert!(Target::parse("http://192.168.0.1/", &policy).is_err());
    assert!(Target::parse("http://localhost/", &policy).is_err());
    assert!(Target::parse("http://localhost:81/", &AddressPolicy::development()).is_ok());
    assert!(Target::parse("http://[::1]:81/", &AddressPolicy::development()).is_ok());
}

#[test]
fn the_task_name_fills_path_and_query_but_cannot_leave_them() {
    let target = strict("https://example.com/run/{task}/now?name={task}").unwrap();
    assert_eq!(target.with_task("mail.send").unwrap().path(), "/run/mail.send/now?name=mail.send");
    let tricky = target.with_task("../a b/?#é\r\n").unwrap();
    assert_eq!(tricky.path(), "/run/..%2Fa%20b%2F%3F%23%C3%A9%0D%0A/now?name=..%2Fa%20b%2F%3F%23%C3%A9%0D%0A");
    assert_eq!(tricky.origin(), target.origin());
    assert!(target.with_task("..").is_err());
    assert_eq!(strict("https://example.com/fixed").unwrap().with_task("..").unwrap().path(), "/fixed");
}

#[test]
fn printing_a_target_shows_no_path() {
    let target = strict("https://example.com/secret?token=abc").unwrap();
    assert_eq!(format!("{target} {target:?}"), "https://example.com Target(https://example.com)");
}

/// An IPv4 address in one of the many spellings that parsers take.
fn spelt(address: u32, style: u8) -> String {
    let [a, b, c, d] = address.to_be_bytes();
    match style % 7 {
        0 => format!("{a}.{b}.{c}.{d}"),
        1 => address.to_string(),
        2 => format!("{address:#x}"),
        3 => format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        4 => format!("{a}.{}", address & 0x00ff_ffff),
        5 => format!("[::ffff:{a}.{b}.{c}.{d}]"),
        _ => format!("{a:#x}.{b}.0{:o}", address & 0xffff),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parsing_never_panics(text in "\\PC*", tail in "[!-~]{0,40}") {
        let _ = strict(&text);
        let _ = strict(&format!("http://{text}"));
        let _ = strict(&format!("http://{tail}"));
    }

    #[test]
    fn whatever_is_accepted_is_fine_to_dial(host in "[0-9a-fx.:\\[\\]%]{1,24}") {
        if let Ok(target) = strict(&format!("http://{host}/")) && let Some(ip) = target.origin().literal() {
            prop_assert!(AddressPolicy::default().judge(ip).is_ok(), "{host} became {ip}");
        }
    }

    #[test]
    fn every_spelling_of_an_address_is_judged_alike(address: u32, style: u8) {
        let policy = AddressPolicy::default();
        let judged = policy.judge(std::net::Ipv4Addr::from(address).into());
        let parsed = strict(&format!("http://{}/", spelt(address, style)));
        prop_assert_eq!(parsed.map(|_| ()), judged.map_err(TargetError::Forbidden));
    }

    #[test]
    fn every_v6_literal_is_judged(address: u128) {
        let ip = std::net::Ipv6Addr::from(address);
        let judged = AddressPolicy::default().judge(ip.into());
        let parsed = strict(&format!("http://[{ip}]/"));
        prop_assert_eq!(parsed.map(|_| ()), judged.map_err(TargetError::Forbidden));
    }
}
