//! SCRAM without channel binding (RFC 5802), over the primitives of `ring`.
//!
//! The rule: the broker's messages are foreign bytes until they are checked, what they ask for is bounded,
//! and nothing is complete before the broker has proved that it knows the password.

use std::fmt;
use std::num::NonZeroU32;
use std::str;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac, pbkdf2};

use super::SaslError;

/// "No channel binding, no other name": Kafka knows no other header.
const HEADER: &str = "n,,";

/// Its base64, which the last message repeats.
const BINDING: &str = "biws";

/// Less than Kafka's minimum, a proof would be an easy prey for guessing (RFC 7677, 4).
const LEAST: u32 = 4_096;

/// Six times Kafka's maximum; more would keep a publisher from its other connections.
const MOST: u32 = 100_000;

/// Random bytes in a nonce; 32 characters.
const NONCE: usize = 24;

/// The most of a broker's words that an error repeats.
const WORDS: usize = 100;

/// The hash of a mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    pub(super) fn mechanism(self) -> &'static str {
        match self {
            Self::Sha256 => "SCRAM-SHA-256",
            Self::Sha512 => "SCRAM-SHA-512",
        }
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        }
    }

    fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Self::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        }
    }
}

/// One authentication.
pub(super) struct Scram {
    hash: Hash,
    name: String,
    password: Arc<str>,
    state: State,
}

enum State {
    /// Nothing is said yet, or all is over.
    Silent,
    /// The first message is out.
    Asked { nonce: String },
    /// The proof is out; the broker's own must be that of `key` over `signed`.
    Proved { key: hmac::Key, signed: String },
}

impl fmt::Debug for Scram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scram({})", self.hash.mechanism())
    }
}

impl Scram {
    pub(super) fn new(hash: Hash, name: &str, password: Arc<str>) -> Self {
        Self {
            hash,
            name: name.replace('=', "=3D").replace(',', "=2C"),
            password,
            state: State::Silent,
        }
    }

    /// The first message, with a nonce of its own.
    pub(super) fn first(&mut self) -> Result<Vec<u8>, SaslError> {
        let mut bytes = [0; NONCE];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| SaslError::NoRandom {
                mechanism: self.hash.mechanism(),
            })?;
        Ok(self.first_with(STANDARD.encode(bytes)))
    }

    fn first_with(&mut self, nonce: String) -> Vec<u8> {
        let message = format!("{HEADER}{}", self.bare(&nonce));
        self.state = State::Asked { nonce };
        message.into_bytes()
    }

    /// The first message without its header.
    fn bare(&self, nonce: &str) -> String {
        format!("n={},r={nonce}", self.name)
    }

    /// The answer to a message of the broker's; `None` when it is complete.
    pub(super) fn step(&mut self, challenge: &[u8]) -> Result<Option<Vec<u8>>, SaslError> {
        let challenge =
            str::from_utf8(challenge).map_err(|_| self.malformed("there is no text"))?;
        match std::mem::replace(&mut self.state, State::Silent) {
            State::Silent => Err(self.malformed("there is more than was asked for")),
            State::Asked { nonce } => self.prove(&nonce, challenge).map(Some),
            State::Proved { key, signed } => {
                let proof = self.proof(challenge)?;
                hmac::verify(&key, signed.as_bytes(), &proof).map_err(|_| SaslError::Impostor {
                    mechanism: self.hash.mechanism(),
                })?;
                Ok(None)
            }
        }
    }

    /// Proves that we know the password, without telling it.
    fn prove(&mut self, ours: &str, challenge: &str) -> Result<Vec<u8>, SaslError> {
        let Challenge {
            nonce,
            salt,
            iterations,
        } = Challenge::parse(ours, challenge).map_err(|rule| self.malformed(rule))?;
        // The whole nonce once, which is all that Kafka 4 takes.
        let without_proof = format!("c={BINDING},r={nonce}");
        let signed = format!("{},{challenge},{without_proof}", self.bare(ours));

        let mut salted = vec![0; self.hash.digest().output_len()];
        let password = self.password.as_bytes();
        pbkdf2::derive(self.hash.pbkdf2(), iterations, &salt, password, &mut salted);
        let salted = hmac::Key::new(self.hash.hmac(), &salted);
        let client = hmac::sign(&salted, b"Client Key");
        let stored = digest::digest(self.hash.digest(), client.as_ref());
        let stored = hmac::Key::new(self.hash.hmac(), stored.as_ref());
        let signature = hmac::sign(&stored, signed.as_bytes());
        let pairs = client.as_ref().iter().zip(signature.as_ref());
        let proof: Vec<u8> = pairs.map(|(key, mask)| key ^ mask).collect();

        let server = hmac::sign(&salted, b"Server Key");
        let key = hmac::Key::new(self.hash.hmac(), server.as_ref());
        self.state = State::Proved { key, signed };
        Ok(format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes())
    }

    /// The broker's proof out of its last message.
    fn proof(&self, challenge: &str) -> Result<Vec<u8>, SaslError> {
        let first = challenge.split(',').next().unwrap_or_default();
        if let Some(said) = first.strip_prefix("e=") {
            return Err(SaslError::Refused {
                mechanism: self.hash.mechanism(),
                said: said.chars().take(WORDS).collect(),
            });
        }
        first
            .strip_prefix("v=")
            .and_then(|proof| STANDARD.decode(proof).ok())
            .ok_or_else(|| self.malformed("its proof is missing"))
    }

    fn malformed(&self, rule: &'static str) -> SaslError {
        SaslError::Malformed {
            mechanism: self.hash.mechanism(),
            rule,
        }
    }
}

