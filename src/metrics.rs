//! The HTTP endpoint: `/metrics`, `/ledger`, `/healthz`, `/readyz`.
//!
//! The rule: it can only read, and what clients can cost is bounded. One thread serves them, with
//! the lowest priority and off the capture cores; at most 16 connections at a time, 100 new ones a
//! second, one request each, five seconds for all of it.

mod families;
mod health;
mod listener;

use std::io;
use std::net::{AddrParseError, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::oneshot;

use crate::ledger::{Board, Phase};
use crate::priority;

use health::Watch;
use listener::Bounded;

/// Where `--metrics` without an address listens.
pub const DEFAULT: &str = "127.0.0.1:9465";

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The address is none.
    #[error("metrics = \"{text}\": must be ADDRESS:PORT, such as {DEFAULT}")]
    Address {
        /// What was given.
        text: String,
        /// What is wrong with it.
        #[source]
        cause: AddrParseError,
    },
    /// The address cannot be listened on.
    #[error("listening for metrics on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said; `AddrInUse` where another program listens there.
        #[source]
        cause: io::Error,
    },
    /// Its thread could not be started.
    #[error("starting the thread that serves metrics")]
    Thread(#[source] io::Error),
}

/// The address that `text` names: an IP address and a port, IPv6 in brackets.
pub fn parse(text: &str) -> Result<SocketAddr, MetricsError> {
    text.parse().map_err(|cause| MetricsError::Address {
        text: text.to_owned(),
        cause,
    })
}

/// The running endpoint; it ends when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `address` and serves what `board` holds.
    ///
    /// The serving thread runs on the cores of the caller: call it before workers are pinned. When
    /// this returns, connections are being accepted. An address off the loopback is warned of:
    /// there is neither encryption nor a password.
    pub fn start(address: SocketAddr, board: &Board) -> Result<Self, MetricsError> {
        let fault = |cause| MetricsError::Listen { address, cause };
        let listener = TcpListener::bind(address).map_err(fault)?;
        listener.set_nonblocking(true).map_err(fault)?;
        let address = listener.local_addr().map_err(fault)?;
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "metrics can be read by whoever reaches this address");
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(MetricsError::Thread)?;
        let (stop, stopped) = oneshot::channel();
        let board = board.clone();
        let serve = move || {
            priority::set(priority::WATCHER);
            runtime.block_on(async move {
                tokio::spawn(run(listener, board));
                let _ = stopped.await;
            });
        };
        let thread = thread::Builder::new().name("metrics".into()).spawn(serve);
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(thread.map_err(MetricsError::Thread)?),
        })
    }

    /// Where it listens; the port that was chosen where port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Clone, Debug)]
struct Served {
    board: Board,
    turns: Arc<Mutex<Watch>>,
    answers: Arc<Mutex<Watch>>,
}

impl Served {
    /// Notes which workers have turned since the last look, and names those that have not for too long.
    fn stuck(&self) -> Vec<String> {
        let mut watch = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        watch.look(self.board.turns(), Instant::now())
    }

    /// Notes which sinks have answered since the last look, and names those that have not for too long.
    fn silent(&self) -> Vec<String> {
        let mut watch = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        watch.look(self.board.answers(), Instant::now())
    }
}

async fn run(listener: TcpListener, board: Board) {
    let served = Served {
        board,
        turns: Arc::new(Mutex::new(Watch::turns())),
        answers: Arc::new(Mutex::new(Watch::answers())),
    };
    let watching = served.clone();
    tokio::spawn(async move {
        loop {
            watching.stuck();
            watching.silent();
            tokio::time::sleep(health::INTERVAL).await;
        }
    });
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/ledger", get(ledger))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(served)
        .layer(map_response(close));
    let listener = tokio::net::TcpListener::from_std(listener)
        .expect("the listener is non-blocking and the runtime drives sockets");
    let _ = axum::serve(Bounded::new(listener), router).await;
}

