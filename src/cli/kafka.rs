//! The flags that name a topic, alike for every subcommand that has to do with Kafka.
//!
//! The rule: they mean the same everywhere, and brokers may be named by `-k` or by a setting.

use clap::Args;
use serde::{Deserialize, Serialize};

/// The topic where none is named: Metron's.
const TOPIC: &str = "pcap";

/// The names of the setting that `-k` writes.
const BROKERS: [&str; 2] = ["bootstrap.servers", "metadata.broker.list"];

/// Brokers, a topic, and every other setting.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KafkaArgs {
    /// Kafka brokers, HOST:PORT[,HOST:PORT...]
    #[arg(short = 'k', long, value_name = "BROKERS", help_heading = "Kafka")]
    pub brokers: Option<String>,
    /// Kafka topic [default: pcap]
    #[arg(short = 't', long, value_name = "TOPIC", help_heading = "Kafka")]
    pub topic: Option<String>,
    /// Kafka setting under librdkafka's name, KEY=VALUE; repeatable
    #[arg(
        short = 'X',
        long = "set",
        value_name = "KEY=VALUE",
        help_heading = "Kafka"
    )]
    pub set: Vec<String>,
}

impl KafkaArgs {
    /// Whether brokers are named, by a flag or by a setting.
    pub fn names_brokers(&self) -> bool {
        self.brokers.is_some() || self.set.iter().any(|setting| is_brokers(setting))
    }

    /// The topic named, or Metron's.
    pub fn topic(&self) -> &str {
        self.topic.as_deref().unwrap_or(TOPIC)
    }
}

/// Whether a setting, `key=value`, names brokers.
pub fn is_brokers(setting: &str) -> bool {
    let key = setting.split('=').next().unwrap_or_default();
    BROKERS.contains(&key.trim())
}
