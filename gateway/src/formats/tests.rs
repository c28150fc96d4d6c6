#![allow(clippy::unwrap_used)]
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const BOUNDS: Bounds = Bounds { what: "a task", bytes: 1 << 20, depth: 128 };

fn text(format: Format, bytes: &[u8]) -> Result<String, Problem> {
    format.rewrite(bytes, BOUNDS).map(|text| String::from_utf8(text.to_vec()).unwrap())
}

/// Code and pointer of the refusal.
fn refusal(format: Format, bytes: &[u8]) -> (Code, String) {
    let problem = text(format, bytes).unwrap_err();
    (problem.code, problem.errors.first().map(|error| error.pointer.clone()).unwrap_or_default())
}

fn yaml(text_: &str) -> String {
    text(Format::Yaml, text_.as_bytes()).unwrap_or_else(|problem| panic!("{text_:?}: {problem:?}"))
}

fn refused_yaml(text: &str) -> (Code, String) {
    refusal(Format::Yaml, text.as_bytes())
}

fn invalid(pointer: &str) -> (Code, String) {
    (Code::InvalidField, pointer.to_owned())
}

fn malformed() -> (Code, String) {
    (Code::Malformed, String::new())
}

#[test]
fn media_types_name_formats() {
    assert_eq!(Format::parse("application/vnd.msgpack"), Some(Format::MessagePack));
    assert_eq!(Format::parse("text/yaml"), Some(Format::Yaml));
    assert_eq!(Format::parse("application/x-ndjson"), None);
}

