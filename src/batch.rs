//! A Kafka record batch (format 2) being filled in place, read back, and sealed.
//!
//! The rule: the bytes written by [`Batch::push`] are the bytes that go on the wire. Nothing after it
//! copies or encodes a packet again; every sink starts from the same batch.
//!
//! The format is that of Kafka's protocol guide, "Record Batch": a 61-byte header, then per record a
//! few zigzag varints, an 8-byte key, the frame, and the headers.

mod compress;
mod memory;
mod piece;

use std::fmt;
use std::io;
use std::time::Instant;

use crate::packet::{Clock, Packet, Timestamp};
use crate::record::{
    BURST_CLOCK, Encoding, HARDWARE_CLOCK, HEADER, RecordInfo, RecordTime, TRUNCATED,
};

use compress::Form;
pub use compress::{Codec, CodecError, Compressor};
use memory::Memory;

/// The length of a batch's header in bytes.
pub const HEADER_LEN: usize = 61;

/// The most that a record takes beyond its value: length 5, attributes 1, time 10, offset 5, key 1 + 8,
/// value length 5, headers 33.
pub const RECORD_OVERHEAD: usize = 68;

/// The least that a record takes: of an empty packet, without headers.
pub const LEAST_RECORD: usize = 15;

const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const KEY_LEN: usize = 8;
/// One header: its count, the length of its name, the name, the length of its value.
const RT_PREFIX: [u8; 5] = [2, 4, HEADER[0], HEADER[1], 56];
const RT_LEN: usize = RT_PREFIX.len() + RecordInfo::LEN;
const _: () = assert!(RecordInfo::LEN * 2 == RT_PREFIX[4] as usize && HEADER.len() == 2);

/// The batch has no room for the packet that was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What only the worker knows of a packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin {
    /// The queue it was received on.
    pub queue: u16,
    /// Its number among the packets of that queue.
    pub sequence: u64,
}

/// What a producer adds to a batch when it sends it.
#[derive(Clone, Copy, Debug)]
pub struct Seal {
    /// From InitProducerId, or -1 without idempotence.
    pub producer_id: i64,
    /// The epoch of that id, or -1.
    pub producer_epoch: i16,
    /// The sequence number of the first record, or -1.
    pub base_sequence: i32,
}

impl Default for Seal {
    fn default() -> Self {
        Self {
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
        }
    }
}

