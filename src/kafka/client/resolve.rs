//! Names of brokers to addresses, without waiting.
//!
//! The rule: the system's resolver may take its time, so it is asked on a thread of its own; an address that
//! is written out needs none.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::kafka::BrokerAddress;

/// An answer that is awaited.
pub(super) type Lookup = Receiver<io::Result<Vec<SocketAddr>>>;

/// Asks the system's resolver, and becomes readable when it has answered.
#[derive(Clone, Debug)]
pub(super) struct Resolver {
    answered: Arc<EventFd>,
}

impl Resolver {
    /// A resolver that was asked nothing. Fails where no file descriptor is left.
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let answered = Arc::new(EventFd::from_flags(flags)?);
        Ok(Self { answered })
    }

    /// Asks for the addresses of `broker`.
    pub(super) fn ask(&self, broker: &BrokerAddress) -> Lookup {
        let (sender, lookup) = mpsc::channel();
        if let Ok(address) = broker.host.parse::<IpAddr>() {
            // The receiver is in our hands.
            let _ = sender.send(Ok(vec![SocketAddr::new(address, broker.port)]));
            return lookup;
        }
        let answered = Arc::clone(&self.answered);
        let (host, port) = (broker.host.clone(), broker.port);
        let asked = thread::Builder::new()
            .name("resolver".to_owned())
            .spawn(move || {
                let found = (host.as_str(), port).to_socket_addrs();
                // Nobody may listen any more.
                let _ = sender.send(found.map(Iterator::collect));
                let _ = answered.write(1);
            });
        match asked {
            Ok(_) => lookup,
            Err(error) => {
                let (sender, lookup) = mpsc::channel();
                let _ = sender.send(Err(error));
                lookup
            }
        }
    }

    /// Takes the answer if it is there.
    pub(super) fn answer(&self, lookup: &Lookup) -> Option<io::Result<Vec<SocketAddr>>> {
        let _ = self.answered.read();
        match lookup.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                Some(Err(io::Error::other("the resolver did not answer")))
            }
        }
    }
}

impl AsFd for Resolver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.answered.as_fd()
    }
}
