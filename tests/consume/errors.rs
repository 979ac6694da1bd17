//! What is wrong is said in words, with the exit code of its kind.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr as Code};

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

/// `ringtap consume` from the beginning of topic `pcap` to its end.
fn from(brokers: &str) -> Command {
    let mut command = Command::new(RINGTAP);
    command.args(["consume", "-k", brokers, "-o", "begin", "-e", "-vv"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    command
}

/// Interrupts it, and expects it to say so.
fn interrupt(child: Child) {
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("interrupted"), "{}", said(&output));
}

#[test]
fn what_a_broker_says_that_was_just_started_is_waited_out() {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("pcap", 1, 1).unwrap();
    let passing = [
        Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        Code::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
        Code::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
    ];
    for code in passing {
        mock.request_errors(RDKafkaApiKey::ListOffsets, &[code; 12]);
        let output = run(&mut from(&mock.bootstrap_servers()));
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert!(said(&output).contains("asking again"), "{}", said(&output));
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_broker_that_accepts_and_says_nothing() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let child = from(&mute.local_addr().unwrap().to_string()).spawn();
    let _connected = mute.accept().unwrap();
    interrupt(child.unwrap());
}

#[test]
fn a_signal_ends_the_wait_for_a_partition_without_a_leader() {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("pcap", 1, 1).unwrap();
    let leaderless = [Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION; 1_000];
    mock.request_errors(RDKafkaApiKey::ListOffsets, &leaderless);
    let mut child = from(&mock.bootstrap_servers()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("asking again")));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    assert!(lines.any(|line| line.unwrap().contains("interrupted while")));
    assert_eq!(child.wait().unwrap().code(), Some(3));
}
