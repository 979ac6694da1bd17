//! How the memory of a queue is cut into batches.
//!
//! The rule: all of it is there at the start and never grows. By flow every partition has an open batch, and
//! these take half of the memory at most: as much again is under way.

use super::{Config, ConfigError, Size, value};
use crate::batch::{HEADER_LEN, RECORD_OVERHEAD};

/// The least that an open batch may hold: below this, brokers and disks see requests, not data.
const LEAST_BATCH: usize = 64 << 10;

/// Batches begin on cache lines of their own.
const LINE: usize = 64;

impl Config {
    /// The same for workers that have a batch open for each of `partitions`: with more batches, of fewer bytes,
    /// where the open ones would take more than half of the memory.
    pub(crate) fn shared_out(self, partitions: Option<usize>) -> Result<Self, ConfigError> {
        let Some(partitions) = partitions.filter(|partitions| *partitions > 1) else {
            return Ok(self);
        };
        let buffer = self.buffer();
        let share = buffer / 2 / partitions;
        if self.batch_size <= share {
            return Ok(self);
        }
        let packet = self.encoding.snaplen + HEADER_LEN + RECORD_OVERHEAD;
        let least = packet.max(LEAST_BATCH).next_multiple_of(LINE);
        let batch_size = share / LINE * LINE;
        if batch_size < least {
            let needed = (2 * partitions * least).next_multiple_of(1 << 20);
            let bytes = |bytes: usize| Size::bytes(bytes as u64);
            let rule = format!(
                "half of it, shared out among {partitions} partitions (partition-by = flow), leaves {share} bytes \
                 for the open batch of each, and {least} is the least; give each queue {} or more, or take a topic \
                 of fewer partitions, or partition by batch",
                bytes(needed.next_multiple_of(self.batch_size)),
            );
            return Err(value("buffer", bytes(buffer), rule));
        }
        Ok(Self {
            batch_size,
            batch_limit: self.batch_limit.min(batch_size),
            batches: buffer / batch_size,
            ..self
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::capture::CaptureArgs;
    use crate::cli::kafka::KafkaArgs;

    fn config(buffer: u64, batch_size: u64) -> Config {
        let args = CaptureArgs {
            interface: vec!["eth0".into()],
            kafka: KafkaArgs {
                brokers: Some("b:9092".into()),
                ..KafkaArgs::default()
            },
            buffer: Some(Size::bytes(buffer)),
            batch_size: Some(Size::bytes(batch_size)),
            ..CaptureArgs::default()
        };
        Config::check(&args).unwrap()
    }

    #[test]
    fn batches_keep_their_size_while_the_open_ones_fit_into_half_of_the_buffer() {
        let cut = |partitions| {
            let config = config(128 << 20, 1 << 20).shared_out(partitions).unwrap();
            (config.batches, config.batch_size, config.batch_limit)
        };
        for partitions in [None, Some(1), Some(2), Some(64)] {
            assert_eq!(cut(partitions), (128, 1 << 20, 1 << 20), "{partitions:?}");
        }
        assert_eq!(cut(Some(128)), (256, 512 << 10, 512 << 10));
    }

    #[test]
    fn what_leaves_too_little_for_each_partition_is_refused_with_the_mend() {
        let error = config(8 << 20, 1 << 20).shared_out(Some(100)).unwrap_err();
        let text = error.to_string();
        for part in ["8MiB", "100 partitions", "41943 bytes", "13MiB"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        config(13 << 20, 1 << 20).shared_out(Some(100)).unwrap();
    }

    proptest! {
        #[test]
        fn every_partition_has_two_batches_in_the_memory_there_is(
            buffer in 4_u64 << 20..1 << 30,
            batch_size in 66_000_u64..1 << 20,
            partitions in 1..5_000_usize,
        ) {
            let config = config(buffer, batch_size);
            let buffer = config.buffer();
            let least = config.encoding.snaplen + HEADER_LEN + RECORD_OVERHEAD;
            if let Ok(config) = config.shared_out(Some(partitions)) {
                prop_assert!(partitions == 1 || config.batches >= 2 * partitions);
                prop_assert!(config.buffer() <= buffer);
                prop_assert!(config.batch_size >= least);
                prop_assert!(u64::try_from(config.batch_size).unwrap() <= batch_size);
            }
        }
    }
}
