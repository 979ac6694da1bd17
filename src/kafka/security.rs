//! What the settings say of the way to a broker: in clear or by TLS, and as whom.
//!
//! The rule: files are read and everything is checked once, at start; a connection takes what lies ready.

mod certificates;
#[cfg(test)]
pub(crate) mod issued;
mod trust;
mod understood;

use std::fmt;
use std::sync::{Arc, Once};

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::{ClientConfig, InconsistentKeys};

use super::sasl::Sasl;
use super::settings::{Settings, SettingsError};
use super::transport::socket::SocketOptions;
use trust::Trust;
pub(crate) use understood::{assumes_kerberos, understands};

const PROTOCOL: &str = "security.protocol";

/// The way to every broker of a cluster; cheap to clone.
#[derive(Clone)]
pub(crate) struct Security {
    tls: Option<Arc<ClientConfig>>,
    sasl: Option<Sasl>,
    socket: SocketOptions,
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Security")
            .field("tls", &self.tls.is_some())
            .field("sasl", &self.sasl)
            .field("socket", &self.socket)
            .finish()
    }
}

impl Security {
    /// Reads the files that `settings` name, and checks what they say.
    pub(crate) fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let protocol = settings.get(PROTOCOL).unwrap_or("plaintext");
        let (by_tls, by_sasl) = match protocol.to_lowercase().as_str() {
            "plaintext" => (false, false),
            "ssl" => (true, false),
            "sasl_plaintext" => (false, true),
            "sasl_ssl" => (true, true),
            _ => {
                return Err(SettingsError::Invalid {
                    key: PROTOCOL.to_owned(),
                    value: protocol.to_owned(),
                    rule: "it takes plaintext, ssl, sasl_plaintext or sasl_ssl".to_owned(),
                });
            }
        };
        Ok(Self {
            tls: by_tls.then(|| tls(settings)).transpose()?.map(Arc::new),
            sasl: by_sasl.then(|| Sasl::new(settings)).transpose()?,
            socket: SocketOptions::new(settings)?,
        })
    }

    /// Who we are to say that we are, where the brokers ask.
    pub(crate) fn sasl(&self) -> Option<&Sasl> {
        self.sasl.as_ref()
    }

    /// How TLS is spoken, where it is.
    pub(crate) fn tls(&self) -> Option<&Arc<ClientConfig>> {
        self.tls.as_ref()
    }

    /// How sockets are made.
    pub(crate) fn socket(&self) -> SocketOptions {
        self.socket
    }
}

/// Our side of TLS: whom we trust, and our own certificate where we have one.
fn tls(settings: &Settings) -> Result<ClientConfig, SettingsError> {
    let provider = Arc::new(ring::default_provider());
    let trust = if settings.flag("enable.ssl.certificate.verification", true) {
        let checks_name = settings
            .get("ssl.endpoint.identification.algorithm")
            .is_none_or(|algorithm| !algorithm.eq_ignore_ascii_case("none"));
        Trust::chain(certificates::authorities(settings)?, checks_name, &provider)?
    } else {
        warn_of_no_check();
        Trust::anybody(&provider)
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for both versions of TLS")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(trust));
    let mut config = match certificates::ours(settings)? {
        None => builder.with_no_client_auth(),
        Some(ours) => builder
            .with_client_auth_cert(ours.chain, ours.key)
            .map_err(|error| SettingsError::Invalid {
                key: ours.key_from.0,
                value: ours.key_from.1,
                rule: match error {
                    rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                        "it is not the key of our certificate (ssl.certificate.location)".to_owned()
                    }
                    other => format!("it is no key that TLS can use: {other}"),
                },
            })?,
    };
    // A broker that was restarted knows no session any more, and a session outlives a certificate.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn warn_of_no_check() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            "the brokers' certificates are not checked (enable.ssl.certificate.verification=false): \
             anybody can pose as a broker"
        );
    });
}

#[cfg(test)]
mod tests;
