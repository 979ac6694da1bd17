//! The batches that the sink holds, each in a slot of its own.
//!
//! The rule: what lies in a slot does not move and is not written to while a request names it. The reserve
//! belongs to one slot at a time.

use crate::batch::{Batch, Codec, Compressor};
use crate::kafka::connection::Bodies;
use crate::kafka::partition::Dispatch;

/// A batch, and the place of its partition.
#[derive(Debug)]
struct Held {
    batch: Batch,
    place: usize,
    is_out: bool,
}

/// The slots, and the reserve for pieces of a batch that is too large.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Option<Held>>,
    reserve: Option<Batch>,
    /// The slot whose piece is in the reserve.
    reserved_for: Option<usize>,
    /// The most bytes that a batch may have, where a broker has refused larger ones.
    limit: Option<usize>,
}

impl Slots {
    /// Puts a batch for the partition at `place` into a free slot.
    pub(super) fn put(&mut self, batch: Batch, place: usize) -> usize {
        let held = Some(Held {
            batch,
            place,
            is_out: false,
        });
        if let Some(free) = self.slots.iter().position(Option::is_none) {
            self.slots[free] = held;
            return free;
        }
        self.slots.push(held);
        self.slots.len() - 1
    }

    /// The place of the partition that the batch in `slot` is for.
    pub(super) fn place(&self, slot: usize) -> Option<usize> {
        Some(self.slots.get(slot)?.as_ref()?.place)
    }

    /// Takes a batch out; the next that its worker fills keeps to what brokers take.
    pub(super) fn take(&mut self, slot: usize) -> Option<Batch> {
        let mut batch = self.slots.get_mut(slot)?.take()?.batch;
        if let Some(limit) = self.limit {
            batch.limit(limit);
        }
        Some(batch)
    }

    /// Whether no batch is held.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    /// How many batches are held that are not out.
    pub(super) fn parked(&self) -> usize {
        let held = self.slots.iter().flatten();
        held.filter(|held| !held.is_out).count()
    }

    /// Whether a piece may be written to the reserve.
    pub(super) fn has_reserve(&self) -> bool {
        self.reserved_for.is_none()
    }

    /// Makes what `dispatch` says ready to be sent, and returns its length. It is out from here on.
    pub(super) fn seal(&mut self, dispatch: &Dispatch) -> usize {
        let held = self.slots[dispatch.slot]
            .as_mut()
            .expect("a partition dispatches what it was given");
        held.is_out = true;
        let Some((first, count)) = dispatch.piece else {
            return held.batch.seal(dispatch.seal).len();
        };
        if held.batch.is_compressed() {
            held.batch.decompress(&mut Compressor::new(Codec::None));
        }
        let room = held.batch.capacity();
        let reserve = match &mut self.reserve {
            Some(reserve) if reserve.capacity() >= room => reserve,
            other => other.insert(Batch::new(room, 0)),
        };
        reserve.take_piece(&held.batch, first, count);
        self.reserved_for = Some(dispatch.slot);
        reserve.seal(dispatch.seal).len()
    }

    /// Notes that no request names `slot` any more.
    pub(super) fn release(&mut self, slot: usize) {
        if let Some(held) = self.slots.get_mut(slot).and_then(Option::as_mut) {
            held.is_out = false;
        }
        self.reserved_for.take_if(|reserved| *reserved == slot);
    }

    /// Has batches made of at most `bytes` from here on.
    pub(super) fn follow(&mut self, bytes: usize) {
        self.limit = Some(bytes);
    }

    /// Notes that a broker finds what is out in `slot` too large: while nobody knows how large a batch may be,
    /// half of that is tried. Of a single record nothing follows for others.
    pub(super) fn refuse(&mut self, slot: usize) {
        let refused = match &self.reserve {
            Some(reserve) if self.reserved_for == Some(slot) => reserve,
            _ => match self.slots.get(slot).and_then(Option::as_ref) {
                Some(held) => &held.batch,
                None => return,
            },
        };
        if refused.count() > 1 {
            let half = refused.len() / 2;
            self.limit = Some(self.limit.map_or(half, |limit| limit.min(half)));
        }
    }
}

impl Bodies for Slots {
    fn body(&self, slot: usize) -> &[u8] {
        if self.reserved_for == Some(slot) {
            return self.reserve.as_ref().map_or(&[], Batch::bytes);
        }
        let held = self.slots[slot]
            .as_ref()
            .expect("a slot that a request names is in use");
        held.batch.bytes()
    }
}
