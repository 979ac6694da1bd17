//! The way to one broker: name, addresses, connection, and what is between two connections.
//!
//! The rule: a broker that cannot be reached is tried again for as long as it is wanted, at every address of
//! its name and with growing pauses, and it is said once, not each time.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::resolve::{Lookup, Resolver};
use crate::kafka::BrokerAddress;
use crate::kafka::connection::{Bodies, Connection, ConnectionError, Lost, Profile, Tell};
use crate::kafka::counters::BrokerCounters;
use crate::kafka::transport::TransportError;

/// The pause between two attempts: `reconnect.backoff.ms`, doubled up to `reconnect.backoff.max.ms`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reconnect {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

/// What stands in the way of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The broker does not take our name and password.
    Authentication,
    /// No encrypted connection comes about.
    Tls,
    /// Anything else.
    Other,
}

#[derive(Debug)]
enum State {
    Idle,
    Resolving(Lookup),
    Open(Box<Connection>),
}

/// The way to one broker.
#[derive(Debug)]
pub(crate) struct Link {
    /// Its number in the cluster; `None` for one that was named by the user and is not known by number.
    pub(crate) node: Option<i32>,
    pub(crate) address: BrokerAddress,
    /// Whether there is to be a connection.
    pub(crate) is_wanted: bool,
    /// Until when the broker wants to be left alone.
    pub(crate) quiet_until: Option<Instant>,
    counters: Arc<BrokerCounters>,
    state: State,
    /// Addresses of its name that are not tried yet.
    left: VecDeque<SocketAddr>,
    failures: u32,
    not_before: Option<Instant>,
    /// Since when there is no connection, where that was said.
    lost_since: Option<Instant>,
    trouble: Option<(Obstacle, String)>,
}

impl Link {
    /// A way that is not gone yet.
    pub(crate) fn new(
        node: Option<i32>,
        address: BrokerAddress,
        counters: Arc<BrokerCounters>,
    ) -> Self {
        Self {
            counters,
            node,
            address,
            is_wanted: false,
            quiet_until: None,
            state: State::Idle,
            left: VecDeque::new(),
            failures: 0,
            not_before: None,
            lost_since: None,
            trouble: None,
        }
    }

    /// Knows it as broker `node` of the cluster.
    pub(crate) fn meet(&mut self, node: i32, counters: Arc<BrokerCounters>) {
        self.node = Some(node);
        counters.connected.set(self.is_open_and_ready().into());
        self.counters = counters;
    }

    /// The connection, where it is ready for requests.
    pub(crate) fn ready(&mut self) -> Option<&mut Connection> {
        match &mut self.state {
            State::Open(connection) if connection.is_ready() => Some(connection),
            _ => None,
        }
    }

    /// Whether requests may be made now.
    pub(crate) fn is_ready(&self, now: Instant) -> bool {
        matches!(&self.state, State::Open(connection) if connection.is_ready() && !connection.is_due(now))
    }

    /// The connection, ready or not.
    pub(crate) fn connection(&self) -> Option<&Connection> {
        match &self.state {
            State::Open(connection) => Some(connection),
            State::Idle | State::Resolving(_) => None,
        }
    }

    /// What stood in the way last.
    pub(crate) fn trouble(&self) -> Option<&(Obstacle, String)> {
        self.trouble.as_ref()
    }

