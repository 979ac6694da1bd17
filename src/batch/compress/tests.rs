use proptest::prelude::*;

use super::*;
use crate::batch::{Origin, Record, Seal};
use crate::packet::{Clock, LinkType, Packet, Timestamp};
use crate::record::{Encoding, KeyTime, RecordTime};

const CODECS: [Codec; 9] = [
    Codec::Gzip(1),
    Codec::Gzip(6),
    Codec::Gzip(9),
    Codec::Snappy,
    Codec::Lz4,
    Codec::Zstd(1),
    Codec::Zstd(3),
    Codec::Zstd(19),
    Codec::Auto,
];

/// A batch of packets, of which each is random to the given percentage.
fn batch(sizes: &[usize], random: usize) -> Batch {
    let encoding = Encoding {
        key_time: KeyTime::Micros,
        record_time: RecordTime::Packet,
        headers: false,
        snaplen: 65_535,
    };
    let mut batch = Batch::new(1 << 20, 0);
    let mut state = 88_172_645_463_325_252_u64;
    for (at, size) in sizes.iter().enumerate() {
        let data: Vec<u8> = (0..*size)
            .map(|place| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                if place * 100 < size * random {
                    state.to_le_bytes()[3]
                } else {
                    7
                }
            })
            .collect();
        let packet = Packet {
            clock: Clock::Arrival,
            time: Timestamp::from_nanos(1_700_000_000_000_000_000 + at as u64 * 1_000_000),
            orig_len: u32::try_from(*size).unwrap(),
            link_type: LinkType::ETHERNET,
            interface: 0,
            data: &data,
            more: &[],
        };
        batch.push(&packet, &encoding, Origin::default()).unwrap();
    }
    batch
}

fn sealed(batch: &mut Batch) -> Vec<u8> {
    batch.seal(Seal::default()).to_vec()
}

/// The records of a sealed batch, by means that share nothing with the code under test but the codecs.
fn independent(sealed: &[u8]) -> Vec<u8> {
    let packed = &sealed[HEADER_LEN..];
    let mut raw = Vec::new();
    match sealed[22] & 7 {
        0 => raw.extend(packed),
        1 => drop(
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed), &mut raw)
                .unwrap(),
        ),
        2 => {
            assert_eq!(packed[..8], *b"\x82SNAPPY\0");
            let mut rest = &packed[16..];
            while !rest.is_empty() {
                let (len, block) = rest.split_at(4);
                let len = u32::from_be_bytes(len.try_into().unwrap());
                let (block, after) = block.split_at(usize::try_from(len).unwrap());
                raw.extend(snap::raw::Decoder::new().decompress_vec(block).unwrap());
                rest = after;
            }
        }
        3 => {
            // Magic, version 1 with independent blocks, blocks of 64 KiB.
            assert_eq!(packed[..6], [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40]);
            let mut decoder = lz4_flex::frame::FrameDecoder::new(packed);
            std::io::Read::read_to_end(&mut decoder, &mut raw).unwrap();
        }
        4 => raw = zstd::stream::decode_all(packed).unwrap(),
        other => panic!("codec {other}"),
    }
    raw
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_compressed_and_restored_is_the_same_to_the_byte(
        sizes in prop::collection::vec(0..1_600_usize, 1..300),
        random in prop::sample::select(vec![0_usize, 20, 60, 90, 100]),
    ) {
        let mut batch = batch(&sizes, random);
        let raw = sealed(&mut batch);
        let own = |record: Record<'_>| (record.time, record.key, record.value.to_vec());
        let records: Vec<_> = batch.records().map(own).collect();
        for codec in CODECS {
            let mut compressor = Compressor::new(codec);
            let is_smaller = batch.compress(&mut compressor);
            prop_assert_eq!(batch.is_compressed(), is_smaller);
            prop_assert_eq!(batch.raw_len(), raw.len());
            prop_assert_eq!(batch.len() < raw.len(), is_smaller, "{}", codec);
            prop_assert_eq!(usize::try_from(batch.count()).unwrap(), sizes.len());
            let wire = sealed(&mut batch);
            prop_assert_eq!(wire.len(), batch.len());
            let length = u32::from_be_bytes(wire[8..12].try_into().unwrap());
            prop_assert_eq!(usize::try_from(length).unwrap(), wire.len() - 12);
            let check = u32::from_be_bytes(wire[17..21].try_into().unwrap());
            prop_assert_eq!(check, crc32c::crc32c(&wire[21..]));
            prop_assert_eq!(wire[22] != 0, is_smaller);
            prop_assert_eq!(&wire[23..HEADER_LEN], &raw[23..HEADER_LEN]);
            prop_assert_eq!(&independent(&wire)[..], &raw[HEADER_LEN..], "{}", codec);

            batch.decompress(&mut Compressor::new(Codec::None));
            prop_assert!(!batch.is_compressed());
            prop_assert_eq!(batch.len(), raw.len());
            prop_assert_eq!(&batch.records().map(own).collect::<Vec<_>>(), &records);
            prop_assert_eq!(&sealed(&mut batch), &raw, "{}", codec);
        }
    }
}

