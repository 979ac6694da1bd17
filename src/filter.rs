//! Packet filters in the syntax of pcap-filter(7), run in user space.
//!
//! The rule: libpcap compiles, and libpcap decides. A packet is held against the program with the
//! length it had on the wire, so that `greater 1000` means the same here as in the kernel.

#![allow(unsafe_code)] // `pcap_offline_filter` is called with both lengths; the crate passes one

mod dlt;

use std::ffi::{c_int, c_uint, c_void};
use std::fmt;
use std::io;
use std::path::Path;

use pcap::{BpfProgram, Capture, Linktype};

use crate::packet::{LinkType, Packet};

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// libpcap does not take the expression, for this link type at least.
    #[error("compiling the filter `{expression}` for link type {link_type}: {message}")]
    Malformed {
        /// The expression as written.
        expression: String,
        /// What it was compiled for.
        link_type: LinkType,
        /// libpcap's own words.
        message: String,
    },
    /// The file that should hold the expression cannot be read, or is not UTF-8.
    #[error("reading the filter in {file}")]
    Unreadable {
        /// Its path.
        file: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
}

/// The `bpf_program` of `pcap/bpf.h`.
#[repr(C)]
struct Program {
    len: c_uint,
    instructions: *const c_void,
}

unsafe extern "C" {
    fn pcap_offline_filter(
        program: *const Program,
        header: *const pcap::PacketHeader,
        packet: *const u8,
    ) -> c_int;
}

/// A filter compiled for one link type.
pub struct Filter {
    program: BpfProgram,
    link_type: LinkType,
}

impl Filter {
    /// Compiles `expression` for packets of `link_type`; an empty one matches every packet.
    pub fn compile(expression: &str, link_type: LinkType) -> Result<Self, FilterError> {
        let malformed = |cause: pcap::Error| FilterError::Malformed {
            expression: expression.to_owned(),
            link_type,
            message: message(cause),
        };
        let program = Capture::dead(Linktype(link_type.dlt()))
            .and_then(|dead| dead.compile(expression, true))
            .map_err(malformed)?;
        Ok(Self { program, link_type })
    }

    /// What it was compiled for.
    pub fn link_type(&self) -> LinkType {
        self.link_type
    }

    /// Whether a packet that starts with `data`, and was `orig_len` bytes long, passes.
    ///
    /// As in the kernel, a test that reads beyond `data` fails the packet. The first fragment of a
    /// packet in several is enough for anything a filter looks at in headers.
    pub fn matches(&self, data: &[u8], orig_len: u32) -> bool {
        let instructions = self.program.get_instructions();
        let program = Program {
            len: c_uint::try_from(instructions.len()).expect("libpcap counts them in 32 bits"),
            instructions: instructions.as_ptr().cast(),
        };
        let header = pcap::PacketHeader {
            ts: libc::timeval {
                tv_sec: 0,
                tv_usec: 0,
            },
            caplen: u32::try_from(data.len()).unwrap_or(u32::MAX),
            len: orig_len,
        };
        // SAFETY: `program` describes the instructions that libpcap made and `self` keeps alive;
        // `header.caplen` is not above the length of `data`, and nothing is kept after the call.
        unsafe { pcap_offline_filter(&raw const program, &raw const header, data.as_ptr()) != 0 }
    }

    /// Reads an expression from a file, as `tcpdump -F` does: `#` begins a comment.
    pub fn read_file(path: &Path) -> Result<String, FilterError> {
        let text = std::fs::read_to_string(path).map_err(|cause| FilterError::Unreadable {
            file: path.display().to_string(),
            cause,
        })?;
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or(""));
        Ok(lines.collect::<Vec<_>>().join("\n").trim().to_owned())
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("link_type", &self.link_type)
            .field("instructions", &self.program.get_instructions().len())
            .finish()
    }
}

/// One expression, compiled for each link type when the first packet of it comes.
#[derive(Debug)]
pub struct Filters {
    expression: String,
    /// `None` where the expression has no meaning for the link type.
    compiled: Vec<(LinkType, Option<Filter>)>,
}

impl Filters {
    /// Compiles `expression` for `first`, so that a malformed one is known before any packet comes.
    pub fn new(expression: &str, first: LinkType) -> Result<Self, FilterError> {
        let filter = Filter::compile(expression, first)?;
        Ok(Self {
            expression: expression.to_owned(),
            compiled: vec![(first, Some(filter))],
        })
    }

    /// The expression as written.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// Whether `packet` passes.
    ///
    /// Where the expression has no meaning for the packet's link type, such as `ether host` where there
    /// are no Ethernet addresses, it does not pass, and a warning says so once for each link type.
    pub fn matches(&mut self, packet: &Packet<'_>) -> bool {
        let known = self
            .compiled
            .iter()
            .position(|(link_type, _)| *link_type == packet.link_type);
        let at = known.unwrap_or_else(|| self.meet(packet.link_type));
        let filter = &self.compiled[at].1;
        filter
            .as_ref()
            .is_some_and(|filter| filter.matches(packet.data, packet.orig_len))
    }

    #[cold]
    fn meet(&mut self, link_type: LinkType) -> usize {
        let filter = Filter::compile(&self.expression, link_type);
        if let Err(error) = &filter {
            tracing::warn!("{error}; none of these packets passes");
        }
        self.compiled.push((link_type, filter.ok()));
        self.compiled.len() - 1
    }
}

