//! The codecs that Kafka knows, as people name them.

use std::fmt;
use std::str::FromStr;

/// A codec for record batches, with its level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// Batches go out as they are.
    #[default]
    None,
    /// gzip, level 1 to 9.
    Gzip(u32),
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// zstd, level 1 to 22.
    Zstd(i32),
    /// LZ4 while it pays.
    Auto,
}

/// What was written is no codec, or not with this level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0}; write none, lz4, zstd, snappy, gzip or auto, and for a level zstd:1 to zstd:22 or gzip:1 to gzip:9"
)]
pub struct CodecError(String);

/// The level of gzip and zstd where none is named: their own.
const GZIP: u32 = 6;
const ZSTD: i32 = 3;

impl Codec {
    /// The codec `name` with its own level.
    pub fn named(name: &str) -> Result<Self, CodecError> {
        match name {
            "none" => Ok(Self::None),
            "gzip" => Ok(Self::Gzip(GZIP)),
            "snappy" => Ok(Self::Snappy),
            "lz4" => Ok(Self::Lz4),
            "zstd" => Ok(Self::Zstd(ZSTD)),
            "auto" => Ok(Self::Auto),
            _ => Err(CodecError(format!("`{name}` is no codec"))),
        }
    }

    /// The same at `level`, of which -1 is the codec's own, as in librdkafka.
    pub fn at(self, level: i32) -> Result<Self, CodecError> {
        match (self, u32::try_from(level)) {
            (_, Err(_)) if level == -1 => Ok(self),
            (Self::Gzip(_), Ok(level @ 1..=9)) => Ok(Self::Gzip(level)),
            (Self::Zstd(_), Ok(1..=22)) => Ok(Self::Zstd(level)),
            (Self::None | Self::Snappy | Self::Lz4, Ok(0)) => Ok(self),
            _ => Err(CodecError(format!("{} has no level {level}", self.name()))),
        }
    }

    /// Its name, without the level.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip(_) => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd(_) => "zstd",
            Self::Auto => "auto",
        }
    }

    /// Its level, where it has several.
    pub fn level(self) -> Option<i32> {
        match self {
            Self::Gzip(level) => i32::try_from(level).ok(),
            Self::Zstd(level) => Some(level),
            Self::None | Self::Snappy | Self::Lz4 | Self::Auto => None,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level() {
            Some(level) => write!(f, "{}:{level}", self.name()),
            None => f.write_str(self.name()),
        }
    }
}

impl FromStr for Codec {
    type Err = CodecError;

    fn from_str(text: &str) -> Result<Self, CodecError> {
        let Some((name, level)) = text.split_once(':') else {
            return Self::named(text);
        };
        let level = level
            .parse()
            .map_err(|_| CodecError(format!("`{level}` is no level")))?;
        Self::named(name)?.at(level)
    }
}