#[test]
fn msgpack_says_what_json_says() {
    let cases: &[(&[u8], &str)] = &[
        (b"\xc0", "null"),
        (b"\xc2", "false"),
        (b"\xc3", "true"),
        (b"\x00", "0"),
        (b"\x7f", "127"),
        (b"\xff", "-1"),
        (b"\xe0", "-32"),
        (b"\xcc\xff", "255"),
        (b"\xcd\xff\xff", "65535"),
        (b"\xce\xff\xff\xff\xff", "4294967295"),
        (b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "18446744073709551615"),
        (b"\xd0\x80", "-128"),
        (b"\xd1\x80\x00", "-32768"),
        (b"\xd2\x80\x00\x00\x00", "-2147483648"),
        (b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", "-9223372036854775808"),
        (b"\xca\x3f\x00\x00\x00", "0.5"),
        (b"\xca\x3d\xcc\xcc\xcd", "0.10000000149011612"),
        (b"\xcb\x3f\xb9\x99\x99\x99\x99\x99\x9a", "0.1"),
        (b"\xa0", "\"\""),
        (b"\xa3\"\\\n", r#""\"\\\n""#),
        (b"\xd9\x02\xc3\xbc", "\"\u{fc}\""),
        (b"\xda\x00\x01a", "\"a\""),
        (b"\xdb\x00\x00\x00\x01a", "\"a\""),
        (b"\x90", "[]"),
        (b"\x93\x01\x90\x91\x02", "[1,[],[2]]"),
        (b"\xdc\x00\x01\x01", "[1]"),
        (b"\xdd\x00\x00\x00\x01\x01", "[1]"),
        (b"\x80", "{}"),
        (b"\x82\xa1a\x01\xa1b\x81\xa1c\x80", r#"{"a":1,"b":{"c":{}}}"#),
        (b"\xde\x00\x01\xa1a\xc0", r#"{"a":null}"#),
        (b"\xdf\x00\x00\x00\x01\xa1a\xc0", r#"{"a":null}"#),
    ];
    for (bytes, json) in cases {
        assert_eq!(text(Format::MessagePack, bytes).unwrap(), *json, "{bytes:x?}");
    }
}

#[test]
fn msgpack_that_json_cannot_say_is_refused_where_it_stands() {
    let in_kwargs = |bytes: &[u8]| [b"\x82\xa4task\xa1a\xa6kwargs\x81\xa3a/b\x92\x01".as_slice(), bytes].concat();
    let cases: &[&[u8]] = &[
        b"\xc4\x01x",
        b"\xc5\x00\x01x",
        b"\xc6\x00\x00\x00\x01x",
        b"\xd4\x01x",
        b"\xd8\x01xxxxxxxxxxxxxxxx",
        b"\xc7\x01\x05x",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xca\x7f\xc0\x00\x00",
        b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",
        b"\xa2\xc3\x28",
        b"\x81\x01\x02",
        b"\x81\xc4\x01x\x02",
        b"\x81\xa1\xff\x02",
    ];
    for bytes in cases {
        assert_eq!(refusal(Format::MessagePack, &in_kwargs(bytes)), invalid("/kwargs/a~1b/1"), "{bytes:x?}");
    }
    assert_eq!(refusal(Format::MessagePack, b"\x81\xa1a\x82\xa1b\x01\xa1b\x02"), invalid("/a/b"));
    assert_eq!(refusal(Format::MessagePack, b"\x81\x01\x02"), invalid(""));
}

#[test]
fn broken_msgpack_is_malformed() {
    for bytes in [
        &b""[..],
        b"\xc1",
        b"\x91",
        b"\x91\xc1",
        b"\xa5abc",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff\xa1a",
        b"\x01\x02",
        b"\xcd\x00",
        b"\xdb\xff\xff\xff\xffx",
        b"\xc0\n",
    ] {
        assert_eq!(refusal(Format::MessagePack, bytes), malformed(), "{bytes:x?}");
    }
}

#[test]
fn yaml_says_what_json_says() {
    for (given, json) in [
        ("null", "null"),
        ("~", "null"),
        ("a:", r#"{"a":null}"#),
        ("True", "true"),
        ("FALSE", "false"),
        ("yes", "\"yes\""),
        ("no", "\"no\""),
        ("0", "0"),
        ("-0", "-0"),
        ("+12", "12"),
        ("007", "7"),
        ("0o17", "15"),
        ("0xfF", "255"),
        ("0x", "\"0x\""),
        ("0o8", "\"0o8\""),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("1.50", "1.50"),
        (".5", "0.5"),
        ("-1.", "-1.0"),
        ("1e3", "1e3"),
        ("+1.5E-03", "1.5e-03"),
        (".", "\".\""),
        ("1_000", "\"1_000\""),
        ("1e", "\"1e\""),
        ("1.2.3", "\"1.2.3\""),
        ("- -", "[[null]]"),
        ("--1", "\"--1\""),
        ("2026-01-31T12:00:00Z", "\"2026-01-31T12:00:00Z\""),
        ("12:30:45", "\"12:30:45\""),
        ("'12'", "\"12\""),
        ("\"\\u00fc\\n\"", "\"\u{fc}\\n\""),
        ("|\n  a\n  b\n", r#""a\nb\n""#),
        (">-\n  a\n  b\n", "\"a b\""),
        ("[]", "[]"),
        ("{}", "{}"),
        ("[1, {a: b}, [c]]", r#"[1,{"a":"b"},["c"]]"#),
        ("# a comment\n---\na: 1\nb: [x, y] # another\n...\n", r#"{"a":1,"b":["x","y"]}"#),
        ("%YAML 1.2\n---\na", "\"a\""),
        ("'1': a\n\"true\": b", r#"{"1":"a","true":"b"}"#),
        ("? a\n: 1", r#"{"a":1}"#),
        // Not a merge: nothing is looked up.
        ("{<<: {a: 1}, b: 2}", r#"{"<<":{"a":1},"b":2}"#),
        ("&a b", "\"b\""),
    ] {
        assert_eq!(yaml(given), json, "{given:?}");
    }
}

#[test]
fn yaml_that_json_cannot_say_is_refused_where_it_stands() {
    for (given, pointer) in [
        ("a: [1, .nan]", "/a/1"),
        ("a: -.INF", "/a"),
        ("a: 0xfffffffffffffffffffffffffffffffff", "/a"),
        ("a: !!python/object/apply:os.system ['true']", "/a"),
        ("a: !!binary aGk=", "/a"),
        ("a: !!str 1", "/a"),
        ("a: ! 1", "/a"),
        ("!!map {a: 1}", ""),
        ("a: {!!str b: 1}", "/a"),
        ("a: &x 1\nb: *x", "/b"),
        ("a: *x", "/a"),
        ("a: &x k\nb: {*x : 1}", "/b"),
        ("a: &x [*x]", "/a/0"),
        ("a: {1: x}", "/a"),
        ("a: {true: x}", "/a"),
        ("a: {~: x}", "/a"),
        ("a: {[b]: x}", "/a"),
        ("a: {? {b: c} : x}", "/a"),
        ("a: {b: 1, \"b\": 2}", "/a/b"),
        ("- a\n- b: 1\n  b: 2", "/1/b"),
    ] {
        assert_eq!(refused_yaml(given), invalid(pointer), "{given:?}");
    }
}

#[test]
fn broken_yaml_is_malformed() {
    for given in ["", "   \n", "# nothing\n", "[", "{", "{---", "a: b: c", "a\n---\nb", "\"x", "a: |x", "]", "a: %", "\u{0}"] {
        assert_eq!(refused_yaml(given), malformed(), "{given:?}");
    }
    assert_eq!(refusal(Format::Yaml, b"a: \xff"), malformed());
}

#[test]
fn depth_ends_where_that_of_json_ends() {
    for (format, at_most, one_more) in [
        (Format::MessagePack, nested(128), nested(129)),
        (Format::Yaml, flow(128), flow(129)),
        (Format::Yaml, block(128), block(129)),
    ] {
        assert!(text(format, &at_most).is_ok());
        assert_eq!(refusal(format, &one_more), invalid("/a"));
    }
    assert_eq!(refusal(Format::Yaml, &flow(100_000)), invalid("/a"));
    assert_eq!(refusal(Format::MessagePack, &nested(100_000)), invalid("/a"));
}

fn nested(levels: usize) -> Vec<u8> {
    [b"\x81\xa1a", b"\x91".repeat(levels - 2).as_slice(), b"\x90"].concat()
}

fn flow(levels: usize) -> Vec<u8> {
    format!("a: {}{}", "[".repeat(levels - 1), "]".repeat(levels - 1)).into()
}

fn block(levels: usize) -> Vec<u8> {
    format!("a:\n {}x", "- ".repeat(levels - 1)).into()
}

#[test]
fn text_that_grows_beyond_the_limit_is_refused() {
    // Every byte becomes six.
    let mut packed = b"\xdb\x00\x0f\x00\x00".to_vec();
    packed.extend(std::iter::repeat_n(1, 0x000f_0000));
    assert_eq!(refusal(Format::MessagePack, &packed).0, Code::PayloadTooLarge);
    let mut packed = b"\xdd\x00\x04\x00\x00".to_vec();
    packed.extend(std::iter::repeat_n(0xc0, 0x0004_0000));
    assert_eq!(refusal(Format::MessagePack, &packed).0, Code::PayloadTooLarge);
}

/// What makes parsers slow: each of these, a quarter of a megabyte of it, is done with at once.
#[test]
fn nothing_takes_long() {
    let units = [
        "[", "{", "- ", "? ", "a: ", "&a ", "*a ", "\"", "'", "|\n", "#", "\n", " ", "\t", "---\n", "%A\n", "a\n", "[a,", "{a: ",
        "x:\n ", "- - a\n", "[],", "? a\n", "a: b\n", ": ", "!<a> ", "<<: ", "[? ", "{\"a\":", "\\", "\u{feff}",
    ];
    for unit in units {
        for start in ["", "[", "a: ", "\"", "|\n "] {
            let hostile = format!("{start}{}", unit.repeat((1 << 18) / unit.len()));
            let started = Instant::now();
            let _ = text(Format::Yaml, hostile.as_bytes());
            assert!(started.elapsed() < Duration::from_secs(5), "{start:?} {unit:?} took {:?}", started.elapsed());
        }
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i32>().prop_map(|number| Value::from(f64::from(number) / 64.0)),
        // Printable, which is what YAML takes.
        "[ -~\u{e4}\u{4e16}]{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec(("[ -~]{0,8}", inner), 0..6).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn msgpack_keeps_values(value in any_json()) {
        let packed = rmp_serde::to_vec_named(&value).unwrap();
        let json = text(Format::MessagePack, &packed).unwrap();
        prop_assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), value);
    }

    #[test]
    fn msgpack_keeps_floats_to_the_last_bit(number in any::<f64>()) {
        let json = text(Format::MessagePack, &rmp_serde::to_vec(&number).unwrap());
        match json {
            Ok(json) => prop_assert_eq!(json.parse::<f64>().unwrap().to_bits(), number.to_bits()),
            Err(_) => prop_assert!(!number.is_finite()),
        }
    }

    /// JSON is YAML.
    #[test]
    fn yaml_keeps_values(value in any_json(), pretty in any::<bool>()) {
        let given = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let json = text(Format::Yaml, given.unwrap().as_bytes()).unwrap();
        prop_assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), value);
    }

    #[test]
    fn any_bytes_become_json_or_a_refusal(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for format in [Format::MessagePack, Format::Yaml] {
            if let Ok(json) = text(format, &bytes) {
                prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&json).is_ok(), "{json}");
            }
        }
    }

    #[test]
    fn any_text_becomes_json_or_a_refusal(given in "[-\\[\\]{}:,?&*!#|>'\"%@ \n\t0-9a-z.~<=]{0,80}") {
        if let Ok(json) = text(Format::Yaml, given.as_bytes()) {
            prop_assert!(serde_json::from_str::<Value>(&json).is_ok(), "{json}");
        }
    }
}

#[tokio::test]
async fn large_bodies_are_rewritten_as_small_ones_are() {
    for count in [10, 30_000] {
        let value: Value = (0..count).map(|n| json!({"n": n})).collect();
        let packed = Bytes::from(rmp_serde::to_vec_named(&value).unwrap());
        let json = Format::MessagePack.json(packed, BOUNDS).await.unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&json).unwrap(), value);
    }
    assert_eq!(Format::Json.json(Bytes::from_static(b" {} "), BOUNDS).await.unwrap(), " {} ");
}
