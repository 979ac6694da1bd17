//! What a running capture tells over HTTP.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use rdkafka::mocking::MockCluster;

use support::sensor::{Start, eventually};

/// Status and body of an answer.
fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: ringtap\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// An address on loopback that nobody listens on.
fn free() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn a_capture_is_not_ready_while_its_brokers_are_away() {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("pcap", 1, 1).unwrap();
    let (brokers, address) = (mock.bootstrap_servers(), free());
    let words =
        format!("--source synthetic,size=60,pps=1000 -k {brokers} --metrics={address} --drain 60");
    let capture = Start::new(&words).ready();
    let is = |status| get(&address, "/readyz").0 == status;
    eventually("it is ready", || is(200));
    mock.broker_down(-1).unwrap();
    eventually("the brokers are missed", || is(503));
    let (_, text) = get(&address, "/readyz");
    assert!(text.contains("does not answer: publisher 0"), "{text}");
    assert_eq!(get(&address, "/healthz").0, 200, "the workers turn");
    mock.broker_up(-1).unwrap();
    eventually("it is ready again", || is(200));
    capture.stop().with(0);
}

mod root {
    use std::io::Write;
    use std::net::TcpStream;
    use std::process::{Command, Stdio};

    use serde_json::Value;

    use super::support::sensor::{Start, eventually};
    use super::support::wire::Wire;
    use super::support::{count, printed, said};
    use super::{free, get};

    #[test]
    fn a_running_capture_answers_with_what_the_ledger_says() {
        let wire = Wire::beside_broker();
        let address = free();
        let words = format!("--sink discard --metrics={address}");
        let capture = Start::on(&wire, &words).ready();
        wire.generate("--size 60-1514 -c 5000 --pps 50000");
        let ledger = || -> Value { serde_json::from_str(&get(&address, "/ledger").1).unwrap() };
        eventually("all is delivered", || {
            count(&ledger(), "/total/delivered") == 5_000
        });

        let (status, text) = get(&address, "/metrics");
        assert_eq!(status, 200);
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = promtool.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        drop(stdin);
        let checked = promtool.wait_with_output().unwrap();
        let findings = printed(&checked) + &said(&checked);
        assert!(
            checked.status.success() && findings.is_empty(),
            "{findings}"
        );
        let sum = |name: &str| -> f64 {
            let of = |line: &&str| line.starts_with(&format!("{name}{{"));
            let values = text.lines().filter(of);
            values
                .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
                .sum()
        };
        assert_eq!(sum("ringtap_received_packets_total"), 5_000.0, "{text}");
        for reason in [
            "rx_dropped",
            "rx_ring_full",
            "pcap_dropped",
            "rejected_link_type",
        ] {
            let label = format!("reason=\"{reason}\"");
            assert!(
                text.contains(&label),
                "every reason is there from the start: {reason}"
            );
        }
        assert!(
            !text.contains("10.0.0."),
            "nothing seen in traffic is a label"
        );

        assert_eq!(get(&address, "/healthz").0, 200);
        assert_eq!(get(&address, "/readyz").0, 200);
        assert_eq!(get(&address, "/elsewhere").0, 404);
        assert_eq!(ledger()["phase"], "running");
        capture.stop().with(0);
        assert!(TcpStream::connect(&address).is_err(), "the port is closed");
    }

    #[test]
    fn a_capture_whose_workers_wait_is_alive_and_ready() {
        let wire = Wire::beside_broker();
        for mode in ["xdp", "pcap"] {
            let address = free();
            let words = format!("--mode {mode} --sink discard --metrics={address}");
            let capture = Start::on(&wire, &words).ready();
            std::thread::sleep(std::time::Duration::from_secs(3));
            let (status, text) = get(&address, "/healthz");
            assert_eq!(status, 200, "{mode}: {text}");
            assert_eq!(get(&address, "/readyz").0, 200, "{mode}");
            capture.stop().with(0);
        }
    }

    #[test]
    fn an_address_off_loopback_is_warned_of() {
        let address = free().replace("127.0.0.1", "0.0.0.0");
        let words = format!("--source synthetic -c 10 --sink discard --metrics={address}");
        let ended = Start::new(&words).run().with(0);
        assert!(
            ended.log.contains(&address) && ended.log.contains("WARN"),
            "{}",
            ended.log
        );
    }
}
