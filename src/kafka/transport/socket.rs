//! The TCP socket under a connection, and its options.
//!
//! The rule: a socket is non-blocking from its birth.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::SndBufForce};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::kafka::settings::{Settings, SettingsError};

/// Four batches of the usual limit of 1 MiB: one write takes whole batches.
const SEND_BUFFER: usize = 4 << 20;

/// An idle connection that a firewall forgot is noticed within the time that a buffer upstream holds.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(30))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

/// What the settings say of sockets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketOptions {
    keepalive: bool,
    nodelay: bool,
    send_buffer: Option<usize>,
    receive_buffer: Option<usize>,
}

impl SocketOptions {
    /// Takes `socket.*`; a keep-alive and no delay where nothing is said.
    pub(crate) fn new(settings: &Settings) -> Result<Self, SettingsError> {
        Ok(Self {
            keepalive: settings.flag("socket.keepalive.enable", true),
            nodelay: settings.flag("socket.nagle.disable", true),
            send_buffer: bytes(settings, "socket.send.buffer.bytes")?,
            receive_buffer: bytes(settings, "socket.receive.buffer.bytes")?,
        })
    }

    /// Begins a connection, and does not wait for it.
    pub(crate) fn connect(self, address: SocketAddr) -> io::Result<TcpStream> {
        let kind = Type::STREAM.nonblocking();
        let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(self.nodelay)?;
        if self.keepalive {
            socket.set_tcp_keepalive(&KEEPALIVE)?;
        }
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        match self.send_buffer {
            Some(bytes) => socket.set_send_buffer_size(bytes)?,
            // Without the right to force it, net.core.wmem_max would cap it below what the kernel
            // grows it to by itself.
            None => drop(setsockopt(&socket, SndBufForce, &SEND_BUFFER)),
        }
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(socket.into()),
        }
    }
}

/// Whether the connection has come about; the error where it never will.
pub(super) fn is_connected(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// A size in bytes; 0, librdkafka's default, leaves it to the kernel.
fn bytes(settings: &Settings, key: &str) -> Result<Option<usize>, SettingsError> {
    let Some(value) = settings.get(key) else {
        return Ok(None);
    };
    match value.parse() {
        Ok(bytes) => Ok(Some(bytes).filter(|bytes| *bytes > 0)),
        Err(_) => Err(SettingsError::Invalid {
            key: key.to_owned(),
            value: value.to_owned(),
            rule: "it takes a number of bytes".to_owned(),
        }),
    }
}
