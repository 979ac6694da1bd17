use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::packet::{Clock, Timestamp};

/// The two ends of a conversation; who speaks stands first.
#[derive(Clone, Copy, Debug)]
struct Ends {
    stations: [[u8; 6]; 2],
    v4: [[u8; 4]; 2],
    v6: [[u8; 16]; 2],
    ports: [u16; 2],
    is_answer: bool,
}

impl Ends {
    fn reversed(mut self) -> Self {
        self.stations.reverse();
        self.v4.reverse();
        self.v6.reverse();
        self.ports.reverse();
        self.is_answer = !self.is_answer;
        self
    }

    fn ethernet(&self, tags: &[u16], ether_type: u16, packet: &[u8]) -> Vec<u8> {
        let mut frame = [self.stations[1], self.stations[0]].concat();
        for tag in tags {
            frame.extend(tag.to_be_bytes());
            // The two directions are in VLANs of their own.
            frame.extend([0, 7 + u8::from(self.is_answer)]);
        }
        frame.extend(ether_type.to_be_bytes());
        frame.extend(packet);
        frame
    }

    fn v4(&self, protocol: u8, fragment: u16, options: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45 + options, 0, 0, 99, 1, u8::from(self.is_answer)];
        packet.extend(fragment.to_be_bytes());
        packet.extend([64 - u8::from(self.is_answer), protocol, 1, 2]);
        packet.extend(self.v4.concat());
        packet.extend(std::iter::repeat_n(1, usize::from(options) * 4));
        packet.extend(rest);
        packet
    }

    /// With extension headers: the number of each, and its bytes but for the first.
    fn v6(&self, extensions: &[(u8, &[u8])], protocol: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 99];
        packet.push(extensions.first().map_or(protocol, |(number, _)| *number));
        packet.push(64 - u8::from(self.is_answer));
        packet.extend(self.v6.concat());
        for (at, (_, bytes)) in extensions.iter().enumerate() {
            let next = extensions.get(at + 1);
            packet.push(next.map_or(protocol, |(number, _)| *number));
            packet.extend(*bytes);
        }
        packet.extend(rest);
        packet
    }

    /// What begins with ports, and goes on otherwise in each direction.
    fn segment(&self) -> Vec<u8> {
        let mut segment: Vec<u8> = self.ports.map(u16::to_be_bytes).concat();
        segment.extend([u8::from(self.is_answer); 16]);
        segment
    }

    /// An echo: the request is of `kind`, the reply of the other.
    fn echo(&self, request: u8, reply: u8) -> Vec<u8> {
        vec![
            if self.is_answer { reply } else { request },
            0,
            1,
            2,
            3,
            4,
            0,
            1,
        ]
    }

    fn arp(&self) -> Vec<u8> {
        let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1 + u8::from(self.is_answer)];
        packet.extend(self.stations[0]);
        packet.extend(self.v4[0]);
        packet.extend(if self.is_answer {
            self.stations[1]
        } else {
            [0; 6]
        });
        packet.extend(self.v4[1]);
        packet
    }

    /// One frame of each kind, from the first end to the second.
    fn frames(&self) -> Vec<(&'static str, LinkType, Vec<u8>)> {
        let segment = self.segment();
        let v4 = |protocol| self.v4(protocol, 0x4000, 0, &segment);
        let v6 = |protocol| self.v6(&[], protocol, &segment);
        let hop: (u8, &[u8]) = (0, &[0, 5, 2, 0, 0, 1, 0]);
        let routing: (u8, &[u8]) = (
            43,
            &[
                2, 4, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9,
            ],
        );
        let options: (u8, &[u8]) = (60, &[0, 1, 4, 0, 0, 0, 0]);
        let auth: (u8, &[u8]) = (
            51,
            &[
                4, 0, 0, 0, 0, 1, 1, 0, 0, 0, 2, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3,
            ],
        );
        let first: (u8, &[u8]) = (44, &[0, 0, 1, 0, 0, 0, 9]);
        let later: (u8, &[u8]) = (44, &[0, 0x5, 0xa8, 0, 0, 0, 9]);
        let whole: (u8, &[u8]) = (44, &[0, 0, 0, 0, 0, 0, 9]);
        let ethernet = |tags: &[u16], ether_type, packet: &[u8]| {
            (LinkType::ETHERNET, self.ethernet(tags, ether_type, packet))
        };
        let echo = self.v4(1, 0, 0, &self.echo(8, 0));
        let echo_6 = self.v6(&[], 58, &self.echo(128, 129));
        let broadcast = Self {
            stations: [self.stations[0], [0xff; 6]],
            ..*self
        };
        let asking = if self.is_answer { *self } else { broadcast };
        let cooked = |ether_type: u16, packet: &[u8]| {
            let mut data = vec![0, u8::from(self.is_answer) * 4, 0, 1, 0, 6];
            data.extend(self.stations[0]);
            data.extend([0, 0]);
            data.extend(ether_type.to_be_bytes());
            data.extend(packet);
            data
        };
        let cooked_2 = |ether_type: u16, packet: &[u8]| {
            let mut data = ether_type.to_be_bytes().to_vec();
            data.extend([0, 0, 0, 0, 0, 3, 0, 1, u8::from(self.is_answer) * 4, 6]);
            data.extend(self.stations[0]);
            data.extend([0, 0]);
            data.extend(packet);
            data
        };
        [
            ("tcp", ethernet(&[], IPV4, &v4(6))),
            ("udp", ethernet(&[], IPV4, &v4(17))),
            ("sctp", ethernet(&[], IPV4, &v4(132))),
            ("icmp", ethernet(&[], IPV4, &echo)),
            ("gre", ethernet(&[], IPV4, &v4(47))),
            ("options", ethernet(&[], IPV4, &self.v4(6, 0, 3, &segment))),
            (
                "first fragment",
                ethernet(&[], IPV4, &self.v4(17, 0x2000, 0, &segment)),
            ),
            (
                "later fragment",
                ethernet(&[], IPV4, &self.v4(17, 0x2010, 0, &[7; 40])),
            ),
            (
                "last fragment",
                ethernet(&[], IPV4, &self.v4(17, 0x0020, 0, &[9; 40])),
            ),
            ("tcp 6", ethernet(&[], IPV6, &v6(6))),
            ("udp 6", ethernet(&[], IPV6, &v6(17))),
            ("sctp 6", ethernet(&[], IPV6, &v6(132))),
            ("icmp 6", ethernet(&[], IPV6, &echo_6)),
            (
                "hop by hop",
                ethernet(&[], IPV6, &self.v6(&[hop], 6, &segment)),
            ),
            (
                "routing",
                ethernet(&[], IPV6, &self.v6(&[routing], 6, &segment)),
            ),
            (
                "destination",
                ethernet(&[], IPV6, &self.v6(&[options], 6, &segment)),
            ),
            (
                "authentication",
                ethernet(&[], IPV6, &self.v6(&[auth], 6, &segment)),
            ),
            (
                "all",
                ethernet(
                    &[],
                    IPV6,
                    &self.v6(&[hop, options, routing, auth, whole, options], 6, &segment),
                ),
            ),
            (
                "whole",
                ethernet(&[], IPV6, &self.v6(&[whole], 6, &segment)),
            ),
            (
                "first fragment 6",
                ethernet(&[], IPV6, &self.v6(&[hop, first], 6, &segment)),
            ),
            (
                "later fragment 6",
                ethernet(&[], IPV6, &self.v6(&[hop, later], 6, &[3; 40])),
            ),
            ("vlan", ethernet(&[0x8100], IPV4, &v4(6))),
            ("qinq", ethernet(&[0x88a8, 0x8100], IPV4, &v4(6))),
            ("old qinq", ethernet(&[0x9100, 0x8100], IPV6, &v6(6))),
            ("arp", ethernet(&[], ARP, &self.arp())),
            (
                "arp to all",
                (
                    LinkType::ETHERNET,
                    asking.ethernet(&[0x8100], ARP, &self.arp()),
                ),
            ),
            ("lldp", ethernet(&[], 0x88cc, &[1, 2, 3])),
            ("mpls", ethernet(&[0x8100], 0x8847, &[1, 2, 3])),
            ("raw", (LinkType::RAW, v4(6))),
            ("raw 6", (LinkType::IPV6, v6(6))),
            (
                "loopback",
                (LinkType::NULL, [&[2, 0, 0, 0], v4(6).as_slice()].concat()),
            ),
            ("cooked", (LinkType::LINUX_SLL, cooked(IPV4, &v4(6)))),
            (
                "cooked other",
                (LinkType::LINUX_SLL, cooked(0x88cc, &[1, 2, 3])),
            ),
            ("cooked 2", (LinkType::LINUX_SLL2, cooked_2(IPV6, &v6(6)))),
            (
                "cooked 2 arp",
                (LinkType::LINUX_SLL2, cooked_2(ARP, &self.arp())),
            ),
            ("unknown", (LinkType(147), self.stations.concat())),
        ]
        .map(|(name, (link_type, data))| (name, link_type, data))
        .to_vec()
    }

    fn hash(&self, name: &str) -> u64 {
        let frames = self.frames();
        let (_, link_type, data) = frames.iter().find(|(is, ..)| *is == name).unwrap();
        of(*link_type, data)
    }
}

