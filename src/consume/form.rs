//! What packets are turned into: a capture file's bytes, or pycapa's lines.
//!
//! The rule: pcap with microseconds is pycapa's own form, to the byte: Ethernet, the key's time, both
//! lengths that of the value. All other forms say everything that is known of a packet.

use std::io::Write;
use std::num::NonZeroU64;

use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

use super::decode::Decoded;
use crate::format::write::{Encoder, Format, Fraction, Section, Unfit};
use crate::hex;
use crate::interfaces::{Interface, Interfaces};
use crate::packet::{Clock, LinkType, Packet};

/// What packets are turned into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A capture file that states this snap length.
    Capture {
        /// Its format.
        format: Format,
        /// What its header says; nothing is cut.
        snaplen: u32,
    },
    /// Every so many packets, a line and a hex dump, as pycapa's `-pp`.
    Lines {
        /// How many.
        every: NonZeroU64,
        /// The difference of local time.
        offset: UtcOffset,
    },
}

impl Default for Form {
    /// pycapa's.
    fn default() -> Self {
        Self::Capture {
            format: Format::Pcap(Fraction::Micros),
            snaplen: 65_535,
        }
    }
}

/// Writes packets in one form to a buffer.
#[derive(Debug)]
pub(super) enum Writer {
    /// pcap as pycapa writes it.
    Pycapa { encoder: Encoder, warned: bool },
    /// pcap with nanoseconds: its link type is that of the first packet, and its header waits for it.
    Nanos {
        snaplen: u32,
        encoder: Option<Encoder>,
    },
    /// pcapng.
    Pcapng {
        encoder: Encoder,
        described: Described,
    },
    /// Lines.
    Lines {
        every: NonZeroU64,
        offset: UtcOffset,
        seen: u64,
        topic: String,
    },
}

impl Writer {
    /// A writer, with what stands at the start of its output in `out`.
    pub(super) fn new(form: Form, topic: &str, out: &mut Vec<u8>) -> Self {
        let (format, snaplen) = match form {
            Form::Capture { format, snaplen } => (format, snaplen),
            Form::Lines { every, offset } => {
                return Self::Lines {
                    every,
                    offset,
                    seen: 0,
                    topic: topic.to_owned(),
                };
            }
        };
        match format {
            Format::Pcap(Fraction::Micros) => {
                let mut encoder = Encoder::pcap(Fraction::Micros, snaplen, LinkType::ETHERNET);
                encoder.start(out);
                Self::Pycapa {
                    encoder,
                    warned: false,
                }
            }
            Format::Pcap(Fraction::Nanos) => Self::Nanos {
                snaplen,
                encoder: None,
            },
            Format::Pcapng => {
                let interfaces = Interfaces::default();
                let mut encoder = Encoder::pcapng(Section::here(), interfaces.clone());
                encoder.start(out);
                Self::Pcapng {
                    encoder,
                    described: Described {
                        interfaces,
                        topic: topic.to_owned(),
                        snaplen,
                        known: Vec::new(),
                    },
                }
            }
        }
    }

    /// Appends one packet to `out`; a packet that the form cannot hold leaves no trace.
    pub(super) fn packet(&mut self, decoded: &Decoded<'_>, out: &mut Vec<u8>) -> Result<(), Unfit> {
        let packet = &decoded.packet;
        match self {
            Self::Pycapa { encoder, warned } => {
                if packet.link_type != LinkType::ETHERNET && !*warned {
                    *warned = true;
                    tracing::warn!(
                        link_type = %packet.link_type,
                        "not Ethernet, and pcap in pycapa's form says it is: --format pcapng keeps the link \
                         type"
                    );
                }
                encoder.packet(&as_pycapa(decoded), out)
            }
            Self::Nanos { snaplen, encoder } => {
                let snaplen = *snaplen;
                let encoder =
                    encoder.get_or_insert_with(|| begin_nanos(snaplen, packet.link_type, out));
                encoder.packet(packet, out)
            }
            Self::Pcapng { encoder, described } => {
                let interface = described.number(decoded);
                let packet = Packet {
                    clock: Clock::Arrival,
                    interface,
                    ..*packet
                };
                encoder.packet(&packet, out)
            }
            Self::Lines {
                every,
                offset,
                seen,
                topic,
            } => {
                *seen += 1;
                if *seen % *every == 0 {
                    lines(*seen, *offset, topic, decoded, out);
                }
                Ok(())
            }
        }
    }

    /// Appends what stands at the end of the output.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::Nanos {
                snaplen,
                encoder: encoder @ None,
            } => *encoder = Some(begin_nanos(*snaplen, LinkType::ETHERNET, out)),
            Self::Pcapng { encoder, .. } => encoder.finish(&|_| None, out),
            _ => {}
        }
    }
}

fn begin_nanos(snaplen: u32, link_type: LinkType, out: &mut Vec<u8>) -> Encoder {
    let mut encoder = Encoder::pcap(Fraction::Nanos, snaplen, link_type);
    encoder.start(out);
    encoder
}

