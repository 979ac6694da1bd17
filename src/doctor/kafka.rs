//! Checks of the brokers and the topic.
//!
//! The rule: asking creates nothing. Metadata is asked for by a consumer's client, which never makes a
//! topic; a producer's would, where the brokers allow it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::{ClientConfig, ClientContext};

use crate::doctor::Kafka;
use crate::doctor::report::{Check, Report};

/// A broker behind a slow link and a SASL exchange answers well within this.
const ANSWER: Duration = Duration::from_secs(10);
/// More than a client piles up in that time.
const COMPLAINTS: usize = 1_000;
/// The longest frame a record holds, and what a batch adds to it.
const LARGEST_RECORD: u64 = 65_535 + 68 + 61;

/// Keeps the last thing librdkafka complained of: its return codes say only that something failed.
#[derive(Debug, Default)]
struct Listener(Mutex<Option<String>>);

impl Listener {
    fn complaint(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Without the name of the thread at its head. That all brokers are down says less than why the
    /// last one was.
    fn keep(&self, text: &str) {
        if text.contains("brokers are down") {
            return;
        }
        let words = match text
            .strip_prefix("[thrd:")
            .and_then(|rest| rest.split_once("]: "))
        {
            Some((_, words)) => words,
            None => text,
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(words.to_owned());
    }
}

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!(facility, "{text}");
        if (level as i32) <= (RDKafkaLogLevel::Error as i32) || facility == "FAIL" {
            self.keep(text);
        }
    }

    fn error(&self, _: KafkaError, reason: &str) {
        self.keep(reason);
    }
}

impl ConsumerContext for Listener {}

pub(crate) fn examine(kafka: &Kafka, queues: u32, report: &mut Report) {
    let mut add = |check| report.add("kafka", check);
    let mut config = ClientConfig::new();
    config.extend(kafka.settings.iter().cloned());
    config.set_log_level(RDKafkaLogLevel::Info);
    let client = BaseConsumer::from_config_and_context(&config, Listener::default());
    let client = match client {
        Ok(client) => client,
        Err(error) => return add(Check::fail("settings", words(&error))),
    };
    let metadata = match client.fetch_metadata(Some(&kafka.topic), ANSWER) {
        Ok(metadata) => metadata,
        Err(error) => return add(unreachable(&config, complaint(&client), &error)),
    };
    add(brokers(&metadata));
    let server = server(&config);
    let topic = metadata
        .topics()
        .iter()
        .find(|topic| topic.name() == kafka.topic);
    let partitions = topic.map_or(0, |topic| topic.partitions().len());
    add(topic_there(&server, queues.max(1), &kafka.topic, topic));
    if partitions == 0 {
        return;
    }
    add(spread(&server, partitions, queues, &kafka.topic));
    match limits(&config, &kafka.topic, metadata.orig_broker_id()) {
        Ok(limits) => limits.into_iter().for_each(add),
        Err(error) => add(Check::warn(
            "message size",
            format!("the limits cannot be asked for: {}", words(&error)),
        )),
    }
}

/// librdkafka hands its complaints over only when it is polled.
fn complaint(client: &BaseConsumer<Listener>) -> Option<String> {
    for _ in 0..COMPLAINTS {
        if client.poll(Duration::ZERO).is_none() {
            break;
        }
    }
    client.context().complaint()
}

fn unreachable(config: &ClientConfig, complaint: Option<String>, error: &KafkaError) -> Check {
    let brokers = config.get("bootstrap.servers").unwrap_or("no broker named");
    let why = complaint.unwrap_or_else(|| words(error));
    Check::fail("brokers", format!("no answer from {brokers}: {why}"))
        .mend("name brokers with -k HOST:PORT, rights with -X security.protocol=… and sasl.*")
}

/// How Kafka's own tools are told where to ask.
fn server(config: &ClientConfig) -> String {
    let brokers = config.get("bootstrap.servers").unwrap_or("BROKER");
    format!("--bootstrap-server {brokers}")
}

fn brokers(metadata: &Metadata) -> Check {
    let names: Vec<_> = metadata
        .brokers()
        .iter()
        .map(|broker| format!("{}:{}", broker.host(), broker.port()))
        .collect();
    let found = format!("{} reachable: {}", names.len(), names.join(", "));
    Check::ok("brokers", found)
}

fn topic_there(server: &str, queues: u32, name: &str, topic: Option<&MetadataTopic>) -> Check {
    let error = topic
        .and_then(|topic| topic.error())
        .map(RDKafkaErrorCode::from);
    let Some(topic) = topic.filter(|topic| error.is_none() && !topic.partitions().is_empty())
    else {
        let why = match error {
            None
            | Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                return Check::fail("topic", format!("{name} is not there")).mend(format!(
                    "kafka-topics.sh {server} --create --topic {name} --partitions {queues}"
                ));
            }
            Some(code) => code.to_string(),
        };
        return Check::fail("topic", format!("{name}: {why}")).mend(format!(
            "kafka-acls.sh {server} --add --allow-principal User:NAME --producer --topic {name}"
        ));
    };
    let partitions = topic.partitions();
    let headless = partitions.iter().filter(|it| it.leader() < 0).count();
    if headless > 0 {
        let found = format!(
            "{name}: {headless} of {} partitions have no leader",
            partitions.len()
        );
        return Check::warn("topic", found).mend("start the brokers that hold them");
    }
    let behind = partitions
        .iter()
        .filter(|it| it.isr().len() < it.replicas().len())
        .count();
    if behind > 0 {
        let found = format!(
            "{name}: {behind} of {} partitions lack replicas",
            partitions.len()
        );
        return Check::warn("topic", found).mend("start the brokers that hold them");
    }
    let replicas = partitions
        .iter()
        .map(|it| it.replicas().len())
        .max()
        .unwrap_or(0);
    Check::ok(
        "topic",
        format!("{name}, replicas of each partition: {replicas}"),
    )
}

