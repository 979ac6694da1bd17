//! When a capture file is full or old, and what the next one is called: `-C`, `-G` and `-W` of tcpdump.
//!
//! The rule: the names are those that tcpdump 4.99 gives (`MakeFilename` in its tcpdump.c), so that
//! whatever picks up its files picks up ours.

use std::ffi::OsString;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};

use time::format_description::{self, OwnedFormatItem};
use time::{OffsetDateTime, UtcOffset};

use super::FileError;

/// When to begin another file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// `-C`, in bytes: a file longer than this takes no further packet.
    pub size: Option<NonZeroU64>,
    /// `-G`: a file takes packets for this many seconds of wall time. The file's name goes through
    /// `strftime` with the local time at which its interval begins.
    pub seconds: Option<NonZeroU64>,
    /// `-W`: with `-C`, the number of files in the ring; with `-G` alone, the number of files after
    /// which capture ends; by itself without meaning.
    pub files: Option<NonZeroU32>,
}

impl Rotation {
    /// Whether there is more than one file.
    pub fn is_on(&self) -> bool {
        self.size.is_some() || self.seconds.is_some()
    }

    /// How many digits a file's number has at least: as many as the number of the last one.
    fn digits(&self) -> usize {
        let (Some(_), Some(files)) = (self.size, self.files) else {
            return 0;
        };
        let last = files.get() - 1;
        last.checked_ilog10().map_or(0, |log| log as usize + 1)
    }
}

/// Names files one after another.
#[derive(Debug)]
pub(super) struct Names {
    path: PathBuf,
    pattern: Option<OwnedFormatItem>,
    rotation: Rotation,
    since: Option<i64>,
    intervals: u32,
    count: u32,
}

impl Names {
    /// Names after `path`. Fails where `path` cannot be read as a `strftime` format and has to be.
    pub(super) fn new(path: PathBuf, rotation: Rotation) -> Result<Self, FileError> {
        let pattern = match rotation.seconds {
            Some(_) => Some(parse(&path)?),
            None => None,
        };
        Ok(Self {
            path,
            pattern,
            rotation,
            since: None,
            intervals: 0,
            count: 0,
        })
    }

    /// The name of the file that is begun at `now`, seconds since the epoch.
    pub(super) fn name(&mut self, now: i64) -> PathBuf {
        let since = *self.since.get_or_insert(now);
        let mut name = match &self.pattern {
            Some(pattern) => format(pattern, since).unwrap_or_else(|| self.path.clone().into()),
            None => self.path.clone().into_os_string(),
        };
        let digits = self.rotation.digits();
        if self.count > 0 || digits > 0 {
            name.push(format!("{:0digits$}", self.count));
        }
        name.into()
    }

    /// Whether a file of `len` bytes takes no further packet.
    #[inline]
    pub(super) fn is_full(&self, len: u64) -> bool {
        self.rotation.size.is_some_and(|size| len > size.get())
    }

    /// Seconds from `now` until the interval is over; `None` without intervals or before the first.
    pub(super) fn seconds_left(&self, now: i64) -> Option<u64> {
        let seconds = i64::try_from(self.rotation.seconds?.get()).unwrap_or(i64::MAX);
        let end = self.since?.saturating_add(seconds);
        Some(u64::try_from(end.saturating_sub(now)).unwrap_or(0))
    }

    /// Whether capture ends with this interval.
    pub(super) fn is_last(&self) -> bool {
        let files = self.rotation.files.filter(|_| self.rotation.size.is_none());
        files.is_some_and(|files| self.intervals + 1 >= files.get())
    }

    /// Goes on to the next file because this one is full.
    pub(super) fn next_file(&mut self) {
        self.count = self.count.wrapping_add(1);
        if self
            .rotation
            .files
            .is_some_and(|files| self.count >= files.get())
        {
            self.count = 0;
        }
    }

    /// Goes on to the next interval, which begins with its first packet.
    pub(super) fn next_interval(&mut self) {
        self.since = None;
        self.intervals = self.intervals.saturating_add(1);
        self.count = 0;
    }
}

/// The name a file has until it is complete: hidden, in the same folder.
pub(super) fn part(name: &Path) -> PathBuf {
    let mut part = OsString::from(".");
    part.push(name.file_name().unwrap_or_default());
    part.push(".part");
    name.with_file_name(part)
}

