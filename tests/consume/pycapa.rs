//! pycapa's command lines through the binary.

use std::os::unix::fs::symlink;
use std::process::{Command, Output};

use tempfile::tempdir;

use crate::support::{
    RINGTAP, brokers, consume, done, frame, name, numbers, packet, produce, run, said, topic,
};

fn pycapa(words: &str) -> Command {
    let mut command = Command::new(RINGTAP);
    command.arg("pycapa").args(words.split_whitespace());
    command
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn its_consumer_writes_what_consume_writes() {
    let topic = topic("pycapa", 1);
    produce(&topic, (0..10).map(packet));
    let words = format!(
        "--consumer --kafka-broker {} --kafka-topic {topic} --max-packets 10 -o begin",
        brokers()
    );
    let output = done(&mut pycapa(&words));
    assert_eq!(
        output.stdout,
        done(&mut consume(&topic, "-o begin -e")).stdout
    );
    assert_eq!(said(&output), "");

    let folder = tempdir().unwrap();
    let link = folder.path().join("pycapa");
    symlink(RINGTAP, &link).unwrap();
    let linked = done(Command::new(link).args(words.split(' ')));
    assert_eq!(linked.stdout, output.stdout);
}

#[test]
fn its_consumer_prints_packets_when_asked() {
    let topic = topic("pycapa-pp", 1);
    produce(&topic, (0..5).map(packet));
    let words = format!(
        "-c --kafka {} --topic {topic} -m 5 -pp 2 -o begin -ll DEBUG",
        brokers()
    );
    let output = done(pycapa(&words).env("TZ", "UTC"));
    let mut expected = String::new();
    for number in [1, 3] {
        expected.push_str(&format!(
            "Packet: count={} date=2026-11-21 00:00:00.00{number}000 topic={topic}\n",
            number + 1
        ));
        for line in frame(number).chunks(16) {
            let digits: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            expected.push_str(&digits.join(" "));
            expected.push('\n');
        }
    }
    assert_eq!(printed(&output), expected);
    let settings = format!(
        "DEBUG:root:Connecting to Kafka; {{'bootstrap.servers': '{}'",
        brokers()
    );
    assert!(said(&output).contains(&settings), "{}", said(&output));
}

#[test]
fn its_consumer_goes_on_where_a_named_group_stopped() {
    let topic = topic("pycapa-stored", 1);
    let group = name("group");
    produce(&topic, (0..10).map(packet));
    let next = |words: &str| {
        let line = format!("-c -k {} -t {topic} -X group.id={group} {words}", brokers());
        numbers(&done(&mut pycapa(&line)))
    };
    assert_eq!(next("-o begin -m 4"), [0, 1, 2, 3]);
    assert_eq!(next("-o stored -m 6"), [4, 5, 6, 7, 8, 9]);
}

#[test]
fn wrong_usage_has_exit_code_2() {
    for (words, part) in [
        ("", "--consumer or --producer"),
        (
            "--producer --kafka-broker a:1 --kafka-topic x",
            "--interface",
        ),
        ("--consumer --kafka-broker a:1", "--kafka-topic"),
        ("-c -k a:1 -t x -o middle", "begin"),
        ("-c -k a:1 -t x -ll loud", "loud"),
        ("-c -k a:1 -t x -X nonsense", "key=value"),
    ] {
        let output = run(&mut pycapa(words));
        assert_eq!(output.status.code(), Some(2), "{words}: {}", said(&output));
        assert!(said(&output).contains(part), "{words}: {}", said(&output));
    }
}

/// They capture on loopback, where the broker's own traffic is enough.
mod root {
    use std::process::Stdio;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn its_producer_says_what_people_look_for_and_delivers_what_it_counts() {
        let topic = topic("pycapa-lo", 1);
        let words = format!(
            "--producer --interface lo --kafka-broker {} --kafka-topic {topic} --max-packets 20 \
             --pretty-print 10 -X sasl.password=secret",
            brokers()
        );
        let output = done(&mut pycapa(&words));
        let said = said(&output);
        let lines: Vec<_> = said
            .lines()
            .filter(|line| line.starts_with("INFO:root:"))
            .collect();
        let [connecting, starting, waiting, sums] = lines[..] else {
            panic!("{said}");
        };
        assert!(
            connecting.starts_with("INFO:root:Connecting to Kafka; {'"),
            "{connecting}"
        );
        assert!(!said.contains("secret"), "{said}");
        assert_eq!(starting, "INFO:root:Starting packet capture");
        assert!(waiting.starts_with("INFO:root:Waiting for '"), "{waiting}");
        assert!(waiting.ends_with("' message(s) to flush"), "{waiting}");
        assert_eq!(sums, "INFO:root:'20' packet(s) in, '20' packet(s) out");
        let printed = printed(&output);
        assert!(printed.starts_with("10 packet(s) received\n"), "{printed}");
        assert_eq!(
            printed.matches("packet(s) received").count(),
            2,
            "{printed}"
        );
        let read = done(&mut consume(&topic, "-o begin -e"));
        assert_eq!(crate::support::bytes(&read.stdout).len(), 20);
    }

    #[test]
    fn its_producer_ends_well_on_a_signal() {
        let topic = topic("pycapa-int", 1);
        let words = format!("-p -i lo -k {} -t {topic}", brokers());
        let child = pycapa(&words).stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        // Something is there once a record has come.
        done(&mut consume(&topic, "-o begin -c 1"));
        kill(pid, Signal::SIGINT).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        let said = said(&output);
        let begins: Vec<_> = said
            .lines()
            .filter_map(|line| line.strip_prefix("INFO:root:"))
            .map(|line| line.split('\'').next().unwrap().trim())
            .collect();
        assert_eq!(
            begins[1..4],
            [
                "Starting packet capture",
                "Clean shutdown process started",
                "Waiting for"
            ],
            "{said}"
        );
        let sums = said.lines().last().unwrap();
        let numbers: Vec<_> = sums.split('\'').skip(1).step_by(2).collect();
        assert_eq!(numbers[0], numbers[1], "{said}");
    }
}