    /// When it is to be looked at although nothing comes.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Idle => self.not_before.filter(|_| self.is_wanted),
            State::Resolving(_) => None,
            State::Open(connection) => connection.deadline(),
        }
    }

    /// Does what can be done now; what a lost connection takes with it goes into `lost`.
    pub(crate) fn turn(
        &mut self,
        now: Instant,
        ways: (&Resolver, &Profile, Reconnect),
        bodies: &dyn Bodies,
        tell: &mut Tell<'_>,
        lost: &mut Vec<Lost>,
    ) {
        let (resolver, profile, reconnect) = ways;
        self.quiet_until.take_if(|until| now >= *until);
        let was_ready = self.is_open_and_ready();
        if matches!(self.state, State::Idle) {
            let is_due = self.not_before.is_none_or(|at| now >= at);
            if !self.is_wanted || !is_due {
                return;
            }
            self.not_before = None;
            self.state = State::Resolving(resolver.ask(&self.address));
        }
        if let State::Resolving(lookup) = &self.state {
            match resolver.answer(lookup) {
                None => return,
                Some(Ok(found)) => {
                    self.left = found.into();
                    self.open(now, profile, reconnect);
                }
                Some(Err(cause)) => {
                    let said = format!("its name is not known: {cause}");
                    self.fail(now, reconnect, Obstacle::Other, said);
                }
            }
        }
        let State::Open(connection) = &mut self.state else {
            return;
        };
        if let Err(error) = connection.turn(now, bodies, tell) {
            self.lose(&error, now, profile, reconnect, lost);
        }
        if self.is_open_and_ready() && !was_ready {
            self.arrive(now);
        }
    }

    fn is_open_and_ready(&self) -> bool {
        matches!(&self.state, State::Open(connection) if connection.is_ready())
    }

    fn arrive(&mut self, now: Instant) {
        self.counters.connected.set(1);
        self.counters.connections.add(1);
        self.failures = 0;
        self.left.clear();
        self.trouble = None;
        if let Some(since) = self.lost_since.take() {
            let away = now.saturating_duration_since(since);
            tracing::info!(broker = %self.address, "connected again after {:.1} s", away.as_secs_f64());
        }
    }

    fn open(&mut self, now: Instant, profile: &Profile, reconnect: Reconnect) {
        let mut refused = io::Error::other("its name has no address");
        while let Some(address) = self.left.pop_front() {
            match Connection::open(
                address,
                &self.address.host,
                profile,
                self.counters.clone(),
                now,
            ) {
                Ok(connection) => {
                    self.state = State::Open(Box::new(connection));
                    return;
                }
                Err(error) => refused = error,
            }
        }
        self.fail(now, reconnect, Obstacle::Other, refused.to_string());
    }

    /// Ends the connection because of `error`; what it takes with it goes into `lost`.
    pub(crate) fn lose(
        &mut self,
        error: &ConnectionError,
        now: Instant,
        profile: &Profile,
        reconnect: Reconnect,
        lost: &mut Vec<Lost>,
    ) {
        let State::Open(connection) = std::mem::replace(&mut self.state, State::Idle) else {
            return;
        };
        lost.extend(connection.lost());
        let was_ready = connection.is_ready();
        // A broker closes what was idle for long: `connections.max.idle.ms`.
        let was_idle = was_ready && connection.unanswered() == 0;
        drop(connection);
        if was_idle && matches!(error, ConnectionError::Closed(_)) {
            self.counters.connected.set(0);
            self.not_before = Some(now + reconnect.first);
            tracing::debug!(broker = %self.address, "the broker closed an idle connection");
            return;
        }
        if !was_ready && !self.left.is_empty() && !error.is_authentication() {
            self.open(now, profile, reconnect);
            return;
        }
        let obstacle = match error {
            error if error.is_authentication() => Obstacle::Authentication,
            ConnectionError::Transport(TransportError::Tls { .. }) => Obstacle::Tls,
            _ => Obstacle::Other,
        };
        self.fail(now, reconnect, obstacle, chain(error));
    }

    fn fail(&mut self, now: Instant, reconnect: Reconnect, obstacle: Obstacle, said: String) {
        self.counters.connected.set(0);
        self.counters.losses.add(1);
        self.state = State::Idle;
        self.quiet_until = None;
        if self.lost_since.is_none() && self.is_wanted && self.node.is_some() {
            self.lost_since = Some(now);
            tracing::warn!(broker = %self.address, "no connection: {said}; trying again");
        }
        self.trouble = Some((obstacle, said));
        let doubled = reconnect.first.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        self.not_before = Some(now + doubled.min(reconnect.longest));
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}
