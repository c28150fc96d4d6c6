//! The names of codings in headers: which one a body has, which one a client wants.

/// A coding that this product reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    /// `gzip`, also `x-gzip`.
    Gzip,
    /// `br`.
    Brotli,
    /// `zstd`.
    Zstd,
    /// `deflate`: the zlib format. Without its header, as some send it, it is read as well.
    Deflate,
}

/// A body has a coding that is not known, or more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the content encoding is not one of gzip, br, zstd, deflate")]
pub struct NotOne;

impl Coding {
    /// All of them, the one that is best for answers first.
    pub const ALL: [Self; 4] = [Self::Zstd, Self::Brotli, Self::Gzip, Self::Deflate];

    /// The name in headers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Deflate => "deflate",
        }
    }

    /// The coding of this name, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("x-gzip") {
            return Some(Self::Gzip);
        }
        Self::ALL.into_iter().find(|coding| name.eq_ignore_ascii_case(coding.name()))
    }

    /// What the values of `Content-Encoding` say; `None`: the body is as it is. Several codings on top of each other are
    /// refused: nobody needs them, and each one multiplies what a bomb inflates to.
    pub fn of<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<Self>, NotOne> {
        let mut found = None;
        for value in values {
            let value = std::str::from_utf8(value).map_err(|_| NotOne)?;
            for name in value.split(',').map(str::trim) {
                if name.is_empty() || name.eq_ignore_ascii_case("identity") {
                    continue;
                }
                let coding = Self::parse(name).ok_or(NotOne)?;
                if found.replace(coding).is_some() {
                    return Err(NotOne);
                }
            }
        }
        Ok(found)
    }

    /// What the values of `Accept-Encoding` want most; `None`: the answer as it is. What cannot be read is passed over.
    pub fn wanted<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        // Weights in thousandths; what is not named has that of `*`, which is none when it is missing as well.
        let mut weights: [Option<u16>; 4] = [None; 4];
        let (mut others, mut identity) = (0, None);
        for value in values {
            let Ok(value) = std::str::from_utf8(value) else { continue };
            for entry in value.split(',') {
                let (name, weight) = entry.split_once(';').unwrap_or((entry, ""));
                let (name, weight) = (name.trim(), thousandths(weight));
                if name == "*" {
                    others = weight;
                } else if name.eq_ignore_ascii_case("identity") {
                    identity = Some(weight);
                } else if let Some(place) = Self::parse(name).and_then(|it| Self::ALL.iter().position(|coding| *coding == it)) {
                    weights[place] = Some(weight);
                }
            }
        }
        let weighed = Self::ALL.into_iter().zip(weights).map(|(coding, weight)| (coding, weight.unwrap_or(others)));
        // The first of the heaviest.
        let best = weighed.reduce(|best, next| if next.1 > best.1 { next } else { best })?;
        (best.1 > 0 && best.1 >= identity.unwrap_or(0)).then_some(best.0)
    }
}

/// `q=0.5` as 500; 1000 if it is not given, 0 if it is junk.
fn thousandths(parameter: &str) -> u16 {
    let parameter = parameter.trim();
    if parameter.is_empty() {
        return 1000;
    }
    let number = parameter.strip_prefix(['q', 'Q']).and_then(|rest| rest.trim_start().strip_prefix('='));
    let number = number.and_then(|number| number.trim().parse::<f32>().ok());
    number.filter(|number| (0.0..=1.0).contains(number)).map_or(0, |number| (number * 1000.0) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Result<Option<Coding>, NotOne> {
        Coding::of(values.iter().map(|value| value.as_bytes()))
    }

    #[test]
    fn a_body_has_one_coding_at_most() {
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["identity"]), Ok(None));
        assert_eq!(of(&["", " , "]), Ok(None));
        assert_eq!(of(&["gzip"]), Ok(Some(Coding::Gzip)));
        assert_eq!(of(&[" X-GZIP "]), Ok(Some(Coding::Gzip)));
        assert_eq!(of(&["Identity, BR"]), Ok(Some(Coding::Brotli)));
        assert_eq!(of(&["zstd"]), Ok(Some(Coding::Zstd)));
        assert_eq!(of(&["deflate"]), Ok(Some(Coding::Deflate)));
        for junk in [&["compress"][..], &["gzip, gzip"], &["gzip", "br"], &["gzip;q=1"], &["gz"], &["*"], &["gzip\u{fc}"]] {
            assert_eq!(of(junk), Err(NotOne), "{junk:?}");
        }
        assert_eq!(Coding::of([&b"gzip\xff"[..]]), Err(NotOne));
    }

    #[test]
    fn the_client_gets_what_it_wants_most() {
        let wanted = |value: &str| Coding::wanted([value.as_bytes()]);
        for (value, expected) in [
            ("", None),
            ("identity", None),
            ("gzip", Some(Coding::Gzip)),
            ("gzip, deflate", Some(Coding::Gzip)),
            ("gzip, deflate, br, zstd", Some(Coding::Zstd)),
            ("gzip;q=1.0, br;q=0.8", Some(Coding::Gzip)),
            ("gzip; Q=0.2, br; q = 0.3", Some(Coding::Brotli)),
            ("gzip;q=0", None),
            ("*", Some(Coding::Zstd)),
            ("*;q=0.5, zstd;q=0, br;q=0", Some(Coding::Gzip)),
            ("identity;q=1, gzip;q=0.5", None),
            ("identity;q=0.5, gzip;q=0.5", Some(Coding::Gzip)),
            ("gzip;q=2, br;q=-1, zstd;level=3, deflate;q=NaN", None),
            ("compress, snappy, ,;,;q=1", None),
        ] {
            assert_eq!(wanted(value), expected, "{value:?}");
        }
        assert_eq!(Coding::wanted([&b"\xff"[..], b"br"]), Some(Coding::Brotli));
        assert_eq!(Coding::wanted([]), None);
    }
}
