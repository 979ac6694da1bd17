//! A listener that bounds what its clients can cost.
//!
//! The rule: a connection lives five seconds, whatever its client does or fails to do.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// Connections at a time: some Prometheus servers, a probe, a person or two. Others wait their
/// turn.
pub(super) const CONNECTIONS: usize = 16;
/// The life of a connection: half of what Prometheus waits for an answer by default.
pub(super) const LIFE: Duration = Duration::from_secs(5);
/// Between two accepts: 100 requests a second, at about a millisecond each, are a tenth of a core.
const PACE: Duration = Duration::from_millis(10);
/// After an accept that failed, which without a free file descriptor would fail again at once.
const RETRY: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub(super) struct Bounded {
    inner: TcpListener,
    places: Arc<Semaphore>,
}

impl Bounded {
    /// Bounds `inner`.
    pub(super) fn new(inner: TcpListener) -> Self {
        Self {
            inner,
            places: Arc::new(Semaphore::new(CONNECTIONS)),
        }
    }
}

impl Listener for Bounded {
    type Io = Timed;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Timed, SocketAddr) {
        sleep(PACE).await;
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        loop {
            match self.inner.accept().await {
                Ok((stream, peer)) => {
                    let life = Box::pin(sleep(LIFE));
                    return (
                        Timed {
                            stream,
                            life,
                            place,
                        },
                        peer,
                    );
                }
                Err(cause) => {
                    tracing::debug!(%cause, "accepting a metrics client");
                    sleep(RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// A connection that fails every read and write once its time is over.
#[derive(Debug)]
pub(super) struct Timed {
    stream: TcpStream,
    life: Pin<Box<Sleep>>,
    /// Given back when the connection is dropped.
    #[allow(dead_code, reason = "held, not read")]
    place: OwnedSemaphorePermit,
}

impl Timed {
    fn expire(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.life.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.expire(context)?;
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Timed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.expire(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.expire(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.expire(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
