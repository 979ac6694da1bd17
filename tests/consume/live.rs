//! While records come: packets are passed on at once, and every way to end is a good one.

use std::io::Read as _;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{RINGTAP, Record, brokers, consume, frame, packet, produce, said, topic};

/// A reading that waits for records: its header has come.
fn waiting(topic: &str, words: &str) -> (Child, ChildStdout) {
    let mut child = consume(topic, words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut header = [0; 24];
    out.read_exact(&mut header).unwrap();
    (child, out)
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

#[test]
fn a_packet_is_passed_on_while_nothing_more_comes() {
    for words in ["", "--sort"] {
        let topic = topic("live", 2);
        let (child, mut out) = waiting(&topic, words);
        for number in 0..3 {
            produce(&topic, [packet(number)]);
            let mut bytes = [0; 16 + 50];
            out.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes[16..], frame(number));
        }
        signal(&child, Signal::SIGINT);
        let mut rest = Vec::new();
        out.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
        let said = said(&end(child));
        assert!(said.contains("3 records read, 3 written"), "{said}");
    }
}

/// The end of a child, which has to be a good one.
fn end(child: Child) -> Output {
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    output
}

#[test]
fn a_signal_ends_it_well_even_when_the_reader_stands_still() {
    let topic = topic("signal", 1);
    let wide = |number| Record {
        value: Some(vec![1; 1_000]),
        ..packet(number)
    };
    produce(&topic, (0..5_000).map(wide));
    for way in [Signal::SIGINT, Signal::SIGTERM] {
        let (child, out) = waiting(&topic, "-o begin");
        signal(&child, way);
        let output = end(child);
        assert!(said(&output).contains("records read"), "{}", said(&output));
        drop(out);
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_well() {
    let topic = topic("pipe", 1);
    produce(&topic, (0..5_000).map(packet));
    let (child, out) = waiting(&topic, "-o begin");
    drop(out);
    end(child);
    // On a silent topic too.
    let (child, out) = waiting(&topic, "-o end");
    drop(out);
    end(child);
}

#[test]
fn tshark_shows_packets_from_the_pipe() {
    let topic = topic("tshark", 1);
    produce(&topic, (0..10).map(packet));
    let line = format!(
        "{RINGTAP} consume -k {} -t {topic} -o begin -c 10 | tshark -i - -T fields -e udp.dstport",
        brokers()
    );
    let output = Command::new("sh").args(["-c", &line]).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(shown, "53\n80\n".repeat(5), "{}", said(&output));
}
