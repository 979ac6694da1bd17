//! A packet as a source offers it: borrowed bytes, the time it arrived, what it was cut from.
//!
//! The rule: a packet owns nothing. Its bytes belong to the source and are valid only inside the
//! call that offers them; whoever wants to keep them copies them once, into a batch.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The longest packet any part of ringtap carries, in bytes.
///
/// It is libpcap's `MAXIMUM_SNAPLEN` (`pcap-int.h`); a longer record in a file is damage.
pub const MAX_PACKET: usize = 262_144;

/// A point in time: nanoseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The time `nanos` nanoseconds after the epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The wall clock now; the epoch itself where the clock stands before it.
    pub fn now() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// The time `span` earlier; the epoch where there is none.
    pub fn before(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        )
    }

    /// The span from `earlier` to this time; none where `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Nanoseconds since the epoch.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Whole microseconds since the epoch.
    pub const fn micros(self) -> u64 {
        self.0 / 1_000
    }

    /// Whole milliseconds since the epoch.
    pub const fn millis(self) -> u64 {
        self.0 / 1_000_000
    }
}

/// What the first byte of a packet is: a number of the LINKTYPE registry (tcpdump.org/linktypes.html).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkType(pub u16);

impl LinkType {
    /// BSD loopback: four bytes of address family, host order.
    pub const NULL: Self = Self(0);
    /// Ethernet, from the destination address on, no FCS.
    pub const ETHERNET: Self = Self(1);
    /// Raw IPv4 or IPv6.
    pub const RAW: Self = Self(101);
    /// IEEE 802.11.
    pub const IEEE802_11: Self = Self(105);
    /// Linux cooked capture, version 1.
    pub const LINUX_SLL: Self = Self(113);
    /// IEEE 802.11 behind a radiotap header.
    pub const IEEE802_11_RADIOTAP: Self = Self(127);
    /// IPv4 alone.
    pub const IPV4: Self = Self(228);
    /// IPv6 alone.
    pub const IPV6: Self = Self(229);
    /// Linux cooked capture, version 2.
    pub const LINUX_SLL2: Self = Self(276);
}

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::NULL => "NULL",
            Self::ETHERNET => "ETHERNET",
            Self::RAW => "RAW",
            Self::IEEE802_11 => "IEEE802_11",
            Self::LINUX_SLL => "LINUX_SLL",
            Self::IEEE802_11_RADIOTAP => "IEEE802_11_RADIOTAP",
            Self::IPV4 => "IPV4",
            Self::IPV6 => "IPV6",
            Self::LINUX_SLL2 => "LINUX_SLL2",
            Self(other) => return write!(f, "LINKTYPE {other}"),
        };
        f.write_str(name)
    }
}

/// Where a packet's time comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// The system's clock when the packet arrived, or what its file says.
    #[default]
    Arrival,
    /// The system's clock when the burst was read that the packet came in.
    Burst,
    /// The NIC's clock.
    Hardware,
}

/// One packet, borrowed from its source for the length of one call.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// When it arrived, or when its file says it did.
    pub time: Timestamp,
    /// Where that time comes from.
    pub clock: Clock,
    /// Its length on the wire in bytes; more than [`len`](Self::len) where it was cut.
    pub orig_len: u32,
    /// What its first byte is.
    pub link_type: LinkType,
    /// The interface it came in on, as registered in [`Interfaces`](crate::interfaces::Interfaces).
    pub interface: u16,
    /// Its bytes, or its first fragment where it came in several.
    pub data: &'a [u8],
    /// The fragments after the first; empty but for jumbo frames.
    pub more: &'a [&'a [u8]],
}

impl Packet<'_> {
    /// The number of bytes that were captured, over all fragments.
    pub fn len(&self) -> usize {
        self.data.len() + self.more.iter().map(|part| part.len()).sum::<usize>()
    }

    /// Whether no byte was captured.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
