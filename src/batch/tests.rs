use bytes::Bytes;
use kafka_protocol::records::RecordBatchDecoder;
use proptest::prelude::*;

use super::*;
use crate::packet::{LinkType, MAX_PACKET};
use crate::record::KeyTime;

fn encoding(headers: bool) -> Encoding {
    Encoding {
        key_time: KeyTime::Micros,
        record_time: RecordTime::Packet,
        headers,
        snaplen: MAX_PACKET,
    }
}

fn packet(data: &[u8], nanos: u64) -> Packet<'_> {
    Packet {
        clock: Clock::Arrival,
        time: Timestamp::from_nanos(nanos),
        orig_len: u32::try_from(data.len()).unwrap(),
        link_type: LinkType::ETHERNET,
        interface: 3,
        data,
        more: &[],
    }
}

/// Lengths where a varint grows by a byte, the longest packet, and everything between.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        0..2_000_usize,
        prop::sample::select(vec![0, 1, 49, 50, 60, 63, 64, 8_175, 8_191, 8_192, 65_535]),
        prop::sample::select(vec![MAX_PACKET - 1, MAX_PACKET]),
    ]
}

/// Times anywhere a capture file can put them, in any order.
fn time() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..4_102_444_800_000_000_000_u64,
        1_700_000_000_000_000_000..1_700_000_001_000_000_000_u64
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_independent_decoder_reads_what_was_pushed(
        packets in prop::collection::vec((length(), time(), any::<u8>()), 1..40),
        headers: bool,
        seal_id in 0..i64::MAX,
    ) {
        let mut batch = Batch::new(4 << 20, 0);
        let mut expected = Vec::new();
        for (len, nanos, fill) in packets {
            let data: Vec<u8> = (0..len).map(|at| fill.wrapping_add(at.to_le_bytes()[0])).collect();
            let origin = Origin { queue: 5, sequence: expected.len() as u64 };
            if batch.push(&packet(&data, nanos), &encoding(headers), origin).is_ok() {
                expected.push((nanos, data));
            }
        }
        let read: Vec<_> = batch.records().collect();
        prop_assert_eq!(read.len(), expected.len());
        for (sequence, (record, (nanos, data))) in read.iter().zip(&expected).enumerate() {
            prop_assert_eq!(record.value, &data[..]);
            prop_assert_eq!(u64::from_be_bytes(record.key), nanos / 1_000);
            prop_assert_eq!(record.time.unsigned_abs(), nanos / 1_000_000);
            prop_assert_eq!(record.info.is_some(), headers);
            if let Some(info) = record.info {
                prop_assert_eq!(info.time.nanos(), *nanos);
                prop_assert_eq!(info.sequence, sequence as u64);
                prop_assert_eq!((info.queue, info.interface, info.flags), (5, 3, 0));
            }
        }

        let seal = Seal { producer_id: seal_id, producer_epoch: 7, base_sequence: 11 };
        let mut wire = Bytes::copy_from_slice(batch.seal(seal));
        let decoded = RecordBatchDecoder::decode(&mut wire).unwrap();
        prop_assert_eq!(decoded.records.len(), expected.len());
        for (at, (record, (nanos, data))) in decoded.records.iter().zip(&expected).enumerate() {
            let key = (nanos / 1_000).to_be_bytes();
            prop_assert_eq!(record.key.as_deref(), Some(&key[..]));
            prop_assert_eq!(record.value.as_deref(), Some(&data[..]));
            prop_assert_eq!(record.timestamp.unsigned_abs(), nanos / 1_000_000);
            prop_assert_eq!(record.offset.unsigned_abs(), at as u64);
            prop_assert_eq!(record.producer_id, seal_id);
            prop_assert_eq!(record.headers.len(), usize::from(headers));
            let rt = record.headers.values().next().and_then(|value| value.as_deref());
            prop_assert_eq!(rt.map(|rt| rt.len()), headers.then_some(RecordInfo::LEN));
        }
    }

    #[test]
    fn fragments_are_joined_and_cut_as_one_packet(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6),
        snaplen in 0..1_500_usize,
    ) {
        let whole = parts.concat();
        let more: Vec<&[u8]> = parts[1..].iter().map(Vec::as_slice).collect();
        let packet = Packet { more: &more, orig_len: 9_000, ..packet(&parts[0], 1) };
        let mut batch = Batch::new(1 << 16, 0);
        let kept = batch.push(&packet, &Encoding { snaplen, ..encoding(true) }, Origin::default());
        prop_assert_eq!(kept, Ok(whole.len().min(snaplen)));
        let record = batch.records().next().unwrap();
        prop_assert_eq!(record.value, &whole[..whole.len().min(snaplen)]);
        let info = record.info.unwrap();
        prop_assert_eq!((info.orig_len, info.flags), (9_000, TRUNCATED));
    }
}

#[test]
fn a_full_batch_refuses_and_stays_as_it_was() {
    let data = [7; 500];
    let mut batch = Batch::new(4_096, 0);
    let mut pushed = 0;
    while batch
        .push(&packet(&data, 1), &encoding(false), Origin::default())
        .is_ok()
    {
        pushed += 1;
    }
    assert_eq!(pushed, 7);
    assert_eq!(batch.count(), 7);
    assert!(batch.len() <= 4_096);
    assert_eq!(batch.records().count(), 7);
    batch.clear();
    assert!(batch.is_empty());
    assert_eq!(
        batch.push(&packet(&data, 1), &encoding(false), Origin::default()),
        Ok(500)
    );
}

#[test]
fn a_sixty_byte_frame_takes_less_than_eighty_bytes() {
    let data = [0; 60];
    let mut batch = Batch::new(1 << 20, 0);
    for n in 0..10_000 {
        let time = 1_700_000_000_000_000_000 + n * 1_000;
        batch
            .push(&packet(&data, time), &encoding(false), Origin::default())
            .unwrap();
    }
    assert!((batch.len() - HEADER_LEN) / 10_000 <= 79);
}

#[test]
fn record_time_now_is_one_time_for_the_whole_batch() {
    let before = i64::try_from(Timestamp::now().millis()).unwrap();
    let mut batch = Batch::new(1 << 16, 0);
    let now = Encoding {
        record_time: RecordTime::Now,
        ..encoding(false)
    };
    for nanos in [5, 4_000_000_000_000, 9] {
        batch
            .push(&packet(&[1, 2], nanos), &now, Origin::default())
            .unwrap();
    }
    let times: Vec<_> = batch.records().map(|record| record.time).collect();
    assert!(times[0] >= before);
    assert!(times.iter().all(|time| *time == times[0]));
}
