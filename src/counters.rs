//! The counters of the packet path, as they are written.
//!
//! The rule: each counter has one writer, which loads, adds and stores without a locked
//! instruction; everybody else only reads. They are raised once per burst or per batch, never reset,
//! and no counter is ever computed from others.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// A count with a single writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the one writer of this counter may call it.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    /// Replaces the value: for figures that somebody else counts, such as the kernel.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A closed list of named counters, one for each reason.
pub trait Reason: Copy + 'static {
    /// Every reason, in the order they are shown.
    const ALL: &'static [Self];

    /// The name used in the ledger and in metrics: snake case.
    fn name(self) -> &'static str;

    /// Its place in [`ALL`](Self::ALL).
    fn index(self) -> usize;
}

/// Why a worker did not take a packet that it received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// The sink holds one link type, and this is another.
    LinkType,
    /// Longer than a batch or than any reader takes.
    TooLong,
}

impl Reason for Rejected {
    const ALL: &'static [Self] = &[Self::LinkType, Self::TooLong];

    fn name(self) -> &'static str {
        match self {
            Self::LinkType => "link_type",
            Self::TooLong => "too_long",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// Why a record did not reach the sink's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Larger than the broker or topic takes.
    TooLarge,
    /// Not delivered within the delivery timeout.
    TimedOut,
    /// The topic is not there, or not ours to write to.
    NotAuthorized,
    /// Refused by the broker for another reason.
    Refused,
    /// The disk is full, or writing to it went wrong.
    Disk,
    /// Given up at the drain deadline.
    Purged,
}

impl Reason for Failed {
    const ALL: &'static [Self] = &[
        Self::TooLarge,
        Self::TimedOut,
        Self::NotAuthorized,
        Self::Refused,
        Self::Disk,
        Self::Purged,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::TimedOut => "timed_out",
            Self::NotAuthorized => "not_authorized",
            Self::Refused => "refused",
            Self::Disk => "disk",
            Self::Purged => "purged",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// What a worker or its source is doing; shown by `/healthz`, the ledger and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum QueueState {
    /// Set up, not yet receiving.
    Starting = 0,
    /// Receiving.
    Up = 1,
    /// The link is down; receiving goes on by itself once it is up.
    Down = 2,
    /// Receiving what was under way, taking nothing new.
    Draining = 3,
    /// Done: the input ended or the drain is over.
    Ended = 4,
    /// The device is gone.
    Gone = 5,
}

impl QueueState {
    /// Its name in the ledger and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Ended => "ended",
            Self::Gone => "gone",
        }
    }
}

