use super::*;

fn parsed(list: &[&str]) -> Result<Settings, SettingsError> {
    let mut settings = Settings::new();
    for text in list {
        settings.parse(text)?;
    }
    Ok(settings)
}

fn refusal(list: &[&str]) -> String {
    parsed(list)
        .and_then(|settings| settings.producer().map(drop))
        .unwrap_err()
        .to_string()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn a_setting_is_cut_at_its_first_equals_sign_only() {
    let settings = parsed(&["sasl.kerberos.kinit.cmd=kinit -X a=b=c"]).unwrap();
    assert_eq!(
        settings.get("sasl.kerberos.kinit.cmd"),
        Some("kinit -X a=b=c")
    );
}

#[test]
fn old_names_and_new_ones_are_the_same_setting_and_the_last_wins() {
    let settings = parsed(&[
        "metadata.broker.list=a:1",
        "request.required.acks=1",
        "queue.buffering.max.ms=7",
        "bootstrap.servers=b:2",
        "acks=all",
    ])
    .unwrap();
    assert_eq!(settings.get("metadata.broker.list"), Some("b:2"));
    assert_eq!(settings.get("acks"), Some("all"));
    assert_eq!(settings.get("topic.acks"), Some("all"));
    assert_eq!(settings.get("linger.ms"), Some("7"));
    assert_eq!(settings.iter().count(), 3);
    let config = settings.client_config();
    assert_eq!(config.get("topic.request.required.acks"), Some("all"));
    config.create_native_config().unwrap();
}

#[test]
fn a_wrong_setting_is_refused_with_its_key_its_value_and_the_rule() {
    let broker = "bootstrap.servers=a:1";
    let cases: [(&[&str], &[&str]); 23] = [
        (
            &[broker, "ssl.ca.location=/nowhere/ca.pem"],
            &["ssl.ca.location", "/nowhere/ca.pem"],
        ),
        (&["linger.ms"], &["key=value", "linger.ms"]),
        (
            &["bootstrap.server=a:1"],
            &["bootstrap.server ", "bootstrap.servers"],
        ),
        (&["xyzzy=1"], &["xyzzy", "not a setting"]),
        (
            &["acks=2000"],
            &["acks=2000", "whole number from -1 to 1000"],
        ),
        (
            &["socket.timeout.ms=5s"],
            &["socket.timeout.ms=5s", "whole"],
        ),
        (&["socket.timeout.ms=010"], &["whole number"]),
        (&["socket.timeout.ms=4294967396"], &["whole number"]),
        (&["linger.ms=x"], &["linger.ms=x", "Invalid value"]),
        (&["enable.idempotence=maybe"], &["true or false"]),
        (&["compression.type=brotli"], &["compression.type=brotli"]),
        (&["ssl.truststore.location=/x"], &["ssl.ca.location"]),
        (
            &["sasl.oauthbearer.method=oidc"],
            &["built without", "libcurl"],
        ),
        (
            &[broker, "sasl.mechanism=OAUTHBEARER"],
            &["built without", "libcurl"],
        ),
        (&["dr_msg_cb=1"], &["dr_msg_cb", "leave it out"]),
        (&["bootstrap.servers=a:1,b:x"], &["\"b:x\"", "not a number"]),
        (&["linger.ms=5"], &["no broker", "-k"]),
        (
            &[broker, "partitioner=murmur2"],
            &["partitioner", "publisher"],
        ),
        (
            &[broker, "delivery.report.only.error=true"],
            &["delivery.report.only.error", "ledger"],
        ),
        (
            &[broker, "enable.idempotence=true", "acks=1"],
            &["enable.idempotence=true", "acks=1"],
        ),
        (
            &[broker, "enable.idempotence=true", "max.in.flight=6"],
            &["max.in.flight=6"],
        ),
        (
            &[broker, "enable.idempotence=true", "retries=0"],
            &["retries=0"],
        ),
        (&[broker, "acks=3"], &["acks=3", "all, 1 or 0"]),
    ];
    for (list, parts) in cases {
        let text = refusal(list);
        for part in parts {
            assert!(text.contains(part), "{list:?}: {text}");
        }
        assert!(!text.ends_with(['.', '\n']), "{text:?}");
    }
}

#[test]
fn what_is_secret_is_shown_nowhere() {
    let file = file("hunter2\n");
    let from_file = format!("sasl.password=@{}", file.path().display());
    let settings = parsed(&[&from_file, "ssl.key.password=hunter2", "linger.ms=5"]).unwrap();
    assert_eq!(settings.get("sasl.password"), Some("hunter2"));
    for text in [format!("{settings:?}"), settings.redacted().to_string()] {
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("'linger.ms': '5'"), "{text}");
        assert!(text.contains("'sasl.password': '[hidden]'"), "{text}");
    }
    for wrong in [
        "sasl.pasword=hunter2",
        "sasl.jaas.config=hunter2",
        "hunter2",
        "sasl.password:hunter2",
        "sasl.password hunter2",
        "sasl.oauthbearer.client.secret=hunter2",
    ] {
        assert!(!refusal(&[wrong]).contains("hunter2"), "{wrong}");
    }
}

