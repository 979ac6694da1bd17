//! What the settings say of the way to a broker: in clear or by TLS, and as whom.
//!
//! The rule: files are read and everything is checked once, at start; a connection takes what lies ready.

use std::sync::Arc;

use rustls::ClientConfig;

use super::sasl::Sasl;
use super::settings::{Settings, SettingsError};
use super::transport::socket::SocketOptions;

/// The way to every broker of a cluster; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Security {
    tls: Option<Arc<ClientConfig>>,
    sasl: Option<Sasl>,
    socket: SocketOptions,
}

impl Security {
    /// Reads the files that `settings` name, and checks what they say.
    pub(crate) fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let protocol = settings.get("security.protocol").unwrap_or("plaintext");
        let sasl = match protocol.to_lowercase().as_str() {
            "sasl_plaintext" | "sasl_ssl" => Some(Sasl::new(settings)?),
            _ => None,
        };
        Ok(Self {
            tls: None,
            sasl,
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

/// Whether the native producer knows this setting, by librdkafka's own name, with this value.
pub(crate) fn understands(key: &str, value: &str) -> bool {
    match key {
        "security.protocol" => value.eq_ignore_ascii_case("plaintext"),
        "socket.keepalive.enable" => true,
        _ => false,
    }
}