const ENDS: Ends = Ends {
    stations: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 9, 2]],
    v4: [[10, 0, 0, 1], [192, 0, 2, 7]],
    v6: [
        [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    ],
    ports: [40_000, 443],
    is_answer: false,
};

fn of(link_type: LinkType, data: &[u8]) -> u64 {
    hash(&Packet {
        time: Timestamp::default(),
        clock: Clock::Arrival,
        orig_len: 2_000,
        link_type,
        interface: 0,
        data,
        more: &[],
    })
}

fn ends() -> impl Strategy<Value = Ends> {
    (
        any::<[[u8; 6]; 2]>(),
        any::<[[u8; 4]; 2]>(),
        any::<[[u8; 16]; 2]>(),
        any::<[u16; 2]>(),
    )
        .prop_map(|(stations, v4, v6, ports)| Ends {
            stations,
            v4,
            v6,
            ports,
            is_answer: false,
        })
}

/// Asserts that both directions hash the same, whole and cut anywhere.
fn both_directions_hash_the_same(ends: Ends) {
    for (there, back) in ends.frames().iter().zip(ends.reversed().frames()) {
        let (name, link_type, data) = there;
        for cut in 0..=data.len() {
            // A question to all stations that is cut before its addresses is like any broadcast.
            if *name == "arp to all" && (12..46).contains(&cut) {
                continue;
            }
            assert_eq!(
                of(*link_type, &data[..cut]),
                of(*link_type, &back.2[..cut]),
                "{name}, {cut} bytes of it"
            );
        }
    }
}

