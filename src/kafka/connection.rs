//! One connection to one broker: from the first byte to the last answer.
//!
//! The rule: answers come in the order of the requests, or the connection ends. A connection that ends
//! says of every request whether it went out whole, so that whoever sent it knows what may have been
//! stored.
//!
//! Nothing here waits. [`Connection::turn`] does what can be done now; [`Connection::interest`] says what to
//! poll for.

mod setup;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::Request;
use nix::poll::PollFlags;

use super::answer::{ApiVersion, Malformed};
use super::counters::BrokerCounters;
use super::request::{self, Produce, TooOld};
use super::sasl::{SaslError, SaslSession};
use super::security::Security;
use super::transport::{Transport, TransportError};

/// The longest answer that is taken; those to what we ask are a thousandth of it.
const LONGEST_ANSWER: usize = 16 << 20;

/// What is read from the socket at once.
const READ: usize = 64 << 10;

/// How a client introduces itself to every broker, and how long it waits.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    /// `client.id`.
    pub(crate) client_id: String,
    /// TLS and SASL.
    pub(crate) security: Security,
    /// How long a connection may take until it is ready: `socket.connection.setup.timeout.ms`.
    pub(crate) setup_timeout: Duration,
    /// How long an answer may take: `socket.timeout.ms`.
    pub(crate) answer_timeout: Duration,
}

/// The memory of record batches, by the slot that a Produce request names.
pub(crate) trait Bodies {
    /// The sealed batch in `slot`. It does not change while a request names it.
    fn body(&self, slot: usize) -> &[u8];
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    /// The first words of the connection itself.
    Setup,
    /// Metadata.
    Metadata,
    /// A producer id for a partition.
    ProducerId(i32),
    /// The record batch in a slot.
    Produce {
        /// The slot.
        slot: usize,
        /// Its partition.
        partition: i32,
    },
    /// A topic's setting.
    Config,
    /// A new topic.
    CreateTopic,
}

/// An answer to a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard<'a> {
    pub(crate) tag: Tag,
    /// The version of the request.
    pub(crate) version: i16,
    /// What follows the correlation id.
    pub(crate) body: &'a [u8],
}

/// What [`Connection::turn`] tells.
#[derive(Debug)]
pub(crate) enum Told<'a> {
    /// A request is answered.
    Answer(Heard<'a>),
    /// A request that has no answer (`acks=0`) went out whole.
    Written(Tag),
}

/// Hears what [`Connection::turn`] tells; an answer that it finds damaged ends the connection.
pub(crate) type Tell<'a> = dyn FnMut(Told<'_>) -> Result<(), Malformed> + 'a;

/// A request that a connection took with it when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) tag: Tag,
    /// Whether all of it went out: the broker may have acted on it.
    pub(crate) whole: bool,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    /// No connection, or it broke.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The broker closed it.
    #[error("the broker closed the connection{0}")]
    Closed(&'static str),
    /// It was not ready in time.
    #[error("no connection within {} s", .0.as_secs_f64())]
    SlowSetup(Duration),
    /// An answer did not come in time.
    #[error("no answer to {api:?} within {} s", .limit.as_secs_f64())]
    NoAnswer { api: ApiKey, limit: Duration },
    /// An answer is not of its form.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The broker is older than what we need.
    #[error(transparent)]
    TooOld(#[from] TooOld),
    /// An answer that nobody asked for.
    #[error("the answers are out of order: number {got} where {expected:?} is due")]
    OutOfOrder { got: i32, expected: Option<i32> },
    /// An answer too long to be one.
    #[error("an answer of {0} bytes is announced")]
    TooLong(i64),
    /// The broker does not take our name and password.
    #[error("{0}")]
    Refused(String),
    /// The mechanism's own words do not fit.
    #[error(transparent)]
    Sasl(#[from] SaslError),
}

impl ConnectionError {
    /// Whether it is our name, password or mechanism that is refused.
    pub(crate) fn is_authentication(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Sasl(_))
    }
}

#[derive(Debug)]
enum Phase {
    /// TCP and TLS.
    Transport,
    /// ApiVersions is asked.
    Versions,
    /// SaslHandshake is asked.
    Handshake,
    /// SaslAuthenticate is asked.
    Authenticate(SaslSession),
    Ready,
}

/// A request on its way out.
#[derive(Debug)]
struct Output {
    head: Vec<u8>,
    slot: Option<usize>,
    tail: &'static [u8],
    written: usize,
}

/// A request that is answered some time, in the order they are written.
#[derive(Debug)]
struct Waiting {
    correlation: i32,
    api: ApiKey,
    version: i16,
    tag: Tag,
    asked: Instant,
    answered: bool,
}

/// A connection to a broker; closed when dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    transport: Transport,
    profile: Profile,
    counters: Arc<BrokerCounters>,
    phase: Phase,
    opened: Instant,
    versions: Vec<ApiVersion>,
    correlation: i32,
    output: VecDeque<Output>,
    waiting: VecDeque<Waiting>,
    /// How many of `waiting` went out whole; the rest are in `output`, in the same order.
    sent: usize,
    input: Vec<u8>,
    /// Whether the transport holds nothing back.
    is_flushed: bool,
    /// Heads of requests that went out, to be filled again.
    heads: Vec<Vec<u8>>,
    /// When the broker wants to know our name again.
    renew_at: Option<Instant>,
}

