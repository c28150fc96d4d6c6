#![allow(clippy::unwrap_used)]
use std::io::Write;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::encode;

fn plain(seed: u64, len: usize) -> Vec<u8> {
    // Half text, half noise: both literals and matches.
    let mut state = seed | 1;
    let noise = std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    noise.zip(b"the quick brown fox ".iter().cycle()).map(|(a, b)| if a < 128 { a } else { *b }).take(len).collect()
}

/// Feeds the decoder pieces of `piece` bytes and takes at most `most` at a time.
fn in_pieces(coding: Coding, bytes: &[u8], piece: usize, most: usize) -> Result<Vec<u8>, Broken> {
    let mut decoder = Decoder::new(coding)?;
    let mut out = BytesMut::new();
    for mut piece in bytes.chunks(piece) {
        loop {
            let made = decoder.read(&mut piece, &mut out, most)?;
            assert!(made <= most);
            if made == 0 {
                break;
            }
        }
        assert!(piece.is_empty());
    }
    decoder.finish()?;
    assert_eq!((decoder.taken(), decoder.given()), (bytes.len() as u64, out.len() as u64));
    Ok(out.to_vec())
}

#[test]
fn what_is_encoded_is_decoded_however_it_is_cut() {
    for coding in Coding::ALL {
        for len in [0, 1, 100, 100_000] {
            let plain = plain(7, len);
            let packed = encode(coding, &plain).unwrap();
            for (piece, most) in [(1, 7), (3, 100_000), (1000, 1), (usize::MAX, 1000)] {
                assert!(in_pieces(coding, &packed, piece, most).unwrap() == plain, "{coding:?} {len} {piece} {most}");
            }
            let decoded = decode(coding, &packed, len).unwrap();
            assert!(decoded.bytes == plain && !decoded.truncated, "{coding:?} {len}");
            if len > 0 {
                let decoded = decode(coding, &packed, len - 1).unwrap();
                assert!(decoded.bytes == plain[..len - 1] && decoded.truncated, "{coding:?} {len}");
            }
        }
    }
}

#[test]
fn deflate_may_lack_its_header() {
    let plain = plain(3, 10_000);
    for plain in [&plain[..], b"", b"x"] {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(plain).unwrap();
        let packed = encoder.finish().unwrap();
        assert!(decode(Coding::Deflate, &packed, 20_000).unwrap().bytes == plain);
    }
}

#[test]
fn several_members_are_one_body_where_the_format_says_so() {
    for coding in Coding::ALL {
        let mut packed = encode(coding, b"one ").unwrap();
        packed.extend(encode(coding, b"").unwrap());
        packed.extend(encode(coding, b"two").unwrap());
        let expected = match coding {
            Coding::Gzip | Coding::Zstd => Ok("one two".as_bytes().to_vec()),
            Coding::Brotli | Coding::Deflate => Err(Broken),
        };
        assert_eq!(in_pieces(coding, &packed, 5, 100), expected, "{coding:?}");
    }
}

#[test]
fn a_body_that_ends_early_or_goes_on_is_broken() {
    for coding in Coding::ALL {
        let packed = encode(coding, &plain(5, 5_000)).unwrap();
        for len in 1..packed.len() {
            assert_eq!(decode(coding, &packed[..len], 10_000), Err(Broken), "{coding:?} {len}");
        }
        let longer = [&packed[..], b"junk"].concat();
        assert_eq!(decode(coding, &longer, 10_000), Err(Broken), "{coding:?}");
        assert_eq!(decode(coding, b"", 10), Ok(Decoded { bytes: Bytes::new(), truncated: false }));
    }
}

#[test]
fn damage_is_noticed_where_the_format_has_a_checksum() {
    for coding in [Coding::Gzip, Coding::Deflate] {
        let mut packed = encode(coding, &plain(9, 3_000)).unwrap();
        let last = packed.len() - 1;
        packed[last] ^= 1;
        assert_eq!(decode(coding, &packed, 10_000), Err(Broken), "{coding:?}");
    }
}

#[test]
fn a_bomb_gives_what_is_asked_for_and_not_more() {
    let zeros = vec![0; 64 << 20];
    for coding in Coding::ALL {
        let packed = encode(coding, &zeros).unwrap();
        assert!(packed.len() < 100_000, "{coding:?} {}", packed.len());
        let started = Instant::now();
        let decoded = decode(coding, &packed, 1 << 20).unwrap();
        assert!(decoded.truncated && decoded.bytes.len() == 1 << 20);
        assert!(started.elapsed() < Duration::from_secs(5), "{coding:?} took {:?}", started.elapsed());
    }
}

#[test]
fn members_that_hold_nothing_do_not_pile_up() {
    let empty = encode(Coding::Gzip, b"").unwrap();
    assert_eq!(decode(Coding::Gzip, &empty.repeat(60), 10).unwrap().bytes.len(), 0);
    assert_eq!(decode(Coding::Gzip, &empty.repeat(50_000), 10), Err(Broken));
    let member = encode(Coding::Gzip, &plain(1, 4_000)).unwrap();
    assert_eq!(decode(Coding::Gzip, &member.repeat(300), 2_000_000).unwrap().bytes.len(), 1_200_000);
}

#[test]
fn a_window_larger_than_receivers_must_have_is_refused() {
    // The head of a frame of zstd with a window of 2^27 bytes.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (27 - 10) << 3, 0x01, 0x00, 0x00];
    assert_eq!(decode(Coding::Zstd, &frame, 10), Err(Broken));
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (23 - 10) << 3, 0x01, 0x00, 0x00];
    assert_eq!(decode(Coding::Zstd, &frame, 10).unwrap().bytes.len(), 0);
}

proptest! {
    #[test]
    fn no_bytes_panic_or_exceed_the_limit(bytes in prop::collection::vec(any::<u8>(), 0..300), n in 0..4_usize) {
        if let Ok(decoded) = decode(Coding::ALL[n], &bytes, 1_000) {
            prop_assert!(decoded.bytes.len() <= 1_000);
        }
    }

    #[test]
    fn damaged_bodies_neither_panic_nor_exceed_the_limit(at in 0..2_000_usize, bit in 0..8_u32, n in 0..4_usize) {
        let mut packed = encode(Coding::ALL[n], &plain(11, 4_000)).unwrap();
        let at = at % packed.len();
        packed[at] ^= 1_u8 << bit;
        if let Ok(decoded) = decode(Coding::ALL[n], &packed, 5_000) {
            prop_assert!(decoded.bytes.len() <= 5_000);
        }
        let _ = in_pieces(Coding::ALL[n], &packed, 10, 100);
    }
}