/// What pycapa makes of a record: it knows the key and the value only.
fn as_pycapa<'a>(decoded: &Decoded<'a>) -> Packet<'a> {
    Packet {
        time: decoded.key_time,
        orig_len: u32::try_from(decoded.packet.data.len())
            .expect("a packet is at most MAX_PACKET bytes long"),
        link_type: LinkType::ETHERNET,
        interface: 0,
        ..decoded.packet
    }
}

/// pycapa's words for a packet.
fn lines(seen: u64, offset: UtcOffset, topic: &str, decoded: &Decoded<'_>, out: &mut Vec<u8>) {
    let format =
        format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:6]");
    let nanos = i128::from(decoded.key_time.nanos());
    let date = OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .ok()
        .and_then(|time| time.checked_to_offset(offset))
        .and_then(|time| time.format(&format).ok())
        .unwrap_or_else(|| format!("{} ns", decoded.key_time.nanos()));
    writeln!(out, "Packet: count={seen} date={date} topic={topic}")
        .expect("writing to memory cannot go wrong");
    hex::dump(decoded.packet.data, out);
}

/// The interfaces of a pcapng file: the topic itself, and one for each interface and link type that
/// `rt` headers name.
#[derive(Debug)]
pub(super) struct Described {
    interfaces: Interfaces,
    topic: String,
    snaplen: u32,
    known: Vec<(Source, u16)>,
}

/// Where a packet comes from, as far as its record tells: interface and link type of the `rt` header.
type Source = (Option<u16>, LinkType);

impl Described {
    fn number(&mut self, decoded: &Decoded<'_>) -> u16 {
        let interface = decoded.restored.then_some(decoded.packet.interface);
        let source = (interface, decoded.packet.link_type);
        let known = self.known.iter().find(|(known, _)| *known == source);
        match known {
            Some((_, number)) => *number,
            None => self.describe(source),
        }
    }

    #[cold]
    fn describe(&mut self, source: Source) -> u16 {
        let (interface, link_type) = source;
        let number = self.interfaces.register(Interface {
            name: match interface {
                Some(interface) => format!("{} interface {interface}", self.topic),
                None => self.topic.clone(),
            },
            link_type,
            snaplen: self.snaplen,
            filter: None,
        });
        // Beyond 65,536 the encoder refuses the packet, since the link type differs.
        let number = number.unwrap_or(u16::MAX);
        self.known.push((source, number));
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Timestamp;

    fn decoded(data: &[u8], link_type: LinkType) -> Decoded<'_> {
        Decoded {
            packet: Packet {
                clock: Clock::Arrival,
                time: Timestamp::from_nanos(1_458_240_269_373_968_123),
                orig_len: 9_000,
                link_type,
                interface: 3,
                data,
                more: &[],
            },
            key_time: Timestamp::from_nanos(1_458_240_269_373_968_000),
            restored: true,
        }
    }

    #[test]
    fn the_default_form_is_pycapas_whatever_else_is_known() {
        let mut out = Vec::new();
        let mut writer = Writer::new(Form::default(), "pcap", &mut out);
        writer
            .packet(&decoded(&[1, 2, 3, 4], LinkType::RAW), &mut out)
            .unwrap();
        writer.finish(&mut out);
        let expected = [
            0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0,
            0, 0x0d, 0xfb, 0xea, 0x56, 0xd0, 0xb4, 5, 0, 4, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4,
        ];
        assert_eq!(out, expected);
    }

    #[test]
    fn nanoseconds_bring_the_link_type_of_the_first_packet_and_refuse_others() {
        let form = Form::Capture {
            format: Format::Pcap(Fraction::Nanos),
            snaplen: 100,
        };
        let mut out = Vec::new();
        let mut writer = Writer::new(form, "pcap", &mut out);
        assert!(out.is_empty());
        writer
            .packet(&decoded(&[1], LinkType::RAW), &mut out)
            .unwrap();
        assert_eq!(out[20..24], 101_u32.to_le_bytes());
        assert_eq!(out[28..32], 373_968_123_u32.to_le_bytes());
        assert_eq!(out[36..40], 9_000_u32.to_le_bytes());
        let len = out.len();
        assert!(
            writer
                .packet(&decoded(&[1], LinkType::ETHERNET), &mut out)
                .is_err()
        );
        assert_eq!(out.len(), len);

        let mut empty = Vec::new();
        Writer::new(form, "pcap", &mut empty).finish(&mut empty);
        assert_eq!(empty.len(), 24);
    }

    #[test]
    fn lines_come_every_so_many_packets_as_pycapa_prints_them() {
        let form = Form::Lines {
            every: NonZeroU64::new(2).unwrap(),
            offset: UtcOffset::from_hms(2, 0, 0).unwrap(),
        };
        let mut out = Vec::new();
        let mut writer = Writer::new(form, "pcap", &mut out);
        for _ in 0..3 {
            writer
                .packet(&decoded(&[7; 17], LinkType::ETHERNET), &mut out)
                .unwrap();
        }
        let expected = "Packet: count=2 date=2016-03-17 20:44:29.373968 topic=pcap\n\
                        07 07 07 07 07 07 07 07 07 07 07 07 07 07 07 07\n07\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
