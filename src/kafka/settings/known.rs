//! The settings that the librdkafka in this binary knows, as it tells them itself.
//!
//! The rule: the list is asked for, never written down here, so that it cannot go stale.

#![allow(unsafe_code)] // The table is only to be had through a C stream.

use std::ffi::CStr;
use std::ptr;
use std::sync::OnceLock;

/// One row of librdkafka's table of settings.
#[derive(Debug)]
pub(super) struct Known {
    /// The name of this row: its own, or an alias.
    pub name: String,
    /// The name that an alias stands for; for all others, their own.
    pub canonical: String,
    /// Whether it belongs to a topic and not to the client.
    pub topic: bool,
    /// What may be written for it.
    pub kind: Kind,
}

/// What may be written for a setting, as far as librdkafka itself is too lenient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole number in a range, or one of a few words.
    Integer {
        /// The least and the greatest value.
        range: (i64, i64),
    },
    /// Nothing: it is a function or an object that only a program can give.
    Callback,
    /// Checked by librdkafka.
    Other,
}

/// Every setting and every alias; those of the client before those of a topic.
pub(super) fn known() -> &'static [Known] {
    static KNOWN: OnceLock<Vec<Known>> = OnceLock::new();
    KNOWN.get_or_init(|| parse(&table()))
}

/// The row of `name`: the client's where both have one, as librdkafka looks it up.
pub(super) fn find(name: &str, topic: Option<bool>) -> Option<&'static Known> {
    known()
        .iter()
        .find(|row| row.name == name && topic.is_none_or(|topic| row.topic == topic))
}

/// The name nearest to `name`, if one is near enough to be meant.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    /// Below this, a suggestion misleads more often than it helps.
    const ENOUGH: f64 = 0.85;
    known()
        .iter()
        .filter(|row| row.kind != Kind::Callback)
        .map(|row| (strsim::jaro_winkler(&row.name, name), row.name.as_str()))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness >= ENOUGH)
        .map(|(_, name)| name)
}

fn parse(table: &str) -> Vec<Known> {
    let mut topic = false;
    let mut rows = Vec::new();
    for line in table.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            topic = title.starts_with("Topic");
            continue;
        }
        let mut columns = line.splitn(6, '|').map(str::trim);
        let (Some(name), Some(range), Some(text)) =
            (columns.next(), columns.nth(1), columns.nth(2))
        else {
            continue;
        };
        if name == "Property" || name.starts_with("---") {
            continue;
        }
        let canonical = text
            .split_once("Alias for `")
            .and_then(|(_, rest)| rest.split_once('`'))
            .map_or(name, |(canonical, _)| canonical);
        rows.push(Known {
            name: name.to_owned(),
            canonical: canonical.to_owned(),
            topic,
            kind: kind(range, text),
        });
    }
    rows
}

fn kind(range: &str, text: &str) -> Kind {
    if text.ends_with("*Type: see dedicated API*") {
        return Kind::Callback;
    }
    let limits = range
        .split_once(" .. ")
        .and_then(|(min, max)| Some((min.parse().ok()?, max.parse().ok()?)));
    match limits {
        Some(range) if text.ends_with("*Type: integer*") => Kind::Integer { range },
        _ => Kind::Other,
    }
}

/// The table that librdkafka prints: Markdown, one row for each setting.
fn table() -> String {
    let mut bytes: *mut libc::c_char = ptr::null_mut();
    let mut len = 0;
    // SAFETY: both pointers are to locals that outlive the stream, which is closed below.
    let stream = unsafe { libc::open_memstream(&raw mut bytes, &raw mut len) };
    if stream.is_null() {
        return String::new();
    }
    // SAFETY: the stream was opened above and is not closed yet.
    unsafe { rdkafka_sys::rd_kafka_conf_properties_show(stream.cast()) };
    // SAFETY: the stream was opened above, and nobody else holds it.
    unsafe { libc::fclose(stream) };
    // SAFETY: closing the stream stored a terminated string of its own at `bytes`.
    let table = unsafe { CStr::from_ptr(bytes) };
    let table = table.to_string_lossy().into_owned();
    // SAFETY: the string was allocated by the stream for us to free, and `table` is a copy.
    unsafe { libc::free(bytes.cast()) };
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_kind_of_row() {
        assert!(known().len() > 150, "{}", known().len());
        let acks = find("acks", None).unwrap();
        assert_eq!(acks.canonical, "request.required.acks");
        assert!(acks.topic);
        assert_eq!(acks.kind, Kind::Integer { range: (-1, 1_000) });
        assert_eq!(find("dr_msg_cb", None).unwrap().kind, Kind::Callback);
        assert!(!find("compression.codec", None).unwrap().topic);
        assert!(find("compression.codec", Some(true)).unwrap().topic);
        for row in known() {
            assert!(find(&row.canonical, Some(row.topic)).is_some(), "{row:?}");
        }
    }

    #[test]
    fn a_slip_of_the_pen_finds_the_name_that_was_meant() {
        assert_eq!(nearest("bootstrap.server"), Some("bootstrap.servers"));
        assert_eq!(nearest("lingr.ms"), Some("linger.ms"));
        assert_eq!(nearest("sasl.pasword"), Some("sasl.password"));
        assert_eq!(nearest("zzz"), None);
    }
}