/// libpcap's own words, without what its crate puts in front.
pub(crate) fn message(cause: pcap::Error) -> String {
    match cause {
        pcap::Error::PcapError(text) => text,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Clock, Timestamp};

    /// An Ethernet frame: IPv4 UDP from 10.0.0.1 port 5000 to 10.0.0.2 port 53, 60 bytes.
    fn ipv4() -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        frame.extend([
            0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        frame.extend([0x13, 0x88, 0, 53, 0, 26, 0, 0]);
        frame.resize(60, 0);
        frame
    }

    /// The same for IPv6, from 2001:db8::1 to 2001:db8::2.
    fn ipv6() -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd];
        frame.extend([0x60, 0, 0, 0, 0, 8, 17, 64]);
        for last in [1, 2] {
            frame.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        frame.extend([0x13, 0x88, 0, 53, 0, 8, 0, 0]);
        frame
    }

    fn tagged(vlan: u16, frame: &[u8]) -> Vec<u8> {
        let tag = vlan.to_be_bytes();
        [&frame[..12], &[0x81, 0, tag[0], tag[1]], &frame[12..]].concat()
    }

    fn passes(expression: &str, frame: &[u8]) -> bool {
        Filter::compile(expression, LinkType::ETHERNET)
            .unwrap()
            .matches(frame, u32::try_from(frame.len()).unwrap())
    }

    fn packet(link_type: LinkType, data: &[u8]) -> Packet<'_> {
        Packet {
            clock: Clock::Arrival,
            time: Timestamp::default(),
            orig_len: u32::try_from(data.len()).unwrap(),
            link_type,
            interface: 0,
            data,
            more: &[],
        }
    }

    #[test]
    fn ipv4_expressions_pick_by_protocol_host_and_port() {
        assert!(passes("udp and host 10.0.0.1 and dst port 53", &ipv4()));
        assert!(passes("net 10.0.0.0/24", &ipv4()));
        assert!(!passes("tcp", &ipv4()));
        assert!(!passes("host 10.0.0.3", &ipv4()));
        assert!(!passes("ip6", &ipv4()));
    }

    #[test]
    fn ipv6_expressions_pick_by_host_and_port() {
        assert!(passes("ip6 and udp port 53", &ipv6()));
        assert!(passes("src host 2001:db8::1", &ipv6()));
        assert!(!passes("src host 2001:db8::2", &ipv6()));
        assert!(!passes("ip", &ipv6()));
    }

    #[test]
    fn vlan_expressions_read_the_tag_in_the_packet() {
        let frame = tagged(42, &ipv4());
        assert!(passes("vlan 42 and udp port 53", &frame));
        assert!(!passes("vlan 43", &frame));
        assert!(!passes("vlan", &ipv4()));
        assert!(!passes("udp", &frame));
    }

    #[test]
    fn an_empty_expression_passes_everything() {
        assert!(passes("", &ipv4()));
        assert!(passes("", &[]));
    }

    #[test]
    fn length_means_the_length_on_the_wire() {
        let filter = Filter::compile("greater 1000", LinkType::ETHERNET).unwrap();
        assert!(filter.matches(&ipv4(), 1_514));
        assert!(!filter.matches(&ipv4(), 60));
    }

    #[test]
    fn a_packet_cut_before_what_is_tested_does_not_pass() {
        let frame = ipv4();
        let filter = Filter::compile("udp port 53", LinkType::ETHERNET).unwrap();
        assert!(filter.matches(&frame[..38], 60));
        assert!(!filter.matches(&frame[..36], 60));
        assert!(!filter.matches(&[], 60));
    }

    #[test]
    fn a_malformed_expression_is_named_with_the_words_of_libpcap() {
        let error = Filter::compile("tcp prot 80", LinkType::ETHERNET).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`tcp prot 80`"), "{text}");
        assert!(text.contains("syntax error"), "{text}");
        assert!(Filter::compile("udp\0", LinkType::ETHERNET).is_err());
    }

    #[test]
    fn each_link_type_has_a_program_of_its_own() {
        let mut filters = Filters::new("udp dst port 53", LinkType::ETHERNET).unwrap();
        let frame = ipv4();
        assert!(filters.matches(&packet(LinkType::ETHERNET, &frame)));
        assert!(filters.matches(&packet(LinkType::RAW, &frame[14..])));
        assert!(!filters.matches(&packet(LinkType::RAW, &frame)));
        assert!(filters.matches(&packet(LinkType::ETHERNET, &frame)));
        assert_eq!(filters.compiled.len(), 2);
    }

    #[test]
    fn an_expression_without_meaning_for_a_link_type_is_an_error_for_that_type_only() {
        let mut filters = Filters::new("ether host 2:0:0:0:0:1", LinkType::ETHERNET).unwrap();
        let frame = ipv4();
        assert!(!filters.matches(&packet(LinkType::RAW, &frame[14..])));
        assert!(filters.matches(&packet(LinkType::ETHERNET, &frame)));
    }

    #[test]
    fn a_filter_moves_between_threads() {
        let filters = Filters::new("udp", LinkType::ETHERNET).unwrap();
        let passed = std::thread::spawn(move || {
            let mut filters = filters;
            filters.matches(&packet(LinkType::ETHERNET, &ipv4()))
        });
        assert!(passed.join().unwrap());
    }

    #[test]
    fn a_file_holds_an_expression_over_several_lines_with_comments() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("filter");
        std::fs::write(&path, "# names only\nudp # both ways\n  and port 53\n").unwrap();
        let expression = Filter::read_file(&path).unwrap();
        assert!(passes(&expression, &ipv4()));
        let error = Filter::read_file(&folder.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
    }
}