/// A record batch in memory of its own; filled by one worker, moved by rings, never copied.
pub struct Batch {
    bytes: Memory,
    /// No second record is written beyond this length.
    limit: usize,
    len: usize,
    /// What the records are compressed to, and the length before.
    form: Option<Form>,
    raw_len: usize,
    records: u32,
    base_time: i64,
    max_time: i64,
    first: Timestamp,
    last: Timestamp,
    owner: u16,
    partition: Option<i32>,
    opened: Instant,
    closed: Instant,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("owner", &self.owner)
            .field("records", &self.records)
            .field("len", &self.len)
            .field("capacity", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

impl Batch {
    /// Empty batches of `capacity` bytes each, header included, that return to worker `owner`.
    ///
    /// Their memory is one mapping, in large pages where the kernel has them, and every page of it is
    /// touched here, so that it does not grow later. Fails where the memory is not to be had.
    pub fn pool(count: usize, capacity: usize, owner: u16) -> io::Result<Vec<Self>> {
        let parts = memory::parts(count, capacity.max(HEADER_LEN + RECORD_OVERHEAD))?;
        Ok(parts
            .into_iter()
            .map(|bytes| Self::over(bytes, owner))
            .collect())
    }

    fn over(bytes: Memory, owner: u16) -> Self {
        let now = Instant::now();
        Self {
            limit: bytes.len(),
            bytes,
            len: HEADER_LEN,
            form: None,
            raw_len: HEADER_LEN,
            records: 0,
            base_time: 0,
            max_time: 0,
            first: Timestamp::default(),
            last: Timestamp::default(),
            owner,
            partition: None,
            opened: now,
            closed: now,
        }
    }

    /// One empty batch: see [`pool`](Self::pool).
    ///
    /// # Panics
    ///
    /// Where the memory is not to be had.
    pub fn new(capacity: usize, owner: u16) -> Self {
        let mut pool = Self::pool(1, capacity, owner).expect("memory for one batch is to be had");
        pool.pop().expect("the pool has one batch")
    }

    /// Appends `packet` as one record and returns how many of its bytes were kept.
    ///
    /// The copy into the batch is the only one a packet makes.
    #[inline]
    pub fn push(
        &mut self,
        packet: &Packet<'_>,
        encoding: &Encoding,
        origin: Origin,
    ) -> Result<usize, Full> {
        debug_assert!(self.form.is_none(), "the batch is compressed");
        let whole = packet.len();
        let kept = whole.min(encoding.snaplen);
        let room = if self.records == 0 {
            self.bytes.len()
        } else {
            self.limit
        };
        if room.saturating_sub(self.len) < kept + RECORD_OVERHEAD {
            return Err(Full);
        }
        let time = match encoding.record_time {
            RecordTime::Packet => i64::try_from(packet.time.millis()).unwrap_or(i64::MAX),
            RecordTime::Now if self.records > 0 => self.base_time,
            RecordTime::Now => i64::try_from(Timestamp::now().millis()).unwrap_or(i64::MAX),
        };
        if self.records == 0 {
            self.base_time = time;
            self.max_time = time;
            self.first = packet.time;
        }
        self.max_time = self.max_time.max(time);
        self.last = packet.time;

        let delta = zigzag(time - self.base_time);
        let offset = u64::from(self.records) << 1;
        let value_len = (kept as u64) << 1;
        let headers = if encoding.headers { RT_LEN } else { 1 };
        let body = 1
            + varint_len(delta)
            + varint_len(offset)
            + 1
            + KEY_LEN
            + varint_len(value_len)
            + kept
            + headers;

        let mut out = Cursor {
            bytes: &mut self.bytes,
            at: self.len,
        };
        out.varint((body as u64) << 1);
        out.array([0]);
        out.varint(delta);
        out.varint(offset);
        out.array([16]);
        out.array(encoding.key_time.key(packet.time).to_be_bytes());
        out.varint(value_len);
        if kept <= packet.data.len() {
            out.slice(&packet.data[..kept]);
        } else {
            out.fragments(packet, kept);
        }
        if encoding.headers {
            let cut = if kept < packet.orig_len as usize {
                TRUNCATED
            } else {
                0
            };
            let clock = match packet.clock {
                Clock::Arrival => 0,
                Clock::Burst => BURST_CLOCK,
                Clock::Hardware => HARDWARE_CLOCK,
            };
            let info = RecordInfo {
                flags: clock | cut,
                link_type: packet.link_type,
                queue: origin.queue,
                interface: packet.interface,
                orig_len: packet.orig_len,
                time: packet.time,
                sequence: origin.sequence,
            };
            out.array(RT_PREFIX);
            out.array(info.encode());
        } else {
            out.array([0]);
        }
        self.len = out.at;
        self.records += 1;
        Ok(kept)
    }

    /// Completes the header and returns the whole batch as it goes on the wire.
    ///
    /// Reads every byte once, for the CRC-32C. May be called again with another `seal`.
    pub fn seal(&mut self, seal: Seal) -> &[u8] {
        let records = i32::try_from(self.records).expect("a batch of 1 GiB is never made");
        let length = i32::try_from(self.len - 12).expect("a batch of 2 GiB is never made");
        let mut out = Cursor {
            bytes: &mut self.bytes,
            at: 0,
        };
        out.array(0_i64.to_be_bytes());
        out.array(length.to_be_bytes());
        out.array((-1_i32).to_be_bytes());
        out.array([2]);
        out.at = ATTRIBUTES_AT;
        out.array(self.form.map_or(0, Form::attributes).to_be_bytes());
        out.array((records - 1).to_be_bytes());
        out.array(self.base_time.to_be_bytes());
        out.array(self.max_time.to_be_bytes());
        out.array(seal.producer_id.to_be_bytes());
        out.array(seal.producer_epoch.to_be_bytes());
        out.array(seal.base_sequence.to_be_bytes());
        out.array(records.to_be_bytes());
        let crc = crc32c::crc32c(&self.bytes[ATTRIBUTES_AT..self.len]);
        self.bytes[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
        &self.bytes[..self.len]
    }

    /// The whole batch as it was sealed last.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The records, in the order they were pushed.
    ///
    /// # Panics
    ///
    /// Where the batch is compressed: [`decompress`](Self::decompress) it first.
    pub fn records(&self) -> Records<'_> {
        assert!(self.form.is_none(), "the batch is compressed");
        Records {
            rest: &self.bytes[HEADER_LEN..self.len],
            base_time: self.base_time,
        }
    }

    /// The records in the last `left` bytes, as [`Records::left`] counted them.
    pub(crate) fn records_in_last(&self, left: usize) -> Records<'_> {
        assert!(self.form.is_none(), "the batch is compressed");
        Records {
            rest: &self.bytes[self.len - left..self.len],
            base_time: self.base_time,
        }
    }

    /// Forgets the records and the partition; memory and owner stay.
    pub fn clear(&mut self) {
        self.len = HEADER_LEN;
        self.form = None;
        self.records = 0;
        self.partition = None;
    }

    /// How many records it holds.
    pub fn count(&self) -> u32 {
        self.records
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Its length in bytes as it goes on the wire, compressed or not, header included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The bytes it has room for, header included.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Keeps it to `bytes`, as far as it holds more than one record.
    pub fn limit(&mut self, bytes: usize) {
        self.limit = bytes.min(self.bytes.len());
    }

    /// The worker it belongs to.
    pub fn owner(&self) -> u16 {
        self.owner
    }

    /// The partition that its packets belong to; `None` where the publisher is to choose.
    pub fn partition(&self) -> Option<i32> {
        self.partition
    }

    /// Notes the partition that its packets belong to.
    pub fn set_partition(&mut self, partition: Option<i32>) {
        self.partition = partition;
    }

    /// The time of its first packet.
    pub fn first(&self) -> Timestamp {
        self.first
    }

    /// The time of its last packet.
    pub fn last(&self) -> Timestamp {
        self.last
    }

    /// When its worker began to fill it.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// When its worker handed it over.
    pub fn closed(&self) -> Instant {
        self.closed
    }

    /// Notes when the worker began to fill it.
    pub fn open_at(&mut self, now: Instant) {
        self.opened = now;
    }

    /// Notes when the worker handed it over.
    pub fn close_at(&mut self, now: Instant) {
        self.closed = now;
    }
}

/// One record read back from a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The record's own timestamp, milliseconds since the epoch.
    pub time: i64,
    /// The key as it is on the wire.
    pub key: [u8; KEY_LEN],
    /// The frame.
    pub value: &'a [u8],
    /// What the `rt` header says, where the batch was written with headers.
    pub info: Option<RecordInfo>,
}

/// An iterator over the records of a batch that [`Batch::push`] wrote.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    base_time: i64,
}

