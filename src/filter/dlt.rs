//! Link types under the numbers that libpcap uses in memory, `DLT_…` of `pcap/dlt.h`.
//!
//! The rule: these are for calls into libpcap only; packets, files and records carry LINKTYPE
//! numbers. The two are the same but for those that systems once numbered on their own.

use crate::packet::LinkType;

/// `DLT_` numbers on Linux that are not LINKTYPE numbers (`pcap/dlt.h`,
/// tcpdump.org/linktypes.html).
const DIFFERENT: [(i32, LinkType); 5] = [
    (11, LinkType(100)),
    (12, LinkType::RAW),
    (15, LinkType(102)),
    (16, LinkType(103)),
    (19, LinkType(106)),
];

impl LinkType {
    /// The link type for a `DLT_` number of Linux; `None` for one that no file can hold.
    pub(crate) fn from_dlt(dlt: i32) -> Option<Self> {
        let known = DIFFERENT.iter().find(|(number, _)| *number == dlt);
        known.map_or_else(
            || u16::try_from(dlt).ok().map(Self),
            |(_, link_type)| Some(*link_type),
        )
    }

    /// The `DLT_` number of Linux for it.
    pub(crate) fn dlt(self) -> i32 {
        let known = DIFFERENT.iter().find(|(_, link_type)| *link_type == self);
        known.map_or(i32::from(self.0), |(dlt, _)| *dlt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_translate_both_ways() {
        for (dlt, link_type) in [
            (1, LinkType::ETHERNET),
            (12, LinkType::RAW),
            (113, LinkType::LINUX_SLL),
            (276, LinkType::LINUX_SLL2),
        ] {
            assert_eq!(LinkType::from_dlt(dlt), Some(link_type));
            assert_eq!(link_type.dlt(), dlt);
        }
        assert_eq!(LinkType::from_dlt(-1), None);
    }
}
