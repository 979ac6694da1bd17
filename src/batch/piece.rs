//! A part of a batch as a batch of its own: for a broker that finds the whole too large.
//!
//! The rule: the records keep their keys, times and headers; only what counts from the first record of a
//! batch is written anew.

use super::{Batch, Cursor, take_varint, unzigzag, varint_len, zigzag};

impl Batch {
    /// Becomes the `count` records of `whole` from record `first` on.
    ///
    /// # Panics
    ///
    /// Where its memory is smaller than that of `whole`, or `whole` is compressed.
    pub fn take_piece(&mut self, whole: &Self, first: u32, count: u32) {
        assert!(whole.form.is_none(), "the batch is compressed");
        self.clear();
        self.owner = whole.owner;
        let mut rest = &whole.bytes[super::HEADER_LEN..whole.len];
        for at in 0..first.saturating_add(count) {
            let Some(record) = Parts::take(&mut rest) else {
                return;
            };
            if at >= first {
                self.append(&record, whole.base_time + record.delta);
            }
        }
    }

    fn append(&mut self, record: &Parts<'_>, time: i64) {
        if self.records == 0 {
            self.base_time = time;
            self.max_time = time;
        }
        self.max_time = self.max_time.max(time);
        let delta = zigzag(time - self.base_time);
        let offset = u64::from(self.records) << 1;
        let body = 1 + varint_len(delta) + varint_len(offset) + record.rest.len();
        let mut out = Cursor {
            bytes: &mut self.bytes,
            at: self.len,
        };
        out.varint((body as u64) << 1);
        out.array([record.attributes]);
        out.varint(delta);
        out.varint(offset);
        out.slice(record.rest);
        self.len = out.at;
        self.records += 1;
    }
}

/// A record taken apart.
struct Parts<'a> {
    attributes: u8,
    delta: i64,
    /// Key, value and headers.
    rest: &'a [u8],
}

impl<'a> Parts<'a> {
    fn take(bytes: &mut &'a [u8]) -> Option<Self> {
        let body = usize::try_from(take_varint(bytes)? >> 1).ok()?;
        let (mut body, rest) = bytes.split_at_checked(body)?;
        *bytes = rest;
        let (&attributes, after) = body.split_first()?;
        body = after;
        let delta = unzigzag(take_varint(&mut body)?);
        take_varint(&mut body)?;
        Some(Self {
            attributes,
            delta,
            rest: body,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::{Origin, Record};
    use crate::packet::{Clock, LinkType, Packet, Timestamp};
    use crate::record::{Encoding, KeyTime, RecordTime};

    proptest! {
        #[test]
        fn the_pieces_of_a_batch_hold_its_records_in_order(
            packets in proptest::collection::vec((0_u64..1_000_000_000, 0_usize..300), 1..60),
            cuts in proptest::collection::vec(1_u32..20, 1..60),
            headers: bool,
        ) {
            let encoding = Encoding {
                key_time: KeyTime::Micros,
                record_time: RecordTime::Packet,
                headers,
                snaplen: 65_535,
            };
            let mut whole = Batch::new(1 << 16, 3);
            for (at, (millis, size)) in packets.iter().enumerate() {
                let data = vec![at.to_le_bytes()[0]; *size];
                let packet = Packet {
                    clock: Clock::Arrival,
                    time: Timestamp::from_nanos(millis * 1_000_000),
                    orig_len: u32::try_from(*size).unwrap(),
                    link_type: LinkType::ETHERNET,
                    interface: 0,
                    data: &data,
                    more: &[],
                };
                whole.push(&packet, &encoding, Origin::default()).unwrap();
            }
            let mut piece = Batch::new(1 << 16, 0);
            let (mut first, mut found) = (0, Vec::<(i64, [u8; 8], Vec<u8>)>::new());
            for count in cuts.into_iter().chain([60]) {
                piece.take_piece(&whole, first, count);
                let left = whole.count().saturating_sub(first).min(count);
                prop_assert_eq!(piece.count(), left);
                found.extend(piece.records().map(|record| (record.time, record.key, record.value.to_vec())));
                first += left;
            }
            let own = |record: Record<'_>| (record.time, record.key, record.value.to_vec());
            let expected: Vec<_> = whole.records().map(own).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
