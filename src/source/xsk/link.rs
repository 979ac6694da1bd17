//! What becomes of the interface under a bound socket: up, down, gone.
//!
//! The rule: the socket itself is asked, as `poll` never tells of a link that went down. Carrier that
//! is lost at the other end shows in the interface's flags only.
#![allow(
    unsafe_code,
    reason = "one ioctl and three socket options that nix does not have"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socket};

/// How the link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Frames can come.
    Up,
    /// The interface is down or has no carrier; the socket works again by itself once it is up.
    Down,
    /// The device went away; the socket is of no more use.
    Gone,
}

/// Asks how a link is.
#[derive(Debug)]
pub(super) struct Probe {
    socket: OwnedFd,
    ifindex: libc::c_int,
}

impl Probe {
    /// A probe of `interface` in the network namespace of this thread.
    pub(super) fn new(interface: &str) -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let ifindex = if_nametoindex(interface)?;
        let ifindex = libc::c_int::try_from(ifindex).map_err(io::Error::other)?;
        Ok(Self { socket, ifindex })
    }

    /// How the link under `xsk` is now.
    pub(super) fn ask(&self, xsk: BorrowedFd<'_>) -> Link {
        match (knock(xsk), self.is_running()) {
            (Link::Gone, _) | (_, Err(Errno::ENODEV)) => Link::Gone,
            (Link::Up, Ok(true)) => Link::Up,
            // What cannot be told of the flags changes nothing.
            (heard, Err(_)) => heard,
            (Link::Down, _) | (_, Ok(false)) => Link::Down,
        }
    }

    /// Whether the interface, whatever it is called by now, is up and has carrier.
    fn is_running(&self) -> Result<bool, Errno> {
        let mut request = libc::ifreq {
            ifr_name: [0; libc::IFNAMSIZ],
            ifr_ifru: libc::__c_anonymous_ifr_ifru {
                ifru_ifindex: self.ifindex,
            },
        };
        let socket = self.socket.as_raw_fd();
        // SAFETY: SIOCGIFNAME reads a number and writes a name, both inside `request`, which lives on.
        Errno::result(unsafe { libc::ioctl(socket, libc::SIOCGIFNAME, &mut request) })?;
        // SAFETY: SIOCGIFFLAGS reads the name and writes flags, both inside `request`.
        Errno::result(unsafe { libc::ioctl(socket, libc::SIOCGIFFLAGS, &mut request) })?;
        // SAFETY: the call has just written this member of the union.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        Ok(i32::from(flags) & libc::IFF_RUNNING != 0)
    }
}

/// Wakes the kernel's receive path for `xsk`, and hears how the link is.
pub(super) fn knock(xsk: BorrowedFd<'_>) -> Link {
    match recv(xsk.as_raw_fd(), &mut [], MsgFlags::MSG_DONTWAIT) {
        Err(Errno::ENETDOWN) => Link::Down,
        Err(Errno::ENXIO | Errno::ENODEV) => Link::Gone,
        Err(Errno::EOPNOTSUPP) => {
            // Before 5.11 these sockets cannot be received from; a poll wakes as well, but tells less.
            let _ = poll(
                &mut [PollFd::new(xsk, PollFlags::POLLIN)],
                PollTimeout::ZERO,
            );
            Link::Up
        }
        // EAGAIN, EBUSY, EINTR, ENOBUFS: it was heard, and will be again.
        Ok(_) | Err(_) => Link::Up,
    }
}

/// Lets system calls on `xsk` run the driver's receive path, and keeps interrupts out of it.
pub(super) fn prefer_busy_poll(xsk: BorrowedFd<'_>) -> io::Result<()> {
    /// Microseconds that one call may spin.
    const SPIN: libc::c_int = 20;
    /// Packets that one call may receive: the NAPI weight of drivers.
    const BUDGET: libc::c_int = 64;
    set(xsk, libc::SO_PREFER_BUSY_POLL, 1)?;
    set(xsk, libc::SO_BUSY_POLL, SPIN)?;
    set(xsk, libc::SO_BUSY_POLL_BUDGET, BUDGET)
}

/// Sets an integer option of the socket layer.
fn set(socket: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of_val(&value)).expect("the size of an int fits");
    // SAFETY: the value lives through the call, with its true size; the kernel only reads it.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
