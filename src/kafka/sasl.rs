//! Saying who we are: PLAIN (RFC 4616), SCRAM-SHA-256 and SCRAM-SHA-512 (RFC 5802, RFC 7677), as a client.
//!
//! The rule: a name and a password leave this module only in the messages of their mechanism. They are
//! sent as they are written: Kafka does not prepare strings as SASLprep (RFC 4013) would.

mod scram;

use std::fmt;
use std::sync::Arc;

use super::settings::{Settings, SettingsError};
use scram::{Hash, Scram};

const MECHANISM: &str = "sasl.mechanisms";

/// Why no authentication comes about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SaslError {
    /// The broker refuses us.
    #[error("{mechanism}: the broker says {said:?}")]
    Refused {
        /// The mechanism.
        mechanism: &'static str,
        /// What it says.
        said: String,
    },
    /// The broker's message is not of the mechanism.
    #[error("{mechanism}: in the broker's message, {rule}")]
    Malformed {
        /// The mechanism.
        mechanism: &'static str,
        /// What is wrong with it.
        rule: &'static str,
    },
    /// The broker does not know our password.
    #[error("{mechanism}: the broker does not prove that it knows the password: it is not ours")]
    Impostor {
        /// The mechanism.
        mechanism: &'static str,
    },
    /// The kernel gives no random numbers.
    #[error("{mechanism}: there are no random numbers")]
    NoRandom {
        /// The mechanism.
        mechanism: &'static str,
    },
}

/// How we say who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mechanism {
    Plain,
    Scram(Hash),
}

impl Mechanism {
    const ALL: [Self; 3] = [
        Self::Plain,
        Self::Scram(Hash::Sha256),
        Self::Scram(Hash::Sha512),
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Scram(hash) => hash.mechanism(),
        }
    }

    fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|mechanism| mechanism.name().eq_ignore_ascii_case(name))
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
        let written = settings.get(MECHANISM).unwrap_or("GSSAPI");
        let mechanism = Mechanism::named(written).ok_or_else(|| SettingsError::Invalid {
            key: MECHANISM.to_owned(),
            value: written.to_owned(),
            rule: "the native producer speaks PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512".to_owned(),
        })?;
        let text = |key: &'static str| match settings.get(key) {
            None | Some("") => Err(SettingsError::Missing {
                key,
                needs: format!("{MECHANISM}={}", mechanism.name()),
            }),
            Some(value) if value.contains('\0') => Err(SettingsError::Invalid {
                key: key.to_owned(),
                value: "[hidden]".to_owned(),
                rule: "it holds a byte of zero".to_owned(),
            }),
            Some(value) => Ok(Arc::from(value)),
        };
        Ok(Self {
            mechanism,
            name: text("sasl.username")?,
            password: text("sasl.password")?,
        })
    }

    /// Whether there is a mechanism of this name.
    pub(super) fn speaks(mechanism: &str) -> bool {
        Mechanism::named(mechanism).is_some()
    }

    /// The name of the mechanism, for SaslHandshake.
    pub(crate) fn mechanism(&self) -> &'static str {
        self.mechanism.name()
    }

    /// Begins an authentication.
    pub(crate) fn start(&self) -> SaslSession {
        SaslSession(match self.mechanism {
            Mechanism::Plain => Session::Plain(self.clone()),
            Mechanism::Scram(hash) => {
                let scram = Scram::new(hash, &self.name, self.password.clone());
                Session::Scram(Box::new(scram))
            }
        })
    }
}

/// One authentication: the first message, then an answer to each of the broker's.
#[derive(Debug)]
pub(crate) struct SaslSession(Session);

#[derive(Debug)]
enum Session {
    Plain(Sasl),
    Scram(Box<Scram>),
}

impl SaslSession {
    /// The first message.
    pub(crate) fn first(&mut self) -> Result<Vec<u8>, SaslError> {
        match &mut self.0 {
            Session::Plain(Sasl { name, password, .. }) => {
                Ok(format!("\0{name}\0{password}").into_bytes())
            }
            Session::Scram(scram) => scram.first(),
        }
    }

    /// The answer to a message of the broker's; `None` when the authentication is complete.
    ///
    /// With SCRAM it computes for some milliseconds, once. After an error the session is over.
    pub(crate) fn step(&mut self, challenge: &[u8]) -> Result<Option<Vec<u8>>, SaslError> {
        match &mut self.0 {
            // The broker has nothing to say to it, and Kafka says nothing.
            Session::Plain(_) => Ok(None),
            Session::Scram(scram) => scram.step(challenge),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sasl(list: &[&str]) -> Result<Sasl, SettingsError> {
        let mut settings = Settings::new();
        for text in list {
            settings.parse(text).unwrap();
        }
        Sasl::new(&settings)
    }

    #[test]
    fn plain_is_one_message() {
        let sasl = sasl(&[
            "sasl.mechanism=plain",
            "sasl.username=a,b",
            "sasl.password=c=d",
        ])
        .unwrap();
        assert_eq!(sasl.mechanism(), "PLAIN");
        let mut session = sasl.start();
        assert_eq!(session.first().unwrap(), b"\0a,b\0c=d");
        assert_eq!(session.step(b"").unwrap(), None);
    }

    #[test]
    fn what_is_missing_or_unknown_is_refused_with_its_name() {
        let cases: [(&[&str], &[&str]); 4] = [
            (&[], &["sasl.mechanisms=GSSAPI", "SCRAM-SHA-512"]),
            (&["sasl.mechanism=PLAIN"], &["sasl.username", "PLAIN"]),
            (
                &["sasl.mechanism=SCRAM-SHA-256", "sasl.username=x"],
                &["sasl.password", "SCRAM-SHA-256"],
            ),
            (&["sasl.mechanism=SCRAM-SHA-1"], &["SCRAM-SHA-1", "PLAIN"]),
        ];
        for (list, parts) in cases {
            let text = sasl(list).unwrap_err().to_string();
            for part in parts {
                assert!(text.contains(part), "{list:?}: {text}");
            }
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        for mechanism in Mechanism::ALL {
            let name = format!("sasl.mechanism={}", mechanism.name());
            let sasl = sasl(&[&name, "sasl.username=alice", "sasl.password=hunter2"]).unwrap();
            let mut session = sasl.start();
            session.first().unwrap();
            let shown = format!("{sasl:?} {session:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
