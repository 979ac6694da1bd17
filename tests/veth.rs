//! Captures off a real wire: what was sent is in the file once and whole, or in the ledger.
//!
//! The property, everywhere: sent = delivered + counted drops, each delivered once, byte for byte.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

mod root {
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::{io, thread};

    use serde_json::{Value, json};

    use super::support::sensor::{Ended, Start};
    use super::support::wire::{Shape, Wire};
    use super::support::{balanced, count, over_streams, run, sound, sum, verify};

    /// A million frames of every size that Ethernet has, half of them on each queue.
    const MILLION: &str = "--size 60-1514 --flows 64 --cpus 0,1 -c 500000";

    /// Asserts that the file holds what was sent, less what the ledger counts as dropped.
    fn accounted(ended: &Ended, sent: &Value) -> Value {
        let ledger = ended.ledger();
        balanced(&ledger);
        let missing = sound(&verify(&ended.file("wire.pcapng"), sent));
        assert_eq!(missing, sum(&ledger["dropped"]), "{ledger:#}");
        assert_eq!(count(&ledger, "/total/seen"), count(sent, "/sent"));
        assert_eq!(sum(&ledger["aside"]), 0);
        ledger
    }

    fn both_queues_worked(ledger: &Value) {
        let queues = ledger["queues"].as_array().unwrap();
        assert_eq!(queues.len(), 2);
        for queue in queues {
            assert!(count(queue, "/received") > 0, "{queue:#}");
        }
    }

    #[test]
    fn a_million_frames_over_two_queues_are_each_in_the_file_or_in_the_ledger() {
        let wire = Wire::new();
        let capture = Start::on(&wire, "-w {}/wire.pcapng").ready();
        let sent = wire.generate(MILLION);
        let ended = capture.stop().with(0);
        let ledger = accounted(&ended, &sent);
        both_queues_worked(&ledger);
        let interface = &ledger["interfaces"][0];
        assert_eq!(
            (&interface["mode"], &interface["attach"]),
            (&"xdp".into(), &"native".into())
        );
    }

    #[test]
    fn a_million_frames_in_generic_mode_are_each_in_the_file_or_in_the_ledger() {
        let wire = Wire::shaped(Shape {
            tx_queues: 4,
            ..Shape::default()
        });
        let capture = Start::on(&wire, "-w {}/wire.pcapng").ready();
        let sent = wire.generate(&format!("{MILLION} --engine socket"));
        let ended = capture.stop().with(0);
        let ledger = accounted(&ended, &sent);
        both_queues_worked(&ledger);
        assert_eq!(
            ledger["interfaces"][0]["attach"], "generic",
            "{}",
            ended.log
        );
    }

    #[test]
    fn a_million_frames_through_libpcap_are_each_in_the_file_or_in_the_ledger() {
        let wire = Wire::new();
        let capture = Start::on(&wire, "--mode pcap -w {}/wire.pcapng").ready();
        let sent = wire.generate(&format!("{MILLION} --engine socket"));
        let ended = capture.stop().with(0);
        let ledger = accounted(&ended, &sent);
        assert_eq!(ledger["interfaces"][0]["mode"], "pcap");
    }

    #[test]
    fn jumbo_frames_of_several_fragments_are_each_in_the_file_or_in_the_ledger() {
        let wire = Wire::shaped(Shape {
            mtu: 9_000,
            ..Shape::default()
        });
        let capture = Start::on(&wire, "-w {}/wire.pcapng").ready();
        let sent = wire.generate("--size 60-9014 --flows 64 --cpus 0,1 -c 50000");
        let ended = capture.stop().with(0);
        let ledger = accounted(&ended, &sent);
        both_queues_worked(&ledger);
        assert_eq!(ledger["interfaces"][0]["mode"], "xdp", "{}", ended.log);
    }

    #[test]
    fn a_sink_that_stalls_and_goes_on_gets_all_that_was_received() {
        let wire = Wire::new();
        let start = Start::on(&wire, "-w - --buffer 8MiB").piped();
        let mut capture = start.ready();
        let mut stdout = capture.stdout();
        // Four times what the batches of both queues hold, and nobody reads yet.
        let sent = wire.generate("--size imix --flows 64 --cpus 0,1 -c 100000");
        let mut file = File::create(capture.file("wire.pcapng")).unwrap();
        let reader = thread::spawn(move || io::copy(&mut stdout, &mut file).unwrap());
        let ended = capture.stop().with(0);
        reader.join().unwrap();
        let ledger = accounted(&ended, &sent);
        both_queues_worked(&ledger);
        assert!(sum(&ledger["dropped"]) > 0, "{ledger:#}");
    }

    #[test]
    fn a_count_is_exact_over_two_queues() {
        let wire = Wire::new();
        let capture = Start::on(&wire, "-c 100001 -w {}/wire.pcapng").ready();
        // Ends by itself, so that the generator finds no receiver in the end.
        let generator = wire.start("--size 60-1514 --cpus 0,1 -c 5000000");
        let ended = capture.wait().with(0);
        drop(generator);
        let ledger = ended.ledger();
        balanced(&ledger);
        assert_eq!(count(&ledger, "/total/delivered"), 100_001);
        let report = verify(&ended.file("wire.pcapng"), &streams(2, 5_000_000));
        sound(&report);
        assert_eq!(over_streams(&report, "received"), 100_001);
    }

