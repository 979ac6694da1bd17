//! What libpcap leaves undone: calls on the handle and on the packet socket beneath it.
//!
//! The rule: each function is one call to libpcap or the kernel, safe for its caller.

#![allow(unsafe_code)] // calls that neither the pcap crate nor nix offers

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use pcap::{Active, Capture, Inactive};

/// `PCAP_ERROR_NO_SUCH_DEVICE` of `pcap/pcap.h`.
pub(super) const NO_SUCH_DEVICE: c_int = -5;
/// `PCAP_ERROR_PERM_DENIED`.
pub(super) const PERMISSION_DENIED: c_int = -8;
/// `PCAP_ERROR_IFACE_NOT_UP`.
pub(super) const NOT_UP: c_int = -9;
/// `PCAP_ERROR_PROMISC_PERM_DENIED`.
pub(super) const PROMISCUOUS_DENIED: c_int = -11;

/// `PCAP_TSTAMP_PRECISION_NANO`.
const NANOSECONDS: c_int = 1;

/// `PACKET_IGNORE_OUTGOING` of `linux/if_packet.h`, since Linux 4.20.
const IGNORE_OUTGOING: c_int = 23;

unsafe extern "C" {
    fn pcap_activate(handle: *mut c_void) -> c_int;
    fn pcap_geterr(handle: *mut c_void) -> *const c_char;
    fn pcap_get_tstamp_precision(handle: *mut c_void) -> c_int;
}

/// A capture that runs, with what libpcap warned of.
pub(super) struct Activated {
    pub(super) capture: Capture<Active>,
    pub(super) warning: Option<String>,
}

/// Why libpcap did not start a capture.
pub(super) struct Refusal {
    /// A `PCAP_ERROR_…` number.
    pub(super) status: c_int,
    /// libpcap's words.
    pub(super) message: String,
}

/// Starts the capture.
///
/// The pcap crate's own `open` hides the number that tells the causes apart, and takes a warning,
/// such as of a device type that libpcap does not know, for an error.
pub(super) fn activate(inactive: Capture<Inactive>) -> Result<Activated, Refusal> {
    let handle = inactive.as_ptr();
    // SAFETY: `handle` is a live handle, made by `pcap_create` and not activated before: the crate
    // has activated none that is still `Inactive`.
    let status = unsafe { pcap_activate(handle.cast()) };
    // SAFETY: the handle lives; libpcap answers with a string inside it that ends with NUL.
    let text = unsafe { pcap_geterr(handle.cast()) };
    // SAFETY: as above, and nothing changes the string until it is copied.
    let text = unsafe { CStr::from_ptr(text) };
    let message = text.to_string_lossy().into_owned();
    if status < 0 {
        return Err(Refusal { status, message });
    }
    // The handle has one owner: from here it is the active capture, which closes it.
    mem::forget(inactive);
    let handle = NonNull::new(handle).expect("a capture has a handle");
    Ok(Activated {
        capture: Capture::from(handle),
        warning: (status > 0).then_some(message),
    })
}

/// Nanoseconds in the unit of a packet's `tv_usec`: 1 where libpcap stamps in nanoseconds.
pub(super) fn nanos_per_tick(capture: &Capture<Active>) -> u64 {
    // SAFETY: the capture's handle lives as long as the capture, and this only reads it.
    let precision = unsafe { pcap_get_tstamp_precision(capture.as_ptr().cast()) };
    if precision == NANOSECONDS { 1 } else { 1_000 }
}

/// Lets no further packet into the ring; those that are in it stay.
///
/// It goes round `pcap_setfilter` on purpose, which would put the new filter to packets in the ring
/// too.
pub(super) fn accept_nothing(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut refuse = libc::sock_filter {
        code: 0x06, // BPF_RET | BPF_K
        jt: 0,
        jf: 0,
        k: 0,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut refuse,
    };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Keeps what the host itself sends out of the ring.
///
/// Without it libpcap drops those packets itself, after they took room in the ring.
pub(super) fn ignore_outgoing(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: c_int = 1;
    set(socket, libc::SOL_PACKET, IGNORE_OUTGOING, &on)
}

fn set<T>(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).expect("an option of a few bytes");
    // SAFETY: `value` is `len` readable bytes, laid out as the two callers' options want them, and
    // the kernel copies what it needs before the call returns.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            len,
        )
    };
    if status == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// What the kernel says of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Up, with a carrier.
    Up,
    /// Down, or without a carrier.
    Down,
    /// Not there any more, under whatever name.
    Gone,
}

/// An interface request: `struct ifreq` of `linux/if.h`, with the union as bytes.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    union: [u8; 24],
}

/// The flags (`IFF_…`) of the interface called `name`.
pub(super) fn flags(socket: BorrowedFd<'_>, name: &str) -> io::Result<i32> {
    let mut request = named(name).ok_or(io::ErrorKind::InvalidInput)?;
    ask(socket, libc::SIOCGIFFLAGS, &mut request)?;
    Ok(flags_in(&request))
}

/// What state the interface with this number is in; its name may have changed meanwhile.
pub(super) fn link(socket: BorrowedFd<'_>, index: i32) -> io::Result<Link> {
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        union: [0; 24],
    };
    request.union[..4].copy_from_slice(&index.to_ne_bytes());
    let answer = ask(socket, libc::SIOCGIFNAME, &mut request)
        .and_then(|()| ask(socket, libc::SIOCGIFFLAGS, &mut request));
    match answer {
        Ok(()) if flags_in(&request) & RUNNING == RUNNING => Ok(Link::Up),
        Ok(()) => Ok(Link::Down),
        Err(cause) if matches!(cause.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => {
            Ok(Link::Gone)
        }
        Err(cause) => Err(cause),
    }
}

/// Administratively up, and with a carrier.
const RUNNING: i32 = libc::IFF_UP | libc::IFF_RUNNING;

fn named(name: &str) -> Option<Request> {
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        union: [0; 24],
    };
    if name.len() >= request.name.len() {
        return None;
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    Some(request)
}

/// The flags are a C `short` at the start of the union.
fn flags_in(request: &Request) -> i32 {
    let [a, b, ..] = request.union;
    i32::from(u16::from_ne_bytes([a, b]))
}

fn ask(socket: BorrowedFd<'_>, what: libc::Ioctl, request: &mut Request) -> io::Result<()> {
    // SAFETY: `request` has the layout and size of an `ifreq`, which the two requests used here
    // read and write, and is not aliased during the call.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), what, std::ptr::from_mut(request)) };
    if status == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}
