//! One byte stream to one broker: TCP, or TLS over it.
//!
//! The rule: nothing here waits. Every call does what can be done now; [`Transport::interest`] says what
//! to poll for before the next one.

mod fault;
pub(crate) mod socket;
mod tls;

use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::PollFlags;

use super::security::Security;
use tls::Tls;

/// How a TLS server answers who does not speak TLS: a record with an alert (RFC 8446, 5.1). No answer of
/// Kafka's is as long as this would say.
const ALERT: [u8; 2] = [21, 3];

/// Why a connection does not come about, or is lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    /// No TCP connection comes about.
    #[error("{0}")]
    Unreachable(#[source] io::Error),
    /// The connection broke.
    #[error("{0}")]
    Lost(#[source] io::Error),
    /// No TLS connection comes about, or it broke.
    #[error("{said}")]
    Tls {
        /// What is wrong, and with whose certificate.
        said: String,
    },
}

impl From<io::Error> for TransportError {
    /// Takes out what [`Transport::read`] and the others put in; else the connection is lost.
    fn from(error: io::Error) -> Self {
        error.downcast::<Self>().unwrap_or_else(Self::Lost)
    }
}

impl From<TransportError> for io::Error {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Unreachable(cause) | TransportError::Lost(cause) => cause,
            tls @ TransportError::Tls { .. } => Self::other(tls),
        }
    }
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// TCP has not answered yet.
    Connecting,
    /// The TLS handshake is under way.
    Handshake,
    /// Application data flow.
    Open,
}

/// A byte stream to a broker.
///
/// `write`, `flush` and `read` are for after [`establish`](Self::establish) has said true. An error of theirs
/// is made a [`TransportError`] with `from`: with TLS 1.3 a broker refuses a client's certificate only
/// after the handshake, and the first `read` tells of it. Dropping it closes the connection: what is to
/// arrive must be flushed before.
#[derive(Debug)]
pub(crate) struct Transport {
    stream: TcpStream,
    tls: Option<Tls>,
    state: State,
    has_read: bool,
}

impl Transport {
    /// Begins a connection to `address`; `host` is the name that the broker must prove with TLS.
    pub(crate) fn connect(
        address: SocketAddr,
        host: &str,
        security: &Security,
    ) -> io::Result<Self> {
        let tls = security.tls().map(|config| Tls::new(config, host));
        Ok(Self {
            tls: tls.transpose()?,
            stream: security.socket().connect(address)?,
            state: State::Connecting,
            has_read: false,
        })
    }

    /// Goes on with the TCP connect and the TLS handshake; true once application data may flow.
    pub(crate) fn establish(&mut self) -> Result<bool, TransportError> {
        if self.state == State::Connecting {
            if !socket::is_connected(&self.stream).map_err(TransportError::Unreachable)? {
                return Ok(false);
            }
            self.state = State::Handshake;
        }
        if self.state == State::Handshake {
            if let Some(tls) = &mut self.tls
                && !tls.handshake(&mut self.stream)?
            {
                return Ok(false);
            }
            self.state = State::Open;
        }
        Ok(true)
    }

    /// Writes as much of `parts` as the other end takes now; `WouldBlock` where that is nothing.
    ///
    /// With TLS, a part of what was taken may be held back: see [`flush`](Self::flush).
    pub(crate) fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => tls.write(&mut self.stream, parts),
            None => retried(|| self.stream.write_vectored(parts)),
        }
    }

    /// Sends what is held back; true when nothing is.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        match &mut self.tls {
            Some(tls) => tls.flush(&mut self.stream),
            None => Ok(true),
        }
    }

    /// Reads what has come; 0 when the other end has closed, `WouldBlock` where nothing has come.
    ///
    /// Must be called until it says `WouldBlock` before polling again: with TLS, what has been
    /// decrypted does not show on the socket any more.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => tls.read(&mut self.stream, into),
            None => {
                let count = retried(|| self.stream.read(into))?;
                let is_first = !std::mem::replace(&mut self.has_read, true);
                if is_first && into[..count].starts_with(&ALERT) {
                    return Err(TransportError::Tls {
                        said: "the other end speaks TLS: write security.protocol=ssl or sasl_ssl"
                            .to_owned(),
                    }
                    .into());
                }
                Ok(count)
            }
        }
    }

    /// What to poll the socket for, given whether the caller has something to write.
    ///
    /// What TLS holds back is thought of.
    pub(crate) fn interest(&self, has_output: bool) -> PollFlags {
        let held_back = self.tls.as_ref().is_some_and(Tls::wants_write);
        match self.state {
            State::Connecting => PollFlags::POLLOUT,
            State::Handshake if held_back => PollFlags::POLLIN | PollFlags::POLLOUT,
            State::Open if held_back || has_output => PollFlags::POLLIN | PollFlags::POLLOUT,
            State::Handshake | State::Open => PollFlags::POLLIN,
        }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.close(&mut self.stream);
        }
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Calls again what a signal has interrupted.
fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests;
