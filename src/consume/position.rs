//! Where to begin reading (`-o`), and points in time as people write them.
//!
//! The rule: a position is settled to an offset for each partition before anything is read, so that
//! nothing depends on when the first fetch happens to arrive.

use std::str::FromStr;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::packet::Timestamp;

/// Where to begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// The oldest record there is.
    Begin,
    /// The next record to come.
    #[default]
    End,
    /// Where the group stopped.
    Stored,
    /// This offset, in each partition.
    Offset(i64),
    /// The first record whose own timestamp, which Kafka indexes, is this or later.
    Time(Timestamp),
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "begin" => return Ok(Self::Begin),
            "end" => return Ok(Self::End),
            "stored" => return Ok(Self::Stored),
            _ => {}
        }
        if let Some(time) = text.strip_prefix('@') {
            return time.parse().map(|Moment(time)| Self::Time(time));
        }
        let offset = text.parse().ok().filter(|offset| *offset >= 0);
        offset
            .map(Self::Offset)
            .ok_or_else(|| "it takes begin, end, stored, an offset, or @TIME".into())
    }
}

/// A point in time as written: RFC 3339, or seconds since the epoch with or without a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub Timestamp);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let nanos = seconds(text).or_else(|| {
            let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
            u64::try_from(time.unix_timestamp_nanos()).ok()
        });
        let nanos = nanos.ok_or_else(|| {
            format!(
                "`{text}` is no time; write it as 2026-01-31T12:00:00Z, 2026-01-31T13:00:00.25+01:00, or \
                 seconds since 1970"
            )
        })?;
        Ok(Self(Timestamp::from_nanos(nanos)))
    }
}

/// Decimal seconds in nanoseconds; digits beyond the ninth are cut.
fn seconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let nanos: u64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let whole: u64 = whole.parse().ok()?;
    whole.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// A span of packet time: from the first moment on, up to and without the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Earlier packets are left out.
    pub from: Option<Timestamp>,
    /// Packets of this time and later ones are left out.
    pub to: Option<Timestamp>,
}

impl Window {
    /// Whether `time` lies inside.
    pub(super) fn holds(&self, time: Timestamp) -> bool {
        self.from.is_none_or(|from| time >= from) && self.to.is_none_or(|to| time < to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_as_it_is_written() {
        for (text, start) in [
            ("begin", Start::Begin),
            ("end", Start::End),
            ("stored", Start::Stored),
            ("0", Start::Offset(0)),
            ("1234567890123", Start::Offset(1_234_567_890_123)),
            ("@1.5", Start::Time(Timestamp::from_nanos(1_500_000_000))),
            (
                "@1970-01-01T01:00:02+01:00",
                Start::Time(Timestamp::from_nanos(2_000_000_000)),
            ),
        ] {
            assert_eq!(text.parse(), Ok(start), "{text}");
        }
        for bad in [
            "",
            "beginning",
            "-1",
            "@",
            "@yesterday",
            "99999999999999999999",
        ] {
            assert!(bad.parse::<Start>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_moment_keeps_its_nanoseconds() {
        let nanos = |text: &str| text.parse::<Moment>().unwrap().0.nanos();
        assert_eq!(nanos("1458240269.373968123"), 1_458_240_269_373_968_123);
        assert_eq!(nanos("1458240269.3"), 1_458_240_269_300_000_000);
        assert_eq!(nanos("0.0000000019"), 1);
        assert_eq!(
            nanos("2016-03-17T18:44:29.373968Z"),
            1_458_240_269_373_968_000
        );
        for bad in [
            "",
            ".",
            "1.",
            ".5",
            "1e9",
            "1.5s",
            "-1",
            "1969-01-01T00:00:00Z",
        ] {
            assert!(bad.parse::<Moment>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_window_holds_its_first_moment_and_not_its_last() {
        let at = Timestamp::from_nanos;
        let window = Window {
            from: Some(at(5)),
            to: Some(at(7)),
        };
        let held: Vec<_> = (3..9).filter(|time| window.holds(at(*time))).collect();
        assert_eq!(held, [5, 6]);
        assert!(Window::default().holds(at(0)));
    }
}
