//! TLS against a server of rustls' own, over loopback.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, date_time_ymd};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection, Stream};

use super::*;
use crate::kafka::security::issued::{Authority, Issued, params};

/// Takes what is written to it byte by byte.
struct Drop<'a>(&'a mut TcpStream);

impl Read for Drop<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(&mut into[..1])
    }
}

impl Write for Drop<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&bytes[..1])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A server of one connection, on which `talk` happens.
fn serve(
    config: Arc<ServerConfig>,
    talk: impl FnOnce(ServerConnection, TcpStream) + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        talk(ServerConnection::new(config).unwrap(), stream);
    });
    address
}

/// Says hello when the handshake is over.
fn greet(mut session: ServerConnection, mut stream: TcpStream) {
    let mut tls = Stream::new(&mut session, &mut stream);
    let _ = tls.write_all(b"hello");
    session.send_close_notify();
    let _ = session.complete_io(&mut stream);
    // An alert must not be overtaken by a reset.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = io::copy(&mut stream, &mut io::sink());
}

fn trusting(authority: &Authority, more: &[&str]) -> Security {
    let ca = format!("ssl.ca.pem={}", authority.pem());
    let mut list = vec!["security.protocol=ssl", &ca];
    list.extend(more);
    security(&list)
}

/// What a server with `config` says to us as `localhost`.
fn greeting(config: Arc<ServerConfig>, security: &Security) -> Result<Vec<u8>, TransportError> {
    greeting_at("localhost", config, security)
}

fn greeting_at(
    host: &str,
    config: Arc<ServerConfig>,
    security: &Security,
) -> Result<Vec<u8>, TransportError> {
    let mut transport = Transport::connect(serve(config, greet), host, security)?;
    established(&mut transport)?;
    read(&mut transport)
}

/// The words of a fault of TLS.
fn fault(result: Result<Vec<u8>, TransportError>) -> String {
    match result.unwrap_err() {
        TransportError::Tls { said } => said,
        other => panic!("not a fault of TLS: {other:?}"),
    }
}

fn expired(names: &[&str]) -> CertificateParams {
    let mut params = params(names);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2020, 2, 1);
    params
}

#[test]
fn all_that_is_written_arrives_through_a_small_buffer_and_back() {
    for version in [&TLS12, &TLS13] {
        let authority = Authority::new("ours");
        let server = authority.issue(&params(&["localhost"]));
        let sent = numbered(300_000);
        let expected = sent.clone();
        let address = serve(
            server.server(version, None),
            move |mut session, mut stream| {
                let mut tls = Stream::new(&mut session, &mut stream);
                let mut got = vec![0; expected.len()];
                tls.read_exact(&mut got).unwrap();
                assert!(got == expected);
                tls.write_all(&got).unwrap();
                session.send_close_notify();
                session.complete_io(&mut stream).unwrap();
            },
        );
        let security = trusting(&authority, &["socket.send.buffer.bytes=20000"]);
        let mut transport = Transport::connect(address, "localhost", &security).unwrap();
        established(&mut transport).unwrap();
        write(&mut transport, &sent).unwrap();
        assert!(read(&mut transport).unwrap() == sent);
    }
}

#[test]
fn what_comes_byte_by_byte_is_read() {
    let authority = Authority::new("ours");
    let server = authority.issue(&params(&["localhost"]));
    let config = server.server(&TLS13, None);
    let address = serve(config, |mut session, mut stream| {
        let mut drop = Drop(&mut stream);
        let mut tls = Stream::new(&mut session, &mut drop);
        let mut got = [0; 4];
        tls.read_exact(&mut got).unwrap();
        tls.write_all(&got).unwrap();
        tls.flush().unwrap();
    });
    let mut transport =
        Transport::connect(address, "localhost", &trusting(&authority, &[])).unwrap();
    established(&mut transport).unwrap();
    write(&mut transport, b"ping").unwrap();
    assert_eq!(read(&mut transport).unwrap(), b"ping");
}

