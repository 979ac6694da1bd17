//! Whether a client of librdkafka stands still while the cluster answers others.
//!
//! The rule: nobody is judged while anything may still come. A sound client gives a request up after
//! `socket.timeout.ms`, connects again within `reconnect.backoff.max.ms`, and sends its records again: one
//! that owes records and has sent none for longer than both stands still, if the cluster can be reached.
//! Version 2.12.1 does so at times after a broker was away (librdkafka's issue 5430).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, Producer};

use crate::kafka::ask::Said;
use crate::kafka::log::Log;
use crate::kafka::settings::ProducerSettings;

/// How often librdkafka tells what it has sent, unless the user wrote another interval.
pub(super) const STATISTICS: Duration = Duration::from_secs(5);

/// How long a question to the cluster may take: an answer that is later than this is none.
const QUESTION: Duration = Duration::from_secs(2);

/// What a sound client needs after it is connected: a producer id, the partitions' leaders, a request.
const BEGINNING: Duration = Duration::from_secs(5);

/// What is asked whether the cluster answers.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// The settings of the producer.
    pub(super) config: ClientConfig,
    /// The topic.
    pub(super) topic: String,
    /// The partitions that need a leader.
    pub(super) partitions: Vec<i32>,
    /// Where librdkafka's lines go.
    pub(super) log: Log,
}

/// The watch over one client.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// How long a sound client may send nothing.
    patience: Duration,
    /// How long the cluster has to have answered without a break.
    sound: Duration,
    /// When the client was last seen to live, or owed nothing.
    sign: Instant,
    /// Produce requests it has sent, as its statistics told last.
    requests: u64,
    probe: Option<Probe>,
}

impl Watchdog {
    /// A watch over a client of these settings that begins now.
    pub(super) fn new(settings: &ProducerSettings) -> Self {
        let millis = |key: &str, default: u64| {
            let written = settings.settings().get(key);
            let number = written.and_then(|text| text.parse().ok());
            Duration::from_millis(number.unwrap_or(default))
        };
        // Up to half as long again is librdkafka's jitter.
        let back_off = millis("reconnect.backoff.max.ms", 10_000) * 3 / 2;
        let statistics = match millis("statistics.interval.ms", 0) {
            Duration::ZERO => STATISTICS,
            written => written,
        };
        Self {
            patience: millis("socket.timeout.ms", 60_000) + back_off + statistics,
            sound: back_off + BEGINNING + statistics,
            sign: Instant::now(),
            requests: 0,
            probe: None,
        }
    }

    /// Notes that the client lives, or owes nothing.
    pub(super) fn sign(&mut self) {
        self.sign = Instant::now();
        self.probe = None;
    }

    /// Notes what librdkafka's statistics tell: a client that sends lives.
    pub(super) fn statistics(&mut self, json: &str) {
        let Some(requests) = requests(json) else {
            return;
        };
        if requests != std::mem::replace(&mut self.requests, requests) {
            self.sign();
        }
    }

    /// How long the client has shown no sign of life, where that is too long and the cluster answers
    /// others.
    ///
    /// Has the cluster asked once that begins to look likely.
    pub(super) fn stalled(&mut self, question: impl FnOnce() -> Question) -> Option<Duration> {
        let silent = self.sign.elapsed();
        if silent < self.patience / 2 {
            return None;
        }
        let probe = self.probe.get_or_insert_with(|| Probe::start(question()));
        let answers = probe
            .answering()
            .is_some_and(|since| since.elapsed() >= self.sound);
        (silent >= self.patience && answers).then_some(silent)
    }
}

/// How many Produce requests a client has sent, as its statistics tell.
fn requests(json: &str) -> Option<u64> {
    let told: serde_json::Value = serde_json::from_str(json).ok()?;
    let brokers = told.get("brokers")?.as_object()?.values();
    let sent = brokers.filter_map(|broker| broker.pointer("/req/Produce")?.as_u64());
    Some(sent.sum())
}

/// A client of its own that asks the cluster until it is dropped.
#[derive(Debug)]
struct Probe(Arc<Asked>);

#[derive(Debug, Default)]
struct Asked {
    over: AtomicBool,
    /// Since when every question has been answered.
    answering: Mutex<Option<Instant>>,
}

impl Probe {
    /// Begins to ask, on a thread of its own: a question waits.
    fn start(question: Question) -> Self {
        let asked = Arc::new(Asked::default());
        let probe = Self(asked.clone());
        let ask = move || asked.ask(question);
        // Without the thread nobody is judged, and the client stays.
        drop(thread::Builder::new().name("probe".into()).spawn(ask));
        probe
    }

    fn answering(&self) -> Option<Instant> {
        let answering = &self.0.answering;
        *answering.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

impl Asked {
    fn ask(&self, question: Question) {
        let Question {
            mut config,
            topic,
            partitions,
            log,
        } = question;
        // Only asks; a producer id is for those who write.
        config.set("enable.idempotence", "false");
        let client = BaseProducer::from_config_and_context(&config, Said::new(log));
        let Ok(client) = client else { return };
        while !self.over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let answer = client.client().fetch_metadata(Some(&topic), QUESTION);
            let is_led = answer.is_ok_and(|answer| is_led(&answer, &topic, &partitions));
            let mut answering = self
                .answering
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *answering = answering.or(Some(begun)).filter(|_| is_led);
            drop(answering);
            client.poll(Duration::from_millis(500));
        }
    }
}

/// Whether each of the partitions has a leader.
fn is_led(metadata: &Metadata, topic: &str, partitions: &[i32]) -> bool {
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    found.is_some_and(|found| {
        partitions.iter().all(|number| {
            let of_number = found.partitions().iter().find(|it| it.id() == *number);
            of_number.is_some_and(|it| it.leader() >= 0)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Settings;

    #[test]
    fn a_client_is_given_the_time_to_give_up_a_request_and_connect_again() {
        let mut settings = Settings::new();
        settings.set("bootstrap.servers", "b:1").unwrap();
        let watchdog = Watchdog::new(&settings.producer().unwrap());
        assert_eq!(watchdog.patience, Duration::from_secs(60 + 3 + 5));
        assert_eq!(watchdog.sound, Duration::from_secs(3 + 5 + 5));
        settings.set("socket.timeout.ms", "1000").unwrap();
        settings.set("reconnect.backoff.max.ms", "200").unwrap();
        let watchdog = Watchdog::new(&settings.producer().unwrap());
        assert_eq!(
            watchdog.patience,
            Duration::from_millis(1_000 + 300 + 5_000)
        );
    }

    #[test]
    fn a_client_that_sends_lives_though_nothing_is_answered() {
        let told = |sent: u64| {
            format!(
                r#"{{"brokers": {{"a/1": {{"req": {{"Produce": {sent}, "Metadata": 9}}}},
                    "a/bootstrap": {{"req": {{}}}}, "b/2": {{"req": {{"Produce": 2}}}}}}}}"#
            )
        };
        assert_eq!(requests(&told(3)), Some(5));
        let mut settings = Settings::new();
        settings.set("bootstrap.servers", "b:1").unwrap();
        let mut watchdog = Watchdog::new(&settings.producer().unwrap());
        watchdog.statistics(&told(3));
        let sign = watchdog.sign;
        watchdog.statistics(&told(3));
        assert_eq!(watchdog.sign, sign);
        watchdog.statistics(&told(4));
        assert!(watchdog.sign > sign);
    }
}
