//! What ringtap knows of Kafka itself: addresses of brokers, the settings of a client, a first connection, and
//! the native client.
//!
//! The rule: nothing here knows of packets. Producers and consumers of every kind take their settings
//! from here, so that a key means the same wherever it is written.
//!
//! The native client, downwards: `partition` (what goes next, without a socket) → `client` (which broker) →
//! `connection` (requests and answers in order, written by `request`, read by `answer`) → `transport` (bytes,
//! TLS). `verdict` says what an error code means. `ask` and `log` are librdkafka's.

pub mod address;
mod answer;
pub(crate) mod ask;
pub(crate) mod client;
pub mod connect;
pub(crate) mod connection;
pub mod counters;
pub(crate) mod log;
pub(crate) mod partition;
pub(crate) mod request;
mod sasl;
pub(crate) mod security;
pub mod settings;
pub mod topic;
mod transport;
pub(crate) mod verdict;

pub use address::BrokerAddress;
pub use settings::{Settings, SettingsError};

/// Version and built-in features of librdkafka, as `--version` shows them.
pub fn librdkafka() -> String {
    let (_, version) = rdkafka::util::get_rdkafka_version();
    let features = rdkafka::ClientConfig::new()
        .create_native_config()
        .and_then(|config| config.get("builtin.features"))
        .unwrap_or_default();
    format!("librdkafka {version} ({})", features.replace(',', ", "))
}

#[cfg(test)]
mod tests {
    #[test]
    fn librdkafka_tells_what_was_built_in() {
        let text = super::librdkafka();
        for feature in ["librdkafka 2.", "ssl", "sasl_gssapi", "zstd"] {
            assert!(text.contains(feature), "{text}");
        }
    }
}
