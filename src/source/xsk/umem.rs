//! The frames of one queue and the rings they go round: kernel → RX ring → us → fill ring → kernel.
//!
//! The rule: a frame is ours from the moment [`receive`](Port::receive) names it until
//! [`give_back`](Port::give_back) takes it, and only in between are its bytes read or its stamp erased.
#![allow(
    unsafe_code,
    reason = "shared memory: xsk-rs leaves it to its user who owns which frame"
)]

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, SocketConfig, UmemConfig};
use xsk_rs::socket::XdpStatistics;
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

/// Tells a stamp from old bytes: `RINGTAP_MAGIC` of `bpf/ringtap.h`.
const MAGIC: u64 = u64::from_le_bytes(*b"ringtap\x01");

/// The bytes of metadata in front of a frame: `struct stamp` of `bpf/ringtap.h`.
const STAMP: usize = 16;

/// `XDP_PKT_CONTD` (linux/if_xdp.h): the packet goes on in the next descriptor.
const CONTINUED: u32 = 1;

/// The shape of a UMEM and its rings, all powers of two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// The number of frames.
    pub(super) frames: NonZeroU32,
    /// Bytes per frame, 256 of them headroom.
    pub(super) frame_size: u32,
    /// Descriptors in the RX ring.
    pub(super) ring: u32,
}

/// Frames and rings in the kernel's hands, not bound to a queue yet.
pub(super) struct Unbound {
    umem: Umem,
    frames: Vec<FrameDesc>,
    shape: Shape,
}

/// A bound socket with its frames.
#[derive(Debug)]
pub(super) struct Port {
    rx: RxQueue,
    fill: FillQueue,
    umem: Umem,
    /// The address of the UMEM's first byte.
    base: usize,
    /// Never used; dropping them would close nothing, but they belong to the socket.
    _unused: (TxQueue, CompQueue),
}

impl Unbound {
    /// Makes the UMEM; the fill ring gets two slots for every frame.
    ///
    /// The kernel publishes emptied slots of the fill ring at the end of a burst only, so a ring with
    /// one slot per frame can look full when frames are given back; with two it cannot.
    pub(super) fn new(shape: Shape) -> io::Result<Self> {
        let fill = shape.frames.get().next_power_of_two() * 2;
        let config = UmemConfig::builder()
            .frame_size(shape.frame_size.try_into().map_err(io::Error::other)?)
            .fill_queue_size(fill.try_into().map_err(io::Error::other)?)
            .comp_queue_size(UNUSED_RING.try_into().map_err(io::Error::other)?)
            .build()
            .map_err(io::Error::other)?;
        let (umem, frames) = Umem::new(config, shape.frames, false).map_err(os_error)?;
        Ok(Self {
            umem,
            frames,
            shape,
        })
    }

    /// Binds a socket to `queue` with these flags; may be tried again when refused.
    pub(super) fn bind(
        &mut self,
        interface: &str,
        queue: u32,
        flags: BindFlags,
    ) -> io::Result<(Port, Vec<FrameDesc>)> {
        let interface: Interface = interface.parse().map_err(io::Error::other)?;
        let config = SocketConfig::builder()
            .rx_queue_size(self.shape.ring.try_into().map_err(io::Error::other)?)
            .tx_queue_size(UNUSED_RING.try_into().map_err(io::Error::other)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(flags)
            .build();
        // SAFETY: this UMEM is shared with no other socket: the only one made from it before, if any,
        // was refused and is gone. The flag that the contract asks for is set all the same.
        let bound = unsafe { Socket::new(config, &self.umem, &interface, queue) };
        let (tx, rx, rings) = bound.map_err(os_error)?;
        let (mut fill, completion) = rings.expect("the first socket of a UMEM owns its rings");

        let frames = std::mem::take(&mut self.frames);
        let first = frames.first().expect("a UMEM has at least one frame");
        // SAFETY: the descriptor is of this UMEM and describes no data yet; only the address is taken.
        let data = unsafe { self.umem.data(first) };
        let base = data.contents().as_ptr().expose_provenance() - first.addr();
        // SAFETY: the descriptors are of this UMEM, each frame once, and none was given away before.
        let given = unsafe { fill.produce(&frames) };
        if given != frames.len() {
            return Err(io::Error::other(
                "the fill ring has less room than asked for",
            ));
        }
        let umem = self.umem.clone();
        Ok((
            Port {
                rx,
                fill,
                umem,
                base,
                _unused: (tx, completion),
            },
            frames,
        ))
    }
}

/// The sizes of the TX and completion rings, which a socket must have: nothing is ever sent.
const UNUSED_RING: u32 = 64;

impl Port {
    /// The socket.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `rx` keeps the socket open for as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }

