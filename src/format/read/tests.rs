use std::io::{self, Cursor, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::sample::{Made, Owned, drain, each};
use super::*;

fn read(bytes: Vec<u8>) -> (Vec<Owned>, Option<ReadError>) {
    let length = bytes.len();
    drain(Reader::new("a file", Cursor::new(bytes)), length)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// `bytes` in several members or frames.
fn pieces(bytes: &[u8], pack: fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    bytes.chunks(bytes.len() / 3).flat_map(pack).collect()
}

fn offset(error: &ReadError) -> u64 {
    match error {
        ReadError::Damaged { offset, .. } => *offset,
        ReadError::Empty { .. } | ReadError::NotCapture { .. } => 0,
        other => panic!("{other} is no damage"),
    }
}

/// One byte at a time, and nothing every second time.
struct Trickle {
    bytes: Cursor<Vec<u8>>,
    dry: bool,
}

impl Read for Trickle {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.dry = !self.dry;
        if self.dry {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.bytes.read(&mut into[..1])
    }
}

#[test]
fn every_kind_of_file_yields_its_packets() {
    for (name, made) in each() {
        let (packets, error) = read(made.bytes);
        assert!(error.is_none(), "{name}: {error:?}");
        assert_eq!(packets, made.packets, "{name}");
    }
}

#[test]
fn packed_files_yield_the_same_packets_in_one_piece_and_in_several() {
    for (name, made) in each() {
        for packed in [
            gzip(&made.bytes),
            zstd(&made.bytes),
            pieces(&made.bytes, gzip),
            pieces(&made.bytes, zstd),
        ] {
            let reader = Reader::new("packed", Cursor::new(packed));
            let (packets, error) = drain(reader, made.bytes.len());
            assert!(error.is_none(), "{name}: {error:?}");
            assert_eq!(packets, made.packets, "{name}");
        }
    }
}

#[test]
fn a_gzip_header_with_every_field_is_passed_over() {
    let (_, made) = each().remove(0);
    let mut encoder = flate2::GzBuilder::new()
        .extra(vec![1; 300])
        .filename("a.pcap")
        .comment("a test")
        .write(Vec::new(), Compression::fast());
    encoder.write_all(&made.bytes).unwrap();
    assert_eq!(read(encoder.finish().unwrap()).0, made.packets);
}

#[test]
fn bytes_that_come_one_by_one_yield_each_packet_as_soon_as_it_is_whole() {
    for (name, made) in each() {
        let mut reader = Reader::new(
            "slow",
            Trickle {
                bytes: Cursor::new(made.bytes.clone()),
                dry: false,
            },
        );
        let (mut packets, mut dry) = (Vec::new(), 0);
        loop {
            match reader.advance().unwrap() {
                Step::End => break,
                Step::Pending => dry += 1,
                Step::Packet => {
                    assert_eq!(dry, made.packet_ends[packets.len()], "{name}");
                    packets.push(Owned::of(&reader.packet().unwrap()));
                }
            }
        }
        assert_eq!(packets, made.packets, "{name}");
    }
}

#[test]
fn packed_bytes_that_come_one_by_one_yield_the_same_packets() {
    for (name, made) in each() {
        for packed in [pieces(&made.bytes, gzip), pieces(&made.bytes, zstd)] {
            let bytes = Cursor::new(packed);
            let mut reader = Reader::new("slow", Trickle { bytes, dry: false });
            let mut packets = Vec::new();
            loop {
                match reader.advance().unwrap() {
                    Step::End => break,
                    Step::Pending => {}
                    Step::Packet => packets.push(Owned::of(&reader.packet().unwrap())),
                }
            }
            assert_eq!(packets, made.packets, "{name}");
        }
    }
}

#[test]
fn a_file_cut_at_any_byte_yields_the_whole_packets_and_the_place_of_the_cut() {
    for (name, made) in each() {
        for cut in 1..made.bytes.len() {
            let (packets, error) = read(made.bytes[..cut].to_vec());
            let whole = made.packet_ends.iter().filter(|end| **end <= cut).count();
            assert_eq!(packets, made.packets[..whole], "{name} cut at {cut}");
            let last = made.ends.iter().copied().filter(|end| *end <= cut).max();
            match error {
                None => assert_eq!(last, Some(cut), "{name} cut at {cut}"),
                Some(error) => {
                    let last = u64::try_from(last.unwrap_or(0)).unwrap();
                    assert_eq!(offset(&error), last, "{name} cut at {cut}: {error}");
                }
            }
        }
    }
}

#[test]
fn a_byte_changed_anywhere_leaves_the_packets_before_it() {
    for (name, made) in each() {
        for at in 0..made.bytes.len() {
            for flip in [0x01, 0x04, 0x80, 0xff] {
                let mut bytes = made.bytes.clone();
                bytes[at] ^= flip;
                let (packets, error) = read(bytes);
                let whole = made.packet_ends.iter().filter(|end| **end <= at).count();
                assert_eq!(packets[..whole], made.packets[..whole], "{name} at {at}");
                if let Some(error) = error {
                    let length = u64::try_from(made.bytes.len()).unwrap();
                    assert!(offset(&error) <= length, "{name} at {at}: {error}");
                }
            }
        }
    }
}

#[test]
fn a_packed_file_cut_at_any_byte_yields_the_first_packets_and_an_error() {
    for (name, made) in each() {
        for packed in [pieces(&made.bytes, gzip), pieces(&made.bytes, zstd)] {
            for cut in 0..packed.len() {
                let (packets, error) = read(packed[..cut].to_vec());
                assert!(made.packets.starts_with(&packets), "{name} cut at {cut}");
                if let Some(error) = error {
                    assert!(offset(&error) <= u64::try_from(made.bytes.len()).unwrap());
                }
            }
        }
    }
}

#[test]
fn a_packed_file_with_a_byte_changed_anywhere_comes_to_an_end() {
    for (_, made) in each() {
        for packed in [pieces(&made.bytes, gzip), pieces(&made.bytes, zstd)] {
            for at in 0..packed.len() {
                for flip in [0x01, 0x80, 0xff] {
                    let mut bytes = packed.clone();
                    bytes[at] ^= flip;
                    let reader = Reader::new("changed", Cursor::new(bytes));
                    drain(reader, 1 << 20);
                }
            }
        }
    }
}

/// Packets whose bytes do not pack, 3 MiB in all: many blocks of either packing.
fn noise() -> Made {
    let mut state = 1_u32;
    let mut made = Made::pcap(Order::Little, 1, &[]);
    for number in 0..3_000 {
        let mut packet = Owned::new(number, 0);
        packet.data.resize_with(1_000, || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        });
        made.record(1, &packet);
    }
    made
}

#[test]
fn what_was_unpacked_before_a_fault_is_kept() {
    let made = noise();
    for pack in [gzip, zstd] {
        let mut packed = pack(&made.bytes);
        let mut damaged = packed.clone();
        let good = packed.len();
        packed.extend_from_slice(b"no member and no frame");
        let (packets, error) = read(packed);
        assert_eq!(packets, made.packets);
        let length = u64::try_from(made.bytes.len()).unwrap();
        assert_eq!(offset(&error.unwrap()), length);

        // The last bytes are the sum over everything, or the length of it.
        damaged[good - 2] ^= 0x10;
        let (packets, error) = read(damaged);
        assert_eq!(packets, made.packets);
        assert_eq!(offset(&error.unwrap()), length);
    }
}

#[test]
fn a_fault_in_a_zstd_block_leaves_the_blocks_before_it() {
    let made = noise();
    let mut packed = zstd(&made.bytes);
    let blocks = zstd_blocks(&packed);
    let (third, before) = blocks[2];
    // A block of the reserved type.
    packed[third] |= 6;
    let (packets, error) = read(packed);
    let whole = made
        .packet_ends
        .iter()
        .filter(|end| **end <= before)
        .count();
    assert_eq!(packets, made.packets[..whole]);
    assert!(whole > 200 && error.is_some());
}

/// Where each block header of a frame of raw blocks is, and how many bytes come before it unpacked.
fn zstd_blocks(packed: &[u8]) -> Vec<(usize, usize)> {
    // Magic, descriptor and window: no size is known when the frame begins.
    let (mut at, mut before, mut blocks) = (6, 0, Vec::new());
    loop {
        blocks.push((at, before));
        let header = u32::from_le_bytes([packed[at], packed[at + 1], packed[at + 2], 0]);
        assert_eq!(header & 6, 0, "noise is stored as raw blocks");
        let length = usize::try_from(header >> 3).unwrap();
        (at, before) = (at + 3 + length, before + length);
        if header & 1 == 1 {
            return blocks;
        }
    }
}

#[test]
fn the_interfaces_of_all_sections_are_numbered_through() {
    let (_, made) = each().remove(2);
    let mut reader = Reader::new("two sections", Cursor::new(made.bytes.repeat(2)));
    while reader.next().unwrap().is_some() {}
    let [eth0, cooked, third] = reader.interfaces() else {
        panic!("three interfaces, and the repeated ones are no others");
    };
    assert_eq!(eth0.name, "eth0");
    assert_eq!(eth0.filter.as_deref(), Some("tcp port 80"));
    assert_eq!(eth0.link_type, LinkType::ETHERNET);
    assert_eq!((cooked.link_type, cooked.snaplen), (LinkType::LINUX_SLL, 0));
    assert_eq!((third.name.as_str(), third.snaplen), ("", 4));
}

#[test]
fn files_without_packets_and_files_of_other_kinds_say_what_they_are() {
    let none = Made::pcap(Order::Big, 1, &[]);
    assert!(matches!(read(none.bytes), (packets, None) if packets.is_empty()));
    assert!(matches!(
        read(Vec::new()),
        (_, Some(ReadError::Empty { .. }))
    ));
    assert!(matches!(
        read(gzip(b"")),
        (_, Some(ReadError::Empty { .. }))
    ));
    for text in [b"#!/bin/sh\n".to_vec(), gzip(b"#!/bin/sh\n")] {
        let error = read(text).1.unwrap().to_string();
        assert!(error.contains("0x23212f62 (\"#!/b\")"), "{error}");
    }
    let error = read(vec![0x7f, b'E', b'L', b'F']).1.unwrap().to_string();
    assert!(error.contains("0x7f454c46,"), "{error}");
}

#[test]
fn records_and_blocks_of_impossible_lengths_are_damage() {
    let good = Owned::new(7, 9);
    let longest = Owned {
        data: vec![3; 262_144],
        ..good.clone()
    };
    let too_long = Owned {
        data: vec![3; 262_145],
        ..good.clone()
    };
    let made = Made::pcap(
        Order::Little,
        1,
        &[good.clone(), longest.clone(), too_long.clone()],
    );
    let (packets, error) = read(made.bytes);
    assert_eq!(packets, [good.clone(), longest.clone()]);
    assert!(error.unwrap().to_string().contains("262145"));

    let mut made = Made::new(Order::Big);
    made.section().interface(1, 0, &[(9, &[9])]);
    made.enhanced(0, 7, &longest).enhanced(0, 7, &too_long);
    let (packets, error) = read(made.bytes);
    assert_eq!(packets, [longest]);
    assert!(error.unwrap().to_string().contains("262145"));

    for length in [0, 8, 11, 13, 30, (16 << 20) + 4, u32::MAX] {
        let mut made = Made::new(Order::Little);
        made.section()
            .interface(1, 0, &[(9, &[9])])
            .enhanced(0, 7, &good);
        let before = u64::try_from(made.bytes.len()).unwrap();
        made.u32(99).u32(length).raw(&[0; 64]);
        let (packets, error) = read(made.bytes);
        assert_eq!(packets, [good.clone()], "length {length}");
        assert_eq!(offset(&error.unwrap()), before, "length {length}");
    }
}

#[test]
fn a_flood_of_interfaces_is_refused_before_it_fills_the_memory() {
    let name = [b'x'; 65_000];
    for (options, most) in [(&[][..], 65_536), (&[(2, &name[..])], 17_000_000 / 65_000)] {
        let mut made = Made::new(Order::Little);
        made.section();
        for _ in 0..70_000_usize.min(most + 10) {
            made.interface(1, 0, options);
        }
        let mut reader = Reader::new("flood", Cursor::new(made.bytes));
        assert!(reader.next().is_err());
        assert!(reader.interfaces().len() <= most);
    }
}

fn packets() -> impl Strategy<Value = Vec<Owned>> {
    let packet = (
        0..4_000_000_000_u64 * 1_000_000,
        prop::collection::vec(any::<u8>(), 0..300),
        any::<u32>(),
    );
    let packet = packet.prop_map(|(micros, data, orig_len)| Owned {
        time: Timestamp::from_nanos(micros * 1_000),
        orig_len,
        link_type: LinkType::ETHERNET,
        interface: 0,
        data,
    });
    prop::collection::vec(packet, 0..40)
}

fn orders() -> impl Strategy<Value = Order> {
    prop_oneof![Just(Order::Little), Just(Order::Big)]
}

proptest! {
    #[test]
    fn any_packets_are_read_back_from_pcap(
        order in orders(),
        nanos in any::<bool>(),
        packets in packets(),
    ) {
        let made = Made::pcap(order, if nanos { 1 } else { 1_000 }, &packets);
        let (found, error) = read(made.bytes);
        prop_assert!(error.is_none());
        prop_assert_eq!(found, packets);
    }

    #[test]
    fn any_packets_are_read_back_from_pcapng(order in orders(), packets in packets()) {
        let mut made = Made::new(order);
        made.section().interface(1, 0, &[(9, &[9])]).interface(1, 0, &[]);
        for (number, packet) in packets.iter().enumerate() {
            match number % 4 {
                0 => made.obsolete(0, packet.time.nanos(), packet),
                1 => made.block(0x4000_0000, &packet.data[..packet.data.len() / 4 * 4])
                    .enhanced(0, packet.time.nanos(), packet),
                2 => made.enhanced(1, packet.time.micros(), &Owned {
                    interface: 1,
                    ..packet.clone()
                }),
                _ => made.enhanced(0, packet.time.nanos(), packet),
            };
        }
        let (found, error) = read(made.bytes);
        prop_assert!(error.is_none());
        prop_assert_eq!(found, made.packets);
    }

    #[test]
    fn any_bytes_behind_a_good_start_come_to_an_end(
        file in 0..6_usize,
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let (_, made) = each().swap_remove(file);
        let start = made.ends[made.ends.len() / 2];
        let mut whole = made.bytes[..start].to_vec();
        whole.extend_from_slice(&bytes);
        let (found, _) = read(whole);
        let before = made.packet_ends.iter().filter(|end| **end <= start).count();
        prop_assert_eq!(&found[..before], &made.packets[..before]);
    }
}
