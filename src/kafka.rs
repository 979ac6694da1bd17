//! What ringtap knows of Kafka itself: addresses of brokers, and the settings of a client.
//!
//! The rule: nothing here knows of packets. Producers and consumers of every kind take their settings
//! from here, so that a key means the same wherever it is written.

pub mod address;
pub mod settings;

pub use address::BrokerAddress;
pub use settings::{Settings, SettingsError};