#[test]
fn only_a_secret_is_read_from_a_file_and_a_missing_file_is_named() {
    let settings = parsed(&["client.id=@x"]).unwrap();
    assert_eq!(settings.get("client.id"), Some("@x"));
    let text = refusal(&["sasl.password=@/nowhere/x"]);
    assert!(
        text.contains("sasl.password") && text.contains("/nowhere/x"),
        "{text}"
    );
}

#[test]
fn the_environment_names_settings_in_upper_case() {
    let mut settings = Settings::new();
    let variables = [
        ("RINGTAP_KAFKA_SASL_PASSWORD", "@a=b"),
        ("RINGTAP_KAFKA_LOG_LEVEL", "7"),
        ("RINGTAP_KAFKA_ACKS", "1"),
        ("RINGTAP_OTHER", "x"),
    ];
    settings
        .environment(variables.map(|(name, value)| (name.into(), value.into())))
        .unwrap();
    assert_eq!(settings.get("sasl.password"), Some("@a=b"));
    assert_eq!(settings.get("log_level"), Some("7"));
    assert_eq!(settings.get("request.required.acks"), Some("1"));
    let text = settings
        .environment([("RINGTAP_KAFKA_SASL_PASWORD".into(), "x".into())])
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("RINGTAP_KAFKA_SASL_PASWORD") && text.contains("sasl.password"),
        "{text}"
    );
}

#[test]
fn the_file_of_fastcapa_is_taken_group_by_group() {
    let file = file(
        "# a comment\n[kafka-global]\nmetadata.broker.list = a:9092\n\
         compression.codec = snappy\nbatch.num.messages = 500000\n\n\
         [kafka-topic]\nrequest.required.acks = 1\ncompression.codec = lz4\n",
    );
    let mut settings = Settings::new();
    settings.fastcapa(file.path()).unwrap();
    assert_eq!(settings.get("bootstrap.servers"), Some("a:9092"));
    assert_eq!(settings.get("compression.type"), Some("snappy"));
    let config = settings.client_config();
    assert_eq!(config.get("topic.compression.codec"), Some("lz4"));
    let producer = settings.producer().unwrap();
    assert_eq!(producer.acks(), Acks::Leader);
    assert!(!producer.is_idempotent());
    assert_eq!(producer.notices().len(), 1, "{:?}", producer.notices());
}

#[test]
fn a_fault_in_the_file_of_fastcapa_is_named_with_file_and_group() {
    let cases = [
        ("[kafka-global]\nlingr.ms = 5\n", "linger.ms"),
        ("[kafka-topic]\nclient.id = x\n", "[kafka-global]"),
        ("[kafka]\na = b\n", "[kafka]"),
        ("a = b\n[kafka-global]\n", "before the first group"),
        ("[kafka-global\n", "neither [group]"),
    ];
    for (text, part) in cases {
        let file = file(text);
        let error = Settings::new()
            .fastcapa(file.path())
            .unwrap_err()
            .to_string();
        let name = file.path().display().to_string();
        assert!(error.contains(&name) && error.contains(part), "{error}");
    }
}

#[test]
fn a_producer_is_idempotent_unless_the_user_wrote_what_rules_it_out() {
    let broker = "bootstrap.servers=a:1";
    let plain = parsed(&[broker]).unwrap().producer().unwrap();
    assert!(plain.is_idempotent() && plain.notices().is_empty());
    assert_eq!(plain.acks(), Acks::All);
    assert_eq!(plain.settings().get("acks"), Some("all"));
    assert_eq!(
        plain.settings().get("allow.auto.create.topics"),
        Some("false")
    );
    plain.client_config().create_native_config().unwrap();

    for (text, notices) in [
        ("acks=1", 1),
        ("acks=0", 1),
        ("retries=0", 1),
        ("max.in.flight=10", 1),
        ("enable.idempotence=false", 0),
    ] {
        let producer = parsed(&[broker, text]).unwrap().producer().unwrap();
        assert!(!producer.is_idempotent(), "{text}");
        assert_eq!(producer.notices().len(), notices, "{text}");
        assert_eq!(
            producer.settings().get("enable.idempotence"),
            Some("false"),
            "{text}"
        );
    }
}

#[test]
fn what_the_user_wrote_stands() {
    let producer = parsed(&[
        "metadata.broker.list=a:1",
        "queue.buffering.max.ms=250",
        "message.max.bytes=500000",
        "reconnect.backoff.ms=5000",
    ])
    .unwrap()
    .producer()
    .unwrap();
    assert_eq!(producer.settings().get("linger.ms"), Some("250"));
    assert_eq!(producer.settings().get("batch.size"), Some("500000"));
    assert_eq!(producer.settings().get("reconnect.backoff.max.ms"), None);
}
