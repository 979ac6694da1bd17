//! What comes out: pycapa's bytes, and every form that says more.

use std::fs;

use ringtap::packet::{LinkType, Timestamp};
use ringtap::record::RecordInfo;
use tempfile::tempdir;

use crate::support::{
    EPOCH, RINGTAP, Read, Record, brokers, bytes, consume, done, file, frame, numbers, packet,
    produce, said, topic,
};

/// What pycapa writes for these records.
fn pycapa(packets: &[(u64, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        out.extend(field.to_ne_bytes());
    }
    for (micros, data) in packets {
        let len = u32::try_from(data.len()).unwrap();
        for field in [
            micros / 1_000_000,
            micros % 1_000_000,
            len.into(),
            len.into(),
        ] {
            out.extend(u32::try_from(field).unwrap().to_ne_bytes());
        }
        out.extend(*data);
    }
    out
}

/// The same packet with an `rt` header that knows more.
fn restored(number: u64, link_type: LinkType, interface: u16) -> Record {
    let micros = EPOCH + number * 1_000;
    let info = RecordInfo {
        flags: 0,
        link_type,
        queue: 0,
        interface,
        orig_len: 9_000,
        time: Timestamp::from_nanos(micros * 1_000 + 123),
        sequence: number,
    };
    Record {
        headers: vec![("other", vec![1]), ("rt", info.encode().to_vec())],
        ..packet(number)
    }
}

#[test]
fn the_default_output_is_pycapas_to_the_byte() {
    let topic = topic("bytes", 1);
    let empty = Record {
        value: Some(Vec::new()),
        ..packet(2)
    };
    // What pycapa cannot know changes nothing of it.
    produce(&topic, [packet(1), empty, restored(3, LinkType::RAW, 1)]);
    let output = done(&mut consume(&topic, "-o begin -e"));
    let expected = pycapa(&[
        (EPOCH + 1_000, &frame(1)),
        (EPOCH + 2_000, &[]),
        (EPOCH + 3_000, &frame(3)),
    ]);
    assert_eq!(output.stdout, expected);
    assert!(said(&output).contains("3 records read, 3 written, 0 filtered, 0 bad_record"));
}

#[test]
fn what_holds_no_packet_is_counted_shown_once_and_passed_over() {
    let topic = topic("bad", 1);
    let key = |key: Option<Vec<u8>>| Record { key, ..packet(9) };
    let no_value = Record {
        value: None,
        ..packet(9)
    };
    produce(
        &topic,
        [
            packet(1),
            key(None),
            key(Some(vec![])),
            packet(2),
            key(Some(vec![1; 7])),
            key(Some(vec![1; 9])),
            no_value,
            packet(3),
        ],
    );
    for words in ["-o begin -e", "-o begin -e --sort"] {
        let output = done(&mut consume(&topic, words));
        assert_eq!(numbers(&output), [1, 2, 3]);
        let said = said(&output);
        assert_eq!(said.matches("bad_record:").count(), 1, "{said}");
        assert!(said.contains("it has no key"), "{said}");
        let summary = "8 records read, 3 written, 0 filtered, 5 bad_record";
        assert!(said.contains(summary), "{said}");
    }
}

#[test]
fn the_rt_header_brings_back_what_the_sensor_knew() {
    let topic = topic("rt", 1);
    let records = [
        restored(1, LinkType::RAW, 1),
        restored(2, LinkType::ETHERNET, 2),
        packet(3),
        restored(4, LinkType::RAW, 1),
    ];
    produce(&topic, records);
    let expected = |number: u64, link_type, restored: bool| Read {
        nanos: (EPOCH + number * 1_000) * 1_000 + if restored { 123 } else { 0 },
        orig_len: if restored { 9_000 } else { 50 },
        link_type,
        data: frame(number),
    };
    let all = [
        expected(1, LinkType::RAW, true),
        expected(2, LinkType::ETHERNET, true),
        expected(3, LinkType::ETHERNET, false),
        expected(4, LinkType::RAW, true),
    ];
    let folder = tempdir().unwrap();
    let path = folder.path().join("x.pcapng");
    done(consume(&topic, "-o begin -e -w").arg(&path));
    assert_eq!(file(&path), all);
    let output = done(&mut consume(&topic, "-o begin -e --format pcapng"));
    assert_eq!(bytes(&output.stdout), all);

    // Nanosecond pcap holds one link type, that of the first packet.
    let output = done(&mut consume(&topic, "-o begin -e --format pcap-ns"));
    assert_eq!(bytes(&output.stdout), [all[0].clone(), all[3].clone()]);
    assert!(said(&output).contains("2 rejected"), "{}", said(&output));
}

#[test]
fn headers_that_nobody_understands_do_no_harm() {
    let topic = topic("headers", 1);
    let with = |headers| Record {
        headers,
        ..packet(1)
    };
    produce(
        &topic,
        [
            with(vec![("rt", vec![1, 2, 3])]),
            with(vec![("rt", vec![])]),
            with(vec![("RT", vec![0; 28])]),
        ],
    );
    let output = done(&mut consume(&topic, "-o begin -e --format pcapng"));
    let packets = bytes(&output.stdout);
    assert_eq!(packets.len(), 3);
    assert!(
        packets
            .iter()
            .all(|packet| packet.nanos == (EPOCH + 1_000) * 1_000)
    );
}

#[test]
fn a_capture_file_goes_through_kafka_and_comes_out_the_same() {
    let folder = tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let capture = |words: &str| {
        let words: Vec<_> = words.split(' ').collect();
        done(
            std::process::Command::new(RINGTAP)
                .arg("capture")
                .args(words),
        );
    };
    let source = "--source synthetic,size=imix,flows=3 -c 5000 -q";
    capture(&format!("{source} -s 65535 -w {}", path("in.pcap")));
    let plain = topic("file", 1);
    capture(&format!(
        "-r {} -k {} -t {plain} -q",
        path("in.pcap"),
        brokers()
    ));
    let output = done(&mut consume(&plain, "-o begin -e"));
    assert!(output.stdout == fs::read(path("in.pcap")).unwrap());

    capture(&format!("{source} -s 100 -w {}", path("in.pcapng")));
    let topic = topic("file-rt", 3);
    let sink = format!("-k {} -t {topic} --record-headers", brokers());
    capture(&format!("-r {} {sink} -q", path("in.pcapng")));
    let out = path("out.pcapng");
    done(&mut consume(
        &topic,
        &format!("-o begin -e --sort -w {out}"),
    ));
    let sort = |path: &str| {
        let mut packets = file(path.as_ref());
        packets.sort_by(|a, b| (a.nanos, &a.data).cmp(&(b.nanos, &b.data)));
        packets
    };
    assert!(sort(&out) == sort(&path("in.pcapng")));
}

#[test]
fn verify_checks_what_consume_wrote() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("x.pcapng").display().to_string();
    let topic = topic("verify", 2);
    let source = "capture --source synthetic,size=60 -c 20000 -q --batch-size 256KiB";
    let mut capture = std::process::Command::new(RINGTAP);
    done(
        capture
            .args(source.split(' '))
            .args(["-k", &brokers(), "-t", &topic]),
    );
    done(&mut consume(&topic, &format!("-o begin -e -q -w {out}")));
    let mut verify = std::process::Command::new(RINGTAP);
    let report = done(verify.args(["verify", "--sent", "20000", &out]));
    let report = String::from_utf8(report.stdout).unwrap();
    assert!(report.contains(r#""complete":true"#), "{report}");
}
