//! TLS over a socket that never blocks.
//!
//! The rule: what is written is encrypted once, straight into the records that go out, and no more of it
//! than the socket is about to take.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::{TransportError, fault, retried};

/// What is encrypted at a time: still in the cache when the kernel copies it, and sixteen records in one call.
const AHEAD: usize = 256 << 10;

/// The most reads at the end: answers and tickets are small, and who sends more is not waited for.
const MOST_UNREAD: usize = 16;

/// Our side of one TLS connection.
#[derive(Debug)]
pub(super) struct Tls {
    session: Box<ClientConnection>,
}

impl Tls {
    /// A connection on which nothing is said yet; the other end must be `host`.
    pub(super) fn new(config: &Arc<ClientConfig>, host: &str) -> io::Result<Self> {
        // The zone of an IPv6 address is ours and in no certificate.
        let name = host.split('%').next().unwrap_or_default().to_owned();
        let tls = |said: String| io::Error::from(TransportError::Tls { said });
        let name = ServerName::try_from(name)
            .map_err(|_| tls(format!("{host:?} is no name that a certificate can have")))?;
        let mut session = ClientConnection::new(config.clone(), name)
            .map_err(|error| tls(fault::said(&error)))?;
        session.set_buffer_limit(Some(AHEAD));
        Ok(Self {
            session: Box::new(session),
        })
    }

    /// Goes on with the handshake; true once it is over.
    pub(super) fn handshake(&mut self, stream: &mut TcpStream) -> Result<bool, TransportError> {
        match self.go_on(stream) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(match error.into() {
                TransportError::Lost(cause) => closed(&format!("{cause}")),
                other => other,
            }),
            Ok(true) => Ok(true),
            Ok(false) => Err(closed("the connection is closed")),
        }
    }

    /// The handshake until the socket has nothing more; false where the other end closes.
    fn go_on(&mut self, stream: &mut TcpStream) -> io::Result<bool> {
        loop {
            self.flush(stream)?;
            if !self.session.is_handshaking() {
                return Ok(true);
            }
            if !self.take_in(stream)? {
                return Ok(false);
            }
        }
    }

    /// Whether something is to be sent, whatever the caller has to write.
    pub(super) fn wants_write(&self) -> bool {
        self.session.wants_write()
    }

    /// Encrypts and sends as much of `parts` as the socket takes.
    pub(super) fn write(
        &mut self,
        stream: &mut TcpStream,
        parts: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        let mut taken = 0;
        while self.flush(stream)? {
            let rest = after(parts, taken);
            if rest.is_empty() {
                return Ok(taken);
            }
            taken += self.session.writer().write_vectored(&rest)?;
        }
        if taken == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    }

    /// Sends the records that are held back; true when none is.
    pub(super) fn flush(&mut self, stream: &mut TcpStream) -> io::Result<bool> {
        while self.session.wants_write() {
            match retried(|| self.session.write_tls(stream)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(self.reason(stream, error)),
            }
        }
        Ok(true)
    }

    /// Reads what has come; 0 when the other end has closed.
    pub(super) fn read(&mut self, stream: &mut TcpStream, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // A close without a word: Kafka's answers tell their length, none is cut off unseen.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                result => return result,
            }
            self.take_in(stream)?;
        }
    }

    /// Says that nothing more comes, as far as the socket takes it, and takes what it has.
    ///
    /// A socket that is closed with something unread in it, as a TLS 1.3 server's tickets, drops what it
    /// has not sent yet.
    pub(super) fn close(&mut self, stream: &mut TcpStream) {
        self.session.send_close_notify();
        let _ = self.session.write_tls(stream);
        let mut unread = [0; 4_096];
        for _ in 0..MOST_UNREAD {
            if !matches!(stream.read(&mut unread), Ok(1..)) {
                return;
            }
        }
    }

    /// Takes in what the socket has; false where the other end has closed.
    fn take_in(&mut self, stream: &mut TcpStream) -> io::Result<bool> {
        let count = retried(|| self.session.read_tls(stream))?;
        if let Err(error) = self.session.process_new_packets() {
            // It lies ready now what the other end is to be told; whether that arrives is all the same.
            let _ = self.session.write_tls(stream);
            return Err(TransportError::Tls {
                said: fault::said(&error),
            }
            .into());
        }
        Ok(count > 0)
    }

    /// Why nothing can be written: the other end may have said so before it closed.
    fn reason(&mut self, stream: &mut TcpStream, error: io::Error) -> io::Error {
        loop {
            match self.take_in(stream) {
                Ok(true) => {}
                Err(said) if said.get_ref().is_some() => return said,
                _ => return error,
            }
        }
    }
}

/// What is left of `parts` after `taken` bytes of them.
fn after<'a>(parts: &'a [IoSlice<'_>], mut taken: usize) -> Vec<IoSlice<'a>> {
    let rest = parts.iter().map(|part| {
        let skipped = taken.min(part.len());
        taken -= skipped;
        IoSlice::new(&part[skipped..])
    });
    rest.filter(|part| !part.is_empty()).collect()
}

/// The other end is gone before the handshake is over.
fn closed(how: &str) -> TransportError {
    TransportError::Tls {
        said: format!(
            "{how} in the TLS handshake; perhaps this port does not speak TLS (security.protocol)"
        ),
    }
}
