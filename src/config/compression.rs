//! How record batches are compressed, as configured.
//!
//! The rule: a flag and librdkafka's settings say the same or are refused together; and what the chosen producer
//! has not is refused, never passed over.

use crate::batch::{Codec, CodecError};
use crate::cli::capture::{CaptureArgs, CompressOn};
use crate::kafka::Settings;

use super::{ConfigError, Producer, value};

/// The codec, and on whose core it works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compression {
    /// The codec.
    pub codec: Codec,
    /// On whose core.
    pub on: CompressOn,
}

impl Compression {
    /// The codec that works on the core of `on`.
    pub(crate) fn on(self, on: CompressOn) -> Codec {
        if self.on == on {
            self.codec
        } else {
            Codec::None
        }
    }
}

/// What `args` and `settings` say together; a codec that a flag names is written into librdkafka's settings.
pub(super) fn compression(
    args: &CaptureArgs,
    settings: &mut Settings,
    producer: &Producer,
) -> Result<Compression, ConfigError> {
    let on = args.compress_on.unwrap_or_default();
    let flag = args
        .compression
        .as_deref()
        .map(|text| parse(text, settings));
    let flag = flag.transpose()?;
    let Producer::Librdkafka { reason } = producer else {
        let codec = match flag {
            Some(codec) => codec,
            None => settings
                .compression()?
                .map_or(Codec::None, |(codec, _)| codec),
        };
        let codec = Compression { codec, on };
        if on == CompressOn::Worker && codec.codec == Codec::None {
            return Err(ConfigError::Contradiction(
                "--compress-on worker without a codec: name it with --compression".into(),
            ));
        }
        return Ok(codec);
    };
    if on == CompressOn::Worker {
        return Err(ConfigError::Contradiction(format!(
            "--compress-on worker needs the native producer, and librdkafka publishes ({reason}): leave it out"
        )));
    }
    match flag {
        None => {}
        Some(Codec::Auto) => {
            let rule = format!(
                "librdkafka has no such codec, and librdkafka publishes ({reason}): name one, as lz4"
            );
            return Err(value("compression", Codec::Auto, rule));
        }
        Some(codec) => {
            settings.set("compression.codec", codec.name())?;
            if let Some(level) = codec.level() {
                settings.set("compression.level", &level.to_string())?;
            }
        }
    }
    Ok(Compression::default())
}

/// The codec that the flag names, which the settings do not contradict.
fn parse(text: &str, settings: &Settings) -> Result<Codec, ConfigError> {
    let codec: Codec = text
        .parse()
        .map_err(|error: CodecError| value("compression", text, error.to_string()))?;
    let other = match settings.compression() {
        Ok(Some((made, _))) if made == codec => return Ok(codec),
        Ok(Some((_, written))) => written,
        Ok(None) | Err(_) => match settings.get("compression.level") {
            Some(level) if Some(level) != codec.level().map(|own| own.to_string()).as_deref() => {
                format!("compression.level={level}")
            }
            _ => return Ok(codec),
        },
    };
    Err(ConfigError::Contradiction(format!(
        "--compression {text} contradicts -X {other}: leave out one of them"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Output};

    fn check(words: &[&str]) -> Result<(Compression, Settings), ConfigError> {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            capture: CaptureArgs,
        }
        let words = ["capture", "-i", "a", "-k", "b:1"].iter().chain(words);
        let line = <Line as clap::Parser>::try_parse_from(words).unwrap();
        match Config::check(&line.capture)?.output {
            Output::Kafka {
                compression,
                settings,
                ..
            } => Ok((compression, settings)),
            Output::File(_) | Output::Discard => panic!("a Kafka sink was named"),
        }
    }

    #[test]
    fn a_codec_means_the_same_by_flag_and_by_any_of_librdkafkas_names() {
        for (words, codec) in [
            (&[][..], Codec::None),
            (&["--compression", "auto"], Codec::Auto),
            (&["--compression", "zstd:9"], Codec::Zstd(9)),
            (&["-X", "compression.type=lz4"], Codec::Lz4),
            (&["-X", "compression.codec=snappy"], Codec::Snappy),
            (&["-X", "topic.compression.type=gzip"], Codec::Gzip(6)),
            (
                &[
                    "-X",
                    "topic.compression.codec=zstd",
                    "-X",
                    "compression.type=lz4",
                ],
                Codec::Zstd(3),
            ),
            (
                &["-X", "compression.type=zstd", "-X", "compression.level=5"],
                Codec::Zstd(5),
            ),
            (
                &[
                    "--compression",
                    "zstd:5",
                    "-X",
                    "compression.type=zstd",
                    "-X",
                    "compression.level=5",
                ],
                Codec::Zstd(5),
            ),
        ] {
            let (compression, _) = check(words).unwrap();
            assert_eq!(compression.codec, codec, "{words:?}");
            assert_eq!(compression.on(CompressOn::Worker), Codec::None);
        }
        let worker = ["--compression", "lz4", "--compress-on", "worker"];
        let (compression, _) = check(&worker).unwrap();
        assert_eq!(compression.on(CompressOn::Worker), Codec::Lz4);
        assert_eq!(compression.on(CompressOn::Publisher), Codec::None);
    }

    #[test]
    fn librdkafka_is_told_of_the_flag() {
        let words = ["--producer", "librdkafka", "--compression", "zstd:5"];
        let (compression, settings) = check(&words).unwrap();
        assert_eq!(compression, Compression::default());
        assert_eq!(settings.get("compression.codec"), Some("zstd"));
        assert_eq!(settings.get("compression.level"), Some("5"));
    }

    #[test]
    fn what_contradicts_or_is_not_to_be_had_is_refused_in_words() {
        for (words, parts) in [
            (&["--compression", "lz5"][..], &["lz5", "zstd"][..]),
            (&["--compression", "lz4:9"], &["lz4", "level"]),
            (
                &["--compression", "lz4", "-X", "compression.type=zstd"],
                &["--compression lz4", "compression.type=zstd"],
            ),
            (
                &["--compression", "zstd:3", "-X", "compression.level=5"],
                &["zstd:3", "compression.level=5"],
            ),
            (
                &["--producer", "librdkafka", "--compression", "auto"],
                &["auto", "--producer librdkafka"],
            ),
            (
                &[
                    "--producer",
                    "librdkafka",
                    "--compression",
                    "lz4",
                    "--compress-on",
                    "worker",
                ],
                &["--compress-on worker", "native"],
            ),
            (&["--compress-on", "worker"], &["--compression"]),
            (
                &[
                    "--producer",
                    "native",
                    "-X",
                    "compression.type=lz4",
                    "-X",
                    "compression.level=9",
                ],
                &["compression.level=9", "native"],
            ),
        ] {
            let said = check(words).unwrap_err().to_string();
            for part in parts {
                assert!(said.contains(part), "{words:?}: {said}");
            }
        }
    }
}
