//! The four libraries behind one step: some input in, some output out.

use brotli::enc::StandardAlloc;
use brotli::{BrotliDecompressStream, BrotliResult, BrotliState};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

use super::Broken;
use crate::Coding;

/// The largest window of zstd, as a power of two: 8 MiB is what every receiver has to take and no sender may exceed
/// (RFC 9659). Windows of br end at 16 MiB by themselves, as long as its extension for larger ones stays off.
const ZSTD_WINDOW: u32 = 23;
/// The window of gzip and deflate, as a power of two: there is no other.
const FLATE_WINDOW: u8 = 15;

pub(super) enum Engine {
    Flate(Decompress),
    /// `deflate` before its first byte, which says whether it has the header of zlib.
    Unknown,
    Zstd(ZstdDecoder<'static>),
    Brotli(Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>),
}

/// What a step did.
pub(super) struct Step {
    pub used: usize,
    pub made: usize,
    /// The input taken so far is a whole body, and all of it has been given.
    pub ended: bool,
}

impl Engine {
    pub(super) fn new(coding: Coding) -> Result<Self, Broken> {
        Ok(match coding {
            Coding::Gzip => Self::Flate(Decompress::new_gzip(FLATE_WINDOW)),
            Coding::Deflate => Self::Unknown,
            Coding::Zstd => {
                let mut decoder = ZstdDecoder::new().map_err(|_| Broken)?;
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW)).map_err(|_| Broken)?;
                Self::Zstd(decoder)
            }
            Coding::Brotli => {
                let new = BrotliState::new_strict(StandardAlloc::default(), StandardAlloc::default(), StandardAlloc::default());
                Self::Brotli(Box::new(new))
            }
        })
    }

    pub(super) fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, Broken> {
        if let Self::Unknown = self {
            let Some(first) = input.first() else { return Ok(Step { used: 0, made: 0, ended: false }) };
            // zlib begins with method 8 and a window of at most 32 KiB; no encoder begins bare deflate like that.
            *self = Self::Flate(Decompress::new(first & 0x0f == 8 && first >> 4 <= 7));
        }
        match self {
            Self::Unknown => Err(Broken),
            Self::Flate(engine) => flate(engine, input, out),
            Self::Zstd(engine) => zstd(engine, input, out),
            Self::Brotli(state) => brotli(state, input, out),
        }
    }
}

fn flate(engine: &mut Decompress, input: &[u8], out: &mut [u8]) -> Result<Step, Broken> {
    let (used, made) = (engine.total_in(), engine.total_out());
    let status = engine.decompress(input, out, FlushDecompress::None).map_err(|_| Broken)?;
    let (used, made) = ((engine.total_in() - used) as usize, (engine.total_out() - made) as usize);
    Ok(Step { used, made, ended: status == Status::StreamEnd })
}

fn zstd(engine: &mut ZstdDecoder<'static>, input: &[u8], out: &mut [u8]) -> Result<Step, Broken> {
    let (mut from, mut to) = (InBuffer::around(input), OutBuffer::around(out));
    // Zero: the frame is at its end and all of it is in the output.
    let left = engine.run(&mut from, &mut to).map_err(|_| Broken)?;
    Ok(Step { used: from.pos(), made: to.pos(), ended: left == 0 })
}

fn brotli(
    state: &mut BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    input: &[u8],
    out: &mut [u8],
) -> Result<Step, Broken> {
    let (mut left, mut used) = (input.len(), 0);
    let (mut room, mut made, mut total) = (out.len(), 0, 0);
    let result = BrotliDecompressStream(&mut left, &mut used, input, &mut room, &mut made, out, &mut total, state);
    match result {
        BrotliResult::ResultFailure => Err(Broken),
        BrotliResult::ResultSuccess => Ok(Step { used, made, ended: true }),
        BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => Ok(Step { used, made, ended: false }),
    }
}
