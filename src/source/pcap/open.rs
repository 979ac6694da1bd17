//! What to capture through libpcap, and how a capture starts.
//!
//! The rule: whatever stands in the way has a name of its own, and says what would mend it.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::str::FromStr;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use pcap::{Active, Capture, Linktype, Precision};
use tracing::warn;

use super::socket::{self, Activated, Refusal};
use crate::filter::{FilterError, message};
use crate::packet::{LinkType, MAX_PACKET};

/// The pseudo-interface that stands for all of them.
pub const ANY: &str = "any";

/// The kernel ring without another wish: half a second of 1 Gbit/s.
pub const DEFAULT_BUFFER: usize = 64 << 20;

/// A block that is not full is handed over after one to two of these.
///
/// Shorter costs a wake-up each time on a quiet link; longer is felt as delay.
pub(super) const BLOCK_TIMEOUT: Duration = Duration::from_millis(10);

/// Which packets of an interface are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Those it received.
    In,
    /// Those the host sent. The others still pass through the ring, where libpcap leaves them out:
    /// they take room there, and count among the dropped ones.
    Out,
    /// All.
    #[default]
    InOut,
}

impl FromStr for Direction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "in" => Ok(Self::In),
            "out" => Ok(Self::Out),
            "inout" => Ok(Self::InOut),
            _ => Err(format!("`{text}` is none of in, out, inout")),
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::In => "in",
            Self::Out => "out",
            Self::InOut => "inout",
        })
    }
}

/// What to capture, and how.
#[derive(Clone, Debug)]
pub struct PcapOptions {
    /// The interface's name (an altname of up to 15 bytes will do), or [`ANY`].
    pub interface: String,
    /// Size of the kernel ring in bytes; rounded up to whole blocks of 256 KiB, 2 GiB at most.
    /// Short of memory, libpcap takes less.
    pub buffer: usize,
    /// The longest piece of a packet wanted, in bytes; 0 for [`MAX_PACKET`].
    pub snaplen: u32,
    /// Whether packets for other hosts are wanted too; `any` has no such mode.
    pub promiscuous: bool,
    /// Which packets are wanted.
    pub direction: Direction,
    /// A filter in the syntax of pcap-filter(7); it runs in the kernel.
    pub filter: Option<String>,
}

impl PcapOptions {
    /// All packets of `interface`, whole.
    pub fn new(interface: impl Into<String>) -> Self {
        Self {
            interface: interface.into(),
            buffer: DEFAULT_BUFFER,
            snaplen: 0,
            promiscuous: true,
            direction: Direction::InOut,
            filter: None,
        }
    }

    /// The longest piece of a packet that libpcap is asked for.
    pub(super) fn snaplen(&self) -> u32 {
        match self.snaplen {
            0 => MAX_SNAPLEN,
            wanted => wanted.min(MAX_SNAPLEN),
        }
    }
}

/// [`MAX_PACKET`] as libpcap wants it.
const MAX_SNAPLEN: u32 = 262_144;
const _: () = assert!(MAX_SNAPLEN as usize == MAX_PACKET);

/// Why a capture did not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such interface.
    #[error("there is no interface {interface}; `ringtap capture -D` lists those there are")]
    Unknown {
        /// The name that was given.
        interface: String,
    },
    /// A capability is missing.
    #[error("capturing on {interface} through libpcap needs the capability CAP_NET_RAW: {message}")]
    Rights {
        /// The interface.
        interface: String,
        /// libpcap's words.
        message: String,
    },
    /// The interface is not up.
    #[error("interface {interface} is down; `ip link set {interface} up` starts it")]
    Down {
        /// The interface.
        interface: String,
    },
    /// The filter is none, or none for this interface's link type.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The interface's packets begin with something that no capture file has a number for.
    #[error("interface {interface} has a link type that no capture file can hold (DLT {dlt})")]
    LinkType {
        /// The interface.
        interface: String,
        /// libpcap's number for it.
        dlt: i32,
    },
    /// There are too many interfaces.
    #[error("registering interface {interface}: 65,536 are registered already")]
    TooMany {
        /// The interface.
        interface: String,
    },
    /// libpcap or the kernel refused something else.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// What libpcap or the kernel said.
        #[source]
        cause: io::Error,
    },
}

/// A capture that runs, non-blocking.
pub(super) struct Started {
    pub(super) capture: Capture<Active>,
    /// The interface's number in the kernel; `None` for [`ANY`].
    pub(super) index: Option<i32>,
    pub(super) link_type: LinkType,
}

/// Starts a capture: ring, link type, direction, filter, in this order.
pub(super) fn start(options: &PcapOptions) -> Result<Started, OpenError> {
    let name = &options.interface;
    let index = index(name)?;
    let mut capture = activate(options)?;
    if index.is_none() {
        // SLL2 says which interface a packet came in on; a libpcap before 1.10 has SLL only.
        let _ = capture.set_datalink(Linktype(LinkType::LINUX_SLL2.dlt()));
    }
    let dlt = capture.get_datalink().0;
    let link_type = LinkType::from_dlt(dlt).ok_or_else(|| OpenError::LinkType {
        interface: name.clone(),
        dlt,
    })?;
    direct(&mut capture, options)?;
    install(&mut capture, options, link_type)?;
    let capture = capture
        .setnonblock()
        .map_err(|cause| refused(name, "making the capture non-blocking", cause))?;
    Ok(Started {
        capture,
        index,
        link_type,
    })
}

