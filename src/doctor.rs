//! Says before a capture what would stop it or cost packets, and the command that mends it.
//!
//! The rule: looking changes nothing. A check fails only when capture would not start; what costs
//! packets or speed is a warning.

mod interface;
mod kafka;
mod report;
mod system;

use crate::cli::capture::Mode;
use crate::nic::Nic;
use crate::nic::offload;

pub use crate::doctor::report::{Check, Report, Status};

/// A topic and how to reach it.
#[derive(Clone)]
pub struct Kafka {
    /// librdkafka's settings, `bootstrap.servers` among them.
    pub settings: Vec<(String, String)>,
    /// The topic.
    pub topic: String,
}

/// Without the values of the settings: there are passwords among them.
impl std::fmt::Debug for Kafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys: Vec<_> = self.settings.iter().map(|(key, _)| key).collect();
        f.debug_struct("Kafka")
            .field("topic", &self.topic)
            .field("settings", &keys)
            .finish()
    }
}

/// What is to be looked at.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// Interfaces by name; empty for every one that is up, the loopback device aside.
    pub interfaces: Vec<String>,
    /// How they are to be captured from.
    pub mode: Mode,
    /// Where the packets are to go, if that is Kafka.
    pub kafka: Option<Kafka>,
}

/// Runs every check. Takes up to half a minute where a broker does not answer.
pub fn examine(question: &Question) -> Report {
    let mut report = Report::default();
    system::examine(question.mode, &mut report);
    let queues = examine_interfaces(question, &mut report);
    if let Some(kafka) = &question.kafka {
        kafka::examine(kafka, queues, &mut report);
    }
    report
}

/// Returns how many queues the named interfaces have together.
fn examine_interfaces(question: &Question, report: &mut Report) -> u32 {
    let names = &question.interfaces;
    if names.is_empty() {
        for nic in Nic::list().unwrap_or_default() {
            if nic.state().is_up() && !nic.is_loopback() {
                interface::examine(&nic, question.mode, report);
            }
        }
        return 0;
    }
    let mut queues = 0;
    for name in names {
        match Nic::find(name) {
            Ok(nic) => {
                interface::examine(&nic, question.mode, report);
                queues += nic.queues();
            }
            Err(error) => report.add(
                name,
                Check::fail("interface", error.to_string()).mend("ringtap capture -D"),
            ),
        }
    }
    queues
}

/// Switches on again what killed sensors left off on `interfaces` (all when empty) and says what was
/// done.
///
/// Those of other network namespaces are named and left.
pub fn restore(interfaces: &[String]) -> Report {
    let mut report = Report::default();
    for note in offload::left_over() {
        if !interfaces.is_empty() && !interfaces.contains(&note.interface) {
            continue;
        }
        let names = offload::names(&note.switched_off);
        let check = match offload::mend(&note) {
            Ok(()) => Check::ok("restore", format!("{names}: on again")),
            Err(error @ offload::OffloadError::Elsewhere { .. }) => {
                Check::warn("restore", format!("{names}: {error}"))
                    .mend("ip netns exec NAMESPACE ringtap doctor --restore")
            }
            Err(error) => Check::fail("restore", report::chain(&error)),
        };
        report.add(&note.interface, check);
    }
    if report.is_empty() {
        report.add(
            "system",
            Check::ok("restore", "nothing was left by a killed sensor"),
        );
    }
    report
}
