//! Certificates and keys, out of files and settings in PEM form.
//!
//! The rule: what cannot be used is refused with the setting that names it; of a key nothing is shown.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pkcs8::{EncryptedPrivateKeyInfo, SecretDocument, pkcs5};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::kafka::settings::{Settings, SettingsError};

const CA_FILE: &str = "ssl.ca.location";
const CA_TEXT: &str = "ssl.ca.pem";
const CERTIFICATE_FILE: &str = "ssl.certificate.location";
const CERTIFICATE_TEXT: &str = "ssl.certificate.pem";
const KEY_FILE: &str = "ssl.key.location";
const KEY_TEXT: &str = "ssl.key.pem";
const KEY_PASSWORD: &str = "ssl.key.password";

/// What stands for a PEM text where a setting is shown.
const TEXT: &str = "[a text]";

/// Our own certificate with its chain, and its key.
pub(super) struct Ours {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    /// The setting that the key comes from, and what may be shown of its value.
    pub(super) key_from: (String, String),
}

/// The certificates that are trusted: those of the settings, else the system's.
pub(super) fn authorities(
    settings: &Settings,
) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let mut all = Vec::new();
    if let Some(text) = settings.get(CA_TEXT) {
        all.extend(certificates(CA_TEXT, TEXT, text.as_bytes())?);
    }
    match settings.get(CA_FILE) {
        Some("probe") | None if all.is_empty() => return system(),
        Some("probe") | None => {}
        Some(path) if Path::new(path).is_dir() => all.extend(folder(Path::new(path))?),
        Some(path) => all.extend(certificates(CA_FILE, path, &read(CA_FILE, path)?)?),
    }
    Ok(all)
}

/// Our certificate, where one is named.
pub(super) fn ours(settings: &Settings) -> Result<Option<Ours>, SettingsError> {
    let certificate = source(settings, CERTIFICATE_FILE, CERTIFICATE_TEXT)?;
    let key = source(settings, KEY_FILE, KEY_TEXT)?;
    let (certificate, key) = match (certificate, key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(certificate), None) => {
            return Err(SettingsError::Missing {
                key: KEY_FILE,
                needs: format!("{}={}", certificate.key, certificate.shown),
            });
        }
        (None, Some(key)) => {
            return Err(SettingsError::Missing {
                key: CERTIFICATE_FILE,
                needs: format!("{}={}", key.key, key.shown),
            });
        }
    };
    Ok(Some(Ours {
        chain: certificates(certificate.key, &certificate.shown, &certificate.bytes)?,
        key: private_key(&key, settings.get(KEY_PASSWORD))?,
        key_from: (key.key.to_owned(), key.shown),
    }))
}

/// A PEM text, and where it comes from.
struct Source {
    key: &'static str,
    shown: String,
    bytes: Vec<u8>,
}

/// The text of the one setting, or of the file that the other names.
fn source(
    settings: &Settings,
    file: &'static str,
    text: &'static str,
) -> Result<Option<Source>, SettingsError> {
    if let Some(bytes) = settings.get(text) {
        return Ok(Some(Source {
            key: text,
            shown: TEXT.to_owned(),
            bytes: bytes.into(),
        }));
    }
    let Some(path) = settings.get(file) else {
        return Ok(None);
    };
    Ok(Some(Source {
        key: file,
        shown: path.to_owned(),
        bytes: read(file, path)?,
    }))
}

fn read(key: &str, path: impl AsRef<Path>) -> Result<Vec<u8>, SettingsError> {
    fs::read(&path).map_err(|source| SettingsError::File {
        what: key.to_owned(),
        path: path.as_ref().to_owned(),
        source,
    })
}

fn invalid(key: &str, shown: &str, rule: impl Into<String>) -> SettingsError {
    SettingsError::Invalid {
        key: key.to_owned(),
        value: shown.to_owned(),
        rule: rule.into(),
    }
}

/// Every certificate of a text; there must be one.
fn certificates(
    key: &str,
    shown: &str,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match list {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(invalid(key, shown, "it holds no certificate in PEM form")),
        Err(error) => Err(invalid(key, shown, format!("it is not PEM: {error}"))),
    }
}

/// Every certificate of the files of a folder, whatever their names.
fn folder(path: &Path) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let unreadable = |path: PathBuf, source: io::Error| SettingsError::File {
        what: CA_FILE.to_owned(),
        path,
        source,
    };
    let entries = fs::read_dir(path).map_err(|error| unreadable(path.to_owned(), error))?;
    let mut all = Vec::new();
    for entry in entries {
        let file = entry
            .map_err(|error| unreadable(path.to_owned(), error))?
            .path();
        if file.is_file() {
            let bytes = read(CA_FILE, &file)?;
            all.extend(CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok));
        }
    }
    if all.is_empty() {
        let shown = path.display().to_string();
        return Err(invalid(
            CA_FILE,
            &shown,
            "no file in it holds a certificate in PEM form",
        ));
    }
    Ok(all)
}

/// What the system trusts.
fn system() -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        return Err(invalid(
            CA_FILE,
            "probe",
            "the system has no certificates of authorities (package ca-certificates); name a file",
        ));
    }
    Ok(found.certs)
}

/// The key of a text, opened with the password where it is locked.
fn private_key(
    source: &Source,
    password: Option<&str>,
) -> Result<PrivateKeyDer<'static>, SettingsError> {
    let refuse = |rule: &str| invalid(source.key, &source.shown, rule);
    let text = str::from_utf8(&source.bytes).map_err(|_| refuse("it is not PEM"))?;
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(refuse(
            "it is encrypted in OpenSSL's old form; convert it with: openssl pkcs8 -topk8 -in OLD -out NEW",
        ));
    }
    let Some(locked) = locked(text) else {
        return PrivateKeyDer::from_pem_slice(&source.bytes)
            .map_err(|_| refuse("it holds no private key in PEM form"));
    };
    let password = password.ok_or_else(|| SettingsError::Missing {
        key: KEY_PASSWORD,
        needs: format!("{}={}", source.key, source.shown),
    })?;
    let (_, document) =
        SecretDocument::from_pem(locked).map_err(|_| refuse("its PEM form is damaged"))?;
    let opened = EncryptedPrivateKeyInfo::try_from(document.as_bytes())
        .and_then(|info| info.decrypt(password));
    match opened {
        Ok(key) => Ok(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into()),
        // With a wrong password, the padding or what is under it makes no sense.
        Err(
            pkcs8::Error::EncryptedPrivateKey(
                pkcs5::Error::DecryptFailed | pkcs5::Error::EncryptFailed,
            )
            | pkcs8::Error::Asn1(_),
        ) => Err(refuse("ssl.key.password does not open it")),
        Err(_) => Err(refuse(
            "it is encrypted in a way that is not known here; convert it with: \
             openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW",
        )),
    }
}

/// The part of a PEM text that is a locked key.
fn locked(text: &str) -> Option<&str> {
    const BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
    const END: &str = "-----END ENCRYPTED PRIVATE KEY-----";
    let begin = text.find(BEGIN)?;
    let end = begin + text[begin..].find(END)?;
    Some(&text[begin..end + END.len()])
}
