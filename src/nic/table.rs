//! The list of interfaces for people (`ringtap capture -D`).
//!
//! The rule: no line is longer than 80 columns, unless one word is.

use std::fmt::Write as _;

use crate::nic::{Nic, NicError, XdpFeatures};

const WIDTH: usize = 80;

/// Every interface with driver, state, receive queues, MTU, XDP modes and addresses, and what
/// `--mode auto` would choose for it and why.
pub fn list_table() -> Result<String, NicError> {
    let mut out = String::new();
    row(
        &mut out,
        ["interface", "driver", "state", "queues", "mtu", "xdp"],
    );
    for nic in Nic::list()? {
        describe(&mut out, &nic);
    }
    Ok(out)
}

fn describe(out: &mut String, nic: &Nic) {
    row(
        out,
        [
            nic.name(),
            nic.driver().unwrap_or("-"),
            nic.state().name(),
            &nic.queues().to_string(),
            &nic.mtu().to_string(),
            modes(nic.xdp_features()),
        ],
    );
    let line = |out: &mut String, text: &str| out.push_str(&wrap(text, 4, 6));
    if !nic.alternative_names().is_empty() {
        line(
            out,
            &format!("also: {}", nic.alternative_names().join(", ")),
        );
    }
    let addresses: Vec<_> = nic
        .all_addresses()
        .iter()
        .map(ToString::to_string)
        .collect();
    if !addresses.is_empty() {
        line(out, &format!("addresses: {}", addresses.join(", ")));
    }
    line(out, &format!("auto: {}", auto(nic)));
}

fn auto(nic: &Nic) -> String {
    match nic.capture_only().and_then(|()| nic.free_for_xdp()) {
        Ok(()) => "xdp (no address, no master, nothing on top)".to_owned(),
        Err(reason) => format!("pcap ({reason})"),
    }
}

/// In generic mode any Ethernet interface takes a program.
fn modes(features: Option<XdpFeatures>) -> &'static str {
    match features {
        Some(it) if it.zero_copy => "zero-copy native generic",
        Some(it) if it.native => "native generic",
        Some(_) => "generic",
        None => "generic, native unknown",
    }
}

fn row(out: &mut String, cells: [&str; 6]) {
    let [name, driver, state, queues, mtu, modes] = cells;
    let line = format!("{name:<16}{driver:<13}{state:<11}{queues:>6} {mtu:>6}  {modes}");
    writeln!(out, "{}", line.trim_end()).expect("a string takes what is written to it");
}

/// `text` in lines of at most 80 columns, the first indented by `first` and the others by `rest`
/// spaces; a word longer than a line gets one of its own.
pub(crate) fn wrap(text: &str, first: usize, rest: usize) -> String {
    let mut out = String::new();
    let mut line = " ".repeat(first);
    let mut bare = true;
    for word in text.split_whitespace() {
        if !bare && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = " ".repeat(rest);
            bare = true;
        }
        if !bare {
            line.push(' ');
        }
        line.push_str(word);
        bare = false;
    }
    out.push_str(&line);
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_every_interface_within_80_columns() {
        let table = list_table().unwrap();
        assert!(table.starts_with("interface "));
        assert!(table.lines().any(|line| line.starts_with("lo ")));
        assert!(table.contains("auto: pcap (lo has the address 127.0.0.1)"));
        for line in table.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }

    #[test]
    fn wrapped_text_keeps_every_word() {
        let text = "fe80::1 ".repeat(40) + &"x".repeat(90);
        let wrapped = wrap(&text, 4, 6);
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(words(&wrapped), words(&text));
        assert!(
            wrapped
                .lines()
                .all(|line| line.len() <= WIDTH || line.trim().len() == 90)
        );
        assert!(wrapped.starts_with("    fe80") && wrapped.contains("\n      fe80"));
    }
}
