//! Which settings of security the native producer understands.
//!
//! The rule: a setting that would be passed over in silence is not understood.

use crate::kafka::sasl::Sasl;
use crate::kafka::settings::Settings;

/// What is understood with any value that librdkafka takes, under librdkafka's canonical names.
const KEYS: [&str; 16] = [
    "security.protocol",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.key.location",
    "ssl.key.pem",
    "ssl.key.password",
    "ssl.endpoint.identification.algorithm",
    "enable.ssl.certificate.verification",
    "sasl.username",
    "sasl.password",
    "socket.keepalive.enable",
    "socket.nagle.disable",
    "socket.receive.buffer.bytes",
    "socket.send.buffer.bytes",
];

const MECHANISMS: &str = "sasl.mechanisms";

/// Whether a setting of security or of a socket is understood; `key` is librdkafka's canonical name.
pub(crate) fn understands(key: &str, value: &str) -> bool {
    match key {
        MECHANISMS => Sasl::speaks(value),
        _ => KEYS.contains(&key),
    }
}

/// Whether `settings` want SASL and name no mechanism: librdkafka takes Kerberos then.
pub(crate) fn assumes_kerberos(settings: &Settings) -> bool {
    let protocol = settings.get("security.protocol").unwrap_or_default();
    protocol.to_lowercase().starts_with("sasl_") && settings.get(MECHANISMS).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_passed_over_is_not_understood() {
        for (key, value) in [
            ("sasl.mechanisms", "GSSAPI"),
            ("sasl.mechanisms", "OAUTHBEARER"),
            ("ssl.keystore.location", "x"),
            ("ssl.cipher.suites", "x"),
            ("ssl.crl.location", "x"),
            ("sasl.kerberos.keytab", "x"),
        ] {
            assert!(!understands(key, value), "{key}={value}");
        }
        assert!(understands("sasl.mechanisms", "SCRAM-SHA-512"));
        assert!(understands("ssl.ca.location", "/x"));
    }

    #[test]
    fn what_is_understood_are_names_of_librdkafkas_own() {
        for key in KEYS {
            let mut settings = Settings::new();
            let value = match key {
                "security.protocol" => "ssl",
                "ssl.endpoint.identification.algorithm" => "none",
                _ if key.starts_with("socket.") || key.starts_with("enable.") => "1",
                _ => "x",
            };
            // Some are looked into at once, and refused for what they hold.
            if let Err(error) = settings.set(key, value) {
                let text = error.to_string();
                assert!(!text.contains("is not a setting"), "{text}");
            }
        }
    }

    #[test]
    fn sasl_without_a_mechanism_is_kerberos() {
        let mut settings = Settings::new();
        assert!(!assumes_kerberos(&settings));
        settings.set("security.protocol", "SASL_SSL").unwrap();
        assert!(assumes_kerberos(&settings));
        settings.set("sasl.mechanism", "PLAIN").unwrap();
        assert!(!assumes_kerberos(&settings));
    }
}
