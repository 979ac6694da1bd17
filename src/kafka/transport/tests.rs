mod tls;

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollTimeout, poll};

use super::*;
use crate::kafka::Settings;

fn security(list: &[&str]) -> Security {
    let mut settings = Settings::new();
    for text in list {
        settings.parse(text).unwrap();
    }
    Security::new(&settings).unwrap()
}

/// A connection to `listener` before anything is said on it.
fn begin(listener: &TcpListener, security: &Security) -> Transport {
    let address = listener.local_addr().unwrap();
    Transport::connect(address, "localhost", security).unwrap()
}

/// Polls for what the transport wants, as the producer does.
fn wait(transport: &Transport, has_output: bool) {
    let mut fds = [PollFd::new(
        transport.as_fd(),
        transport.interest(has_output),
    )];
    let patience = PollTimeout::try_from(Duration::from_secs(60)).unwrap();
    assert_eq!(poll(&mut fds, patience).unwrap(), 1, "the poll ends");
}

fn established(transport: &mut Transport) -> Result<(), TransportError> {
    while !transport.establish()? {
        wait(transport, false);
    }
    Ok(())
}

/// Writes all of it, and flushes.
fn write(transport: &mut Transport, mut bytes: &[u8]) -> Result<(), TransportError> {
    while !bytes.is_empty() {
        let (one, other) = bytes.split_at(bytes.len() / 3);
        match transport.write(&[IoSlice::new(one), IoSlice::new(other)]) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(transport, true),
            Err(error) => return Err(error.into()),
        }
    }
    while !transport.flush()? {
        wait(transport, true);
    }
    Ok(())
}

/// Reads until the other end closes.
fn read(transport: &mut Transport) -> Result<Vec<u8>, TransportError> {
    let mut all = Vec::new();
    let mut part = vec![0; 5_000];
    loop {
        match transport.read(&mut part) {
            Ok(0) => return Ok(all),
            Ok(count) => all.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(transport, false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Bytes that are nowhere the same.
fn numbered(count: u32) -> Vec<u8> {
    (0..count).flat_map(u32::to_le_bytes).collect()
}

#[test]
fn all_that_is_written_arrives_and_what_comes_byte_by_byte_is_read() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut transport = begin(&listener, &security(&["socket.send.buffer.bytes=20000"]));
    established(&mut transport).unwrap();
    let sent = numbered(500_000);
    let expected = sent.clone();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = vec![0; expected.len()];
        stream.read_exact(&mut got).unwrap();
        assert!(got == expected);
        stream.set_nodelay(true).unwrap();
        for byte in b"one by one" {
            stream.write_all(&[*byte]).unwrap();
        }
    });
    write(&mut transport, &sent).unwrap();
    assert_eq!(read(&mut transport).unwrap(), b"one by one");
    server.join().unwrap();
}

#[test]
fn where_nobody_listens_the_connection_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = Transport::connect(address, "localhost", &security(&[]))
        .map_err(TransportError::Unreachable)
        .and_then(|mut transport| established(&mut transport))
        .unwrap_err();
    assert!(matches!(error, TransportError::Unreachable(_)), "{error:?}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn a_connection_that_is_not_answered_is_waited_for_by_nobody() {
    // A full backlog leaves the next one unanswered.
    let listener = socket2::Socket::new(
        socket2::Domain::IPV4,
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )
    .unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let listener = TcpListener::from(listener);
    let mut waiting: Vec<_> = (0..4).map(|_| begin(&listener, &security(&[]))).collect();
    let open = waiting
        .iter_mut()
        .filter_map(|transport| transport.establish().ok())
        .filter(|done| !done)
        .count();
    assert!(open > 0);
    let last = waiting.last().unwrap();
    assert_eq!(last.interest(false), PollFlags::POLLOUT);
}

#[test]
fn a_connection_that_breaks_is_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut transport = begin(&listener, &security(&[]));
    established(&mut transport).unwrap();
    let (stream, _) = listener.accept().unwrap();
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
    wait(&transport, false);
    let error = read(&mut transport).unwrap_err();
    assert!(matches!(error, TransportError::Lost(_)), "{error:?}");
}

#[test]
fn a_port_that_speaks_tls_is_named_where_we_do_not() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut transport = begin(&listener, &security(&[]));
    established(&mut transport).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(&[21, 3, 3, 0, 2, 2, 80]).unwrap();
    wait(&transport, false);
    let error = read(&mut transport).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, TransportError::Tls { .. }), "{error:?}");
    assert!(text.contains("security.protocol=ssl"), "{text}");
}