/// What the broker asks for.
struct Challenge<'a> {
    nonce: &'a str,
    salt: Vec<u8>,
    iterations: NonZeroU32,
}

impl<'a> Challenge<'a> {
    /// Reads `r=NONCE,s=SALT,i=ITERATIONS`; what follows may be passed over (RFC 5802, 5.1).
    fn parse(ours: &str, text: &'a str) -> Result<Self, &'static str> {
        let mut parts = text.split(',');
        let mut part = |name| parts.next().and_then(|part| part.strip_prefix(name));
        let nonce =
            part("r=").ok_or("the nonce is missing, or an unknown extension is mandatory")?;
        let is_longer = nonce.len() > ours.len() && nonce.starts_with(ours);
        if !is_longer || !nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the nonce is not ours with the broker's own after it");
        }
        let salt = part("s=").and_then(|salt| STANDARD.decode(salt).ok());
        let salt = salt.filter(|salt| !salt.is_empty());
        let salt = salt.ok_or("the salt is missing or not base64")?;
        let iterations = part("i=").and_then(|count| count.parse().ok());
        let iterations = iterations.ok_or("the number of iterations is missing")?;
        if !(LEAST..=MOST).contains(&iterations) {
            return Err("the number of iterations is not from 4096 to 100000");
        }
        Ok(Self {
            nonce,
            salt,
            iterations: NonZeroU32::new(iterations).ok_or("there are no iterations")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";

    /// The broker's messages, and our proof; each of the user `user` with the password `pencil`.
    struct Vector {
        hash: Hash,
        first: &'static str,
        proof: &'static str,
        last: &'static str,
    }

    /// RFC 7677, 3.
    const SHA256: Vector = Vector {
        hash: Hash::Sha256,
        first: "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        proof: "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        last: "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    };

    /// The RFC has none; computed with Python's hashlib and hmac.
    const SHA512: Vector = Vector {
        hash: Hash::Sha512,
        first: "r=rOprNGfwEbeRWgbNEkqO02431b08-2f0c-4bad-a4e6-80c0564f865,\
                s=Yin2FuHTt/M0kJWb0t9OI32n2VmOGi3m+JfjOvuDF88=,i=4096",
        proof: "c=biws,r=rOprNGfwEbeRWgbNEkqO02431b08-2f0c-4bad-a4e6-80c0564f865,\
                p=EfkgsiYP1bMSMdi5VKPs7Jv28lTpqyXrUqCWEUyrgG3MmXVB67hWX8Vh6MEsgKYUDyW0jELGXo3rvbw6QQrzcw==",
        last: "v=DRzpel1ZMrIyjEbtjY1qgQ2AOs+1dPzEQkaOUiUsfmU0o4ipN54CQotT5SCKXQw349oUnR2MGLabMylwh7nfUA==",
    };

    fn asked(hash: Hash, name: &str) -> (Scram, String) {
        let mut scram = Scram::new(hash, name, "pencil".into());
        let first = scram.first_with(NONCE.to_owned());
        (scram, String::from_utf8(first).unwrap())
    }

    #[test]
    fn the_vectors_come_out() {
        for vector in [SHA256, SHA512] {
            let (mut scram, first) = asked(vector.hash, "user");
            assert_eq!(first, format!("n,,n=user,r={NONCE}"));
            let proof = scram.step(vector.first.as_bytes()).unwrap().unwrap();
            assert_eq!(String::from_utf8(proof).unwrap(), vector.proof);
            assert_eq!(scram.step(vector.last.as_bytes()).unwrap(), None);
        }
    }

    #[test]
    fn a_broker_that_does_not_know_the_password_is_no_broker_of_ours() {
        for last in [
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=",
            "v=AAAA",
            "v=",
        ] {
            let (mut scram, _) = asked(Hash::Sha256, "user");
            scram.step(SHA256.first.as_bytes()).unwrap();
            let error = scram.step(last.as_bytes()).unwrap_err();
            let text = error.to_string();
            assert!(!text.contains("pencil"), "{text}");
            assert!(
                matches!(
                    error,
                    SaslError::Impostor { .. } | SaslError::Malformed { .. }
                ),
                "{error:?}"
            );
        }
    }

    #[test]
    fn what_the_broker_says_against_us_is_told() {
        let (mut scram, _) = asked(Hash::Sha512, "user");
        scram.step(SHA512.first.as_bytes()).unwrap();
        let error = scram.step(b"e=invalid-proof").unwrap_err();
        assert_eq!(
            error.to_string(),
            "SCRAM-SHA-512: the broker says \"invalid-proof\""
        );
        assert!(scram.step(SHA512.last.as_bytes()).is_err());
    }

    #[test]
    fn a_name_may_have_commas_and_equals_signs() {
        let (_, first) = asked(Hash::Sha256, "a,b=c,=");
        assert_eq!(first, format!("n,,n=a=2Cb=3Dc=2C=3D,r={NONCE}"));
    }

    #[test]
    fn every_authentication_has_a_nonce_of_its_own() {
        let nonce = || {
            let mut scram = Scram::new(Hash::Sha256, "user", "pencil".into());
            String::from_utf8(scram.first().unwrap()).unwrap()
        };
        let (one, other) = (nonce(), nonce());
        assert_ne!(one, other);
        assert!(one.len() > "n,,n=user,r=".len() + 30, "{one}");
    }

    #[test]
    fn a_challenge_that_asks_too_much_or_too_little_is_refused() {
        let salt = "s=W22ZaJ0SNY7soEsUEjb6gQ==";
        let cases = [
            (String::new(), "nonce"),
            (format!("m=x,r={NONCE}x,{salt},i=4096"), "mandatory"),
            (format!("r={NONCE},{salt},i=4096"), "nonce"),
            (format!("r=other{NONCE},{salt},i=4096"), "nonce"),
            (format!("r={NONCE}é,{salt},i=4096"), "nonce"),
            (format!("r={NONCE}x,s=,i=4096"), "salt"),
            (format!("r={NONCE}x,s=*,i=4096"), "salt"),
            (format!("r={NONCE}x,s"), "salt"),
            (format!("r={NONCE}x,{salt},i"), "iterations"),
            (format!("r={NONCE}x,{salt},i=4095"), "4096"),
            (format!("r={NONCE}x,{salt},i=100001"), "100000"),
            (format!("r={NONCE}x,{salt},i=99999999999"), "iterations"),
        ];
        for (challenge, part) in cases {
            let (mut scram, _) = asked(Hash::Sha256, "user");
            let text = scram.step(challenge.as_bytes()).unwrap_err().to_string();
            assert!(text.contains(part), "{challenge}: {text}");
        }
        let (mut scram, _) = asked(Hash::Sha256, "user");
        let more = format!("{},x=unknown", SHA256.first);
        assert!(scram.step(more.as_bytes()).unwrap().is_some());
    }

    proptest! {
        #[test]
        fn no_message_of_a_brokers_makes_it_panic(
            first in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..64),
                "[rsime]?=?[^,]{0,4},?[sim]?=?[^,]{0,4},?i?=?[0-9]{0,3}".prop_map(String::into_bytes),
            ],
            last in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..64),
                "[ve]?=?.{0,8}".prop_map(String::into_bytes),
            ],
        ) {
            let (mut scram, _) = asked(Hash::Sha256, "user");
            prop_assert!(scram.step(&first).is_err());
            let (mut scram, _) = asked(Hash::Sha256, "user");
            scram.step(SHA256.first.as_bytes()).unwrap();
            prop_assert!(scram.step(&last).is_err());
        }
    }
}
