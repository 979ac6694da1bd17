//! A TCP proxy in front of brokers, through which things go wrong as planned.
//!
//! The rule: clients stay behind it. Whatever address a broker tells of itself is replaced by that of the proxy
//! before it.

mod frame;
mod plan;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use socket2::SockRef;

use crate::support::sensor::PATIENCE;

pub(crate) use frame::read as read_frame;
use frame::{Asked, Routes};
use plan::Plan;
pub(crate) use plan::{Act, Rule, Side};

/// Between two bytes that are to be read one by one.
const BYTE_GAP: Duration = Duration::from_micros(50);

/// What is read at a time by a broker that sips, and what the kernel keeps for it meanwhile.
const SIP: usize = 4 << 10;
const SIPPED: usize = 32 << 10;

/// A proxy before each of some brokers.
#[derive(Debug)]
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    addresses: Vec<String>,
    accepting: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    plan: Plan,
    routes: Routes,
    links: Mutex<Vec<Weak<Link>>>,
    throttled: AtomicUsize,
    is_slamming: AtomicBool,
    is_sipping: AtomicBool,
    is_over: AtomicBool,
}

impl Proxy {
    /// Listens before each of `brokers`, written `host:port,…` as they tell it of themselves.
    pub(crate) fn before(brokers: &str) -> Self {
        let split = |address: &str| {
            let (host, port) = address.rsplit_once(':').unwrap();
            (host.to_owned(), port.parse::<i32>().unwrap())
        };
        let mut shared = Shared::default();
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for broker in brokers.split(',') {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            shared.routes.insert(split(broker), split(&address));
            addresses.push(address);
            listeners.push((listener, broker.to_owned()));
        }
        let shared = Arc::new(shared);
        let accepting = listeners.into_iter().map(|(listener, broker)| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.accept(&listener, &broker))
        });
        let accepting = accepting.collect();
        Self {
            shared,
            addresses,
            accepting,
        }
    }

    /// Its addresses, as `bootstrap.servers` takes them.
    pub(crate) fn brokers(&self) -> String {
        self.addresses.join(",")
    }

    /// Puts a rule into force.
    pub(crate) fn plan(&self, rule: Rule) {
        self.shared.plan.add(rule);
    }

    /// Lifts every rule, and opens the door again.
    pub(crate) fn heal(&self) {
        self.shared.plan.clear();
        self.slam(false);
        self.sip(false);
    }

    /// How many messages the rules in force have hit.
    pub(crate) fn hits(&self) -> usize {
        self.shared.plan.hits()
    }

    /// How many answers of Produce told the client to be slower.
    pub(crate) fn throttled(&self) -> usize {
        self.shared.throttled.load(Ordering::Relaxed)
    }

    /// Whether every connection is closed as soon as it is made.
    pub(crate) fn slam(&self, on: bool) {
        self.shared.is_slamming.store(on, Ordering::Relaxed);
    }

    /// Whether connections that are made from now on read little at a time, with pauses.
    pub(crate) fn sip(&self, on: bool) {
        self.shared.is_sipping.store(on, Ordering::Relaxed);
    }

    /// Resets every connection.
    pub(crate) fn reset(&self) {
        for link in self.shared.links.lock().unwrap().drain(..) {
            if let Some(link) = link.upgrade() {
                link.reset();
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.reset();
        for address in &self.addresses {
            let _ = TcpStream::connect(address);
        }
        for thread in self.accepting.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener, broker: &str) {
        loop {
            let (client, _) = listener.accept().unwrap();
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            if self.is_slamming.load(Ordering::Relaxed) {
                continue;
            }
            if self.is_sipping.load(Ordering::Relaxed) {
                SockRef::from(&client).set_recv_buffer_size(SIPPED).unwrap();
            }
            // A broker that is down: the client is to see its connection end.
            let Ok(broker) = TcpStream::connect(broker) else {
                continue;
            };
            let link = Arc::new(Link::new(client, broker));
            self.links.lock().unwrap().push(Arc::downgrade(&link));
            for side in [Side::Request, Side::Answer] {
                let (shared, link) = (Arc::clone(self), Arc::clone(&link));
                thread::spawn(move || {
                    // However one direction ends, the other one ends with it.
                    let _ = match side {
                        Side::Request => link.requests(&shared),
                        Side::Answer => link.answers(&shared),
                    };
                    link.close();
                });
            }
        }
    }
}

/// A connection of a client, and the one to the broker behind it.
#[derive(Debug)]
struct Link {
    client: TcpStream,
    broker: TcpStream,
    /// What is not answered yet, in the order it was asked.
    waiting: Mutex<VecDeque<Waiting>>,
    /// An answer that lets the next one pass.
    kept: Mutex<Option<Vec<u8>>>,
    is_mute: AtomicBool,
    is_held: AtomicBool,
    is_over: AtomicBool,
}

#[derive(Debug)]
struct Waiting {
    asked: Asked,
    /// The answer, where no broker was asked.
    refusal: Option<Vec<u8>>,
}

impl Link {
    fn new(client: TcpStream, broker: TcpStream) -> Self {
        for stream in [&client, &broker] {
            stream.set_nodelay(true).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
        }
        Self {
            client,
            broker,
            waiting: Mutex::default(),
            kept: Mutex::default(),
            is_mute: AtomicBool::new(false),
            is_held: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        }
    }

    fn requests(&self, shared: &Shared) -> io::Result<()> {
        let is_sipping = shared.is_sipping.load(Ordering::Relaxed);
        loop {
            let body = if is_sipping {
                frame::read(&mut Sipping(&self.client))?
            } else {
                frame::read(&mut &self.client)?
            };
            self.halt();
            let asked = Asked::read(&body);
            let act = shared.plan.decide(Side::Request, asked.api);
            let refusal = match act {
                Some(Act::Refuse(error)) => Some(asked.refuse(&body, error)),
                _ => None,
            };
            let is_refused = refusal.is_some();
            self.waiting
                .lock()
                .unwrap()
                .push_back(Waiting { asked, refusal });
            if is_refused {
                self.answer_refused()?;
                continue;
            }
            self.pass(&self.broker, &body, act)?;
        }
    }

    fn answers(&self, shared: &Shared) -> io::Result<()> {
        loop {
            let body = frame::read(&mut &self.broker)?;
            self.halt();
            let Some(asked) = self.answered(frame::correlation(&body)) else {
                panic!("an answer to nothing that was asked");
            };
            let mut body = asked.redirect(body, &shared.routes, |millis| {
                let throttled = usize::from(millis > 0);
                shared.throttled.fetch_add(throttled, Ordering::Relaxed);
            });
            let act = shared.plan.decide(Side::Answer, asked.api);
            if let Some(Act::Rewrite(error)) = act {
                body = asked.rewrite(body, error);
            }
            if matches!(act, Some(Act::Mute)) {
                self.is_mute.store(true, Ordering::Relaxed);
            }
            if self.is_mute.load(Ordering::Relaxed) {
                continue;
            }
            if matches!(act, Some(Act::Swap)) {
                *self.kept.lock().unwrap() = Some(body);
                continue;
            }
            self.pass(&self.client, &body, act)?;
            if let Some(kept) = self.kept.lock().unwrap().take() {
                self.pass(&self.client, &kept, None)?;
            }
            self.answer_refused()?;
        }
    }

    /// What was asked under this number, which is answered now.
    fn answered(&self, correlation: i32) -> Option<Asked> {
        let mut waiting = self.waiting.lock().unwrap();
        let at = waiting
            .iter()
            .position(|waiting| waiting.asked.correlation == correlation)?;
        waiting.remove(at).map(|waiting| waiting.asked)
    }

    /// Answers what was refused, as soon as all that was asked before is answered.
    fn answer_refused(&self) -> io::Result<()> {
        loop {
            let mut waiting = self.waiting.lock().unwrap();
            let Some(refusal) = waiting.front_mut().and_then(|first| first.refusal.take()) else {
                return Ok(());
            };
            waiting.pop_front();
            // Held, so that nothing is written in between.
            self.pass(&self.client, &refusal, None)?;
        }
    }

    /// Writes a message, or does to it what is planned.
    fn pass(&self, mut to: &TcpStream, body: &[u8], act: Option<Act>) -> io::Result<()> {
        let mut bytes = frame::framed(body);
        match act {
            Some(Act::Lose) => return Ok(()),
            Some(Act::Delay(by)) => thread::sleep(by),
            Some(Act::Hold) => {
                self.is_held.store(true, Ordering::Relaxed);
                self.halt();
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Some(Act::Cut(at)) => {
                to.write_all(&bytes[..at.min(bytes.len() - 1)])?;
                self.reset();
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Some(Act::Trickle) => {
                for byte in bytes.chunks(1) {
                    to.write_all(byte)?;
                    thread::sleep(BYTE_GAP);
                }
                return Ok(());
            }
            Some(Act::Flip(at)) => {
                let at = (4 + at).min(bytes.len() - 1);
                bytes[at] = !bytes[at];
            }
            Some(Act::Announce(length)) => bytes[..4].copy_from_slice(&length.to_be_bytes()),
            _ => {}
        }
        to.write_all(&bytes)
    }

    /// Stands still while the connection is held.
    fn halt(&self) {
        while self.is_held.load(Ordering::Relaxed) && !self.is_over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn reset(&self) {
        for stream in [&self.client, &self.broker] {
            // With no time to linger, closing is a reset.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
        self.is_over.store(true, Ordering::Relaxed);
        for stream in [&self.client, &self.broker] {
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    fn close(&self) {
        if self.is_over.swap(true, Ordering::Relaxed) {
            return;
        }
        for stream in [&self.client, &self.broker] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Reads little at a time, with pauses.
struct Sipping<'a>(&'a TcpStream);

impl Read for Sipping<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        thread::sleep(BYTE_GAP);
        let most = into.len().min(SIP);
        self.0.read(&mut into[..most])
    }
}

/// Every kind of request that a producer makes.
pub(crate) const ASKED: [ApiKey; 4] = [
    ApiKey::ApiVersions,
    ApiKey::Metadata,
    ApiKey::InitProducerId,
    ApiKey::Produce,
];
