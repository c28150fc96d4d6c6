//! MessagePack, read without recursion: its lengths and depths are claims of the sender.

use lovage_core::problem::{Code, Problem};

use super::text::Text;

const BINARY: &str = "is binary, which JSON does not have; send text such as base64, or the bytes as a raw body";
const EXTENSION: &str = "is of an extension type, which JSON does not have";
const NO_STRING: &str = "has a key that is not a string";

/// Writes the one value that is the whole of `bytes`.
pub(super) fn read(bytes: &[u8], text: &mut Text) -> Result<(), Problem> {
    let mut input = Input { bytes, at: 0 };
    let mut open: Vec<Open> = Vec::new();
    loop {
        text.value();
        open.extend(value(&mut input, text)?);
        // Close what is full and begin the next item of what is not.
        loop {
            let Some(last) = open.last_mut() else { return input.end() };
            if last.left > 0 {
                last.left -= 1;
                if last.map {
                    let key = input.key(text)?;
                    text.key(key)?;
                }
                break;
            }
            text.close()?;
            open.pop();
        }
    }
}

/// An array or map with the items that are still to come.
struct Open {
    left: u32,
    map: bool,
}

/// Writes a value, or the beginning of an array or map.
fn value(input: &mut Input<'_>, text: &mut Text) -> Result<Option<Open>, Problem> {
    let marker = input.byte()?;
    let (left, map) = match marker {
        0x90..=0x9f => (u32::from(marker & 0x0f), false),
        0xdc => (input.length(2)?, false),
        0xdd => (input.length(4)?, false),
        0x80..=0x8f => (u32::from(marker & 0x0f), true),
        0xde => (input.length(2)?, true),
        0xdf => (input.length(4)?, true),
        _ => {
            scalar(marker, input, text)?;
            return Ok(None);
        }
    };
    if map {
        text.object()?;
    } else {
        text.array()?;
    }
    Ok(Some(Open { left, map }))
}

fn scalar(marker: u8, input: &mut Input<'_>, text: &mut Text) -> Result<(), Problem> {
    match marker {
        0x00..=0x7f => text.literal(&marker.to_string()),
        0xe0..=0xff => text.literal(&marker.cast_signed().to_string()),
        0xc0 => text.literal("null"),
        0xc2 => text.literal("false"),
        0xc3 => text.literal("true"),
        0xca => {
            // As the number that it is, not as the shortest text that is nearest to it among the small floats.
            let number = f32::from_be_bytes(input.array()?);
            text.float(f64::from(number))
        }
        0xcb => {
            let number = f64::from_be_bytes(input.array()?);
            text.float(number)
        }
        0xcc => text.literal(&u8::from_be_bytes(input.array()?).to_string()),
        0xcd => text.literal(&u16::from_be_bytes(input.array()?).to_string()),
        0xce => text.literal(&u32::from_be_bytes(input.array()?).to_string()),
        0xcf => text.literal(&u64::from_be_bytes(input.array()?).to_string()),
        0xd0 => text.literal(&i8::from_be_bytes(input.array()?).to_string()),
        0xd1 => text.literal(&i16::from_be_bytes(input.array()?).to_string()),
        0xd2 => text.literal(&i32::from_be_bytes(input.array()?).to_string()),
        0xd3 => text.literal(&i64::from_be_bytes(input.array()?).to_string()),
        0xc4..=0xc6 => Err(text.refuse(BINARY)),
        0xc7..=0xc9 | 0xd4..=0xd8 => Err(text.refuse(EXTENSION)),
        _ => {
            let string = input.string(marker)?.ok_or_else(|| input.malformed("has a byte that means nothing"))?;
            match string {
                Ok(string) => text.string(string),
                Err(_) => Err(text.refuse("is a string that is not UTF-8")),
            }
        }
    }
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Problem> {
        let taken = self.at.checked_add(count).and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| self.malformed("ends too early"))?;
        self.at += count;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Problem> {
        Ok(self.array::<1>()?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// A length of so many bytes.
    fn length(&mut self, bytes: usize) -> Result<u32, Problem> {
        Ok(self.take(bytes)?.iter().fold(0, |length, byte| length << 8 | u32::from(*byte)))
    }

    /// The rest of a string; `None`: the marker is not that of one.
    fn string(&mut self, marker: u8) -> Result<Option<Result<&'a str, std::str::Utf8Error>>, Problem> {
        let length = match marker {
            0xa0..=0xbf => u32::from(marker & 0x1f),
            0xd9 => self.length(1)?,
            0xda => self.length(2)?,
            0xdb => self.length(4)?,
            _ => return Ok(None),
        };
        Ok(Some(std::str::from_utf8(self.take(length as usize)?)))
    }

    fn key(&mut self, text: &Text) -> Result<&'a str, Problem> {
        let marker = self.byte()?;
        self.string(marker)?.and_then(Result::ok).ok_or_else(|| text.refuse_around(NO_STRING))
    }

    fn end(&self) -> Result<(), Problem> {
        if self.at == self.bytes.len() { Ok(()) } else { Err(self.malformed("goes on after its end")) }
    }

    fn malformed(&self, what: &str) -> Problem {
        Problem::new(Code::Malformed, format!("the body is not MessagePack: it {what} at byte {}", self.at))
    }
}
