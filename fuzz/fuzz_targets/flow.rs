//! Any bytes as a packet of any link type: its flow is told without a panic, and by its front alone.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringtap::flow;
use ringtap::packet::{Clock, LinkType, Packet, Timestamp};

/// More than all headers that are looked into, eight extension headers of 2,048 bytes among them.
const HEADERS: usize = 17_000;

fuzz_target!(|input: (u16, &[u8])| {
    let (link_type, data) = input;
    let hash = |data| {
        flow::hash(&Packet {
            time: Timestamp::default(),
            clock: Clock::Arrival,
            orig_len: 65_535,
            link_type: LinkType(link_type % 300),
            interface: 0,
            data,
            more: &[],
        })
    };
    let whole = hash(data);
    assert_eq!(whole, hash(&data[..data.len().min(HEADERS)]));
    assert!(flow::lane(whole, 7) < 7);
});
