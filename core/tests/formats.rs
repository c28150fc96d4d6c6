//! The stored formats, byte by byte. What an older version wrote must stay readable: a failing case here is a new format
//! that needs a number of its own, never a new expectation.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use lovage_core::{AttemptEntry, Body, Flags, Head, LaneId, Millis, Reason, ResultValue, SessionId, Spec, State, TaskError};

fn head() -> Head {
    Head {
        version: 7,
        state: State::Running,
        reason: Reason::Accepted,
        priority: 9,
        flags: Flags::CANCEL.with(Flags::HAS_ATTEMPTS),
        attempt: 3,
        budget: 2,
        lost: 1,
        generation: 4,
        session: SessionId(0x0102_0304_0506_0708),
        lane: LaneId(0x1112_1314_1516_1718),
        worker: 0x2122_2324,
        seq: 0x3132_3334_3536_3738,
        created: Millis(1_800_000_000_001),
        due: Millis(1_800_000_000_002),
        expires: Millis(1_800_000_000_003),
        deadline: Millis(1_800_000_000_004),
        started: Millis(1_800_000_000_005),
        first_started: Millis(1_800_000_000_006),
        ended: Millis(1_800_000_000_007),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, b| {
        write!(out, "{b:02x}").unwrap();
        out
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

const HEAD_1: &str = "00000000000000070103050900820002000000030104000001020304050607081112131415161718313233343536373801a3185c500101a3185c500201a3185c500301a3185c500401a3185c500501a3185c500601a3185c5007212223240000";
const SPEC_1: &str = "87a47461736bad696d616765732e726573697a65a57175657565a56d65646961aa74696d655f6c696d6974a3333073a5726574727981ac6d61785f617474656d70747303a963616c6c6261636b7381aa6f6e5f7375636365737381a375726cb668747470733a2f2f612e6578616d706c652f686f6f6ba66c6162656c7381a8637573746f6d6572a23432ac726571756573745f6861736805";
const BODY_1: &str = "0000009887a47461736bad696d616765732e726573697a65a57175657565a56d65646961aa74696d655f6c696d6974a3333073a5726574727981ac6d61785f617474656d70747303a963616c6c6261636b7381aa6f6e5f7375636365737381a375726cb668747470733a2f2f612e6578616d706c652f686f6f6ba66c6162656c7381a8637573746f6d6572a23432ac726571756573745f68617368050a746578742f706c61696e7061796c6f6164";
const RESULT_1: &str = "00106170706c69636174696f6e2f6a736f6e5b315d";
const ATTEMPT_1: &str = "8aa66e756d62657202aa67656e65726174696f6e01a773746172746564cf000001a3185c5000a5656e646564cf000001a3185c5064a76f7574636f6d65a76261636b6f6666a6776f726b65724da8696e7374616e6365b3687474703a2f2f3132372e302e302e313a392fa6737461747573cd01f4a56572726f7282a474797065a44f6f7073a76d657373616765a26e6fa765786365727074a26e6f";

fn spec() -> Spec {
    serde_json::from_value(serde_json::json!({
        "task": "images.resize", "queue": "media", "time_limit": "30s", "retry": {"max_attempts": 3},
        "labels": {"customer": "42"}, "callbacks": {"on_success": {"url": "https://a.example/hook"}}, "request_hash": 5
    }))
    .unwrap()
}

fn attempt() -> AttemptEntry {
    AttemptEntry {
        number: 2,
        generation: 1,
        started: Millis(1_800_000_000_000),
        ended: Millis(1_800_000_000_100),
        outcome: "backoff".into(),
        worker: 77,
        instance: Some("http://127.0.0.1:9/".into()),
        status: Some(500),
        error: Some(TaskError::new("Oops", "no")),
        excerpt: Some("no".into()),
        ..AttemptEntry::default()
    }
}

#[test]
fn format_1_is_still_written() {
    let body = Body::encode(&spec().encode(), "text/plain", b"payload");
    let result = ResultValue::Value { content_type: "application/json".into(), bytes: Bytes::from_static(b"[1]") };
    let written = [hex(&head().pack()), hex(&spec().encode()), hex(&body), hex(&result.encode()), hex(&attempt().encode())];
    for (written, kept) in written.iter().zip([HEAD_1, SPEC_1, BODY_1, RESULT_1, ATTEMPT_1]) {
        assert_eq!(written, kept);
    }
}

#[test]
fn format_1_is_still_read() {
    assert_eq!(Head::unpack(&unhex(HEAD_1)).unwrap(), head());
    assert_eq!(Spec::decode(&unhex(SPEC_1)).unwrap(), spec());
    let body = Body::decode(&unhex(BODY_1).into()).unwrap();
    assert_eq!((&body.content_type[..], &body.payload[..]), (&b"text/plain"[..], &b"payload"[..]));
    assert_eq!(Spec::decode(&body.spec).unwrap(), spec());
    let result = ResultValue::decode(&unhex(RESULT_1).into()).unwrap();
    assert!(matches!(result, ResultValue::Value { bytes, .. } if bytes == "[1]"));
    assert_eq!(AttemptEntry::decode(&unhex(ATTEMPT_1)).unwrap(), attempt());
}
