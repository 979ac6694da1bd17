//! Which flow a packet belongs to, as a number: both directions of a flow have the same one.
//!
//! The rule: a header that is not all there counts as not there, and what is left decides. The number
//! depends on the packet's bytes alone, not even on the link type where both carry IP, so that every
//! worker and every sensor agrees on it.
//!
//! - TCP, UDP, UDP-Lite, SCTP, DCCP: addresses, ports, protocol.
//! - Other protocols over IP, ICMP among them: addresses and protocol. An ICMP error is not in the flow of
//!   the packet that it tells of.
//! - Fragments, the first ones too: addresses only, as the others lack ports.
//! - ARP: the two protocol addresses. Whatever else Ethernet carries: MAC addresses and EtherType.
//!
//! VLAN tags are skipped: the two directions of a flow may come in different VLANs.

use crate::packet::{LinkType, Packet};

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// Below this, what stands in an EtherType's place is a length (IEEE 802.3).
const LEAST_ETHER_TYPE: u16 = 0x0600;

/// More tags than any network stacks; what lies behind so many is not looked for, so that a frame of
/// nothing but tags costs no time.
const MOST_TAGS: usize = 4;
/// The same for the extension headers of IPv6.
const MOST_EXTENSIONS: usize = 8;

/// What a flow is told apart by beside its two ends, above the numbers of IP protocols.
const FRAGMENT: u64 = 0x100;
const ETHER_TYPE: u64 = 0x1_0000;
const LINK_TYPE: u64 = 0x2_0000;

/// Odd numbers with about as many ones as zeroes: digits of pi, as nobody chose them.
const PI: [u64; 3] = [
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7345,
    0xa409_3822_299f_31d1,
];

/// The number of the flow that `packet` belongs to.
///
/// Packets in which no flow can be told, such as those of link types without addresses that we know, have
/// one number for each link type.
#[inline]
pub fn hash(packet: &Packet<'_>) -> u64 {
    let data = packet.data;
    let known = match packet.link_type {
        LinkType::ETHERNET => ethernet(data),
        LinkType::RAW | LinkType::IPV4 | LinkType::IPV6 => ip(data),
        LinkType::NULL => data.get(4..).and_then(ip),
        LinkType::LINUX_SLL => data.get(14..).map(cooked),
        LinkType::LINUX_SLL2 => cooked_2(data),
        _ => None,
    };
    known.unwrap_or_else(|| finish(0, LINK_TYPE | u64::from(packet.link_type.0)))
}

/// The one of `lanes` that a flow goes to, from 0; as many flows to each.
#[inline]
pub fn lane(hash: u64, lanes: u32) -> u32 {
    let product = (hash >> 32) * u64::from(lanes);
    u32::try_from(product >> 32).expect("the upper half of 64 bits")
}

#[inline]
fn ethernet(frame: &[u8]) -> Option<u64> {
    let (stations, rest) = frame.split_first_chunk::<12>()?;
    Some(behind(rest).unwrap_or_else(|ether_type| between(stations, ether_type)))
}

/// The flow of two stations that speak another protocol than IP.
#[cold]
fn between(stations: &[u8; 12], ether_type: u16) -> u64 {
    let station = |address: &[u8]| {
        let number = address
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        fold(number ^ PI[2], PI[0])
    };
    let (to, from) = stations.split_at(6);
    finish(
        station(to).wrapping_add(station(from)),
        of_ether_type(ether_type),
    )
}

/// Linux cooked capture from the EtherType on: there is one address only, so no flow but in what follows.
fn cooked(rest: &[u8]) -> u64 {
    behind(rest).unwrap_or_else(|ether_type| finish(0, of_ether_type(ether_type)))
}

/// Linux cooked capture, version 2: the EtherType stands first, what it is of behind 20 bytes.
fn cooked_2(data: &[u8]) -> Option<u64> {
    let (header, packet) = data.split_first_chunk::<20>()?;
    let known = network(u16::from_be_bytes([header[0], header[1]]), packet);
    Some(known.unwrap_or_else(|ether_type| finish(0, of_ether_type(ether_type))))
}

/// The flow of what follows an EtherType; the EtherType where that tells none, 0 where it is not there.
#[inline]
fn behind(rest: &[u8]) -> Result<u64, u16> {
    let (ether_type, packet) = rest.split_first_chunk().ok_or(0_u16)?;
    network(u16::from_be_bytes(*ether_type), packet)
}

/// The flow of a packet of `ether_type`; the EtherType behind its VLAN tags where that tells none.
#[inline]
fn network(mut ether_type: u16, mut packet: &[u8]) -> Result<u64, u16> {
    for _ in 0..=MOST_TAGS {
        let known = match ether_type {
            IPV4 => ipv4(packet),
            IPV6 => ipv6(packet),
            ARP => arp(packet),
            // 802.1Q, 802.1ad, and what stood for the latter before there was a standard.
            0x8100 | 0x88a8 | 0x9100 => {
                let Some((&[_, _, high, low], behind)) = packet.split_first_chunk() else {
                    return Err(0);
                };
                ether_type = u16::from_be_bytes([high, low]);
                packet = behind;
                continue;
            }
            _ => None,
        };
        return known.ok_or(ether_type);
    }
    Err(0)
}