    /// Takes descriptors off the RX ring, in order, into `room`; returns how many.
    pub(super) fn receive(&mut self, room: &mut [FrameDesc]) -> usize {
        // SAFETY: `room` is only written to, and what is written are frames of this UMEM.
        unsafe { self.rx.consume(room) }
    }

    /// Returns frames to the kernel; `frames` are ours, from [`receive`](Self::receive).
    pub(super) fn give_back(&mut self, frames: &[FrameDesc]) -> io::Result<()> {
        // SAFETY: the frames are of this UMEM and ours; the caller forgets them, so each goes back once.
        let given = unsafe { self.fill.produce(frames) };
        if given != frames.len() {
            return Err(io::Error::other(
                "a fill ring with two slots for every frame is full",
            ));
        }
        Ok(())
    }

    /// Whether the kernel asks for a system call before it goes on filling frames.
    pub(super) fn needs_wakeup(&self) -> bool {
        self.fill.needs_wakeup()
    }

    /// The bytes in a frame that is ours.
    #[inline]
    pub(super) fn data(&self, frame: &FrameDesc) -> &[u8] {
        // SAFETY: the frame is of this UMEM and ours: the kernel writes to it no more, and while the
        // slice lives `self` is borrowed, so it cannot be given back.
        unsafe { self.umem.data(frame) }.contents()
    }

    /// When the program saw the packet in a frame that is ours: nanoseconds of `CLOCK_MONOTONIC`.
    ///
    /// `None` where the driver refused metadata, and the bytes are what was there before.
    #[inline]
    pub(super) fn stamp(&self, frame: &FrameDesc) -> Option<u64> {
        let stamp = ptr::with_exposed_provenance::<[u64; 2]>(self.stamp_address(frame)?);
        // SAFETY: the address is of 16 bytes inside a frame of ours, in memory whose pointer xsk-rs
        // has exposed by passing it to C; no slice of data reaches in front of the frame's data.
        let [magic, stamp] = unsafe { stamp.read_unaligned() };
        (magic == MAGIC).then_some(stamp)
    }

    /// Makes sure that the stamp of a frame that is ours is not taken for that of a later packet.
    #[inline]
    pub(super) fn erase_stamp(&mut self, frame: &FrameDesc) {
        let Some(address) = self.stamp_address(frame) else {
            return;
        };
        let magic = ptr::with_exposed_provenance_mut::<u64>(address);
        // SAFETY: as for reading it; `self` is borrowed alone, so no slice of any frame is alive.
        unsafe { magic.write_unaligned(0) };
    }

    /// Calls a frame's stamp and first bytes into the cache: the kernel wrote them on another core.
    #[inline]
    pub(super) fn prefetch(&self, frame: &FrameDesc) {
        #[cfg(target_arch = "x86_64")]
        for address in [self.base + frame.addr() - STAMP, self.base + frame.addr()] {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch reads nothing as far as the program can see, and never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(ptr::with_exposed_provenance(address)) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = frame;
    }

    /// The kernel's statistics of the socket.
    pub(super) fn statistics(&self) -> io::Result<XdpStatistics> {
        self.rx.fd().xdp_statistics()
    }

    /// Where the stamp of a frame lies; `None` for a frame without headroom.
    #[inline]
    fn stamp_address(&self, frame: &FrameDesc) -> Option<usize> {
        Some(self.base + frame.addr().checked_sub(STAMP)?)
    }
}

/// Whether a packet goes on in the next descriptor.
#[inline]
pub(super) fn continues(frame: &FrameDesc) -> bool {
    frame.options() & CONTINUED != 0
}

/// The system's error inside one of xsk-rs.
fn os_error(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    let code = std::error::Error::source(&error)
        .and_then(|cause| cause.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error);
    code.map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error)
}
