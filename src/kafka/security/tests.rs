use std::fs;

use super::issued::{Authority, Issued, params};
use super::*;

/// Security out of `key=value`s; `{}` in them is `folder`.
fn security(folder: &tempfile::TempDir, list: &[&str]) -> Result<Security, SettingsError> {
    let mut settings = Settings::new();
    let folder = folder.path().display().to_string();
    for text in ["security.protocol=SSL"].iter().chain(list) {
        settings.parse(&text.replace("{}", &folder)).unwrap();
    }
    Security::new(&settings)
}

/// A folder with a certificate, its key in both forms, and its authority.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("ours");
    let alice = authority.issue(&params(&["alice"]));
    let other = Issued::by_itself(&params(&["other"]));
    let locked = alice.locked_key_pem("hunter2");
    let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x\n\nAAAA\n";
    for (name, text) in [
        ("ca.pem", authority.pem().as_str()),
        ("alice.crt", &format!("{}{}", alice.pem(), authority.pem())),
        ("alice.key", &alice.key_pem()),
        ("locked.key", &format!("before\n{locked}after\n")),
        ("other.key", &other.key_pem()),
        ("old.key", old),
        ("empty", ""),
        ("cut.crt", &alice.pem()[..200]),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    fs::create_dir(folder.path().join("cas")).unwrap();
    fs::write(folder.path().join("cas/0a1b2c3d.0"), authority.pem()).unwrap();
    fs::write(folder.path().join("cas/README"), "not a certificate").unwrap();
    fs::create_dir(folder.path().join("none")).unwrap();
    folder
}

#[test]
fn a_protocol_is_taken_in_any_case_and_tells_what_is_needed() {
    let folder = folder();
    let ca = "ssl.ca.location={}/ca.pem";
    let user = [
        ca,
        "sasl.mechanism=PLAIN",
        "sasl.username=a",
        "sasl.password=b",
    ];
    for (protocol, tls, sasl) in [
        ("plaintext", false, false),
        ("SSL", true, false),
        ("Sasl_Plaintext", false, true),
        ("SASL_SSL", true, true),
    ] {
        let protocol = format!("security.protocol={protocol}");
        let list: Vec<_> = user.iter().copied().chain([protocol.as_str()]).collect();
        let security = security(&folder, &list).unwrap();
        assert_eq!(security.tls().is_some(), tls, "{protocol}");
        assert_eq!(security.sasl().is_some(), sasl, "{protocol}");
    }
}

#[test]
fn certificates_and_keys_are_taken_from_files_folders_and_settings() {
    let folder = folder();
    let file = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let ca = format!("ssl.ca.pem={}", file("ca.pem"));
    let crt = format!("ssl.certificate.pem={}", file("alice.crt"));
    let key = format!("ssl.key.pem={}", file("alice.key"));
    for list in [
        vec!["ssl.ca.location={}/ca.pem"],
        vec!["ssl.ca.location={}/cas"],
        vec![&ca],
        vec![&ca, "ssl.ca.location=probe"],
        vec![&ca, &crt, &key],
        vec![
            &ca,
            "ssl.certificate.location={}/alice.crt",
            "ssl.key.location={}/alice.key",
            "ssl.key.password=not needed",
        ],
        vec![
            &ca,
            "ssl.certificate.location={}/alice.crt",
            "ssl.key.location={}/locked.key",
            "ssl.key.password=hunter2",
        ],
    ] {
        let security = security(&folder, &list).unwrap();
        let tls = security.tls().unwrap();
        let has_key = list.iter().any(|text| text.starts_with("ssl.key"));
        assert_eq!(
            tls.client_auth_cert_resolver.has_certs(),
            has_key,
            "{list:?}"
        );
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_its_setting_and_without_its_secret() {
    let folder = folder();
    let crt = "ssl.certificate.location={}/alice.crt";
    let cases: [(&[&str], &[&str]); 13] = [
        (&["ssl.ca.location={}/no"], &["ssl.ca.location", "/no"]),
        (
            &["ssl.ca.location={}/empty"],
            &["ssl.ca.location", "no certificate"],
        ),
        (
            &["ssl.ca.location={}/none"],
            &["ssl.ca.location", "no file in it"],
        ),
        (&["ssl.ca.location={}/cut.crt"], &["ssl.ca.location", "PEM"]),
        (&["ssl.ca.pem=hello"], &["ssl.ca.pem", "no certificate"]),
        (
            &[crt],
            &["ssl.key.location is missing", "ssl.certificate.location"],
        ),
        (
            &["ssl.key.location={}/alice.key"],
            &["ssl.certificate.location is missing"],
        ),
        (&[crt, "ssl.key.location={}/empty"], &["no private key"]),
        (
            &[crt, "ssl.key.location={}/other.key"],
            &["not the key of our certificate"],
        ),
        (
            &[crt, "ssl.key.location={}/old.key"],
            &["openssl pkcs8 -topk8"],
        ),
        (
            &[crt, "ssl.key.location={}/locked.key"],
            &["ssl.key.password is missing"],
        ),
        (
            &[
                crt,
                "ssl.key.location={}/locked.key",
                "ssl.key.password=hunter3",
            ],
            &["locked.key", "ssl.key.password does not open it"],
        ),
        (
            &["security.protocol=sasl_ssl", "sasl.password=hunter3"],
            &["sasl.mechanisms=GSSAPI", "SCRAM-SHA-256"],
        ),
    ];
    for (list, parts) in cases {
        let with_ca = ["ssl.ca.location={}/ca.pem"];
        let list: Vec<_> = with_ca.iter().chain(list).copied().collect();
        let text = security(&folder, &list).unwrap_err().to_string();
        for part in parts {
            assert!(text.contains(part), "{list:?}: {text}");
        }
        assert!(!text.contains("hunter"), "{text}");
        assert!(!text.contains("PRIVATE"), "{text}");
    }
}

#[test]
fn what_is_secret_is_not_in_the_debug_form() {
    let folder = folder();
    let list = [
        "security.protocol=sasl_ssl",
        "ssl.ca.location={}/ca.pem",
        "sasl.mechanism=SCRAM-SHA-256",
        "sasl.username=alice",
        "sasl.password=hunter2",
    ];
    let shown = format!("{:?}", security(&folder, &list).unwrap());
    assert!(shown.contains("SCRAM-SHA-256"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}