/// One partition belongs to one publisher.
fn spread(server: &str, partitions: usize, queues: u32, topic: &str) -> Check {
    let wanted = usize::try_from(queues).unwrap_or(usize::MAX);
    if partitions >= wanted {
        return Check::ok("partitions", format!("{partitions}"));
    }
    Check::warn(
        "partitions",
        format!(
            "{partitions} for {queues} queues: queues share a partition, and their batches may \
             overlap in time there"
        ),
    )
    .mend(format!(
        "kafka-topics.sh {server} --alter --topic {topic} --partitions {queues}"
    ))
}

fn limits(config: &ClientConfig, topic: &str, broker: i32) -> Result<Vec<Check>, KafkaError> {
    let admin = AdminClient::from_config_and_context(config, Listener::default())?;
    let options = AdminOptions::new().request_timeout(Some(ANSWER));
    let asked = [
        ResourceSpecifier::Topic(topic),
        ResourceSpecifier::Broker(broker),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
    let answers = runtime.block_on(admin.describe_configs(&asked, &options))?;
    let keys = ["max.message.bytes", "message.max.bytes"];
    let checks = answers
        .into_iter()
        .zip(keys)
        .map(|(answer, key)| match answer {
            Ok(resource) => limit(key, value(&resource, key), &mend(config, topic, key)),
            Err(code) => Check::warn(key, format!("cannot be asked for: {code}")),
        });
    Ok(checks.collect())
}

fn value(resource: &ConfigResource, key: &str) -> Option<u64> {
    resource.get(key)?.value.as_ref()?.parse().ok()
}

fn mend(config: &ClientConfig, topic: &str, key: &str) -> String {
    let entity = match key {
        "max.message.bytes" => format!("--topic {topic}"),
        _ => "--entity-type brokers --entity-default".to_owned(),
    };
    let server = server(config);
    format!("kafka-configs.sh {server} --alter {entity} --add-config {key}=1048588")
}

fn limit(key: &'static str, bytes: Option<u64>, mend: &str) -> Check {
    let name = match key {
        "max.message.bytes" => "topic limit",
        _ => "broker limit",
    };
    match bytes {
        None => Check::warn(name, format!("{key} is not told")),
        Some(bytes) if bytes >= LARGEST_RECORD => {
            Check::ok(name, format!("{key} = {bytes}: batches up to that size"))
        }
        Some(bytes) => Check::warn(
            name,
            format!("{key} = {bytes}: packets above about {bytes} bytes fail as too_large"),
        )
        .mend(mend),
    }
}

fn words(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, why, key, _) => format!("{key}: {why}"),
        other => other
            .rdkafka_error_code()
            .map_or_else(|| other.to_string(), |it| it.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;
    use rdkafka::mocking::MockCluster;

    fn ask(settings: &[(&str, &str)], topic: &str, queues: u32) -> Report {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let kafka = Kafka {
            settings: settings.iter().map(own).collect(),
            topic: topic.to_owned(),
        };
        let mut report = Report::default();
        examine(&kafka, queues, &mut report);
        report
    }

    #[test]
    fn a_topic_with_fewer_partitions_than_queues_is_a_warning() {
        let cluster = MockCluster::new(2).unwrap();
        cluster.create_topic("pcap", 2, 1).unwrap();
        let brokers = cluster.bootstrap_servers();
        let report = ask(&[("bootstrap.servers", &brokers)], "pcap", 4);
        let brokers = report.check("kafka", "brokers").unwrap();
        assert!(
            brokers.finding.starts_with("2 reachable"),
            "{}",
            brokers.finding
        );
        assert_eq!(report.check("kafka", "topic").unwrap().status, Status::Ok);
        let partitions = report.check("kafka", "partitions").unwrap();
        assert_eq!(partitions.status, Status::Warn);
        assert!(report.would_start());
    }

    #[test]
    fn a_broker_that_is_not_there_is_named_with_what_the_kernel_said() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let report = ask(&[("bootstrap.servers", &address)], "pcap", 1);
        let check = report.check("kafka", "brokers").unwrap();
        assert_eq!(check.status, Status::Fail);
        assert!(check.finding.contains(&address), "{}", check.finding);
        assert!(check.finding.contains("refused"), "{}", check.finding);
    }

    #[test]
    fn a_setting_that_librdkafka_refuses_is_named() {
        let report = ask(
            &[("bootstrap.servers", "x:1"), ("ssl.nonsense", "1")],
            "pcap",
            1,
        );
        let check = report.check("kafka", "settings").unwrap();
        assert_eq!(check.status, Status::Fail);
        assert!(check.finding.contains("ssl.nonsense"), "{}", check.finding);
    }

    #[test]
    fn a_limit_below_the_largest_packet_is_a_warning() {
        assert_eq!(
            limit("max.message.bytes", Some(1_048_588), "").status,
            Status::Ok
        );
        assert_eq!(
            limit("max.message.bytes", Some(9_000), "").status,
            Status::Warn
        );
        assert_eq!(limit("message.max.bytes", None, "").status, Status::Warn);
    }
}