impl Records<'_> {
    /// How many bytes of records are not read yet.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let body = usize::try_from(take_varint(&mut self.rest)? >> 1).ok()?;
        let (mut body, rest) = self.rest.split_at_checked(body)?;
        self.rest = rest;
        body = body.get(1..)?;
        let delta = unzigzag(take_varint(&mut body)?);
        take_varint(&mut body)?;
        body = body.get(1..)?;
        let (key, after) = body.split_first_chunk::<KEY_LEN>()?;
        body = after;
        let value_len = usize::try_from(take_varint(&mut body)? >> 1).ok()?;
        let (value, headers) = body.split_at_checked(value_len)?;
        let info = headers.get(RT_PREFIX.len()..).and_then(RecordInfo::decode);
        Some(Record {
            time: self.base_time + delta,
            key: *key,
            value,
            info,
        })
    }
}

/// Writes to a buffer whose room was checked beforehand.
struct Cursor<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    #[inline]
    fn slice(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    #[inline]
    fn array<const N: usize>(&mut self, bytes: [u8; N]) {
        self.slice(&bytes);
    }

    #[inline]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.array([value.to_le_bytes()[0] | 0x80]);
            value >>= 7;
        }
        self.array([value.to_le_bytes()[0]]);
    }

    fn fragments(&mut self, packet: &Packet<'_>, kept: usize) {
        let mut left = kept;
        for part in std::iter::once(&packet.data).chain(packet.more) {
            let part = &part[..part.len().min(left)];
            self.slice(part);
            left -= part.len();
        }
    }
}

#[inline]
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

#[inline]
fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// The length of a varint in bytes: one for every seven bits, at least one.
#[inline]
fn varint_len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests;