impl Connection {
    /// Begins a connection to `address`; `host` is the broker's name.
    pub(crate) fn open(
        address: SocketAddr,
        host: &str,
        profile: &Profile,
        counters: Arc<BrokerCounters>,
        now: Instant,
    ) -> io::Result<Self> {
        Ok(Self {
            transport: Transport::connect(address, host, &profile.security)?,
            profile: profile.clone(),
            counters,
            phase: Phase::Transport,
            opened: now,
            versions: Vec::new(),
            correlation: 0,
            output: VecDeque::new(),
            waiting: VecDeque::new(),
            sent: 0,
            input: Vec::new(),
            is_flushed: true,
            heads: Vec::new(),
            renew_at: None,
        })
    }

    /// Whether requests may be made.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready)
    }

    /// Whether everything that was written has left this process.
    pub(crate) fn is_flushed(&self) -> bool {
        self.is_flushed
    }

    /// How many requests are not answered.
    pub(crate) fn unanswered(&self) -> usize {
        self.waiting.len()
    }

    /// How long the oldest request has been waiting for its answer.
    pub(crate) fn silence(&self, now: Instant) -> Duration {
        self.waiting.front().map_or(Duration::ZERO, |waiting| {
            now.saturating_duration_since(waiting.asked)
        })
    }

    /// The newest version of `api` from `least` to `most` that the broker takes.
    pub(crate) fn version(&self, api: ApiKey, least: i16, most: i16) -> Option<i16> {
        let known = self.versions.iter().find(|known| known.key == api as i16)?;
        let version = known.max.min(most);
        (version >= known.min.max(least)).then_some(version)
    }

    /// Asks the broker; the answer comes under `tag`. The version is one of [`version`](Self::version)'s.
    pub(crate) fn ask<R: Request>(
        &mut self,
        body: &R,
        version: i16,
        tag: Tag,
        now: Instant,
    ) -> Result<(), TooOld> {
        let correlation = self.next_correlation();
        let head = request::encode(body, version, correlation, &self.profile.client_id)?;
        let api = ApiKey::try_from(R::KEY).expect("the crate knows the keys of its own requests");
        self.enqueue(
            head,
            None,
            &[],
            Waiting {
                correlation,
                api,
                version,
                tag,
                asked: now,
                answered: true,
            },
        );
        Ok(())
    }

    /// Sends the batch in `slot`; `request` says all but the correlation id.
    pub(crate) fn produce(&mut self, slot: usize, request: Produce<'_>, now: Instant) {
        self.counters.batches.add(1);
        self.counters.bytes.add(request.records as u64);
        let correlation = self.next_correlation();
        let mut head = self.heads.pop().unwrap_or_default();
        let request = Produce {
            correlation,
            ..request
        };
        let tail = request.write(&mut head);
        self.enqueue(
            head,
            Some(slot),
            tail,
            Waiting {
                correlation,
                api: ApiKey::Produce,
                version: request.version,
                tag: Tag::Produce {
                    slot,
                    partition: request.partition,
                },
                asked: now,
                answered: request.acks != 0,
            },
        );
    }

    fn next_correlation(&mut self) -> i32 {
        self.correlation = self.correlation.wrapping_add(1) & i32::MAX;
        self.correlation
    }

    fn enqueue(
        &mut self,
        head: Vec<u8>,
        slot: Option<usize>,
        tail: &'static [u8],
        waiting: Waiting,
    ) {
        self.output.push_back(Output {
            head,
            slot,
            tail,
            written: 0,
        });
        self.waiting.push_back(waiting);
    }

    /// What to poll for.
    pub(crate) fn interest(&self) -> PollFlags {
        let has_output = !self.output.is_empty() || matches!(self.phase, Phase::Transport);
        self.transport.interest(has_output)
    }

    /// When it is to be looked at although nothing comes.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let setup = (!self.is_ready()).then(|| self.opened + self.profile.setup_timeout);
        let answer = self
            .waiting
            .front()
            .map(|waiting| waiting.asked + self.profile.answer_timeout);
        let renewal = self.renew_at.filter(|_| self.waiting.is_empty());
        [setup, answer, renewal].into_iter().flatten().min()
    }

    /// Reads, writes and answers what can be without waiting, and tells what came of it.
    ///
    /// After an error the connection is of no use: [`lost`](Self::lost) says what went with it.
    pub(crate) fn turn(
        &mut self,
        now: Instant,
        bodies: &dyn Bodies,
        tell: &mut Tell<'_>,
    ) -> Result<(), ConnectionError> {
        if matches!(self.phase, Phase::Transport) && self.transport.establish()? {
            self.introduce(now)?;
        }
        if !matches!(self.phase, Phase::Transport) {
            self.renew(now)?;
            self.write(bodies, tell)?;
            self.read(now, tell)?;
            self.write(bodies, tell)?;
        }
        self.check(now)
    }

    /// Every request that is not answered, oldest first.
    pub(crate) fn lost(&self) -> impl Iterator<Item = Lost> {
        self.waiting
            .iter()
            .enumerate()
            .filter(|(_, waiting)| waiting.tag != Tag::Setup)
            .map(|(at, waiting)| Lost {
                tag: waiting.tag,
                whole: at < self.sent,
            })
    }

    fn check(&self, now: Instant) -> Result<(), ConnectionError> {
        let limit = self.profile.setup_timeout;
        if !self.is_ready() && now >= self.opened + limit {
            return Err(ConnectionError::SlowSetup(limit));
        }
        let limit = self.profile.answer_timeout;
        match self.waiting.front() {
            Some(waiting) if now >= waiting.asked + limit => Err(ConnectionError::NoAnswer {
                api: waiting.api,
                limit,
            }),
            _ => Ok(()),
        }
    }

    fn write(&mut self, bodies: &dyn Bodies, tell: &mut Tell<'_>) -> Result<(), ConnectionError> {
        while let Some(output) = self.output.front_mut() {
            let body = output.slot.map_or(&[][..], |slot| bodies.body(slot));
            let whole = output.head.len() + body.len() + output.tail.len();
            let parts = rest_of([&output.head, body, output.tail], output.written);
            let parts = parts.map(IoSlice::new);
            match self.transport.write(&parts) {
                Ok(count) => output.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(TransportError::from(error).into()),
            }
            if output.written < whole {
                continue;
            }
            self.heads
                .extend(self.output.pop_front().map(|output| output.head));
            if self.waiting[self.sent].answered {
                self.sent += 1;
                continue;
            }
            let written = self.waiting.remove(self.sent);
            tell(Told::Written(
                written.expect("what goes out is waited for").tag,
            ))?;
        }
        self.is_flushed = match self.transport.flush() {
            Ok(flushed) => flushed,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => return Err(TransportError::from(error).into()),
        };
        Ok(())
    }

    fn read(&mut self, now: Instant, tell: &mut Tell<'_>) -> Result<(), ConnectionError> {
        loop {
            let had = self.input.len();
            self.input.resize(had + READ, 0);
            let count = match self.transport.read(&mut self.input[had..]) {
                Ok(0) => {
                    self.input.truncate(had);
                    return Err(ConnectionError::Closed(self.hint()));
                }
                Ok(count) => count,
                Err(error) => {
                    self.input.truncate(had);
                    if error.kind() == io::ErrorKind::WouldBlock {
                        return Ok(());
                    }
                    return Err(TransportError::from(error).into());
                }
            };
            self.input.truncate(had + count);
            self.take_answers(now, tell)?;
        }
    }

    fn take_answers(&mut self, now: Instant, tell: &mut Tell<'_>) -> Result<(), ConnectionError> {
        let mut input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        while let Some((length, after)) = rest.split_first_chunk() {
            let announced = i32::from_be_bytes(*length);
            let length = usize::try_from(announced).unwrap_or(usize::MAX);
            if !(4..=LONGEST_ANSWER).contains(&length) {
                return Err(ConnectionError::TooLong(announced.into()));
            }
            let Some((answer, after)) = after.split_at_checked(length) else {
                break;
            };
            rest = after;
            self.take_answer(answer, now, tell)?;
        }
        let left = rest.len();
        let used = input.len() - left;
        input.copy_within(used.., 0);
        input.truncate(left);
        self.input = input;
        Ok(())
    }

    fn take_answer(
        &mut self,
        answer: &[u8],
        now: Instant,
        tell: &mut Tell<'_>,
    ) -> Result<(), ConnectionError> {
        let (correlation, body) = answer.split_first_chunk().ok_or(Malformed("it is empty"))?;
        let got = i32::from_be_bytes(*correlation);
        let due = self.waiting.front().filter(|_| self.sent > 0);
        let expected = due.map(|waiting| waiting.correlation);
        if expected != Some(got) {
            return Err(ConnectionError::OutOfOrder { got, expected });
        }
        let Some(waiting) = due else { return Ok(()) };
        let heard = Heard {
            tag: waiting.tag,
            version: waiting.version,
            body,
        };
        if waiting.api == ApiKey::Produce {
            let micros = now.saturating_duration_since(waiting.asked).as_micros();
            let micros = u64::try_from(micros).unwrap_or(u64::MAX);
            self.counters.round_trip.set(micros);
        }
        let is_setup = waiting.tag == Tag::Setup;
        if !is_setup {
            // Before it is forgotten: what a damaged answer was meant for is lost with the connection.
            tell(Told::Answer(heard))?;
        }
        self.waiting.pop_front();
        self.sent -= 1;
        if is_setup {
            self.go_on(&heard, now)?;
        }
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.as_fd()
    }
}

/// What is left of three parts after `written` bytes of them.
fn rest_of(parts: [&[u8]; 3], mut written: usize) -> [&[u8]; 3] {
    parts.map(|part| {
        let skipped = written.min(part.len());
        written -= skipped;
        &part[skipped..]
    })
}