#[test]
fn both_directions_of_a_flow_hash_the_same_whole_and_cut_anywhere() {
    both_directions_hash_the_same(ENDS);
}

#[test]
fn what_is_round_a_packet_does_not_change_its_flow() {
    for name in ["options", "vlan", "qinq", "raw", "loopback", "cooked"] {
        assert_eq!(ENDS.hash(name), ENDS.hash("tcp"), "{name}");
    }
    let names = [
        "hop by hop",
        "routing",
        "destination",
        "authentication",
        "all",
        "whole",
        "old qinq",
        "raw 6",
        "cooked 2",
    ];
    for name in names {
        assert_eq!(ENDS.hash(name), ENDS.hash("tcp 6"), "{name}");
    }
    assert_eq!(ENDS.hash("arp to all"), ENDS.hash("arp"));
}

#[test]
fn fragments_of_one_packet_stay_together() {
    let first = ENDS.hash("first fragment");
    assert_eq!(ENDS.hash("later fragment"), first);
    assert_eq!(ENDS.hash("last fragment"), first);
    assert_ne!(ENDS.hash("udp"), first);
    assert_eq!(ENDS.hash("first fragment 6"), ENDS.hash("later fragment 6"));
    assert_ne!(ENDS.hash("tcp 6"), ENDS.hash("first fragment 6"));
}

