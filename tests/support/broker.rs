//! A Kafka broker.
