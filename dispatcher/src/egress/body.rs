//! The body of an answer, taken piece by piece out of what was read, however it is framed.

use bytes::{Buf, Bytes, BytesMut};

use super::head::{Framing, Malformed};

/// Pieces up to this size are copied, so that a stored result does not hold a whole buffer.
const COPY_UP_TO: usize = 4096;
/// The most bytes of chunk extensions and trailers; they are read and dropped.
const MAX_OVERHEAD: usize = 16 * 1024;

/// What is to come.
#[derive(Debug)]
pub(super) enum Body {
    /// So many bytes.
    Length(u64),
    Chunked(Chunked),
    /// Everything until the end of the connection.
    UntilClose,
}

/// What was taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// A piece of the body, not empty.
    Piece(Bytes),
    /// More has to be read first.
    Nothing,
    /// The body is whole.
    End,
}

impl Body {
    pub(super) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunked::default()),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Takes the next piece out of `input`.
    pub(super) fn take(&mut self, input: &mut BytesMut) -> Result<Taken, Malformed> {
        match self {
            Self::Length(0) => Ok(Taken::End),
            Self::Length(left) => Ok(take_data(left, input)),
            Self::Chunked(chunked) => chunked.take(input),
            Self::UntilClose => {
                let mut endless = u64::MAX;
                Ok(take_data(&mut endless, input))
            }
        }
    }

    /// Whether the end of the connection is the end of the body.
    pub(super) fn ends_with_connection(&self) -> bool {
        matches!(self, Self::UntilClose)
    }
}

/// A piece of at most `left` bytes.
fn take_data(left: &mut u64, input: &mut BytesMut) -> Taken {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    if length == 0 {
        return Taken::Nothing;
    }
    *left -= length as u64;
    if length <= COPY_UP_TO {
        let piece = Bytes::copy_from_slice(&input[..length]);
        input.advance(length);
        return Taken::Piece(piece);
    }
    Taken::Piece(input.split_to(length).freeze())
}

/// The chunked coding.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    at: At,
    overhead: usize,
    /// Chunks that have begun.
    count: u64,
}

#[derive(Debug, Default, Clone, Copy)]
enum At {
    /// In front of a size.
    #[default]
    Start,
    /// In a size, of which so much is known.
    Size(u64),
    /// Behind the digits, in spaces or an extension.
    Extension(u64),
    /// Behind the CR of that line.
    SizeEnd(u64),
    /// So many bytes of a chunk are to come.
    Data(u64),
    /// Behind a chunk, in front of CR and LF.
    DataCr,
    DataLf,
    /// In front of a line of the trailer.
    Trailer,
    /// In such a line.
    TrailerLine,
    /// Behind its CR.
    TrailerLineEnd,
    /// Behind the CR of the empty line.
    LastLf,
    End,
}

impl Chunked {
    fn take(&mut self, input: &mut BytesMut) -> Result<Taken, Malformed> {
        loop {
            match &mut self.at {
                At::End => return Ok(Taken::End),
                At::Data(left) => {
                    let taken = take_data(left, input);
                    if *left == 0 {
                        self.at = At::DataCr;
                    }
                    return Ok(taken);
                }
                _ => {
                    let Some(byte) = input.first().copied() else { return Ok(Taken::Nothing) };
                    input.advance(1);
                    self.at = self.step(byte).ok_or_else(|| self.broken())?;
                }
            }
        }
    }

    /// Which chunk is broken, and how.
    fn broken(&self) -> Malformed {
        let how = match self.at {
            At::Start | At::Size(_) | At::SizeEnd(_) => "its size cannot be read",
            At::Extension(_) => "its extension is too long or has no end",
            At::Data(_) | At::DataCr | At::DataLf => "it does not end where its size says",
            At::Trailer | At::TrailerLine | At::TrailerLineEnd | At::LastLf | At::End => {
                "the trailer behind it is too long or has no end"
            }
        };
        // The one whose size begins here has not been counted.
        let number = self.count + u64::from(matches!(self.at, At::Start));
        Malformed(format!("chunk {number} of the answer's body is broken: {how}").into())
    }

