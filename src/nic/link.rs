//! Tells when an interface goes up, down, or away.
//!
//! The rule: no change is missed. When the kernel had to drop messages, every watched interface is
//! asked anew. AF_XDP sockets tell of none of this: `poll` is silent when a link goes down.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::libc;

use crate::nic::LinkState;
use crate::nic::netlink::Netlink;
use crate::nic::route::{self, DEL_LINK, Link, NEW_LINK};

/// The multicast group of link messages (`RTMGRP_LINK`).
const LINKS: u32 = 1;

/// An interface that is in another state than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkChange {
    /// Its number.
    pub index: u32,
    /// What it is in now.
    pub state: LinkState,
}

/// Watches a set of interfaces in the network namespace of the thread that made it.
///
/// Its descriptor is readable when [`changes`](Self::changes) may have something to say.
#[derive(Debug)]
pub struct LinkWatch {
    socket: Netlink,
    watched: Vec<LinkChange>,
}

impl LinkWatch {
    /// Watches the interfaces with these numbers from now on, and reads what state they are in.
    pub fn new(indexes: impl IntoIterator<Item = u32>) -> io::Result<Self> {
        let socket = Netlink::listen(LINKS)?;
        let watched = indexes.into_iter().map(|index| {
            let state = read(index)?;
            Ok(LinkChange { index, state })
        });
        Ok(Self {
            watched: watched.collect::<io::Result<_>>()?,
            socket,
        })
    }

    /// The state of interface `index` as far as it was told; `None` for one not watched.
    pub fn state(&self, index: u32) -> Option<LinkState> {
        let known = self.watched.iter().find(|known| known.index == index)?;
        Some(known.state)
    }

    /// Every change since the last call, in the order it came. Never waits.
    ///
    /// An interface that is gone stays gone: one that comes back has another number.
    pub fn changes(&mut self) -> io::Result<Vec<LinkChange>> {
        let mut changes = Vec::new();
        loop {
            let watched = &mut self.watched;
            let heard = self.socket.heard(|kind, body| {
                changes.extend(told(kind, body).and_then(|new| note(watched, new)));
            });
            match heard {
                Ok(Some(())) => {}
                Ok(None) => return Ok(changes),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.ask_all(&mut changes)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn ask_all(&mut self, changes: &mut Vec<LinkChange>) -> io::Result<()> {
        for at in 0..self.watched.len() {
            let index = self.watched[at].index;
            let state = read(index)?;
            changes.extend(note(&mut self.watched, LinkChange { index, state }));
        }
        Ok(())
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn read(index: u32) -> io::Result<LinkState> {
    match route::link(index) {
        Ok(link) => Ok(LinkState::of(&link)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(LinkState::Gone),
        Err(error) => Err(error),
    }
}

fn told(kind: u16, body: &[u8]) -> Option<LinkChange> {
    let link = Link::parse(body)?;
    let state = match kind {
        NEW_LINK => LinkState::of(&link),
        DEL_LINK => LinkState::Gone,
        _ => return None,
    };
    Some(LinkChange {
        index: link.index,
        state,
    })
}

/// Notes a state and returns it if it is new and of a watched interface.
fn note(watched: &mut [LinkChange], new: LinkChange) -> Option<LinkChange> {
    let known = watched.iter_mut().find(|known| known.index == new.index)?;
    if known.state == new.state || known.state == LinkState::Gone {
        return None;
    }
    *known = new;
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(index: u32, state: LinkState) -> LinkChange {
        LinkChange { index, state }
    }

    #[test]
    fn only_a_change_of_a_watched_interface_is_told() {
        let mut watched = [change(2, LinkState::Up), change(5, LinkState::Down)];
        assert_eq!(note(&mut watched, change(2, LinkState::Up)), None);
        assert_eq!(note(&mut watched, change(3, LinkState::Up)), None);
        let down = change(2, LinkState::NoCarrier);
        assert_eq!(note(&mut watched, down), Some(down));
        assert_eq!(watched[0], down);
    }

    #[test]
    fn an_interface_that_is_gone_stays_gone() {
        let mut watched = [change(2, LinkState::Gone)];
        assert_eq!(note(&mut watched, change(2, LinkState::Up)), None);
    }

    #[test]
    fn a_number_that_no_interface_has_is_gone_from_the_start() {
        let watch = LinkWatch::new([0x7fff_fff0]).unwrap();
        assert_eq!(watch.state(0x7fff_fff0), Some(LinkState::Gone));
        assert_eq!(watch.state(1), None);
    }
}
