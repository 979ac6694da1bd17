//! Sizes and times as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A number of bytes: `64MiB`, `1.5GB`, or a plain number.
///
/// It is shown exactly, so that what is printed reads back as the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub struct Size(bytesize::ByteSize);

impl Size {
    /// This many bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytesize::ByteSize(bytes))
    }

    /// The number of bytes; `usize::MAX` where it does not fit.
    pub fn get(self) -> usize {
        usize::try_from(self.0.as_u64()).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.as_u64();
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        let whole = |shift: u32| bytes > 0 && bytes.trailing_zeros() >= shift;
        match units.into_iter().find(|(shift, _)| whole(*shift)) {
            Some((shift, unit)) => write!(f, "{}{unit}", bytes >> shift),
            None => bytes.fmt(f),
        }
    }
}

/// A size in a file: a number, or text.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a size is a number of bytes, or text as \"64MiB\" or \"1.5GB\""
)]
enum Written {
    Bytes(u64),
    Text(String),
}

impl TryFrom<Written> for Size {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Bytes(bytes) => Ok(Self::bytes(bytes)),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|cause| {
            format!("{cause}: a size is a number of bytes, or one with a unit, as 64MiB or 1.5GB")
        })
    }
}

/// A length of time: `50ms`, `5s`, `1m 30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(Duration);

impl Span {
    /// This long.
    pub const fn new(duration: Duration) -> Self {
        Self(duration)
    }

    /// The length.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|cause| format!("{cause}: a time is a number with a unit, as 50ms, 5s or 1m"))
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

/// A list of numbers as `0,2-3`: each number once, in the order written.
pub(crate) fn number_list(text: &str) -> Result<Vec<usize>, String> {
    let rule = || format!("`{text}` is not a list of numbers and ranges, as 0,2-3");
    let mut list = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| rule())?;
        let last: usize = last.trim().parse().map_err(|_| rule())?;
        if first > last || last - first >= 4_096 {
            return Err(rule());
        }
        for number in first..=last {
            if list.contains(&number) {
                return Err(format!("`{text}` names {number} twice"));
            }
            list.push(number);
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_as_people_write_them() {
        assert_eq!("64MiB".parse::<Size>().unwrap().get(), 64 << 20);
        assert_eq!("1000".parse::<Size>().unwrap().get(), 1_000);
        assert_eq!(
            "50ms".parse::<Span>().unwrap().get(),
            Duration::from_millis(50)
        );
        assert!("fifty".parse::<Size>().unwrap_err().contains("64MiB"));
        assert!("50".parse::<Span>().unwrap_err().contains("50ms"));
    }

    #[test]
    fn a_size_is_shown_exactly_and_read_from_a_number_or_a_text() {
        for (bytes, shown) in [
            (0, "0"),
            (1_234_567, "1234567"),
            (128 << 20, "128MiB"),
            (3 << 10, "3KiB"),
            (5 << 30, "5GiB"),
        ] {
            assert_eq!(Size::bytes(bytes).to_string(), shown);
            assert_eq!(shown.parse(), Ok(Size::bytes(bytes)));
        }
        #[derive(Debug, Deserialize)]
        struct File {
            size: Size,
        }
        let read = |text: &str| toml::from_str::<File>(text).map(|file| file.size.get());
        assert_eq!(read("size = 1000"), Ok(1_000));
        assert_eq!(read("size = '1MiB'"), Ok(1 << 20));
        for wrong in ["size = 'much'", "size = -1", "size = true"] {
            assert!(
                read(wrong).unwrap_err().to_string().contains("64MiB"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn lists_of_numbers_take_ranges_and_refuse_nonsense() {
        assert_eq!(number_list("0,2-4").unwrap(), [0, 2, 3, 4]);
        for bad in ["", "a", "3-1", "1,1", "0-99999999", "1,,2", "-1"] {
            assert!(number_list(bad).is_err(), "{bad}");
        }
    }
}