/// IP of the version that it says itself.
fn ip(packet: &[u8]) -> Option<u64> {
    match packet.first()? >> 4 {
        4 => ipv4(packet),
        6 => ipv6(packet),
        _ => None,
    }
}

#[inline]
fn ipv4(packet: &[u8]) -> Option<u64> {
    let header = packet.first_chunk::<20>()?;
    let (version, words) = (header[0] >> 4, usize::from(header[0] & 0xf));
    if version != 4 || words < 5 {
        return None;
    }
    let addresses = long(header, 12);
    let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    if is_fragment {
        return Some(finish(pair(addresses, [0, 0]), FRAGMENT));
    }
    let protocol = header[9];
    let ports = ports(protocol, packet.get(words * 4..).unwrap_or_default());
    Some(finish(pair(addresses, ports), protocol.into()))
}

#[inline]
fn ipv6(packet: &[u8]) -> Option<u64> {
    let (header, mut rest) = packet.split_first_chunk::<40>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let (_, ends) = header.split_first_chunk::<8>()?;
    let (from, ends) = ends.split_first_chunk::<16>()?;
    let to = ends.first_chunk::<16>()?;
    let mut protocol = header[6];
    for _ in 0..MOST_EXTENSIONS {
        let Some(&[next, length, high, low, ..]) = rest.first_chunk::<8>() else {
            break;
        };
        let length = match protocol {
            // Hop-by-hop options, routing, destination options, mobility, HIP, shim6.
            0 | 43 | 60 | 135 | 139 | 140 => (usize::from(length) + 1) * 8,
            // The authentication header counts otherwise (RFC 4302, section 2.2).
            51 => (usize::from(length) + 2) * 4,
            44 if u16::from_be_bytes([high, low]) & !6 != 0 => {
                let ends = end_6(from, 0).wrapping_add(end_6(to, 0));
                return Some(finish(ends, FRAGMENT));
            }
            // A fragment header on a packet that is whole (RFC 6946).
            44 => 8,
            _ => break,
        };
        protocol = next;
        rest = rest.get(length..).unwrap_or_default();
    }
    let [out, into] = ports(protocol, rest);
    let ends = end_6(from, out).wrapping_add(end_6(to, into));
    Some(finish(ends, protocol.into()))
}

/// A question and its answer name the same two addresses, though the question goes to all stations.
fn arp(packet: &[u8]) -> Option<u64> {
    let packet = packet.first_chunk::<28>()?;
    // Ethernet and IPv4, the only form that is in use.
    if packet[..6] != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    // Each address stands behind the hardware address of the same end.
    let (sender, target) = (long(packet, 12) << 16 & !0 << 32, long(packet, 20));
    let addresses = sender | target & !0 >> 32;
    Some(finish(pair(addresses, [0, 0]), of_ether_type(ARP)))
}

#[inline]
fn ports(protocol: u8, rest: &[u8]) -> [u16; 2] {
    // TCP, UDP, DCCP, SCTP, UDP-Lite.
    let has_ports = matches!(protocol, 6 | 17 | 33 | 132 | 136);
    match rest.first_chunk() {
        Some(&[a, b, c, d]) if has_ports => {
            [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
        }
        _ => [0, 0],
    }
}

/// Two ends of IPv4 as one number, the same whichever comes first.
#[inline]
fn pair(addresses: u64, ports: [u16; 2]) -> u64 {
    let from = addresses >> 32 << 16 | u64::from(ports[0]);
    let to = addresses << 32 >> 16 | u64::from(ports[1]);
    fold(from.min(to) ^ PI[0], from.max(to) ^ PI[1])
}

#[inline]
fn end_6(address: &[u8; 16], port: u16) -> u64 {
    let (high, low) = (long(address, 0), long(address, 8));
    fold(high ^ PI[0] ^ u64::from(port), low ^ PI[1])
}

#[inline]
fn long<const N: usize>(header: &[u8; N], at: usize) -> u64 {
    u64::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes"))
}

fn of_ether_type(ether_type: u16) -> u64 {
    let is_length = ether_type < LEAST_ETHER_TYPE;
    ETHER_TYPE | if is_length { 0 } else { u64::from(ether_type) }
}

/// Mixes what the two ends make together, which is the same in either order, with the kind of flow.
#[inline]
fn finish(ends: u64, kind: u64) -> u64 {
    fold(ends ^ PI[2], PI[0] ^ kind)
}

/// The halves of a product, one upon the other: each bit of it depends on every bit of `a`.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let half = |half: u128| u64::try_from(half & u128::from(u64::MAX)).expect("64 bits of 128");
    half(product) ^ half(product >> 64)
}

#[cfg(test)]
mod tests;
