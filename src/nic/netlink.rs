//! Questions to the kernel over netlink, and the attributes of its answers.
//!
//! The rule: every length the kernel states is checked against the bytes at hand before it is used;
//! what does not fit ends the iteration and is never read.
//!
//! The layout is that of RFC 3549 and `include/uapi/linux/netlink.h`: host byte order, each message
//! and each attribute padded to 4 bytes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

/// The kernel fills at most 32 KiB per answer of a dump; one link without its VFs is far smaller.
const ANSWER: usize = 64 * 1024;
const HEADER: usize = 16;
const REQUEST: u16 = 0x1;
const DUMP: u16 = 0x300;
/// The list changed while it was read (`NLM_F_DUMP_INTR`).
const INTERRUPTED: u16 = 0x10;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The two flag bits of an attribute's type (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const TYPE_FLAGS: u16 = 0xc000;

/// A netlink socket of the calling thread's network namespace.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    answer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket that only answers.
    pub(crate) fn open(protocol: SockProtocol) -> io::Result<Self> {
        Self::with(protocol, SockFlag::SOCK_CLOEXEC, 0)
    }

    /// Opens a non-blocking rtnetlink socket that also hears the multicast `groups` (a bit mask).
    pub(crate) fn listen(groups: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        Self::with(SockProtocol::NetlinkRoute, flags, groups)
    }

    fn with(protocol: SockProtocol, flags: SockFlag, groups: u32) -> io::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self {
            socket,
            answer: vec![0; ANSWER],
        })
    }

    /// Asks for one object; the body of each message of the answer goes to `each` with its type.
    pub(crate) fn get(
        &mut self,
        kind: u16,
        body: &[u8],
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.ask(kind, REQUEST, body)?;
        let len = self.receive()?;
        for message in Messages::new(&self.answer[..len]) {
            match message.kind {
                ERROR => error(message.body)?,
                kind => each(kind, message.body),
            }
        }
        Ok(())
    }

    /// Asks for all objects, as [`get`](Self::get). Returns whether the list changed meanwhile: then
    /// it may hold an object twice or not at all.
    pub(crate) fn dump(
        &mut self,
        kind: u16,
        body: &[u8],
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<bool> {
        self.ask(kind, REQUEST | DUMP, body)?;
        let mut changed = false;
        loop {
            let len = self.receive()?;
            for message in Messages::new(&self.answer[..len]) {
                changed |= message.flags & INTERRUPTED != 0;
                match message.kind {
                    DONE => return Ok(changed),
                    ERROR => error(message.body)?,
                    kind => each(kind, message.body),
                }
            }
        }
    }

    /// Receives what lies ready on a listening socket; `None` when nothing does.
    pub(crate) fn heard(&mut self, mut each: impl FnMut(u16, &[u8])) -> io::Result<Option<()>> {
        let len = match self.receive() {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        for message in Messages::new(&self.answer[..len]) {
            each(message.kind, message.body);
        }
        Ok(Some(()))
    }

    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let len = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(len.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    fn receive(&mut self) -> io::Result<usize> {
        let fd = self.socket.as_raw_fd();
        let len = loop {
            match recv(fd, &mut self.answer, MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR) => {}
                other => break other?,
            }
        };
        if len > self.answer.len() {
            return Err(io::Error::other(format!("an answer of {len} bytes")));
        }
        Ok(len)
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// An error message carries a negative errno; 0 is an acknowledgement.
fn error(body: &[u8]) -> io::Result<()> {
    match u32_at(body, 0).map(u32::cast_signed) {
        None | Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

#[derive(Debug)]
struct Message<'a> {
    kind: u16,
    flags: u16,
    body: &'a [u8],
}

#[derive(Debug)]
struct Messages<'a>(&'a [u8]);

impl<'a> Messages<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let len = usize::try_from(u32_at(self.0, 0)?).ok()?;
        let body = self.0.get(HEADER..len)?;
        let message = Message {
            kind: u16_at(self.0, 4)?,
            flags: u16_at(self.0, 6)?,
            body,
        };
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// The attributes in a message after its fixed part, or nested in another attribute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Reads `bytes` as attributes.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & !TYPE_FLAGS;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// One attribute as it is sent: length, type, value, padding.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).expect("our attributes are names and numbers");
    let mut bytes = Vec::with_capacity(usize::from(len).next_multiple_of(4));
    bytes.extend(len.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The number at byte `at`, if it is there.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The number at byte `at`, if it is there.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The number at byte `at`, if it is there.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A string attribute without its closing NUL.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_read_back_as_they_were_written() {
        let bytes = [
            attribute(3, b"veth0\0"),
            attribute(4 | 0x8000, &1_500_u32.to_ne_bytes()),
        ]
        .concat();
        let read: Vec<_> = Attributes::new(&bytes).collect();
        assert_eq!(
            read,
            [(3, &b"veth0\0"[..]), (4, &1_500_u32.to_ne_bytes()[..])]
        );
        assert_eq!(text(read[0].1), "veth0");
    }

    #[test]
    fn a_length_beyond_the_bytes_ends_the_reading() {
        let whole = attribute(1, &[7; 9]);
        for cut in 0..13 {
            assert_eq!(Attributes::new(&whole[..cut]).count(), 0, "{cut} bytes");
        }
        assert_eq!(Attributes::new(&[3, 0, 1, 0]).count(), 0);
        let mut message = vec![200, 0, 0, 0];
        message.resize(60, 0);
        assert_eq!(Messages::new(&message).count(), 0);
        assert_eq!(Messages::new(&[0; 64]).count(), 0);
    }

    #[test]
    fn an_error_message_is_the_errno_it_carries() {
        assert!(error(&0_i32.to_ne_bytes()).is_ok());
        let refused = error(&(-19_i32).to_ne_bytes()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(19));
    }
}
