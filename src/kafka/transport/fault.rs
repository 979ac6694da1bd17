//! What rustls says, in words that lead to what is to be mended.
//!
//! The rule: whose certificate it is, what is wrong with it, and the setting to look at.

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};
use time::OffsetDateTime;

/// The fault in words.
pub(super) fn said(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(fault) => certificate(fault),
        Error::AlertReceived(alert) => self::alert(*alert),
        Error::InvalidMessage(_) => {
            "the other end does not speak TLS (security.protocol)".to_owned()
        }
        Error::PeerIncompatible(why) => {
            format!("the broker speaks no TLS that we speak ({why:?}); we speak TLS 1.2 and 1.3")
        }
        other => format!("TLS: {other}"),
    }
}

/// What is wrong with the broker's certificate.
fn certificate(fault: &CertificateError) -> String {
    match fault {
        CertificateError::Expired => "the broker's certificate has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!(
                "the broker's certificate has expired, on {}",
                day(*not_after)
            )
        }
        CertificateError::NotValidYet => "the broker's certificate is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "the broker's certificate is not valid before {}; is the clock right?",
            day(*not_before)
        ),
        CertificateError::UnknownIssuer => "the broker's certificate is signed by itself or by an \
             unknown authority: none of ssl.ca.location"
            .to_owned(),
        CertificateError::BadSignature => {
            "the broker's certificate is not signed by the authority \
             that it names: another one of the same name is in ssl.ca.location"
                .to_owned()
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let presented = if presented.is_empty() {
                "none (it has no subjectAltName)".to_owned()
            } else {
                let names = presented.iter().map(|name| bare(name));
                names.collect::<Vec<_>>().join(", ")
            };
            format!(
                "the broker's certificate is for another host name: we look for {}, it is for {presented}",
                expected.to_str()
            )
        }
        CertificateError::NotValidForName => {
            "the broker's certificate is for another host name".to_owned()
        }
        other => format!("the broker's certificate is refused: {other}"),
    }
}

/// The name in `DnsName("a.example")` and the address in `IpAddress(192.0.2.1)`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, rest)| rest);
    inner.trim_end_matches(')').trim_matches('"')
}

/// What the other end holds against us.
fn alert(alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    let name = words(&format!("{alert:?}"));
    let hint = match alert {
        Alert::CertificateRequired
        | Alert::BadCertificate
        | Alert::NoCertificate
        | Alert::HandshakeFailure => {
            "; where it wants a client's certificate, name one that it trusts \
             (ssl.certificate.location, ssl.key.location)"
        }
        Alert::UnknownCA
        | Alert::CertificateUnknown
        | Alert::UnsupportedCertificate
        | Alert::AccessDenied => "; it does not trust our certificate (ssl.certificate.location)",
        Alert::CertificateExpired | Alert::CertificateRevoked => {
            "; our certificate is not valid any more (ssl.certificate.location)"
        }
        _ => "",
    };
    format!("the broker ends TLS with the alert \"{name}\"{hint}")
}

/// `CertificateRequired` as `certificate required`, `UnknownCA` as `unknown CA`.
fn words(name: &str) -> String {
    let mut words = String::new();
    let mut before = ' ';
    for letter in name.chars() {
        if letter.is_uppercase() && before.is_lowercase() {
            words.push(' ');
        }
        words.push(letter);
        before = letter;
    }
    let lower = |word: &str| match word {
        "CA" => word.to_owned(),
        word => word.to_lowercase(),
    };
    words.split(' ').map(lower).collect::<Vec<_>>().join(" ")
}

/// The day of a time, in UTC.
fn day(at: UnixTime) -> String {
    i64::try_from(at.as_secs())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .map_or_else(
            || "an unknown day".to_owned(),
            |time| time.date().to_string(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_are_named_as_people_name_them() {
        assert_eq!(words("CertificateRequired"), "certificate required");
        assert_eq!(words("UnknownCA"), "unknown CA");
        assert_eq!(words("HandshakeFailure"), "handshake failure");
    }

    #[test]
    fn names_are_shown_without_what_they_are() {
        assert_eq!(bare("DnsName(\"*.b.example\")"), "*.b.example");
        assert_eq!(bare("IpAddress(::1)"), "::1");
        assert_eq!(bare("a.example"), "a.example");
    }

    #[test]
    fn a_day_is_that_of_utc() {
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_580_515_199));
        assert_eq!(day(time), "2020-01-31");
    }
}
