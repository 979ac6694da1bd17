//! What the native producer counts of its requests and its brokers.
//!
//! The rule: as with all counters, one thread writes each, and whoever shows them only reads. Nothing here is
//! part of the ledger's equations: those count records and their fates, this tells what it took.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::counters::Counter;

/// The counters of one broker, as one publisher sees it.
#[derive(Debug, Default)]
pub(crate) struct BrokerCounters {
    /// Its address.
    pub(crate) name: String,
    /// 1 while requests may be made; a gauge.
    pub(crate) connected: Counter,
    /// Connections that became ready.
    pub(crate) connections: Counter,
    /// Connections that ended, and attempts that came to nothing.
    pub(crate) losses: Counter,
    /// Produce requests made.
    pub(crate) batches: Counter,
    /// Bytes of their record batches.
    pub(crate) bytes: Counter,
    /// From making a Produce request to its answer, in microseconds: the last one; a gauge.
    pub(crate) round_trip: Counter,
}

/// The counters of one native sink.
#[derive(Debug, Default)]
pub struct ProducerCounters {
    /// Records sent again.
    pub(crate) retried: Counter,
    /// Pieces that batches too large for a topic were cut to.
    pub(crate) pieces: Counter,
    /// How long brokers asked to be left alone, in milliseconds.
    pub(crate) throttled: Counter,
    brokers: Mutex<Vec<Arc<BrokerCounters>>>,
}

impl ProducerCounters {
    /// The counters of a broker of the cluster, made when it is first met.
    pub(crate) fn broker(&self, name: &str) -> Arc<BrokerCounters> {
        let mut brokers = self.brokers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = brokers.iter().find(|known| known.name == name) {
            return Arc::clone(known);
        }
        let new = Arc::new(BrokerCounters {
            name: name.to_owned(),
            ..BrokerCounters::default()
        });
        brokers.push(Arc::clone(&new));
        new
    }
}

/// A broker, as all publishers together see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BrokerReading {
    /// Its address.
    pub broker: String,
    /// How many publishers are connected to it.
    pub connected: u64,
    /// Connections that became ready.
    pub connections: u64,
    /// Connections that ended, and attempts that came to nothing.
    pub losses: u64,
    /// Produce requests made.
    pub batches: u64,
    /// Bytes of their record batches.
    pub bytes: u64,
    /// The longest of the publishers' last round trips, in microseconds.
    pub round_trip_us: u64,
}

/// What the native producer has counted, over all publishers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProducerReading {
    /// Records sent again.
    pub retried: u64,
    /// Pieces that batches too large for a topic were cut to.
    pub pieces: u64,
    /// How long brokers asked to be left alone, in milliseconds.
    pub throttled_ms: u64,
    /// Every broker that leads, or has led, a partition.
    pub brokers: Vec<BrokerReading>,
}

impl ProducerReading {
    /// Adds up the counters of every publisher; `None` where there is none.
    pub(crate) fn of(producers: &[Arc<ProducerCounters>]) -> Option<Self> {
        let mut sum = (!producers.is_empty()).then(Self::default)?;
        for producer in producers {
            sum.retried += producer.retried.get();
            sum.pieces += producer.pieces.get();
            sum.throttled_ms += producer.throttled.get();
            let brokers = producer.brokers.lock();
            for counters in brokers.unwrap_or_else(PoisonError::into_inner).iter() {
                sum.add(counters);
            }
        }
        sum.brokers.sort_by(|a, b| a.broker.cmp(&b.broker));
        Some(sum)
    }

    fn add(&mut self, counters: &BrokerCounters) {
        let known = self
            .brokers
            .iter()
            .position(|known| known.broker == counters.name);
        let at = known.unwrap_or_else(|| {
            self.brokers.push(BrokerReading {
                broker: counters.name.clone(),
                ..BrokerReading::default()
            });
            self.brokers.len() - 1
        });
        let broker = &mut self.brokers[at];
        broker.connected += counters.connected.get();
        broker.connections += counters.connections.get();
        broker.losses += counters.losses.get();
        broker.batches += counters.batches.get();
        broker.bytes += counters.bytes.get();
        broker.round_trip_us = broker.round_trip_us.max(counters.round_trip.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishers_that_share_a_broker_are_added_up() {
        assert_eq!(ProducerReading::of(&[]), None);
        let producers = [0, 1].map(|_| Arc::new(ProducerCounters::default()));
        for (producer, round_trip) in producers.iter().zip([300, 200]) {
            let broker = producer.broker("kafka-1:9092");
            broker.connected.set(1);
            broker.batches.add(2);
            broker.round_trip.set(round_trip);
            producer.retried.add(7);
            producer.broker("kafka-0:9092").losses.add(1);
        }
        let sum = ProducerReading::of(&producers).unwrap();
        assert_eq!(sum.retried, 14);
        let [first, second] = &sum.brokers[..] else {
            panic!("{sum:?}")
        };
        assert_eq!((first.broker.as_str(), first.losses), ("kafka-0:9092", 2));
        assert_eq!(
            (second.connected, second.batches, second.round_trip_us),
            (2, 4, 300)
        );
    }
}
