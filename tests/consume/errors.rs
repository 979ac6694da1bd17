//! What is wrong is said in words, with the exit code of its kind.

use std::process::{Command, Stdio};

use crate::support::{RINGTAP, consume, name, run, said, topic};

#[test]
fn wrong_usage_is_named_before_any_broker_is_asked() {
    for (words, part) in [
        ("-o stored", "-G GROUP"),
        ("-o nowhere", "begin, end, stored"),
        ("-p x", "list of numbers"),
        ("-X grup.id=x", "group.id"),
        ("--from 5 --to 4", "later than --from"),
        ("tcp prot 80", "syntax error"),
    ] {
        let output = run(&mut consume("pcap", words));
        assert_eq!(output.status.code(), Some(2), "{words}: {}", said(&output));
        assert!(said(&output).contains(part), "{words}: {}", said(&output));
        assert!(output.stdout.is_empty());
    }
    let mut command = Command::new(RINGTAP);
    let output = run(command
        .arg("consume")
        .env_remove("RINGTAP_KAFKA_BOOTSTRAP_SERVERS"));
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("-k host:port"), "{}", said(&output));
}

#[test]
fn a_topic_or_a_partition_that_is_not_there_is_named() {
    let missing = name("missing");
    let output = run(&mut consume(&missing, "-o begin"));
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(
        said(&output).contains("does not exist"),
        "{}",
        said(&output)
    );
    let topic = topic("two", 2);
    let output = run(&mut consume(&topic, "-o begin -p 2"));
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(
        said(&output).contains("has no partition 2"),
        "{}",
        said(&output)
    );
}

#[test]
fn brokers_that_do_not_answer_are_named() {
    let mut command = Command::new(RINGTAP);
    command.args(["consume", "-k", "127.0.0.1:1", "-t", "pcap"]);
    let output = run(command.stdin(Stdio::null()));
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("127.0.0.1:1"), "{}", said(&output));
    assert!(output.stdout.is_empty());
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let topic = topic("file", 1);
    let output = run(&mut consume(&topic, "-o begin -e -w /nowhere/x.pcap"));
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(
        said(&output).contains("/nowhere/x.pcap"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_full_disk_ends_it_with_the_reason() {
    let topic = topic("full", 1);
    crate::support::produce(&topic, [crate::support::packet(1)]);
    let output = run(&mut consume(&topic, "-o begin -e -w /dev/full"));
    assert_ne!(output.status.code(), Some(0));
    assert!(said(&output).contains("No space left"), "{}", said(&output));
}
