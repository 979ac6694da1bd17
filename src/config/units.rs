//! Sizes and times as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A number of bytes: `64MiB`, `1.5GB`, or a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
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
        self.0.fmt(f)
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
    fn lists_of_numbers_take_ranges_and_refuse_nonsense() {
        assert_eq!(number_list("0,2-4").unwrap(), [0, 2, 3, 4]);
        for bad in ["", "a", "3-1", "1,1", "0-99999999", "1,,2", "-1"] {
            assert!(number_list(bad).is_err(), "{bad}");
        }
    }
}
