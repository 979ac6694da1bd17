//! What the checks found, as a table for people and as JSON.
//!
//! The rule: the table is aligned, 80 columns wide, and says the same without colour.

use std::error::Error;
use std::fmt::Write as _;

use serde::Serialize;

use crate::nic::table::wrap;

/// Where the findings begin, in columns: 2, the status, the name of the check.
const FINDINGS: usize = 25;

/// Where the commands begin: far enough left that the longest of ours stays on one line.
const MEND: usize = 6;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Capture starts, and this costs packets, speed, or the better mode.
    Warn,
    /// Capture would not start.
    Fail,
}

impl Status {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }

    /// The escape sequence of its colour: green, yellow, red.
    fn colour(self) -> &'static str {
        match self {
            Self::Ok => "\x1b[32m",
            Self::Warn => "\x1b[33m",
            Self::Fail => "\x1b[31m",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was looked at, as `memlock`; at most 16 characters.
    pub name: &'static str,
    /// How it ended.
    pub status: Status,
    /// What was found, in words.
    pub finding: String,
    /// The command that mends it.
    pub mend: Option<String>,
}

impl Check {
    pub(crate) fn ok(name: &'static str, finding: impl Into<String>) -> Self {
        Self::new(name, Status::Ok, finding.into())
    }

    pub(crate) fn warn(name: &'static str, finding: impl Into<String>) -> Self {
        Self::new(name, Status::Warn, finding.into())
    }

    pub(crate) fn fail(name: &'static str, finding: impl Into<String>) -> Self {
        Self::new(name, Status::Fail, finding.into())
    }

    /// Adds the command that mends it.
    pub(crate) fn mend(mut self, command: impl Into<String>) -> Self {
        self.mend = Some(command.into());
        self
    }

    fn new(name: &'static str, status: Status, finding: String) -> Self {
        Self {
            name,
            status,
            finding,
            mend: None,
        }
    }
}

#[derive(Clone, Debug, Serialize)]
struct Subject {
    subject: String,
    checks: Vec<Check>,
}

/// All that was looked at, grouped by what it is about.
#[derive(Clone, Debug, Default)]
pub struct Report(Vec<Subject>);

impl Report {
    /// Whether capture would start: no check failed.
    pub fn would_start(&self) -> bool {
        self.checks().all(|check| check.status != Status::Fail)
    }

    /// Every check, in the order it was made.
    pub fn checks(&self) -> impl Iterator<Item = &Check> {
        self.0.iter().flat_map(|subject| &subject.checks)
    }

    /// The check `name` about `subject` (`system`, `kafka`, or an interface).
    pub fn check(&self, subject: &str, name: &str) -> Option<&Check> {
        let subject = self.0.iter().find(|it| it.subject == subject)?;
        subject.checks.iter().find(|check| check.name == name)
    }

    /// Whether nothing was looked at.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn add(&mut self, subject: &str, check: Check) {
        match self.0.last_mut() {
            Some(last) if last.subject == subject => last.checks.push(check),
            _ => self.0.push(Subject {
                subject: subject.to_owned(),
                checks: vec![check],
            }),
        }
    }

    /// The table; `colour` for a terminal.
    pub fn table(&self, colour: bool) -> String {
        let mut out = String::new();
        for subject in &self.0 {
            out.push_str(&subject.subject);
            out.push('\n');
            for check in &subject.checks {
                row(&mut out, check, colour);
            }
        }
        out
    }

    /// The closing line: whether capture would start, and how many checks ended badly.
    pub fn verdict(&self) -> String {
        let count = |status| self.checks().filter(|check| check.status == status).count();
        let (warned, failed) = (count(Status::Warn), count(Status::Fail));
        let not = if failed == 0 { "" } else { " not" };
        format!("capture would{not} start ({failed} fail, {warned} warn)")
    }

    /// The same as JSON: `would_start`, and `subjects` with their `checks`.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({ "would_start": self.would_start(), "subjects": self.0 })
    }
}

/// The first line of the finding stands beside the name, which fills the indent.
fn row(out: &mut String, check: &Check, colour: bool) {
    let status = check.status.name();
    let finding = wrap(&check.finding, FINDINGS, FINDINGS);
    let head = format!("  {status:<5} {:<16}", check.name);
    let head = if colour {
        head.replacen(
            status,
            &format!("{}{status}\x1b[0m", check.status.colour()),
            1,
        )
    } else {
        head
    };
    let rest = finding.get(FINDINGS..).unwrap_or_default();
    write!(out, "{head} {rest}").expect("a string takes what is written to it");
    if let Some(mend) = &check.mend {
        out.push_str(&wrap(&format!("mend: {mend}"), MEND, MEND + 6));
    }
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        report.add("system", Check::ok("kernel", "6.18.44"));
        let long = "a finding that goes on ".repeat(9);
        report.add(
            "system",
            Check::warn("memlock", long).mend("ulimit -l unlimited"),
        );
        report.add("eth0", Check::fail("irq affinity", "nobody serves it"));
        report
    }

    #[test]
    fn the_table_is_aligned_and_80_columns_wide() {
        let table = report().table(false);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines[0], "system");
        assert_eq!(lines[1], "  ok    kernel           6.18.44");
        assert!(lines[2].starts_with("  warn  memlock          a finding"));
        assert!(lines[3].starts_with("                         "));
        assert!(lines.contains(&"      mend: ulimit -l unlimited"));
        assert!(lines.contains(&"  fail  irq affinity     nobody serves it"));
        assert!(lines.iter().all(|line| line.len() <= 80), "{table}");
        let verdict = "capture would not start (1 fail, 1 warn)";
        assert_eq!(report().verdict(), verdict);
    }

    #[test]
    fn colour_changes_nothing_but_the_status() {
        let report = report();
        let plain = report.table(true).replace("\x1b[0m", "");
        let plain = ["\x1b[31m", "\x1b[32m", "\x1b[33m"]
            .iter()
            .fold(plain, |text, colour| text.replace(colour, ""));
        assert_eq!(plain, report.table(false));
    }

    #[test]
    fn json_says_whether_capture_would_start() {
        let json = report().json();
        assert_eq!(json["would_start"], false);
        assert_eq!(json["subjects"][1]["subject"], "eth0");
        assert_eq!(json["subjects"][0]["checks"][1]["status"], "warn");
        assert_eq!(
            json["subjects"][0]["checks"][1]["mend"],
            "ulimit -l unlimited"
        );
    }
}
