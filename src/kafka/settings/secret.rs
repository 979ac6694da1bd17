//! Which settings are secret, and how settings are shown without them.
//!
//! The rule: in doubt it is secret. A key is judged by its words too, so that a misspelt one gives
//! nothing away.

use std::fmt;

use super::{Settings, known};

/// What stands for a secret where settings are shown.
pub(super) const HIDDEN: &str = "[hidden]";

/// The secrets that may be read from a file with `@/path`.
const FROM_FILE: [&str; 5] = [
    "sasl.password",
    "ssl.key.password",
    "ssl.keystore.password",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.assertion.private.key.passphrase",
];

/// Words that make a key secret, whatever else it says.
const WORDS: [&str; 7] = [
    "password",
    "passphrase",
    "pasword",
    "passwd",
    "secret",
    "jaas",
    "private.key.pem",
];

/// Secrets whose names do not say so.
const OTHERS: [&str; 3] = ["ssl.key.pem", "sasl.oauthbearer.config", "ssl_key"];

fn canonical(key: &str) -> &str {
    known::find(key, None).map_or(key, |row| row.canonical.as_str())
}

pub(super) fn may_be_file(key: &str) -> bool {
    FROM_FILE.contains(&canonical(key))
}

pub(super) fn is_secret(key: &str) -> bool {
    let key = canonical(key).to_lowercase();
    WORDS.iter().any(|word| key.contains(word)) || OTHERS.contains(&key.as_str())
}

/// The value as it may be shown.
pub(super) fn shown(key: &str, value: &str) -> String {
    if is_secret(key) {
        return HIDDEN.to_owned();
    }
    value.to_owned()
}

/// A message about a setting, with its value taken out where that is secret.
pub(super) fn without(key: &str, value: &str, message: &str) -> String {
    if !is_secret(key) || value.is_empty() {
        return message.to_owned();
    }
    message.replace(value, HIDDEN)
}

/// A text of which nobody knows what is key and what is value: only the name of a setting at its
/// beginning is shown.
pub(super) fn hide_text(text: &str) -> String {
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c))
        .unwrap_or(text.len());
    let key = &text[..end];
    if known::find(key, None).is_some() {
        return key.to_owned();
    }
    HIDDEN.to_owned()
}

/// Settings as they may be shown: `{key: value, …}` in the order they were made.
#[derive(Clone, Copy)]
pub struct Redacted<'a>(pub(super) &'a Settings);

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (at, (key, value)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}'{key}': '{}'", shown(key, value))?;
        }
        f.write_str("}")
    }
}

impl<'a> Redacted<'a> {
    /// Every key as written, and its value as it may be shown.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, String)> {
        self.0.iter().map(|(key, value)| (key, shown(key, value)))
    }
}