#[test]
fn one_compressor_serves_batch_after_batch_and_each_is_whole() {
    for codec in CODECS {
        let mut compressor = Compressor::new(codec);
        for (size, random) in [(1_500, 0), (60, 50), (1_500, 100), (300, 10), (9, 0)] {
            let mut batch = batch(&[size; 400], random);
            let raw = sealed(&mut batch);
            batch.compress(&mut compressor);
            assert_eq!(
                independent(&sealed(&mut batch)),
                raw[HEADER_LEN..],
                "{codec}"
            );
        }
    }
}

#[test]
fn what_does_not_become_smaller_stays_as_it_is() {
    for codec in CODECS {
        let mut batch = batch(&[1_500; 300], 100);
        let raw = sealed(&mut batch);
        assert!(!batch.compress(&mut Compressor::new(codec)), "{codec}");
        assert_eq!(sealed(&mut batch), raw);
        let mut empty = Batch::new(1 << 16, 0);
        assert!(!empty.compress(&mut Compressor::new(codec)));
    }
    let mut zeroes = batch(&[100; 300], 0);
    assert!(!zeroes.compress(&mut Compressor::new(Codec::None)));
}

#[test]
fn a_batch_that_is_cleared_takes_packets_as_before() {
    let mut batch = batch(&[200; 100], 0);
    let mut compressor = Compressor::new(Codec::Lz4);
    assert!(batch.compress(&mut compressor));
    assert!(!batch.compress(&mut compressor), "once is enough");
    batch.clear();
    assert!(!batch.is_compressed() && batch.is_empty());
    assert_eq!((batch.len(), batch.raw_len()), (HEADER_LEN, HEADER_LEN));
    assert_eq!(batch.records().count(), 0);
}

#[test]
#[should_panic(expected = "compressed")]
fn the_records_of_a_compressed_batch_are_not_read_by_mistake() {
    let mut batch = batch(&[200; 100], 0);
    assert!(batch.compress(&mut Compressor::new(Codec::Zstd(3))));
    batch.records();
}

#[test]
fn codecs_are_named_with_their_levels_and_what_is_none_is_refused() {
    for (text, codec) in [
        ("none", Codec::None),
        ("lz4", Codec::Lz4),
        ("lz4:0", Codec::Lz4),
        ("zstd", Codec::Zstd(3)),
        ("zstd:22", Codec::Zstd(22)),
        ("gzip:-1", Codec::Gzip(6)),
        ("gzip:9", Codec::Gzip(9)),
        ("snappy", Codec::Snappy),
        ("auto", Codec::Auto),
    ] {
        assert_eq!(text.parse(), Ok(codec), "{text}");
        assert_eq!(codec.to_string().parse(), Ok(codec));
    }
    for text in [
        "", "lz5", "LZ4", "lz4:9", "gzip:0", "gzip:10", "zstd:23", "zstd:x", "auto:1", "zstd:",
    ] {
        assert!(text.parse::<Codec>().is_err(), "{text}");
    }
}
