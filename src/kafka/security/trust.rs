//! Whom we take for a broker.
//!
//! The rule: the handshake's signature is checked whatever else is not.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::kafka::settings::SettingsError;

/// The check of a broker's certificate.
#[derive(Debug)]
pub(super) struct Trust {
    provider: Arc<CryptoProvider>,
    check: Check,
}

#[derive(Debug)]
enum Check {
    /// None.
    Nothing,
    /// The chain up to one of `authorities`, and the name or not.
    Chain {
        verifier: Arc<WebPkiServerVerifier>,
        authorities: Vec<CertificateDer<'static>>,
        checks_name: bool,
    },
}

impl Trust {
    /// Trusts whom one of `authorities` has signed for, or who is one of them.
    pub(super) fn chain(
        authorities: Vec<CertificateDer<'static>>,
        checks_name: bool,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, SettingsError> {
        let mut roots = RootCertStore::empty();
        let (_, unusable) = roots.add_parsable_certificates(authorities.iter().cloned());
        if unusable > 0 {
            tracing::debug!("{unusable} certificates of authorities cannot be used");
        }
        let builder =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let verifier = builder.build().map_err(|_| SettingsError::Invalid {
            key: "ssl.ca.location".to_owned(),
            value: format!("{} certificates", authorities.len()),
            rule: "none of them can be used".to_owned(),
        })?;
        Ok(Self {
            provider: provider.clone(),
            check: Check::Chain {
                verifier,
                authorities,
                checks_name,
            },
        })
    }

    /// Trusts anybody.
    pub(super) fn anybody(provider: &Arc<CryptoProvider>) -> Self {
        Self {
            provider: provider.clone(),
            check: Check::Nothing,
        }
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Check::Chain {
            verifier,
            authorities,
            checks_name,
        } = &self.check
        else {
            return Ok(ServerCertVerified::assertion());
        };
        match verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // The name is looked at last: the chain holds.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !checks_name => Ok(ServerCertVerified::assertion()),
            // `openssl req -x509` makes an authority of a broker. It may be one where it is trusted itself;
            // its dates have been looked at first.
            Err(error) if is_authority(&error) && authorities.contains(end_entity) => {
                if *checks_name {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// Whether a certificate is refused only because it is that of an authority.
fn is_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else {
        return false;
    };
    other.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity)
}
