//! Compressing whole answers, with levels that cost about as little time as they save on the wire.

use std::io::{self, Write};

use brotli::enc::BrotliEncoderParams;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use crate::Coding;

/// gzip and deflate: above this the gain is small and the time is not.
const FLATE_LEVEL: u32 = 5;
/// br: the highest level without its expensive searches.
const BROTLI_QUALITY: i32 = 4;
/// br: a window of 1 MiB, no larger than what is compressed here as a rule.
const BROTLI_WINDOW: i32 = 20;
/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;

/// Compresses `bytes`. An error would be a failure of the library, since memory does not fail to be written.
pub fn encode(coding: Coding, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let room = Vec::with_capacity(bytes.len() / 4 + 64);
    match coding {
        Coding::Gzip => {
            let mut encoder = GzEncoder::new(room, Compression::new(FLATE_LEVEL));
            encoder.write_all(bytes)?;
            encoder.finish()
        }
        Coding::Deflate => {
            let mut encoder = ZlibEncoder::new(room, Compression::new(FLATE_LEVEL));
            encoder.write_all(bytes)?;
            encoder.finish()
        }
        Coding::Zstd => zstd::bulk::compress(bytes, ZSTD_LEVEL),
        Coding::Brotli => {
            let params = BrotliEncoderParams {
                quality: BROTLI_QUALITY,
                lgwin: BROTLI_WINDOW,
                size_hint: bytes.len(),
                ..BrotliEncoderParams::default()
            };
            let (mut input, mut out) = (bytes, room);
            brotli::BrotliCompress(&mut input, &mut out, &params)?;
            Ok(out)
        }
    }
}
