//! From a configuration to a bound socket: the ladder of bind modes.
//!
//! The rule: ask for the best mode, take what there is, and say which it was and why not better.

use std::io;
use std::num::NonZeroU32;
use std::thread;
use std::time::{Duration, Instant};

use xsk_rs::FrameDesc;
use xsk_rs::config::BindFlags;

use super::umem::{Port, Shape, Unbound};
use crate::xdp::{self, Program, XdpError};

/// `XDP_PACKET_HEADROOM` (linux/bpf.h): bytes in front of the packet in every frame.
const HEADROOM: u32 = 256;

/// What a frame carries beside the MTU: an Ethernet header and two VLAN tags.
const LINK_HEADER: u32 = 14 + 2 * 4;

/// How long a queue may be busy: the kernel gives one back 10 to 30 ms after its last owner ended.
const PATIENCE: Duration = Duration::from_secs(2);

/// The first and the longest pause between two attempts to bind.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(160));

/// The bytes of a packet that one frame of `frame_size` bytes holds.
pub fn room(frame_size: u32) -> u32 {
    frame_size.saturating_sub(HEADROOM)
}

/// The size of frames for an MTU, and whether its longest packets take several of them.
///
/// 2,048 bytes where a packet fits, else 4,096; where it fits neither, 2,048 again, several a packet: a
/// jumbo link carries small packets too, and these would waste most of a larger frame.
pub fn frame_size(mtu: u32) -> (u32, bool) {
    let longest = mtu.saturating_add(LINK_HEADER);
    if longest <= room(2_048) {
        return (2_048, false);
    }
    if longest <= room(4_096) {
        return (4_096, false);
    }
    (2_048, true)
}

/// Whether a socket is bound for zero-copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Where driver and kernel can.
    #[default]
    Auto,
    /// Never: the kernel copies each packet into its frame.
    Never,
    /// Always; it is an error where driver or kernel cannot.
    Require,
}

/// How a socket is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// The NIC writes into our frames.
    ZeroCopy,
    /// The kernel copies into our frames.
    Copy,
}

impl Bind {
    /// Its name in logs, the ledger and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::ZeroCopy => "zero-copy",
            Self::Copy => "copy",
        }
    }
}

