//! The producers under test: each case is written once and run over both.

use std::thread;

use ringtap::kafka::Settings;
use ringtap::record::Encoding;
use ringtap::sink::{Sink, kafka, librdkafka};

use super::sensor::PATIENCE;

/// A sink of either producer.
pub(crate) type Tested = Box<dyn Sink + Send>;

/// A way into Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Producer {
    /// By ringtap itself.
    Native,
    /// Through librdkafka.
    Librdkafka,
}

impl Producer {
    /// Every producer.
    pub(crate) const ALL: [Self; 2] = [Self::Native, Self::Librdkafka];

    /// As `--producer` takes it, and as a topic's name may hold it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Librdkafka => "librdkafka",
        }
    }

    /// Whether it writes to partitions that its topic is given while it runs.
    pub(crate) fn takes_new_partitions(self) -> bool {
        self == Self::Native
    }

    /// How many batches it takes while it can send none.
    pub(crate) fn takes_unsent(self) -> usize {
        match self {
            Self::Native => 2,
            Self::Librdkafka => librdkafka::MAX_BATCHES,
        }
    }

    /// Whether it cuts batches that the broker suddenly takes for too large into smaller ones.
    pub(crate) fn follows_a_lowered_limit(self) -> bool {
        self == Self::Native
    }

    /// Runs a case over every producer, all at the same time, each in a thread that bears its name.
    pub(crate) fn each(case: impl Fn(Self) + Sync) {
        let case = &case;
        thread::scope(|scope| {
            for producer in Self::ALL {
                let thread = thread::Builder::new().name(producer.name().to_owned());
                thread.spawn_scoped(scope, move || case(producer)).unwrap();
            }
        });
    }

    /// A sink for every partition of `topic`.
    pub(crate) fn sink(
        self,
        brokers: &str,
        topic: &str,
        encoding: &Encoding,
        more: &[&str],
    ) -> Tested {
        let settings = settings(brokers, more);
        match self {
            Self::Native => {
                let cluster = kafka::Cluster::connect(&settings, topic, None, PATIENCE).unwrap();
                Box::new(cluster.sink(0, 1).unwrap())
            }
            Self::Librdkafka => {
                let cluster = librdkafka::Cluster::connect(&settings, topic, PATIENCE).unwrap();
                Box::new(cluster.sink(cluster.share(0, 1), encoding).unwrap())
            }
        }
    }
}

/// The settings that a user writes with `-k` and `-X`.
pub(crate) fn settings(brokers: &str, more: &[&str]) -> Settings {
    let mut settings = Settings::new();
    settings.set("bootstrap.servers", brokers).unwrap();
    for text in more {
        settings.parse(text).unwrap();
    }
    settings
}