#[test]
fn where_nothing_is_taken_no_more_is_encrypted() {
    let authority = Authority::new("ours");
    let server = authority.issue(&params(&["localhost"]));
    let config = server.server(&TLS13, None);
    let (go, wait_for_go) = std::sync::mpsc::channel();
    let (tell, told) = std::sync::mpsc::channel();
    let address = serve(config, move |mut session, mut stream| {
        session.complete_io(&mut stream).unwrap();
        wait_for_go.recv().unwrap();
        let mut all = Vec::new();
        let _ = Stream::new(&mut session, &mut stream).read_to_end(&mut all);
        tell.send(all.len()).unwrap();
    });
    let mut transport =
        Transport::connect(address, "localhost", &trusting(&authority, &[])).unwrap();
    established(&mut transport).unwrap();
    let batch = vec![7; 1 << 20];
    let mut taken = 0;
    let error = loop {
        match transport.write(&[IoSlice::new(&batch)]) {
            Ok(count) => taken += count,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert!(!transport.flush().unwrap());
    assert!(transport.interest(false).contains(PollFlags::POLLOUT));
    // What two sockets hold, and not a batch more.
    assert!(taken < 64 << 20, "{taken}");
    go.send(()).unwrap();
    while !transport.flush().unwrap() {
        wait(&transport, false);
    }
    drop(transport);
    assert_eq!(told.recv().unwrap(), taken);
}

#[test]
fn every_fault_of_a_certificate_is_named() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let namesake = Authority::new("ours");
    let here = params(&["localhost"]);
    let mut early = params(&["localhost"]);
    early.not_before = date_time_ymd(2999, 1, 1);
    early.not_after = date_time_ymd(2999, 2, 1);
    let cases: [(Issued, &[&str]); 7] = [
        (
            ours.issue(&expired(&["localhost"])),
            &["expired", "2020-02-01"],
        ),
        (
            ours.issue(&early),
            &["not valid before 2999-01-01", "clock"],
        ),
        (
            other.issue(&here),
            &["unknown authority", "ssl.ca.location"],
        ),
        (
            Issued::by_itself(&here),
            &["signed by itself", "ssl.ca.location"],
        ),
        (namesake.issue(&here), &["authority", "ssl.ca.location"]),
        (
            ours.issue(&params(&["a.example", "*.b.example"])),
            &["localhost", "a.example, *.b.example"],
        ),
        (
            ours.issue(&params(&[])),
            &["localhost", "no subjectAltName"],
        ),
    ];
    for version in [&TLS12, &TLS13] {
        for (server, parts) in &cases {
            let text = fault(greeting(
                server.server(version, None),
                &trusting(&ours, &[]),
            ));
            for part in *parts {
                assert!(text.contains(part), "{text}");
            }
        }
    }
}

#[test]
fn an_address_is_a_name_too() {
    let ours = Authority::new("ours");
    let security = trusting(&ours, &[]);
    let at = |host: &str, name: &str| {
        let server = ours.issue(&params(&[name]));
        greeting_at(host, server.server(&TLS13, None), &security)
    };
    assert_eq!(at("127.0.0.1", "127.0.0.1").unwrap(), b"hello");
    assert_eq!(at("fe80::1%lo", "fe80::1").unwrap(), b"hello");
    assert!(fault(at("127.0.0.1", "localhost")).contains("127.0.0.1"));
    assert!(fault(at("a b", "localhost")).contains("\"a b\""));
}

#[test]
fn without_the_check_of_the_name_the_rest_is_still_checked() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let security = trusting(&ours, &["ssl.endpoint.identification.algorithm=none"]);
    let elsewhere = params(&["elsewhere"]);
    let good = ours.issue(&elsewhere).server(&TLS13, None);
    assert_eq!(greeting(good, &security).unwrap(), b"hello");
    let foreign = other.issue(&elsewhere).server(&TLS13, None);
    assert!(fault(greeting(foreign, &security)).contains("unknown authority"));
    let old = ours.issue(&expired(&["elsewhere"])).server(&TLS13, None);
    assert!(fault(greeting(old, &security)).contains("expired"));
}