/// Why there is no socket on a queue.
#[derive(Debug, thiserror::Error)]
pub enum XskError {
    /// A right is missing, or the program does not take the socket.
    #[error(transparent)]
    Program(#[from] XdpError),
    /// The frames could not be made.
    #[error("making {frames} frames of {frame_size} bytes for queue {queue} of {interface}")]
    Frames {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The number of frames asked for.
        frames: u32,
        /// Bytes per frame.
        frame_size: u32,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// Another socket is bound to the queue, and was for the two seconds that were waited.
    #[error("queue {queue} of {interface} is bound by another AF_XDP socket")]
    Busy {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// The interface has no such queue, or takes no socket in this mode.
    #[error("binding to queue {queue} of {interface} in {mode} mode", mode = mode.name())]
    Refused {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The last mode of the ladder that was tried.
        mode: Bind,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The bound socket did not take a setting.
    #[error("setting up the socket of queue {queue} of {interface}")]
    Socket {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
}

/// What came of it.
pub(super) struct Bound {
    pub(super) port: Port,
    pub(super) frames: Vec<FrameDesc>,
    pub(super) mode: Bind,
    /// Why it is not zero-copy, where that was tried.
    pub(super) refusal: Option<io::Error>,
}

/// Makes frames and rings, and binds them to `queue` of the program's interface.
pub(super) fn bind(
    program: &Program,
    queue: u32,
    shape: Shape,
    zero_copy: ZeroCopy,
) -> Result<Bound, XskError> {
    let interface = program.interface();
    let mut unbound =
        Unbound::new(shape).map_err(|cause| no_frames(interface, queue, shape, cause))?;
    let mut bind = |mode| attempt(&mut unbound, program, queue, mode);
    let refusal = match zero_copy {
        ZeroCopy::Never => None,
        ZeroCopy::Auto | ZeroCopy::Require => match bind(Bind::ZeroCopy) {
            Ok((port, frames)) => {
                return Ok(Bound {
                    port,
                    frames,
                    mode: Bind::ZeroCopy,
                    refusal: None,
                });
            }
            Err(XskError::Refused { cause, .. }) if zero_copy == ZeroCopy::Auto => Some(cause),
            Err(error) => return Err(error),
        },
    };
    let (port, frames) = bind(Bind::Copy)?;
    Ok(Bound {
        port,
        frames,
        mode: Bind::Copy,
        refusal,
    })
}

/// Binds in this very mode, waiting for a queue that its last owner has just left.
fn attempt(
    unbound: &mut Unbound,
    program: &Program,
    queue: u32,
    mode: Bind,
) -> Result<(Port, Vec<FrameDesc>), XskError> {
    let interface = program.interface();
    let mut flags = BindFlags::XDP_USE_NEED_WAKEUP;
    flags |= match mode {
        Bind::ZeroCopy => BindFlags::XDP_ZEROCOPY,
        Bind::Copy => BindFlags::XDP_COPY,
    };
    if program.is_jumbo() {
        flags |= BindFlags::XDP_USE_SG;
    }
    let until = Instant::now() + PATIENCE;
    let mut pause = PAUSES.0;
    loop {
        let cause = match unbound.bind(interface, queue, flags) {
            Ok(bound) => return Ok(bound),
            Err(cause) => cause,
        };
        let interface = interface.to_owned();
        match cause.raw_os_error() {
            Some(libc::EBUSY) if Instant::now() < until => {
                thread::sleep(pause);
                pause = (pause * 2).min(PAUSES.1);
            }
            Some(libc::EBUSY) => return Err(XskError::Busy { interface, queue }),
            Some(libc::EPERM) => {
                let doing = format!("binding to queue {queue} of {interface}");
                return Err(xdp::no_rights(&doing, &[xdp::NET_RAW]).into());
            }
            Some(libc::EINVAL) if mode == Bind::Copy && program.is_jumbo() => {
                let doing = format!("receiving packets of several fragments on {interface}");
                let refused = XskError::Refused {
                    interface,
                    queue,
                    mode,
                    cause,
                };
                let too_old = xdp::too_old(&doing, xdp::OLDEST_JUMBO_KERNEL);
                return Err(too_old.map_or(refused, XskError::Program));
            }
            _ => {
                return Err(XskError::Refused {
                    interface,
                    queue,
                    mode,
                    cause,
                });
            }
        }
    }
}

/// Classifies what went wrong when the frames were made.
fn no_frames(interface: &str, queue: u32, shape: Shape, cause: io::Error) -> XskError {
    match cause.raw_os_error() {
        Some(libc::EPERM) => xdp::no_rights(
            &format!("opening an AF_XDP socket for {interface}"),
            &[xdp::NET_RAW],
        )
        .into(),
        // What xdp_umem_account_pages (net/xdp/xdp_umem.c) says above the memlock limit.
        Some(libc::ENOBUFS) => {
            let bytes = u64::from(shape.frames.get()) * u64::from(shape.frame_size);
            let doing = format!("locking {bytes} bytes of frames beyond RLIMIT_MEMLOCK");
            xdp::no_rights(&doing, &[xdp::IPC_LOCK]).into()
        }
        _ => XskError::Frames {
            interface: interface.to_owned(),
            queue,
            frames: shape.frames.get(),
            frame_size: shape.frame_size,
            cause,
        },
    }
}

/// The shape for a number of frames: one RX descriptor for each, so that the ring never fills first.
pub(super) fn shape(frames: u32, ring: Option<u32>, frame_size: u32) -> Shape {
    let frames = NonZeroU32::new(frames.max(LEAST_FRAMES)).expect("at least some");
    let ring = ring
        .unwrap_or(frames.get())
        .clamp(LEAST_FRAMES, MOST_RING)
        .next_power_of_two();
    Shape {
        frames,
        frame_size,
        ring,
    }
}

/// A burst, and one more that the kernel fills meanwhile.
const LEAST_FRAMES: u32 = 128;

/// Keeps the sizes of rings inside 32 bits.
const MOST_RING: u32 = 1 << 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_small_as_the_longest_packet_allows() {
        assert_eq!(frame_size(1_500), (2_048, false));
        assert_eq!(frame_size(1_770), (2_048, false));
        assert_eq!(frame_size(1_771), (4_096, false));
        assert_eq!(frame_size(3_818), (4_096, false));
        assert_eq!(frame_size(3_819), (2_048, true));
        assert_eq!(frame_size(9_000), (2_048, true));
        assert_eq!(frame_size(65_536), (2_048, true));
    }

    #[test]
    fn the_ring_has_a_descriptor_for_every_frame() {
        let shape = shape(10_000, None, 2_048);
        assert_eq!((shape.frames.get(), shape.ring), (10_000, 16_384));
    }
}
