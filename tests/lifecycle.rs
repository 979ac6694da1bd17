//! What becomes of a capture when it is stopped, killed, or loses what it stands on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

mod root {
    use std::fs;
    use std::io::Read;
    use std::time::{Duration, Instant};

    use nix::sys::signal::Signal;
    use serde_json::Value;

    use super::support::sensor::{Ended, Running, Start, eventually};
    use super::support::wire::{Generator, Wire};
    use super::support::{balanced, count, json, sound, sum, verify};

    const ENDLESS: &str = "--size 60-1514 --flows 64 --cpus 0,1 --duration 60";

    /// Full load on both queues, and a capture that has some of it already.
    fn under_load(wire: &Wire, words: &str) -> (Running, Generator) {
        let capture = Start::on(wire, words).ready();
        let generator = wire.start(ENDLESS);
        let counter = format!("/sys/class/net/{}/statistics/rx_packets", wire.rx());
        eventually("packets arrive", || {
            let mut read = wire.command("cat");
            let read = read.arg(&counter).output().unwrap().stdout;
            String::from_utf8(read).unwrap().trim().parse().unwrap_or(0) > 100_000
        });
        (capture, generator)
    }

    /// Asserts that nothing of a capture is left on the interface.
    fn untouched(wire: &Wire) {
        let shown = wire.link();
        assert!(!shown.contains("xdp"), "{shown}");
        assert!(shown.contains("promiscuity 0"), "{shown}");
        let attached = wire
            .command("bpftool")
            .args(["net", "show"])
            .output()
            .unwrap();
        let attached = String::from_utf8(attached.stdout).unwrap();
        assert!(!attached.contains(&format!("{}(", wire.rx())), "{attached}");
    }

    /// Asserts that a new capture works, to the frame.
    fn works(wire: &Wire) {
        let capture = Start::on(wire, "--mode xdp -w {}/wire.pcapng").ready();
        let sent = wire.generate("--size 60-1514 --cpus 0,1 -c 2000 --pps 50000");
        let ended = capture.stop().with(0);
        balanced(&ended.ledger());
        assert_eq!(sound(&verify(&ended.file("wire.pcapng"), &sent)), 0);
    }

    /// Asserts that the file holds what the ledger calls delivered, each once and whole.
    fn kept(ended: &Ended) -> Value {
        let ledger = ended.ledger();
        balanced(&ledger);
        let file = ended.file("wire.pcapng");
        let all = serde_json::json!({"streams": [
            {"stream": 0, "frames": 1_u64 << 40}, {"stream": 1, "frames": 1_u64 << 40},
        ]});
        let report = verify(&file, &all);
        let missing = sound(&report);
        assert_eq!((2 << 40) - missing, count(&ledger, "/total/delivered"));
        ledger
    }

    #[test]
    fn a_signal_under_full_load_drains_and_every_frame_is_accounted_for() {
        let wire = Wire::new();
        let (capture, generator) = under_load(&wire, "-w {}/wire.pcapng");
        let ended = capture.stop().with(0);
        drop(generator);
        let ledger = kept(&ended);
        assert_eq!(count(&ledger, "/dropped/left_in_ring"), 0);
        assert_eq!(count(&ledger, "/dropped/shed"), 0);
        untouched(&wire);
    }

    #[test]
    fn an_interrupt_from_the_keyboard_drains_as_well() {
        let wire = Wire::new();
        let (capture, generator) = under_load(&wire, "--mode pcap -w {}/wire.pcapng");
        capture.signal(Signal::SIGINT);
        let ended = capture.wait().with(0);
        drop(generator);
        balanced(&ended.ledger());
        untouched(&wire);
    }