/// The counters of one queue, on cache lines of their own; written by its worker and its source only.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct QueueCounters {
    /// Frames the XDP program saw on this queue.
    pub xdp_seen: Counter,
    /// Frames the program redirected to the socket of this queue.
    pub xdp_redirected: Counter,
    /// Frames the program passed to the stack, because no socket is bound to the queue.
    pub xdp_passed: Counter,
    /// Frames the program's filter refused, passed to the stack.
    pub xdp_filtered: Counter,
    /// Frames the program could not handle.
    pub xdp_aborted: Counter,
    /// `XDP_STATISTICS.rx_dropped`: no frame in the fill ring, or a packet too large for one.
    pub rx_dropped: Counter,
    /// `XDP_STATISTICS.rx_ring_full`: the RX ring had no room.
    pub rx_ring_full: Counter,
    /// Redirects the kernel refused after the program had asked for them.
    pub redirect_errors: Counter,
    /// Packets found in the RX ring and not received when the drain was cut short.
    pub left_in_ring: Counter,
    /// `XDP_STATISTICS.rx_invalid_descs`: must stay 0.
    pub rx_invalid_descs: Counter,
    /// `XDP_STATISTICS.rx_fill_ring_empty_descs`: a cause of `rx_dropped`, not a loss of its own.
    pub fill_ring_empty: Counter,
    /// libpcap's `ps_drop`, accumulated to 64 bits: packets its ring had no room for.
    pub pcap_dropped: Counter,
    /// libpcap's `ps_ifdrop`, accumulated to 64 bits: packets the interface dropped.
    pub pcap_if_dropped: Counter,
    /// [`received`](Self::received) as it stood when the figures above were brought up to date; the
    /// worker sets it beside every [`Source::account`](crate::source::Source::account).
    pub accounted: Counter,

    /// Packets the source offered to the worker.
    pub received: Counter,
    /// Their bytes as captured.
    pub received_bytes: Counter,
    /// Packets refused by the filter in user space.
    pub filtered: Counter,
    /// Packets beyond the count of `-c`.
    pub over_count: Counter,
    /// Packets not taken, by [`Rejected`].
    pub rejected: [Counter; 2],
    /// Packets written to a batch.
    pub batched: Counter,
    /// Their bytes as written.
    pub batched_bytes: Counter,
    /// Packets in batches that were handed to a publisher.
    pub handed: Counter,
    /// Batches that were handed to a publisher.
    pub handed_batches: Counter,
    /// Packets in batches still in the worker's hands when it ended.
    pub shed: Counter,
    /// Packets cut by the snap length; they are batched all the same.
    pub truncated: Counter,
    /// Packets longer than the interface can have received: merged by the NIC or by GRO. Batched all the same.
    pub merged: Counter,
    /// Packets whose time was raised to that of the packet before (live sources).
    pub clamped: Counter,
    /// Packets whose time is earlier than that of the packet before (files; nothing is changed).
    pub steps_back: Counter,

    /// Turns of the worker's loop: whoever watches it sees that it lives.
    pub turns: Counter,
    /// Turns in which no batch was left to fill.
    pub backpressure: Counter,
    /// Naps taken because nothing was there.
    pub naps: Counter,
    /// Waits on the kernel.
    pub polls: Counter,
    /// Times the link came back or the socket was bound again.
    pub recoveries: Counter,
    /// No record handed over later is older than this: nanoseconds since the epoch; the file sink's merge
    /// relies on it.
    pub watermark: Counter,
    state: AtomicU8,
}

impl QueueCounters {
    /// Sets what the queue is doing. Only its worker thread may call it.
    pub fn set_state(&self, state: QueueState) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// What the queue is doing.
    pub fn state(&self) -> QueueState {
        match self.state.load(Ordering::Acquire) {
            0 => QueueState::Starting,
            1 => QueueState::Up,
            2 => QueueState::Down,
            3 => QueueState::Draining,
            4 => QueueState::Ended,
            _ => QueueState::Gone,
        }
    }
}

/// The counters of one publisher and its sink; written by the publisher's thread only.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct PublisherCounters {
    /// Records taken from the ready ring and given to the sink.
    pub published: Counter,
    /// Batches of them.
    pub batches: Counter,
    /// Bytes of the batches as Kafka record batches, as they went on the wire; counted when the sink is done
    /// with them.
    pub bytes: Counter,
    /// The bytes of the same batches before they were compressed.
    pub raw_bytes: Counter,
    /// Records the sink's store has confirmed.
    pub delivered: Counter,
    /// Records sent where no answer was asked for (`acks=0`).
    pub unconfirmed: Counter,
    /// Records certainly not stored, by [`Failed`].
    pub not_persisted: [Counter; 6],
    /// Records sent whose answer never came: stored or not, nobody knows.
    pub possibly_persisted: Counter,
    /// Records given to the sink and not answered yet; a gauge.
    pub in_flight: Counter,
    /// Records the sink wrote later than its time order allows (file sink).
    pub late: Counter,
    /// Records left in the ready ring and given up at exit.
    pub shed: Counter,
}

impl PublisherCounters {
    /// Records that the sink's store has answered for, well or ill; not those that were given up here.
    pub(crate) fn answers(&self) -> u64 {
        let by_store = [
            Failed::TooLarge,
            Failed::NotAuthorized,
            Failed::Refused,
            Failed::Disk,
        ];
        let refused = by_store.map(|reason| self.not_persisted[reason.index()].get());
        self.delivered.get() + self.unconfirmed.get() + refused.iter().sum::<u64>()
    }
}
