//! Decoding in steps of a size that the caller sets, so that no input inflates to more than was asked for.

mod engine;
#[cfg(test)]
mod tests;

use bytes::{Bytes, BytesMut};

use crate::Coding;
use engine::{Engine, Step};

/// How much [`decode`] asks for at a time.
const PIECE: usize = 64 << 10;

/// A member of gzip costs more than its bytes, because each has a window of its own: so many are free, then they must have
/// [`MEMBER_BYTES`] on average.
const FREE_MEMBERS: u64 = 64;
const MEMBER_BYTES: u64 = 1024;

/// The bytes are not what the coding says, or end too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the compressed bytes are broken or incomplete")]
pub struct Broken;

/// Decodes one body, in pieces.
pub struct Decoder {
    engine: Engine,
    coding: Coding,
    /// The input so far may be the whole of it.
    complete: bool,
    members: u64,
    taken: u64,
    given: u64,
}

impl Decoder {
    /// A decoder at the beginning of a body. An error would be a lack of memory.
    pub fn new(coding: Coding) -> Result<Self, Broken> {
        Ok(Self { engine: Engine::new(coding)?, coding, complete: false, members: 1, taken: 0, given: 0 })
    }

    /// Takes bytes away from the beginning of `input` and appends at most `most` decoded ones to `out`. Returns how many
    /// were appended; zero says that all input was taken and more of it is needed, if there is more.
    pub fn read(&mut self, input: &mut &[u8], out: &mut BytesMut, most: usize) -> Result<usize, Broken> {
        let start = out.len();
        out.resize(start + most, 0);
        let made = self.step(input, &mut out[start..]);
        out.truncate(start + made.as_ref().copied().unwrap_or(0));
        made
    }

    /// Says whether the body may end here.
    pub fn finish(&self) -> Result<(), Broken> {
        if self.complete { Ok(()) } else { Err(Broken) }
    }

    /// Compressed bytes taken so far.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Decoded bytes given so far.
    pub fn given(&self) -> u64 {
        self.given
    }

    fn step(&mut self, input: &mut &[u8], out: &mut [u8]) -> Result<usize, Broken> {
        loop {
            if self.complete {
                if input.is_empty() {
                    return Ok(0);
                }
                self.next_member()?;
            }
            let Step { used, made, ended } = self.engine.step(input, out)?;
            *input = input.get(used..).unwrap_or_default();
            self.taken += used as u64;
            self.given += made as u64;
            self.complete = ended;
            if made > 0 {
                return Ok(made);
            }
            if input.is_empty() && (used == 0 || ended) {
                return Ok(0);
            }
            // Neither forwards nor at the end: the library would go on like this for ever.
            if used == 0 && !ended {
                return Err(Broken);
            }
        }
    }

    /// More bytes after an end: gzip and zstd may go on with another member, the others may not.
    fn next_member(&mut self) -> Result<(), Broken> {
        match self.coding {
            Coding::Brotli | Coding::Deflate => return Err(Broken),
            // The library goes on with the next frame by itself, in the same window.
            Coding::Zstd => {}
            Coding::Gzip => {
                self.members += 1;
                if self.members > FREE_MEMBERS && self.members * MEMBER_BYTES > self.taken {
                    return Err(Broken);
                }
                self.engine = Engine::new(self.coding)?;
            }
        }
        self.complete = false;
        Ok(())
    }
}

/// A decoded body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Its bytes, as many as were allowed.
    pub bytes: Bytes,
    /// There were more.
    pub truncated: bool,
}

/// Decodes a whole body, at most `limit` bytes of it: what is behind the limit is not looked at. Nothing at all is an empty
/// body, whatever its coding.
pub fn decode(coding: Coding, input: &[u8], limit: usize) -> Result<Decoded, Broken> {
    if input.is_empty() {
        return Ok(Decoded { bytes: Bytes::new(), truncated: false });
    }
    let mut decoder = Decoder::new(coding)?;
    let mut input = input;
    let mut out = BytesMut::with_capacity(input.len().saturating_mul(3).min(limit));
    // One byte more than allowed is enough to know that there is more.
    while out.len() <= limit {
        let room = PIECE.min(limit - out.len() + 1);
        if decoder.read(&mut input, &mut out, room)? == 0 {
            decoder.finish()?;
            return Ok(Decoded { bytes: out.freeze(), truncated: false });
        }
    }
    out.truncate(limit);
    Ok(Decoded { bytes: out.freeze(), truncated: true })
}
