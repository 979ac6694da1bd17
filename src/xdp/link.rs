//! The `bpf` system calls that libbpf-rs does not offer: links made in a chosen mode, as plain
//! descriptors.
//!
//! The rule: a link is an `OwnedFd`; closing it detaches. No pointer outlives the call it is for.
#![allow(
    unsafe_code,
    reason = "bpf_link_create, bpf_link_detach and bpf_raw_tracepoint_open are C"
)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libbpf_rs::libbpf_sys;

use super::Attach;

/// Attaches an XDP program to an interface in this very mode.
pub(super) fn attach_xdp(
    program: BorrowedFd<'_>,
    ifindex: u32,
    mode: Attach,
) -> io::Result<OwnedFd> {
    let flags = match mode {
        Attach::Native => libbpf_sys::XDP_FLAGS_DRV_MODE,
        Attach::Generic => libbpf_sys::XDP_FLAGS_SKB_MODE,
    };
    let options = libbpf_sys::bpf_link_create_opts {
        sz: libbpf_sys::size_t::try_from(size_of::<libbpf_sys::bpf_link_create_opts>())
            .expect("a struct's size fits"),
        flags,
        ..Default::default()
    };
    let ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
    // SAFETY: `program` is open for the length of the call, and `options` lives through it with its
    // true size in `sz`; libbpf only reads both.
    let fd = unsafe {
        libbpf_sys::bpf_link_create(program.as_raw_fd(), ifindex, libbpf_sys::BPF_XDP, &options)
    };
    own(fd)
}

/// Attaches a raw tracepoint program to `event`.
pub(super) fn attach_tracepoint(program: BorrowedFd<'_>, event: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: `event` is a C string that lives through the call, and `program` is open for it.
    let fd = unsafe { libbpf_sys::bpf_raw_tracepoint_open(event.as_ptr(), program.as_raw_fd()) };
    own(fd)
}

/// Detaches what a link attached, at once, whoever else holds the link.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: only a descriptor, open for the length of the call, is passed.
    let answer = unsafe { libbpf_sys::bpf_link_detach(link.as_raw_fd()) };
    if answer < 0 {
        return Err(io::Error::from_raw_os_error(-answer));
    }
    Ok(())
}

/// Takes a descriptor that libbpf returned, or the error it returned instead.
fn own(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: the call before has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
