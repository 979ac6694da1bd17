//! What the tests through the binary share: a wire between namespaces, a running capture, its ledger.
//!
//! The rule: only what a user has is used: the program, its files, its exit code. Whatever a test makes,
//! it takes away when it ends, however it ends.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub(crate) mod broker;
pub(crate) mod producer;
pub(crate) mod records;
pub(crate) mod sensor;
pub(crate) mod wire;

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// The program.
pub(crate) const RINGTAP: &str = env!("CARGO_BIN_EXE_ringtap");

/// Runs the program to its end.
pub(crate) fn ringtap<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    Command::new(RINGTAP).args(arguments).output().unwrap()
}

/// The exit code; a panic where a signal ended it.
pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().expect("an end by itself")
}

/// What was written to standard error.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What was written to standard output.
pub(crate) fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a tool that must be installed and must succeed; returns what it printed.
pub(crate) fn run<S: AsRef<OsStr>>(tool: &str, arguments: impl IntoIterator<Item = S>) -> String {
    let mut command = Command::new(tool);
    command.args(arguments);
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{tool} must be installed: {error}"));
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    printed(&output)
}

/// Runs a tool whose arguments hold no spaces.
pub(crate) fn sh(line: &str) -> String {
    let mut words = line.split(' ');
    run(words.next().unwrap(), words)
}

/// Reads a JSON file.
pub(crate) fn json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap()
}

/// The sum of the numbers in an object.
pub(crate) fn sum(counts: &Value) -> u64 {
    let counts = counts.as_object().unwrap().values();
    counts.map(|count| count.as_u64().unwrap()).sum()
}

/// A number of a ledger, by its path, as in `/total/delivered`.
pub(crate) fn count(ledger: &Value, path: &str) -> u64 {
    let found = ledger.pointer(path).and_then(Value::as_u64);
    found.unwrap_or_else(|| panic!("no {path} in {ledger:#}"))
}

/// What `ringtap verify` says of a file, given how many frames of each stream were sent.
pub(crate) fn verify(file: &Path, sent: &Value) -> Value {
    let mut command = Command::new(RINGTAP);
    command.arg("verify").arg(file);
    for stream in sent["streams"].as_array().unwrap() {
        let expected = format!("{}={}", stream["stream"], stream["frames"]);
        command.args(["--expect", &expected]);
    }
    let output = command.output().unwrap();
    assert!(matches!(code(&output), 0 | 4), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The sum of one figure over the streams of a report.
pub(crate) fn over_streams(report: &Value, figure: &str) -> u64 {
    let streams = report["streams"].as_object().unwrap().values();
    streams.map(|stream| stream[figure].as_u64().unwrap()).sum()
}

/// Asserts that a report tells of nothing but frames that are missing, and returns how many those are.
pub(crate) fn sound(report: &Value) -> u64 {
    for figure in ["duplicated", "beyond"] {
        assert_eq!(over_streams(report, figure), 0, "{figure}: {report:#}");
    }
    assert_eq!(report["altered"], 0, "{report:#}");
    assert_eq!(report["foreign"], 0, "{report:#}");
    over_streams(report, "missing")
}

/// Asserts that every frame a ledger saw is in exactly one place.
pub(crate) fn balanced(ledger: &Value) {
    assert_eq!(ledger["balanced"], true, "{ledger:#}");
    assert_eq!(ledger["unaccounted"], 0, "{ledger:#}");
    let places = count(ledger, "/total/delivered")
        + count(ledger, "/total/unconfirmed")
        + count(ledger, "/failed/not_persisted")
        + count(ledger, "/failed/possibly_persisted")
        + sum(&ledger["dropped"])
        + sum(&ledger["aside"]);
    assert_eq!(count(ledger, "/total/seen"), places, "{ledger:#}");
}
