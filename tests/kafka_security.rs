//! Captures into a broker that takes nobody on trust: who is let in, and what who is not is told.
//!
//! `RINGTAP_TEST_SECURE_DIR` is the folder that `scripts/kafka-secure start` was given, whose help says who
//! may do what. Every case is tried with both producers, Kerberos with librdkafka's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use serde_json::json;

use support::sensor::{Ended, PATIENCE, Start};
use support::{RINGTAP, balanced, code, count, said, verify};

const BOTH: [&str; 2] = ["librdkafka", "native"];
const KERBEROS: [&str; 1] = ["librdkafka"];

/// What no line may hold.
const SECRETS: [&str; 6] = [
    "alice-secret",
    "bob-secret",
    "admin-secret",
    "wrong-secret",
    "key-secret",
    "PRIVATE KEY",
];

/// The listeners, by their distance from the first port.
mod port {
    pub(super) const ADMIN: u16 = 0;
    pub(super) const TLS: u16 = 2;
    pub(super) const MUTUAL: u16 = 3;
    pub(super) const SASL_TLS: u16 = 4;
    pub(super) const SASL: u16 = 5;
    pub(super) const GSSAPI: u16 = 6;
    pub(super) const EXPIRED: u16 = 7;
    pub(super) const BY_ITSELF: u16 = 8;
    pub(super) const ELSEWHERE: u16 = 9;
}

// The ways in; `DIR` is the broker's folder.
const TLS: &str = "security.protocol=ssl ssl.ca.location=DIR/tls/ca.pem";
const ALICES: &str =
    "ssl.certificate.location=DIR/tls/alice.crt ssl.key.location=DIR/tls/alice.key";
const LOCKED: &str = "ssl.certificate.location=DIR/tls/alice.crt \
                      ssl.key.location=DIR/tls/alice.enc.key ssl.key.password=key-secret";
const MALLORYS: &str =
    "ssl.certificate.location=DIR/tls/mallory.crt ssl.key.location=DIR/tls/mallory.key";
const SASL: &str = "security.protocol=sasl_plaintext";
const SASL_TLS: &str = "security.protocol=SASL_SSL ssl.ca.location=DIR/tls/ca.pem";
const PLAIN: &str = "sasl.mechanism=PLAIN sasl.username=bob sasl.password=bob-secret";
const SCRAM_256: &str =
    "sasl.mechanism=SCRAM-SHA-256 sasl.username=alice sasl.password=alice-secret";
const SCRAM_512: &str =
    "sasl.mechanism=SCRAM-SHA-512 sasl.username=alice sasl.password=alice-secret";
const GSSAPI: &str = "sasl.mechanism=GSSAPI sasl.kerberos.service.name=kafka \
                      sasl.kerberos.keytab=DIR/carol.keytab sasl.kerberos.principal=carol@RINGTAP.TEST";

fn folder() -> PathBuf {
    let name = "RINGTAP_TEST_SECURE_DIR";
    let folder = std::env::var(name);
    let folder = folder.unwrap_or_else(|_| {
        panic!("this test needs {name}: run it by scripts/test, or set it to the folder of scripts/kafka-secure")
    });
    folder.into()
}

fn address(distance: u16) -> String {
    let port = fs::read_to_string(folder().join("port")).unwrap();
    let port: u16 = port.trim().parse().unwrap();
    format!("localhost:{}", port + distance)
}

/// A topic, made by the administrator; deleted when dropped.
struct Topic(String);

impl Topic {
    /// Open to everybody, or `closed`: bob's, and alice may see that it is there.
    fn new(kind: &str) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let name = format!("{kind}-{}", now.as_nanos());
        let topic = NewTopic::new(&name, 1, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let made = blocking(admin().create_topics([&topic], &options));
        made.unwrap().into_iter().next().unwrap().unwrap();
        Self(name)
    }

    /// Asserts that it holds the frames of a capture of `frames`, each once.
    fn holds(&self, frames: u64) {
        let output = tempfile::tempdir().unwrap();
        let file = output.path().join("back.pcapng");
        let words = "security.protocol=sasl_plaintext sasl.mechanism=PLAIN sasl.username=admin \
                     sasl.password=admin-secret";
        let mut command = Command::new(RINGTAP);
        command.args(["consume", "-k", &address(port::ADMIN), "-t", &self.0]);
        command.args(["-o", "begin", "-e", "-w"]).arg(&file);
        command.args(words.split(' ').flat_map(|setting| ["-X", setting]));
        let ended = command.output().unwrap();
        assert_eq!(code(&ended), 0, "{}", said(&ended));
        let report = verify(
            &file,
            &json!({"streams": [{"stream": 0, "frames": frames}]}),
        );
        assert_eq!(report["complete"], true, "{report:#}");
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        let _ = blocking(admin().delete_topics(&[&self.0], &AdminOptions::new()));
    }
}

fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new()
        .set("bootstrap.servers", address(port::ADMIN))
        .set("security.protocol", "sasl_plaintext")
        .set("sasl.mechanism", "PLAIN")
        .set("sasl.username", "admin")
        .set("sasl.password", "admin-secret")
        .create()
        .unwrap()
}

fn blocking<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