/// One request a connection: its time limit then covers every client alike.
async fn close(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn metrics(State(served): State<Served>) -> Response {
    let text = families::text(&served.board, &served.board.snapshot(Phase::Running));
    ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
}

async fn ledger(State(served): State<Served>) -> Response {
    let json = served.board.snapshot(Phase::Running).json();
    ([(CONTENT_TYPE, "application/json")], json).into_response()
}

async fn healthz(State(served): State<Served>) -> (StatusCode, String) {
    let stuck = served.stuck();
    if stuck.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let text = format!("not turning: {}\n", stuck.join(", "));
    (StatusCode::SERVICE_UNAVAILABLE, text)
}

async fn readyz(State(served): State<Served>) -> (StatusCode, String) {
    let silent = served.silent();
    let lack = match (served.board.is_connected(), served.board.is_attached()) {
        (false, _) => "the sink is not connected\n".to_owned(),
        (true, false) => "not attached\n".to_owned(),
        (true, true) if silent.is_empty() => return (StatusCode::OK, "ok\n".to_owned()),
        (true, true) => format!("the sink does not answer: {}\n", silent.join(", ")),
    };
    (StatusCode::SERVICE_UNAVAILABLE, lack)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;
    use crate::counters::{Failed, QueueState, Reason, Rejected};
    use crate::ledger::SinkKind;
    use crate::ledger::tests::busy;

    /// Far beyond what any answer takes; it ends a test that would hang.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn start(board: &Board) -> Server {
        Server::start(parse("127.0.0.1:0").unwrap(), board).unwrap()
    }

    fn connect(server: &Server) -> TcpStream {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn fetch(server: &Server, path: &str) -> (u16, String) {
        let mut stream = connect(server);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: sensor\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    #[test]
    fn the_metrics_pass_promtool_and_name_every_reason_from_the_start() {
        let (board, _) = busy(SinkKind::Kafka, 0);
        let server = start(&board);
        let (status, text) = fetch(&server, "/metrics");
        assert_eq!(status, 200);
        let rejected = Rejected::ALL
            .iter()
            .map(|reason| format!("rejected_{}", reason.name()));
        let failed = Failed::ALL.iter().map(|reason| reason.name().to_owned());
        let others = [
            "xdp_aborted",
            "rx_dropped",
            "rx_ring_full",
            "redirect_errors",
        ];
        let more = [
            "left_in_ring",
            "pcap_dropped",
            "pcap_if_dropped",
            "shed",
            "over_count",
        ];
        let others = others.into_iter().chain(more).map(str::to_owned);
        for reason in rejected.chain(failed).chain(others) {
            let series = text
                .lines()
                .find(|line| line.contains(&format!("\"{reason}\"")));
            assert!(
                series.is_some_and(|line| line.ends_with(" 0")),
                "{reason}\n{text}"
            );
        }
        assert!(
            text.contains("# TYPE ringtap_dropped_packets_total counter\n"),
            "{text}"
        );
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool is installed (package prometheus)");
        let mut input = promtool.stdin.take().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        drop(input);
        let output = promtool.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
    }

    #[test]
    fn labels_come_from_the_bounded_set_and_counts_from_the_board() {
        let (board, queues) = busy(SinkKind::Kafka, 1);
        queues[1].rx_ring_full.set(123_456_789_012);
        let server = start(&board);
        let (_, text) = fetch(&server, "/metrics");
        let expected = "ringtap_dropped_packets_total{interface=\"rt-eth1\",queue=\"1\",\
                        stage=\"xsk\",reason=\"rx_ring_full\"} 123456789012\n";
        assert!(text.contains(expected), "{text}");
        let allowed = ["interface", "queue", "stage", "reason", "le"];
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((_, rest)) = line.split_once('{') else {
                continue;
            };
            let labels = rest.split_once('}').unwrap().0;
            for label in labels.split(',') {
                let name = label.split_once('=').unwrap().0;
                assert!(allowed.contains(&name), "{line}");
            }
        }
        let count = "ringtap_latency_seconds_count{stage=\"arrival_to_batch\"} 2100\n";
        assert!(text.contains(count), "{text}");
    }

    #[test]
    fn the_ledger_is_served_as_json() {
        let (board, _) = busy(SinkKind::File, 1);
        let (status, body) = fetch(&start(&board), "/ledger");
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &json["total"]["seen"]), (200, &2_800.into()));
        assert_eq!(fetch(&start(&board), "/nothing").0, 404);
    }

    #[test]
    fn ready_means_attached_and_connected() {
        let (board, _) = busy(SinkKind::File, 1);
        let server = start(&board);
        assert_eq!(fetch(&server, "/readyz").0, 503);
        board.set_connected(true);
        assert_eq!(
            fetch(&server, "/readyz"),
            (503, "not attached\n".to_owned())
        );
        board.set_attached(true);
        assert_eq!(fetch(&server, "/readyz").0, 200);
    }

    #[test]
    fn a_worker_that_stands_still_is_named() {
        let (board, queues) = busy(SinkKind::File, 1);
        let server = start(&board);
        for queue in &queues[1..] {
            queue.set_state(QueueState::Ended);
        }
        assert_eq!(fetch(&server, "/healthz").0, 200);
        let mut looks = std::iter::repeat_with(|| fetch(&server, "/healthz"));
        let (_, body) = looks.find(|(status, _)| *status == 503).unwrap();
        assert_eq!(body, "not turning: rt-eth1 queue 0\n");
        queues[0].turns.add(1);
        assert_eq!(fetch(&server, "/healthz").0, 200);
    }

    #[test]
    fn slow_clients_are_cut_and_others_are_then_served() {
        let (board, _) = busy(SinkKind::File, 1);
        let server = start(&board);
        let slow = (0..2 * listener::CONNECTIONS).map(|_| {
            let mut stream = connect(&server);
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHos").unwrap();
            stream
        });
        let slow: Vec<_> = slow.collect();
        assert_eq!(fetch(&server, "/readyz").0, 503);
        for mut stream in slow.into_iter().take(listener::CONNECTIONS) {
            let mut rest = Vec::new();
            let end = stream.read_to_end(&mut rest);
            let cause = end.err().map(|cause| cause.kind());
            assert_ne!(cause, Some(io::ErrorKind::WouldBlock), "still open");
            assert!(!rest.starts_with(b"HTTP/1.1 200"));
        }
    }

    #[test]
    fn an_address_that_cannot_be_used_is_named_with_the_cause() {
        let board = Board::new(SinkKind::Discard, "");
        let taken = start(&board);
        let error = Server::start(taken.address(), &board).unwrap_err();
        assert!(
            error.to_string().contains(&taken.address().to_string()),
            "{error}"
        );
        let MetricsError::Listen { cause, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(cause.kind(), io::ErrorKind::AddrInUse);
        let error = parse("9465").unwrap_err();
        let text = "metrics = \"9465\": must be ADDRESS:PORT, such as 127.0.0.1:9465";
        assert_eq!(error.to_string(), text);
        assert!(parse(DEFAULT).unwrap().ip().is_loopback());
    }

    #[test]
    fn an_ended_endpoint_frees_its_port() {
        let board = Board::new(SinkKind::Discard, "");
        let address = start(&board).address();
        assert!(TcpListener::bind(address).is_ok());
    }
}
