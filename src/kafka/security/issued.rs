//! Certificates for tests, and the server that shows them.

use std::sync::Arc;

use pkcs8::pkcs5::pbes2;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

/// Somebody who signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = params(&[]);
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn issue(&self, params: &CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Issued::new(certificate.der(), key)
    }
}

/// What a certificate is for: the host names.
pub(crate) fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).unwrap()
}

/// A certificate and its key.
pub(crate) struct Issued {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Issued {
    fn new(certificate: &CertificateDer<'static>, key: KeyPair) -> Self {
        Self {
            certificate: certificate.clone(),
            key,
        }
    }

    pub(crate) fn by_itself(params: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        Self::new(params.self_signed(&key).unwrap().der(), key)
    }

    pub(crate) fn pem(&self) -> String {
        let bytes = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            &self.certificate,
        );
        let lines: Vec<_> = bytes.as_bytes().chunks(64).map(str::from_utf8).collect();
        let lines: Result<Vec<_>, _> = lines.into_iter().collect();
        let lines = lines.unwrap().join("\n");
        format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n")
    }

    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The key under a password.
    pub(crate) fn locked_key_pem(&self, password: &str) -> String {
        let key = self.key.serialize_der();
        let info = pkcs8::PrivateKeyInfo::try_from(key.as_slice()).unwrap();
        let (salt, iv) = ([7; 16], [9; 16]);
        let how = pbes2::Parameters::pbkdf2_sha256_aes256cbc(2_048, &salt, &iv).unwrap();
        let locked = info.encrypt_with_params(how, password).unwrap();
        let ending = pkcs8::LineEnding::LF;
        let pem = locked.to_pem("ENCRYPTED PRIVATE KEY", ending);
        pem.unwrap().as_str().to_owned()
    }

    /// A server that shows this certificate, and asks for one of `clients` where there are any.
    pub(crate) fn server(
        &self,
        version: &'static SupportedProtocolVersion,
        clients: Option<&Authority>,
    ) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.0.der().clone()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = self.key.serialize_der().try_into().unwrap();
        let config = builder.with_single_cert(vec![self.certificate.clone()], key);
        Arc::new(config.unwrap())
    }
}