/// Captures 200 frames into `topic` with `settings`; whatever comes of it, it tells no secret.
fn capture(producer: &str, distance: u16, topic: &str, settings: &str) -> Ended {
    let folder = folder().display().to_string();
    let settings = settings.replace("DIR", &folder);
    let settings = settings
        .split_whitespace()
        .map(|text| format!(" -X {text}"));
    let words = format!(
        "--source synthetic,size=60-1514 -c 200 -v -v --producer {producer} -k {} -t {topic}{}",
        address(distance),
        settings.collect::<String>()
    );
    let kerberos =
        format!("env KRB5_CONFIG={folder}/krb5.conf KRB5CCNAME=FILE:{folder}/{topic}.cc");
    let ended = Start::new(&words).under(&kerberos).run();
    for secret in SECRETS {
        assert!(!ended.log.contains(secret), "{secret} in:\n{}", ended.log);
    }
    ended
}

#[test]
fn who_shows_what_is_asked_for_is_let_in() {
    let cases: [(u16, &[&str], &str, &[&str]); 10] = [
        (port::TLS, &[TLS], "open", &BOTH),
        (
            port::ELSEWHERE,
            &[TLS, "ssl.endpoint.identification.algorithm=none"],
            "open",
            &BOTH,
        ),
        (port::MUTUAL, &[TLS, ALICES], "open", &BOTH),
        (port::MUTUAL, &[TLS, LOCKED], "open", &BOTH),
        (port::SASL_TLS, &[SASL_TLS, PLAIN], "closed", &BOTH),
        (port::SASL_TLS, &[SASL_TLS, SCRAM_256], "open", &BOTH),
        (port::SASL_TLS, &[SASL_TLS, SCRAM_512], "open", &BOTH),
        (port::SASL, &[SASL, PLAIN], "closed", &BOTH),
        (port::SASL, &[SASL, SCRAM_512], "open", &BOTH),
        (port::GSSAPI, &[SASL, GSSAPI], "open", &KERBEROS),
    ];
    for (distance, settings, kind, producers) in cases {
        for producer in producers {
            let topic = Topic::new(kind);
            let ended = capture(producer, distance, &topic.0, &settings.join(" ")).with(0);
            let ledger = ended.ledger();
            balanced(&ledger);
            assert_eq!(count(&ledger, "/total/delivered"), 200, "{ledger:#}");
            topic.holds(200);
        }
    }
}

#[test]
fn a_broker_that_is_not_the_one_is_refused_before_anything_is_said() {
    let other_ca = "security.protocol=ssl ssl.ca.location=DIR/tls/rogue.pem";
    // What the native producer says; OpenSSL says one thing of all of them.
    let cases = [
        (port::TLS, other_ca, "unknown authority"),
        (port::EXPIRED, TLS, "expired, on 2020-02-01"),
        (port::BY_ITSELF, TLS, "signed by itself"),
        (port::ELSEWHERE, TLS, "it is for elsewhere.test"),
    ];
    let topic = Topic::new("open");
    for (distance, settings, words) in cases {
        let about = ["no TLS connection", &address(distance)];
        let ended = capture("librdkafka", distance, &topic.0, settings);
        ended.saying(3, &["certificate verify failed", about[0], about[1]]);
        let ended = capture("native", distance, &topic.0, settings);
        ended.saying(3, &[words, about[0], about[1]]);
    }
}

#[test]
fn who_does_not_show_what_is_asked_for_is_told_so() {
    let wrong_scram = SCRAM_256.replace("alice-secret", "wrong-secret");
    let wrong_plain = PLAIN.replace("bob-secret", "wrong-secret");
    let cases: [(u16, &[&str], &[&str]); 9] = [
        (port::MUTUAL, &[TLS], &["no TLS", "alert", "certificate"]),
        (
            port::MUTUAL,
            &[TLS, MALLORYS],
            &["no TLS", "alert", "certificate"],
        ),
        (
            port::SASL,
            &[SASL, &wrong_scram],
            &["authentication", "invalid credentials"],
        ),
        (
            port::SASL_TLS,
            &[SASL_TLS, &wrong_scram],
            &["authentication", "invalid credentials"],
        ),
        (
            port::SASL,
            &[SASL, &wrong_plain],
            &["authentication", "Invalid username or password"],
        ),
        (
            port::GSSAPI,
            &[SASL, PLAIN],
            &["authentication", "PLAIN", "GSSAPI"],
        ),
        (
            port::TLS,
            &["security.protocol=plaintext"],
            &["security.protocol"],
        ),
        (port::SASL, &[TLS], &["no TLS", "security.protocol"]),
        (
            port::SASL,
            &[SASL, &SCRAM_256.replace("=alice ", "=nobody ")],
            &["authentication"],
        ),
    ];
    let topic = Topic::new("open");
    for (distance, settings, words) in cases {
        for producer in BOTH {
            let ended = capture(producer, distance, &topic.0, &settings.join(" "));
            ended.saying(3, words).saying(3, &[&address(distance)]);
        }
    }
}

#[test]
fn a_topic_of_somebody_elses_is_not_written_to() {
    let topic = Topic::new("closed");
    for producer in BOTH {
        let ended = capture(producer, port::TLS, &topic.0, TLS);
        ended.saying(3, &[&topic.0, "not authorised"]);
        // Alice may see that it is there: she is refused when she writes.
        let settings = format!("{SASL} {SCRAM_512}");
        let ended = capture(producer, port::SASL, &topic.0, &settings).with(4);
        let ledger = ended.ledger();
        balanced(&ledger);
        assert_eq!(
            count(&ledger, "/failed/reasons/not_authorized"),
            200,
            "{ledger:#}"
        );
    }
    topic.holds(0);
}
