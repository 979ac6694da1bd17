//! What goes wrong, and when.
//!
//! The rule: a rule counts the messages of its kind over all connections, so that a case can say beforehand
//! which of them it hits, and afterwards that it did.

use std::sync::Mutex;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// From the client to the broker.
    Request,
    /// From the broker to the client.
    Answer,
}

/// What is done with a message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// It, and with it what follows on its connection, comes later by this.
    Delay(Duration),
    /// It never comes; what follows does.
    Lose,
    /// Neither it nor any later answer of its connection comes; requests still reach the broker.
    Mute,
    /// Nothing passes any more, either way, and nothing is closed.
    Hold,
    /// So many bytes of it come, then both ends of the connection are reset.
    Cut(usize),
    /// It comes byte by byte.
    Trickle,
    /// Every bit of the byte at this place behind the length is turned over.
    Flip(usize),
    /// Another length stands before it.
    Announce(i32),
    /// It comes after the next one.
    Swap,
    /// An answer of Produce bears this error, whatever the broker did.
    Rewrite(ResponseError),
    /// A request of Produce or InitProducerId is answered with this error, and never reaches the broker.
    Refuse(ResponseError),
}

/// A fault: what befalls which messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub(crate) side: Side,
    pub(crate) api: ApiKey,
    /// How many messages of the kind pass unharmed before the first one that is hit.
    pub(crate) skip: usize,
    /// How many are hit.
    pub(crate) times: usize,
    pub(crate) act: Act,
}

impl Rule {
    /// Hits `times` answers of Produce after the first `skip`.
    pub(crate) fn answers(skip: usize, times: usize, act: Act) -> Self {
        Self {
            side: Side::Answer,
            api: ApiKey::Produce,
            skip,
            times,
            act,
        }
    }

    /// Hits `times` requests of Produce after the first `skip`.
    pub(crate) fn requests(skip: usize, times: usize, act: Act) -> Self {
        Self {
            side: Side::Request,
            ..Self::answers(skip, times, act)
        }
    }
}

/// The rules in force, each with what it has seen and hit.
#[derive(Debug, Default)]
pub(crate) struct Plan(Mutex<Vec<Counted>>);

#[derive(Debug)]
struct Counted {
    rule: Rule,
    seen: usize,
    hit: usize,
}

impl Plan {
    /// Puts a rule into force; it counts from now on.
    pub(crate) fn add(&self, rule: Rule) {
        let (seen, hit) = (0, 0);
        self.0.lock().unwrap().push(Counted { rule, seen, hit });
    }

    /// Lifts every rule.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    /// How many messages the rules in force have hit.
    pub(crate) fn hits(&self) -> usize {
        self.0.lock().unwrap().iter().map(|rule| rule.hit).sum()
    }

    /// What is to be done with a message, by the first rule that hits it.
    pub(super) fn decide(&self, side: Side, api: ApiKey) -> Option<Act> {
        let mut act = None;
        for counted in self.0.lock().unwrap().iter_mut() {
            let Rule { skip, times, .. } = counted.rule;
            if counted.rule.side != side || counted.rule.api != api {
                continue;
            }
            counted.seen += 1;
            if act.is_none() && counted.seen > skip && counted.hit < times {
                counted.hit += 1;
                act = Some(counted.rule.act);
            }
        }
        act
    }
}