fn parse(path: &Path) -> Result<OwnedFormatItem, FileError> {
    let unreadable = |cause: Option<time::error::InvalidFormatDescription>| FileError::Pattern {
        path: path.to_owned(),
        cause,
    };
    let text = path.to_str().ok_or_else(|| unreadable(None))?;
    let pattern =
        format_description::parse_strftime_owned(text).map_err(|e| unreadable(Some(e)))?;
    format(&pattern, 0).ok_or_else(|| unreadable(None))?;
    Ok(pattern)
}

fn format(pattern: &OwnedFormatItem, seconds: i64) -> Option<OsString> {
    let utc = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    let offset = UtcOffset::local_offset_at(utc).unwrap_or(UtcOffset::UTC);
    let name = utc.to_offset(offset).format(pattern).ok()?;
    Some(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str, size: u64, seconds: u64, files: u32) -> Names {
        let rotation = Rotation {
            size: NonZeroU64::new(size),
            seconds: NonZeroU64::new(seconds),
            files: NonZeroU32::new(files),
        };
        Names::new(path.into(), rotation).unwrap()
    }

    fn by_size(mut names: Names, count: usize) -> Vec<String> {
        (0..count)
            .map(|_| {
                let name = names.name(0).to_str().unwrap().to_owned();
                names.next_file();
                name
            })
            .collect()
    }

    #[test]
    fn files_by_size_are_numbered_from_the_second_on() {
        assert_eq!(by_size(names("f", 1, 0, 0), 4), ["f", "f1", "f2", "f3"]);
    }

    #[test]
    fn a_ring_of_files_is_numbered_with_as_many_digits_as_its_last() {
        assert_eq!(by_size(names("f", 1, 0, 2), 3), ["f0", "f1", "f0"]);
        assert_eq!(by_size(names("f", 1, 0, 10), 2), ["f0", "f1"]);
        assert_eq!(by_size(names("f", 1, 0, 11), 2), ["f00", "f01"]);
        assert_eq!(by_size(names("f", 1, 0, 1), 2), ["f", "f"]);
    }

    #[test]
    fn a_number_of_files_alone_changes_no_name() {
        assert_eq!(by_size(names("f", 0, 0, 5), 1), ["f"]);
    }

    #[test]
    fn an_interval_is_named_by_the_time_it_begins() {
        let mut names = names("d/%Y-%%-%j.pcap", 0, 60, 2);
        let year = 365 * 86_400;
        assert_eq!(names.name(43_200).to_str().unwrap(), "d/1970-%-001.pcap");
        assert_eq!(names.seconds_left(43_210), Some(50));
        assert_eq!(names.seconds_left(44_000), Some(0));
        assert!(!names.is_last());
        names.next_interval();
        assert_eq!(names.seconds_left(44_000), None);
        assert_eq!(
            names.name(year + 43_200).to_str().unwrap(),
            "d/1971-%-001.pcap"
        );
        assert!(names.is_last());
    }

    #[test]
    fn an_interval_begins_its_numbers_anew_and_a_ring_has_no_last_file() {
        let mut names = names("%Y", 1, 60, 3);
        assert_eq!(names.name(0).to_str().unwrap(), "19700");
        names.next_file();
        assert_eq!(names.name(0).to_str().unwrap(), "19701");
        names.next_interval();
        names.next_interval();
        assert_eq!(names.name(0).to_str().unwrap(), "19700");
        assert!(!names.is_last());
    }

    #[test]
    fn a_format_that_is_not_known_is_refused_at_the_start() {
        let rotation = Rotation {
            seconds: NonZeroU64::new(1),
            ..Rotation::default()
        };
        assert!(Names::new("a%!".into(), rotation).is_err());
        assert!(Names::new("a%!".into(), Rotation::default()).is_ok());
    }

    #[test]
    fn an_incomplete_file_lies_hidden_beside_its_final_name() {
        assert_eq!(part(Path::new("a/b.pcap")), Path::new("a/.b.pcap.part"));
        assert_eq!(part(Path::new("b")), Path::new(".b.part"));
    }
}
