//! Capture files: pcap and pcapng, read and written.
//!
//! The rule: what is not understood is never guessed. A reader offers every packet before the damage and
//! then says where the damage is; a writer writes whole records or none.
//!
//! The formats are those of draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng.

pub mod read;
pub mod write;

/// The magic of a pcap file with microseconds.
pub(crate) const PCAP_MICROS: u32 = 0xa1b2_c3d4;
/// The magic of a pcap file with nanoseconds.
pub(crate) const PCAP_NANOS: u32 = 0xa1b2_3c4d;
/// pcapng: Section Header Block.
pub(crate) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
/// pcapng: the byte-order magic in a Section Header Block.
pub(crate) const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// pcapng: Interface Description Block.
pub(crate) const INTERFACE_DESCRIPTION: u32 = 1;
/// pcapng: Packet Block, obsolete.
pub(crate) const PACKET: u32 = 2;
/// pcapng: Simple Packet Block.
pub(crate) const SIMPLE_PACKET: u32 = 3;
/// pcapng: Interface Statistics Block.
pub(crate) const INTERFACE_STATISTICS: u32 = 5;
/// pcapng: Enhanced Packet Block.
pub(crate) const ENHANCED_PACKET: u32 = 6;