#[test]
fn without_any_check_anybody_is_a_broker() {
    let ours = Authority::new("ours");
    let security = trusting(&ours, &["enable.ssl.certificate.verification=false"]);
    for version in [&TLS12, &TLS13] {
        let server = Issued::by_itself(&expired(&["elsewhere"]));
        let config = server.server(version, None);
        assert_eq!(greeting(config, &security).unwrap(), b"hello");
    }
}

#[test]
fn a_broker_may_be_its_own_authority_where_it_is_trusted_by_itself() {
    let lone = |mut params: CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Issued::by_itself(&params)
    };
    let trusting = |server: &Issued| {
        let ca = format!("ssl.ca.pem={}", server.pem());
        security(&["security.protocol=ssl", &ca])
    };
    let try_it = |trusted: &Issued, server: &Issued| {
        greeting(server.server(&TLS13, None), &trusting(trusted))
    };
    let good = lone(params(&["localhost"]));
    assert_eq!(try_it(&good, &good).unwrap(), b"hello");
    let leaf = Issued::by_itself(&params(&["localhost"]));
    assert_eq!(try_it(&leaf, &leaf).unwrap(), b"hello");
    let old = lone(expired(&["localhost"]));
    assert!(fault(try_it(&old, &old)).contains("expired"));
    let elsewhere = lone(params(&["elsewhere"]));
    assert!(fault(try_it(&elsewhere, &elsewhere)).contains("elsewhere"));
    let namesake = lone(params(&["localhost"]));
    fault(try_it(&good, &namesake));
}

#[test]
fn a_client_shows_its_certificate_where_it_is_asked_for() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let server = ours.issue(&params(&["localhost"]));
    let client = |issued: &Issued| {
        let crt = format!("ssl.certificate.pem={}", issued.pem());
        let key = format!("ssl.key.pem={}", issued.key_pem());
        trusting(&ours, &[&crt, &key])
    };
    for version in [&TLS12, &TLS13] {
        let config = server.server(version, Some(&ours));
        let alice = client(&ours.issue(&params(&["alice"])));
        assert_eq!(greeting(config.clone(), &alice).unwrap(), b"hello");
        let text = fault(greeting(config.clone(), &trusting(&ours, &[])));
        assert!(text.contains("certificate required"), "{text}");
        assert!(text.contains("ssl.certificate.location"), "{text}");
        let mallory = client(&other.issue(&params(&["mallory"])));
        let text = fault(greeting(config, &mallory));
        assert!(
            text.contains("alert") && text.contains("ssl.certificate.location"),
            "{text}"
        );
    }
}

#[test]
fn an_end_in_mid_handshake_and_a_port_without_tls_are_named() {
    let ours = Authority::new("ours");
    let server = |talk: fn(TcpStream)| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || talk(listener.accept().unwrap().0));
        address
    };
    let said = |address| {
        let mut transport = Transport::connect(address, "localhost", &trusting(&ours, &[]))?;
        established(&mut transport)?;
        read(&mut transport)
    };
    let closes = server(|mut stream| {
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).unwrap();
    });
    let text = fault(said(closes));
    assert!(text.contains("in the TLS handshake"), "{text}");
    assert!(text.contains("security.protocol"), "{text}");
    let waits = server(|mut stream| {
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = io::copy(&mut stream, &mut io::sink());
    });
    assert!(fault(said(waits)).contains("closed in the TLS handshake"));
    let garbage = server(|mut stream| {
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
        let _ = io::copy(&mut stream, &mut io::sink());
    });
    let text = fault(said(garbage));
    assert!(text.contains("does not speak TLS"), "{text}");
}
