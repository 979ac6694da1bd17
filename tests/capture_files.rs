//! What the writers write is what libpcap reads: an independent reader of both formats.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::fs;

use pcap::{Capture, Precision};
use proptest::prelude::*;
use ringtap::format::write::{Encoder, Fraction, Section, Writer};
use ringtap::interfaces::{Interface, Interfaces};
use ringtap::packet::{Clock, LinkType, Packet, Timestamp};
use tempfile::tempdir;

/// Seconds, nanoseconds, original length, bytes.
type Read = (i64, i64, u32, Vec<u8>);

/// A packet to write: nanoseconds, bytes cut off, bytes.
fn packets() -> impl Strategy<Value = Vec<(u64, u32, Vec<u8>)>> {
    let time = 0..u64::from(u32::MAX >> 1) * 1_000_000_000;
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80),
        prop::collection::vec(any::<u8>(), 1_500..1_530),
        (65_530_usize..66_000).prop_map(|len| vec![7; len]),
        Just(vec![9; 262_144]),
    ];
    prop::collection::vec((time, 0_u32..2_000, bytes), 0..20)
}

fn write(encoder: Encoder, packets: &[(u64, u32, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), encoder).unwrap();
    for (nanos, cut, bytes) in packets {
        let (data, last) = bytes.split_at(bytes.len() / 2);
        let packet = Packet {
            clock: Clock::Arrival,
            time: Timestamp::from_nanos(*nanos),
            orig_len: u32::try_from(bytes.len()).unwrap() + cut,
            link_type: LinkType::ETHERNET,
            interface: 0,
            data,
            more: &[last],
        };
        writer.packet(&packet).unwrap();
    }
    writer.finish(&|_| None).unwrap()
}

fn read(file: &[u8]) -> (i32, Vec<Read>) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, file).unwrap();
    let mut capture = Capture::from_file_with_precision(&path, Precision::Nano).unwrap();
    let mut read = Vec::new();
    loop {
        match capture.next_packet() {
            Ok(packet) => {
                let stamp = packet.header.ts;
                read.push((
                    stamp.tv_sec,
                    stamp.tv_usec,
                    packet.header.len,
                    packet.data.to_vec(),
                ));
            }
            Err(pcap::Error::NoMorePackets) => return (capture.get_datalink().0, read),
            Err(error) => panic!("{error}"),
        }
    }
}

fn expected(packets: &[(u64, u32, Vec<u8>)], unit: u64) -> Vec<Read> {
    packets
        .iter()
        .map(|(nanos, cut, bytes)| {
            let nanos = nanos / unit * unit;
            (
                i64::try_from(nanos / 1_000_000_000).unwrap(),
                i64::try_from(nanos % 1_000_000_000).unwrap(),
                u32::try_from(bytes.len()).unwrap() + cut,
                bytes.clone(),
            )
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn libpcap_reads_from_pcap_what_was_written(packets in packets(), nanos in any::<bool>()) {
        let (fraction, unit) = match nanos {
            true => (Fraction::Nanos, 1),
            false => (Fraction::Micros, 1_000),
        };
        let file = write(Encoder::pcap(fraction, 262_144, LinkType::ETHERNET), &packets);
        prop_assert_eq!(read(&file), (1, expected(&packets, unit)));
    }

    #[test]
    fn libpcap_reads_from_pcapng_what_was_written(packets in packets()) {
        prop_assume!(!packets.is_empty());
        let interfaces = Interfaces::default();
        interfaces.register(Interface {
            name: "eth0".to_owned(),
            link_type: LinkType::ETHERNET,
            snaplen: 0,
            filter: None,
        });
        let file = write(Encoder::pcapng(Section::here(), interfaces), &packets);
        prop_assert_eq!(read(&file), (1, expected(&packets, 1)));
    }
}