    #[test]
    fn a_duration_ends_the_capture_and_all_before_it_is_kept() {
        let wire = Wire::new();
        let capture = Start::on(&wire, "--duration 3 -w {}/wire.pcapng").ready();
        let sent = wire.generate("--size 60-1514 -c 50000 --engine socket");
        let ended = capture.wait().with(0);
        accounted(&ended, &sent);
        assert!(ended.ledger()["seconds"].as_f64().unwrap() >= 3.0);
    }

    #[test]
    fn frames_on_a_queue_left_out_are_counted_as_passed() {
        let wire = Wire::new();
        let capture = Start::on(&wire, "--queues 0 -w {}/wire.pcapng").ready();
        let sent = wire.generate("--size 60-1514 --cpus 0,1 -c 20000");
        let ended = capture.stop().with(0);
        let ledger = ended.ledger();
        balanced(&ledger);
        let dropped = sum(&ledger["dropped"]);
        assert_eq!(count(&ledger, "/aside/xdp_passed"), 20_000);
        assert_eq!(count(&ledger, "/total/delivered") + dropped, 20_000);
        let missing = sound(&verify(&ended.file("wire.pcapng"), &sent));
        assert_eq!(missing, 20_000 + dropped);
        let report = verify(&ended.file("wire.pcapng"), &sent);
        assert_eq!(report["streams"]["1"]["received"], 0, "{report:#}");
    }

    #[test]
    fn a_filter_leaves_the_rest_aside_whether_in_user_space_or_in_libpcap() {
        let wire = Wire::new();
        for mode in ["xdp", "pcap"] {
            let words = format!("--mode {mode} -w {{}}/wire.pcapng udp src port 1025");
            let capture = Start::on(&wire, &words).ready();
            // Port 1,024 and up, one for each flow in turn; 1,464 frames have every flow equally often.
            wire.generate("--size 60 --flows 4 -c 14640 --pps 100000");
            let ended = capture.stop().with(0);
            let ledger = ended.ledger();
            balanced(&ledger);
            assert_eq!(sum(&ledger["dropped"]), 0);
            assert_eq!(count(&ledger, "/total/delivered"), 14_640 / 4);
            if mode == "xdp" {
                assert_eq!(count(&ledger, "/aside/filtered"), 14_640 / 4 * 3);
            }
            let ports = tshark(&ended, &["udp.srcport"]);
            assert_eq!(ports, BTreeMap::from([("1025".to_owned(), 14_640 / 4)]));
        }
    }

    #[test]
    fn frames_cut_by_the_snap_length_keep_their_length_and_are_counted() {
        let wire = Wire::new();
        let capture = Start::on(&wire, "-s 96 -w {}/wire.pcapng").ready();
        let sent = wire.generate("--size 590 -c 1000 --pps 50000");
        wire.generate("--size 60 -c 500 --pps 50000");
        let ended = capture.stop().with(0);
        let ledger = ended.ledger();
        balanced(&ledger);
        assert_eq!(count(&ledger, "/remarks/truncated"), count(&sent, "/sent"));
        let lengths = tshark(&ended, &["frame.cap_len", "frame.len"]);
        let expected = [("96\t590", 1_000), ("60\t60", 500)];
        let expected = expected.map(|(lengths, count)| (lengths.to_owned(), count));
        assert_eq!(lengths, BTreeMap::from(expected));
    }

    #[test]
    fn the_tools_of_wireshark_read_what_was_captured() {
        let wire = Wire::new();
        let capture = Start::on(&wire, "-w {}/wire.pcapng").ready();
        wire.generate("--size 60-1514 -c 2000 --pps 50000");
        let ended = capture.stop().with(0);
        let path = ended.file("wire.pcapng").display().to_string();
        let table = run("capinfos", ["-TmMc", &path]);
        assert!(table.trim_end().ends_with(",2000"), "{table}");
        let detail = run("capinfos", [&path]);
        assert!(detail.contains("Name = rx"), "{detail}");
        assert!(detail.contains("nanoseconds (9)"), "{detail}");
        let checked = ["udp.checksum.status", "ip.checksum.status"];
        assert_eq!(
            tshark(&ended, &checked),
            BTreeMap::from([("1\t1".to_owned(), 2_000)])
        );
        let read = run("tcpdump", ["-nr", &path, "udp"]);
        assert_eq!(read.lines().count(), 2_000);
    }

    /// How often each combination of these fields is in the file, as tshark shows it.
    fn tshark(ended: &Ended, fields: &[&str]) -> BTreeMap<String, u64> {
        let path = ended.file("wire.pcapng").display().to_string();
        let check = [
            "-o",
            "udp.check_checksum:TRUE",
            "-o",
            "ip.check_checksum:TRUE",
        ];
        let mut words = vec!["-r", &path, "-T", "fields"];
        words.extend(check);
        fields.iter().for_each(|field| words.extend(["-e", field]));
        let mut counts = BTreeMap::new();
        for line in run("tshark", words).lines() {
            *counts.entry(line.to_owned()).or_default() += 1;
        }
        counts
    }

    /// What a generator says that sent `frames` on each of `streams`.
    fn streams(streams: u32, frames: u64) -> Value {
        let each = (0..streams).map(|stream| json!({"stream": stream, "frames": frames}));
        json!({ "streams": each.collect::<Vec<_>>() })
    }
}