#[test]
fn flows_that_differ_in_anything_hash_differently() {
    let names = [
        "tcp",
        "udp",
        "sctp",
        "icmp",
        "gre",
        "tcp 6",
        "udp 6",
        "sctp 6",
        "icmp 6",
        "arp",
        "lldp",
        "mpls",
        "first fragment",
        "first fragment 6",
        "unknown",
        "cooked other",
    ];
    let mut seen: BTreeSet<_> = names.iter().map(|name| ENDS.hash(name)).collect();
    assert_eq!(seen.len(), names.len());
    let others = [
        Ends {
            ports: [40_001, 443],
            ..ENDS
        },
        Ends {
            ports: [443, 40_000],
            ..ENDS
        },
        Ends {
            v4: [[10, 0, 0, 2], ENDS.v4[1]],
            ..ENDS
        },
        Ends {
            v4: [[10, 0, 0, 1], [192, 0, 2, 8]],
            ..ENDS
        },
    ];
    for ends in others {
        assert!(seen.insert(ends.hash("tcp")), "{ends:?}");
    }
    let mut other = ENDS;
    for at in 0..16 {
        other.v6[0][at] ^= 0x80;
        assert!(seen.insert(other.hash("tcp 6")), "{other:?}");
    }
    let moved = Ends {
        stations: [[2, 0, 0, 0, 0, 9], ENDS.stations[1]],
        ..ENDS
    };
    assert_ne!(moved.hash("lldp"), ENDS.hash("lldp"));
    assert_eq!(moved.hash("tcp"), ENDS.hash("tcp"));
}

/// Flows as a network has them: a block of clients with consecutive ports, a few servers.
fn crowd() -> Vec<Ends> {
    (0..40_000_u16)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            let mut ends = ENDS;
            ends.v4 = [
                [10, 1, high & 3, low],
                [192, 0, 2, number.to_le_bytes()[0] % 5],
            ];
            ends.v6[0][15] = low;
            ends.v6[0][14] = high & 3;
            ends.stations[0][5] = low;
            ends.stations[0][4] = high;
            ends.ports = [32_768 + number / 16, 443];
            ends
        })
        .collect()
}

#[test]
fn flows_are_spread_evenly_over_any_number_of_lanes() {
    for name in ["tcp", "udp 6", "lldp"] {
        let hashes: BTreeSet<_> = crowd().iter().map(|ends| ends.hash(name)).collect();
        assert!(hashes.len() > 39_990, "{name}: {} hashes", hashes.len());
        for lanes in [2, 3, 5, 7, 8, 12, 16, 60, 64, 100, 256] {
            let mut counts = vec![0_u32; usize::try_from(lanes).unwrap()];
            for hash in &hashes {
                counts[usize::try_from(lane(*hash, lanes)).unwrap()] += 1;
            }
            let expected = hashes.len() as f64 / f64::from(lanes);
            let chi_square: f64 = counts
                .iter()
                .map(|count| (f64::from(*count) - expected).powi(2) / expected)
                .sum();
            // Mean and variance of the chi-square distribution; beyond five deviations nobody is lucky.
            let freedom = f64::from(lanes - 1);
            let most = freedom + 5.0 * (2.0 * freedom).sqrt();
            assert!(
                chi_square < most,
                "{name} over {lanes}: {chi_square} of {most}, {counts:?}"
            );
        }
    }
}

#[test]
fn every_lane_is_one_of_those_there_are() {
    for lanes in [1, 2, 3, u32::MAX] {
        assert_eq!(lane(0, lanes), 0);
        assert_eq!(lane(u64::MAX, lanes), lanes - 1);
    }
}

proptest! {
    #[test]
    fn both_directions_of_any_flow_hash_the_same(ends in ends()) {
        both_directions_hash_the_same(ends);
    }

    #[test]
    fn no_bytes_panic(
        link_type in prop_oneof![
            prop::sample::select(vec![0, 1, 101, 113, 228, 229, 276]),
            any::<u16>(),
        ],
        data in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        of(LinkType(link_type), &data);
    }

    #[test]
    fn no_frame_with_bytes_changed_panics(
        case in 0..36_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let (_, link_type, mut data) = ENDS.frames().swap_remove(case);
        for (at, byte) in changes {
            let at = at.index(data.len());
            data[at] = byte;
        }
        of(link_type, &data);
    }
}