    #[test]
    fn a_second_signal_gives_the_drain_up_and_the_ledger_is_written() {
        let wire = Wire::new();
        let start = Start::on(&wire, "-w - --buffer 32MiB --drain 600").piped();
        let mut capture = start.ready();
        // Nobody reads, so that batches pile up and the drain cannot end.
        let stdout = capture.stdout();
        let _generator = wire.start(ENDLESS);
        capture.signal(Signal::SIGUSR1);
        eventually("the buffer is full", || {
            capture.signal(Signal::SIGUSR1);
            std::thread::sleep(Duration::from_millis(200));
            capture.log().contains("rx_ring_full") || capture.log().contains("rx_dropped")
        });
        capture.signal(Signal::SIGTERM);
        std::thread::sleep(Duration::from_secs(1));
        assert!(capture.runs(), "{}", capture.log());
        let second = Instant::now();
        capture.signal(Signal::SIGTERM);
        let ended = capture.wait().with(4);
        let took = second.elapsed();
        assert!(
            took < Duration::from_secs(30),
            "not by far the drain of 600 s: {took:?}"
        );
        balanced(&ended.ledger());
        let ledger = ended.ledger();
        let left = count(&ledger, "/failed/not_persisted") + count(&ledger, "/dropped/shed");
        assert!(left > 0, "{ledger:#}");
        drop(stdout);
        untouched(&wire);
    }

    #[test]
    fn after_a_kill_nothing_is_left_and_a_new_start_works() {
        let wire = Wire::new();
        let (capture, generator) = under_load(&wire, "--mode xdp -w {}/wire.pcapng");
        assert!(wire.link().contains("promiscuity 1"), "{}", wire.link());
        assert!(wire.link().contains("xdp"), "{}", wire.link());
        capture.signal(Signal::SIGKILL);
        let ended = capture.wait();
        assert_eq!(ended.code, None);
        drop(generator);
        // The kernel may take its link apart after the process is gone.
        eventually("the program is gone", || !wire.link().contains("xdp"));
        untouched(&wire);
        works(&wire);
    }

    #[test]
    fn a_link_that_goes_down_and_up_again_goes_on() {
        for mode in ["xdp", "pcap"] {
            let wire = Wire::new();
            let words = format!("--mode {mode} -w {{}}/wire.pcapng");
            let capture = Start::on(&wire, &words).ready();
            wire.generate("--stream 0 --size 60-1514 -c 1000 --pps 50000");
            wire.ip("link set dev rx down");
            std::thread::sleep(Duration::from_millis(300));
            wire.ip("link set dev rx up");
            eventually("the link is up", || wire.link().contains("state UP"));
            // Back within a second, says the contract.
            std::thread::sleep(Duration::from_secs(1));
            let sent = wire.generate("--stream 1 --size 60-1514 -c 1000 --pps 50000");
            let ended = capture.stop().with(0);
            let ledger = ended.ledger();
            balanced(&ledger);
            let dropped = sum(&ledger["dropped"]);
            assert_eq!(dropped, 0, "{mode}: {ledger:#}");
            let report = verify(&ended.file("wire.pcapng"), &sent);
            assert_eq!(sound(&report), 0, "{mode}: {report:#}\n{}", ended.log);
            assert_eq!(
                report["streams"]["0"]["received"], 1_000,
                "{mode}: {report:#}"
            );
        }
    }

    /// AF_XDP holds on to the device, libpcap to its name.
    #[test]
    fn an_interface_that_is_given_another_name_goes_on_or_is_gone() {
        for (mode, code) in [("xdp", 0), ("pcap", 5)] {
            let wire = Wire::new();
            let words = format!("--mode {mode} -w {{}}/wire.pcapng");
            let mut capture = Start::on(&wire, &words).ready();
            let before = wire.generate("--stream 0 --size 60-1514 -c 1000 --pps 50000");
            wire.ip("link set dev rx down");
            wire.ip("link set dev rx name renamed up");
            let (ended, sent) = match code {
                0 => {
                    std::thread::sleep(Duration::from_secs(1));
                    assert!(capture.runs(), "{}", capture.log());
                    let after = wire.generate("--stream 1 --size 60-1514 -c 1000 --pps 50000");
                    (capture.stop().with(code), after)
                }
                _ => (capture.wait().saying(code, &["rx", "gone"]), before),
            };
            balanced(&ended.ledger());
            let report = verify(&ended.file("wire.pcapng"), &sent);
            assert_eq!(sound(&report), 0, "{mode}: {report:#}\n{}", ended.log);
        }
    }

