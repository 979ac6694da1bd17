//! The first words with a broker: what it speaks, and who we are.
//!
//! The rule: nothing else is asked before the last of them is answered. A broker that wants to know our name again
//! from time to time is told once nothing is unanswered.

use std::time::{Duration, Instant};

use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, SaslAuthenticateRequest, SaslHandshakeRequest,
};
use kafka_protocol::protocol::StrBytes;

use crate::kafka::answer;
use crate::kafka::request::TooOld;

use super::{Connection, ConnectionError, Heard, Phase, Tag};

/// The first version of ApiVersions with compact lengths: Kafka 2.4. An older broker answers it in version 0.
const VERSIONS: i16 = 3;

impl Connection {
    /// What a broker may mean by hanging up on our first words.
    pub(super) fn hint(&self) -> &'static str {
        match self.phase {
            Phase::Versions => {
                " at the first request: it may expect TLS, or be older than Kafka 0.10"
            }
            Phase::Handshake | Phase::Authenticate(_) => {
                " instead of an answer to our authentication"
            }
            Phase::Transport | Phase::Ready => "",
        }
    }

    /// Asks what the broker speaks.
    pub(super) fn introduce(&mut self, now: Instant) -> Result<(), ConnectionError> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str(env!("CARGO_PKG_NAME")))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        self.phase = Phase::Versions;
        Ok(self.ask(&request, VERSIONS, Tag::Setup, now)?)
    }

    /// The next of our first words.
    pub(super) fn go_on(&mut self, heard: &Heard<'_>, now: Instant) -> Result<(), ConnectionError> {
        match std::mem::replace(&mut self.phase, Phase::Ready) {
            Phase::Versions => {
                let (code, versions) = answer::api_versions(heard.body, heard.version)?;
                if code != 0 && heard.version > 0 {
                    self.phase = Phase::Versions;
                    return Ok(self.ask(&ApiVersionsRequest::default(), 0, Tag::Setup, now)?);
                }
                self.versions = versions;
                self.authenticate(now)
            }
            Phase::Handshake => {
                let (code, offered) = answer::sasl_handshake(heard.body)?;
                let Some(sasl) = self.profile.security.sasl() else {
                    return Ok(());
                };
                if code != 0 {
                    return Err(ConnectionError::Refused(format!(
                        "sasl.mechanism {} is not offered; the broker offers {}",
                        sasl.mechanism(),
                        offered.join(", ")
                    )));
                }
                let mut session = sasl.start();
                let first = session.first()?;
                self.phase = Phase::Authenticate(session);
                self.say(first, now)
            }
            Phase::Authenticate(mut session) => {
                let answer = answer::sasl_authenticate(heard.body, heard.version)?;
                if answer.code != 0 {
                    return Err(ConnectionError::Refused(answer.said.to_owned()));
                }
                let Some(next) = session.step(answer.challenge)? else {
                    let lifetime = u64::try_from(answer.lifetime_ms).unwrap_or(0);
                    // Well before the broker ends the session, as the Java client does (KIP-368).
                    let left = Duration::from_millis(lifetime.saturating_mul(9) / 10);
                    self.renew_at = (lifetime > 0).then(|| now + left);
                    return Ok(());
                };
                self.phase = Phase::Authenticate(session);
                self.say(next, now)
            }
            other @ (Phase::Transport | Phase::Ready) => {
                self.phase = other;
                Ok(())
            }
        }
    }

    fn authenticate(&mut self, now: Instant) -> Result<(), ConnectionError> {
        let Some(sasl) = self.profile.security.sasl() else {
            self.phase = Phase::Ready;
            return Ok(());
        };
        let mechanism = StrBytes::from_string(sasl.mechanism().to_owned());
        let request = SaslHandshakeRequest::default().with_mechanism(mechanism);
        let version = self.needed(ApiKey::SaslHandshake, 1, 1)?;
        self.phase = Phase::Handshake;
        Ok(self.ask(&request, version, Tag::Setup, now)?)
    }

    fn say(&mut self, bytes: Vec<u8>, now: Instant) -> Result<(), ConnectionError> {
        let request = SaslAuthenticateRequest::default().with_auth_bytes(bytes.into());
        let version = self.needed(ApiKey::SaslAuthenticate, 0, 2)?;
        Ok(self.ask(&request, version, Tag::Setup, now)?)
    }

    fn needed(&self, api: ApiKey, least: i16, most: i16) -> Result<i16, TooOld> {
        self.version(api, least, most).ok_or(TooOld { api })
    }

    /// Tells the broker our name again where it wants to know it from time to time, once nothing is unanswered:
    /// no other request may come in between.
    pub(super) fn renew(&mut self, now: Instant) -> Result<(), ConnectionError> {
        if !self.is_due(now) || !self.waiting.is_empty() {
            return Ok(());
        }
        self.renew_at = None;
        self.opened = now;
        self.authenticate(now)
    }

    /// Whether our name is to be told again before anything else is asked.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.renew_at.is_some_and(|at| now >= at)
    }
}