/// The interface's number. It keeps libpcap's other devices out, such as USB and D-Bus, which are
/// no packet sockets.
fn index(name: &str) -> Result<Option<i32>, OpenError> {
    if name == ANY {
        return Ok(None);
    }
    let index = if_nametoindex(name).ok().map(i32::try_from);
    let Some(Ok(index)) = index else {
        return Err(OpenError::Unknown {
            interface: name.to_owned(),
        });
    };
    Ok(Some(index))
}

/// Makes the ring and lets packets in.
fn activate(options: &PcapOptions) -> Result<Capture<Active>, OpenError> {
    let name = &options.interface;
    let interface = name.clone();
    let inactive = Capture::from_device(name.as_str())
        .map_err(|cause| refused(name, "creating a capture", cause))?
        .promisc(options.promiscuous && name != ANY)
        .snaplen(i32::try_from(options.snaplen()).unwrap_or(i32::MAX))
        .buffer_size(i32::try_from(options.buffer).unwrap_or(i32::MAX))
        .timeout(i32::try_from(BLOCK_TIMEOUT.as_millis()).unwrap_or(i32::MAX))
        .immediate_mode(false)
        .precision(Precision::Nano);
    let Refusal { status, message } = match socket::activate(inactive) {
        Ok(Activated { capture, warning }) => {
            if let Some(warning) = warning {
                warn!(interface = %name, "libpcap: {warning}");
            }
            return Ok(capture);
        }
        Err(refusal) => refusal,
    };
    Err(match status {
        socket::NO_SUCH_DEVICE => OpenError::Unknown { interface },
        socket::NOT_UP => OpenError::Down { interface },
        socket::PERMISSION_DENIED | socket::PROMISCUOUS_DENIED => {
            OpenError::Rights { interface, message }
        }
        _ => OpenError::Io {
            doing: format!("starting a capture on {name} through libpcap"),
            cause: io::Error::other(message),
        },
    })
}

/// Limits the capture to the direction that is wanted.
///
/// What the host sends over loopback is received there as well, and libpcap passes on the latter
/// only.
fn direct(capture: &mut Capture<Active>, options: &PcapOptions) -> Result<(), OpenError> {
    let name = &options.interface;
    let wanted = match options.direction {
        Direction::In => pcap::Direction::In,
        Direction::Out => pcap::Direction::Out,
        Direction::InOut => pcap::Direction::InOut,
    };
    if wanted != pcap::Direction::InOut {
        capture
            .direction(wanted)
            .map_err(|cause| refused(name, "choosing the direction", cause))?;
    }
    let loopback =
        socket::flags(capture.as_fd(), name).is_ok_and(|flags| flags & libc::IFF_LOOPBACK != 0);
    if options.direction == Direction::In || (loopback && options.direction == Direction::InOut) {
        // Kernels before 4.20 refuse it; libpcap leaves those packets out by itself.
        let _ = socket::ignore_outgoing(capture.as_fd());
    }
    Ok(())
}

/// Puts the filter into the kernel. It is also what cuts packets there, before they take room in
/// the ring: so a snap length without a filter gets an empty one.
fn install(
    capture: &mut Capture<Active>,
    options: &PcapOptions,
    link_type: LinkType,
) -> Result<(), OpenError> {
    let expression = match &options.filter {
        Some(expression) => expression,
        None if options.snaplen() < MAX_SNAPLEN => "",
        None => return Ok(()),
    };
    let installed = capture.filter(expression, true);
    installed.map_err(|cause| {
        OpenError::Filter(FilterError::Malformed {
            expression: expression.to_owned(),
            link_type,
            message: message(cause),
        })
    })
}

fn refused(interface: &str, what: &str, cause: pcap::Error) -> OpenError {
    OpenError::Io {
        doing: format!("{what} on {interface} through libpcap"),
        cause: io::Error::other(message(cause)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_are_written_as_tcpdump_writes_them() {
        for direction in [Direction::In, Direction::Out, Direction::InOut] {
            assert_eq!(direction.to_string().parse(), Ok(direction));
        }
        let refused = "up".parse::<Direction>().unwrap_err();
        assert_eq!(refused, "`up` is none of in, out, inout");
    }

    #[test]
    fn no_snap_length_is_the_longest() {
        let mut options = PcapOptions::new("eth0");
        assert_eq!(options.snaplen(), 262_144);
        options.snaplen = 96;
        assert_eq!(options.snaplen(), 96);
        options.snaplen = u32::MAX;
        assert_eq!(options.snaplen(), 262_144);
    }
}