    #[test]
    fn a_device_that_is_removed_ends_the_capture_with_what_came_before() {
        for mode in ["xdp", "pcap"] {
            let wire = Wire::new();
            let words = format!("--mode {mode} -w {{}}/wire.pcapng");
            let capture = Start::on(&wire, &words).ready();
            let sent = wire.generate("--size 60-1514 -c 1000 --pps 50000");
            std::thread::sleep(Duration::from_millis(500));
            wire.ip("link del dev rx");
            let ended = capture.wait().saying(5, &["rx", "gone"]);
            balanced(&ended.ledger());
            assert_eq!(
                sound(&verify(&ended.file("wire.pcapng"), &sent)),
                0,
                "{mode}"
            );
        }
    }

    #[test]
    fn one_of_two_devices_removed_leaves_the_other_at_work() {
        let wire = Wire::new();
        wire.ip("link add other numrxqueues 2 type veth peer name rehto");
        wire.ip("link set dev other addrgenmode none up");
        wire.ip("link set dev rehto addrgenmode none up");
        let capture = Start::on(&wire, "-i other -w {}/wire.pcapng").ready();
        wire.ip("link del dev other");
        let log = || capture.log();
        eventually("the loss is told", || log().contains("gone"));
        let sent = wire.generate("--size 60-1514 -c 1000 --pps 50000");
        let ended = capture.stop().with(0);
        balanced(&ended.ledger());
        assert_eq!(sound(&verify(&ended.file("wire.pcapng"), &sent)), 0);
    }

    #[test]
    fn the_interface_is_promiscuous_while_the_capture_runs_and_not_after() {
        for mode in ["xdp", "pcap"] {
            let wire = Wire::new();
            let words = format!("--mode {mode} --sink discard");
            let capture = Start::on(&wire, &words).ready();
            assert!(wire.link().contains("promiscuity 1"), "{}", wire.link());
            capture.stop().with(0);
            untouched(&wire);
            let capture = Start::on(&wire, &format!("{words} --no-promiscuous")).ready();
            assert!(wire.link().contains("promiscuity 0"), "{}", wire.link());
            capture.stop().with(0);
        }
    }

    #[test]
    fn a_queue_that_is_bound_already_is_named() {
        let wire = Wire::new();
        let first = Start::on(&wire, "--mode xdp --sink discard").ready();
        let second = Start::on(&wire, "--mode xdp --sink discard").run();
        second.saying(3, &["rx", "queue 0", "bound by another"]);
        let beside = Start::on(&wire, "--sink discard").ready();
        beside
            .stop()
            .saying(0, &["capturing through libpcap", "XDP program"]);
        first.stop().with(0);
    }

    #[test]
    fn a_foreign_xdp_program_is_named_and_left_alone() {
        let wire = Wire::new();
        let folder = tempfile::tempdir().unwrap();
        let (source, object) = (folder.path().join("p.c"), folder.path().join("p.o"));
        let program =
            "__attribute__((section(\"xdp\"), used)) int somebody_elses(void *p) { return 2; }";
        fs::write(&source, program).unwrap();
        let object = object.display().to_string();
        let source = source.display().to_string();
        super::support::run(
            "clang",
            ["-O2", "-g", "-target", "bpf", "-c", &source, "-o", &object],
        );
        wire.ip(&format!("link set dev rx xdpdrv obj {object} sec xdp"));
        let refused = Start::on(&wire, "--mode xdp --sink discard").run();
        refused.saying(3, &["rx", "taken", "somebody_elses"]);
        let beside = Start::on(&wire, "--sink discard").ready();
        beside
            .stop()
            .saying(0, &["capturing through libpcap", "somebody_elses"]);
        assert!(wire.link().contains("xdp"), "{}", wire.link());
    }