    /// Where the coding stands after one more byte of it; `None` if that cannot be.
    fn step(&mut self, byte: u8) -> Option<At> {
        if matches!(self.at, At::Extension(_) | At::Trailer | At::TrailerLine) {
            self.overhead += 1;
            if self.overhead > MAX_OVERHEAD {
                return None;
            }
        }
        let digit = char::from(byte).to_digit(16).map(u64::from);
        Some(match (self.at, byte) {
            (At::Start, _) => {
                let size = At::Size(digit?);
                self.count += 1;
                size
            }
            (At::Size(size) | At::Extension(size), b'\r') => At::SizeEnd(size),
            (At::Size(size), b';' | b' ' | b'\t') => At::Extension(size),
            (At::Size(size), _) => At::Size(size.checked_mul(16)?.checked_add(digit?)?),
            (At::Extension(_) | At::Trailer | At::TrailerLine, b'\n') => return None,
            (At::Extension(size), _) => At::Extension(size),
            (At::SizeEnd(0) | At::TrailerLineEnd, b'\n') => At::Trailer,
            (At::SizeEnd(size), b'\n') => At::Data(size),
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Start,
            (At::Trailer, b'\r') => At::LastLf,
            (At::TrailerLine, b'\r') => At::TrailerLineEnd,
            (At::Trailer | At::TrailerLine, _) => At::TrailerLine,
            (At::LastLf, b'\n') => At::End,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    /// Everything that comes out when the pieces arrive one after the other, and whether the body ended.
    fn read(framing: Framing, pieces: &[&[u8]]) -> Result<(Vec<u8>, bool, usize), Malformed> {
        let (mut body, mut input, mut out) = (Body::new(framing), BytesMut::new(), Vec::new());
        for piece in pieces {
            input.extend_from_slice(piece);
            loop {
                match body.take(&mut input)? {
                    Taken::Piece(bytes) => {
                        assert!(!bytes.is_empty());
                        out.extend_from_slice(&bytes);
                    }
                    Taken::Nothing => break,
                    Taken::End => return Ok((out, true, input.len())),
                }
            }
        }
        Ok((out, false, input.len()))
    }

    #[test]
    fn a_length_leaves_what_follows_alone() {
        assert_eq!(read(Framing::Length(0), &[b"next"]).unwrap(), (vec![], true, 4));
        assert_eq!(read(Framing::Length(4), &[b"bo", b"dynext"]).unwrap(), (b"body".to_vec(), true, 4));
        assert_eq!(read(Framing::Length(5), &[b"body"]).unwrap(), (b"body".to_vec(), false, 0));
        assert_eq!(read(Framing::UntilClose, &[b"bo", b"dy"]).unwrap(), (b"body".to_vec(), false, 0));
    }

    #[test]
    fn chunks_are_joined_wherever_they_are_cut() {
        let coded = b"5\r\nhello\r\n00B;x=\"1\"\r\n, wide worl\r\n1 \r\nd\r\n0\r\nx-t: 1\r\nx-u: 2\r\n\r\n";
        for cut in 0..coded.len() {
            let (body, ended, left) = read(Framing::Chunked, &[&coded[..cut], &coded[cut..]]).unwrap();
            assert_eq!((body.as_slice(), ended, left), (&b"hello, wide world"[..], true, 0), "cut at {cut}");
            assert!(!read(Framing::Chunked, &[&coded[..cut]]).unwrap().1, "cut at {cut}");
        }
        assert_eq!(read(Framing::Chunked, &[b"0\r\n\r\nnext"]).unwrap(), (vec![], true, 4));
    }

    #[test]
    fn large_pieces_come_whole() {
        let large = vec![b'x'; 3 * COPY_UP_TO];
        let coded = [format!("{:X}\r\n", large.len()).as_bytes(), &large, b"\r\n0\r\n\r\n"].concat();
        assert_eq!(read(Framing::Chunked, &[&coded]).unwrap(), (large.clone(), true, 0));
        assert_eq!(read(Framing::Length(large.len() as u64), &[&large]).unwrap(), (large, true, 0));
    }

    #[test]
    fn the_broken_chunk_is_named() {
        let endless = format!("0\r\n{}", "x".repeat(MAX_OVERHEAD + 1));
        for (coded, number, how) in [
            ("zz\r\n", 1, "its size"),
            ("1x\r\n", 1, "its size"),
            ("1\r\nx\r\n-1\r\n", 2, "its size"),
            ("1\r\nx\r\n2;a\n", 2, "its extension"),
            ("1\r\nx\r\n1\r\nxy\r\n", 2, "where its size says"),
            (&endless, 1, "the trailer"),
        ] {
            let Malformed(why) = read(Framing::Chunked, &[coded.as_bytes()]).unwrap_err();
            assert!(why.starts_with(&format!("chunk {number} ")) && why.contains(how), "{coded:.40?}: {why}");
        }
    }

    #[test]
    fn a_broken_coding_is_refused() {
        let long = format!("1;{}", "x".repeat(MAX_OVERHEAD + 1));
        let extensions = format!("1;{}\r\nx\r\n", "x".repeat(1000)).repeat(17);
        let trailer = format!("0\r\n{}", "x: y\r\n".repeat(MAX_OVERHEAD));
        for coded in [
            "\r\n",
            "zz\r\n",
            " 1\r\nx",
            "-1\r\nx",
            "+1\r\nx",
            "0x1\r\nx",
            ";\r\n",
            "1\nx\r\n",
            "1\r\r\nx",
            "1\rx",
            "1;a\nx",
            "1\r\nxy\r\n",
            "1\r\nx\n0\r\n\r\n",
            "0\r\n\n",
            "0\r\nx: y\n\r\n",
            "0\r\n\rx",
            "10000000000000000\r\n",
            "FFFFFFFFFFFFFFFFF\r\n",
            &long,
            &extensions,
            &trailer,
        ] {
            assert!(read(Framing::Chunked, &[coded.as_bytes()]).is_err(), "{:?}", &coded[..coded.len().min(40)]);
        }
    }
}