    #[test]
    fn auto_mode_leaves_an_interface_with_an_address_to_the_host() {
        let wire = Wire::new();
        wire.ip("addr add 192.0.2.1/24 dev rx");
        let capture = Start::on(&wire, "-w {}/wire.pcapng").ready();
        let sent = wire.generate("--size 60-1514 -c 1000 --pps 50000");
        let ended = capture.stop();
        let ended = ended.saying(
            0,
            &["capturing through libpcap", "rx has the address 192.0.2.1"],
        );
        let ledger = ended.ledger();
        assert_eq!(ledger["interfaces"][0]["mode"], "pcap");
        assert_eq!(sound(&verify(&ended.file("wire.pcapng"), &sent)), 0);
        let forced = Start::on(&wire, "--mode xdp --sink discard").ready();
        forced
            .stop()
            .saying(0, &["192.0.2.1", "away from the host"]);
    }

    #[test]
    fn packets_that_leave_are_captured_through_libpcap() {
        let wire = Wire::new();
        let capture = Start::on(&wire, "-Q out -w {}/wire.pcapng").ready();
        wire.generate("--size 60 -c 100 --pps 10000");
        let ended = capture
            .stop()
            .saying(0, &["capturing through libpcap", "-Q out"]);
        assert_eq!(count(&ended.ledger(), "/total/delivered"), 0, "all arrived");
    }

    #[test]
    fn a_missing_right_is_named() {
        let wire = Wire::new();
        for (mode, lacking, named) in [
            ("pcap", "net_raw", "CAP_NET_RAW"),
            ("xdp", "net_raw", "CAP_NET_RAW"),
            ("xdp", "bpf,-sys_admin", "lacks CAP_BPF"),
            ("xdp", "perfmon,-sys_admin", "lacks CAP_PERFMON"),
            ("xdp", "net_admin,-sys_admin", "CAP_NET_ADMIN"),
        ] {
            let start = Start::on(&wire, &format!("--mode {mode} --sink discard"));
            let refused = start
                .under(&format!("setpriv --bounding-set=-{lacking}"))
                .run();
            refused.saying(3, &[named]);
            untouched(&wire);
        }
    }

    #[test]
    fn a_reader_that_goes_away_ends_the_capture_and_what_was_lost_is_counted() {
        let wire = Wire::new();
        let mut capture = Start::on(&wire, "-w -").piped().ready();
        let mut stdout = capture.stdout();
        let mut begin = [0; 28];
        stdout.read_exact(&mut begin).unwrap();
        assert_eq!(begin[..4], [0x0a, 0x0d, 0x0d, 0x0a], "a section of pcapng");
        drop(stdout);
        let ended = capture.wait();
        balanced(&ended.ledger());
        let ended = ended.with(1);
        assert!(ended.log.contains("pipe"), "{}", ended.log);
        untouched(&wire);
    }

    #[test]
    fn the_ledger_is_printed_on_request_and_written_at_the_end() {
        let wire = Wire::new();
        let capture = Start::on(&wire, "--sink discard").ready();
        wire.generate("--size 60 -c 1000 --pps 50000");
        eventually("the table shows the frames", || {
            capture.signal(Signal::SIGUSR1);
            std::thread::sleep(Duration::from_millis(50));
            capture.log().contains("[xdp]       1,000")
        });
        let ended = capture.stop().with(0);
        assert!(
            ended.log.contains("1000 packets captured\n"),
            "{}",
            ended.log
        );
        let ledger = json(&ended.file("ledger.json"));
        for path in [
            "/total/seen",
            "/total/received",
            "/total/batched",
            "/total/published",
            "/total/delivered",
        ] {
            assert_eq!(count(&ledger, path), 1_000);
        }
        assert_eq!(ledger["sink"], "discard");
        assert!(ledger["cpu_seconds"]["user"].is_f64());
        assert!(ledger["latency_ns"]["arrival_to_batch"]["p99"].is_u64());
    }
}
