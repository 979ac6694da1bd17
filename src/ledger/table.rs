//! The ledger as a table for people.
//!
//! The rule: every row adds up, `in = queued + out + aside + drops`, and `out` of a row is `in` of
//! the next; where it is not, a line below says how many packets are in no place. No line is longer
//! than 80 columns, with counts up to 10^12.

use std::fmt::Write;

use super::{InterfaceLine, Ledger, Mode, Phase, QueueLine, SinkKind};

/// The width of the terminal that every line fits.
const WIDTH: usize = 80;
const HEADS: [&str; 5] = ["in", "queued", "out", "aside", "drops"];

struct Row {
    label: &'static str,
    cells: [Option<u64>; 5],
}

enum Line {
    Title(String),
    Row(Row),
}

impl Ledger {
    /// The table, the reasons in words below it, and closing lines in the manner of tcpdump.
    pub fn table(&self) -> String {
        let lines = self.lines();
        let mut grouping = true;
        let mut width = column(&lines, grouping);
        if 7 + HEADS.len() * (width + 1) > WIDTH {
            grouping = false;
            width = column(&lines, grouping);
        }
        let mut text = format!("{:7}", "");
        for head in HEADS {
            let _ = write!(text, " {head:>width$}");
        }
        text.push('\n');
        for line in lines {
            match line {
                Line::Title(title) => text.push_str(&cut(&title)),
                Line::Row(row) => {
                    let _ = write!(text, "{:7}", format!("[{}]", row.label));
                    for cell in row.cells {
                        let cell = cell.map_or_else(|| "-".to_owned(), |n| number(n, grouping));
                        let _ = write!(text, " {cell:>width$}");
                    }
                }
            }
            text.push('\n');
        }
        self.reasons(&mut text);
        self.closing(&mut text);
        text
    }

    fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        for (number, interface) in self.interfaces.iter().enumerate() {
            lines.push(Line::Title(title(interface)));
            let queues: Vec<_> = self.queues.iter().filter(|q| q.number == number).collect();
            let rows = rows(interface, &queues, self.phase);
            lines.extend(rows.into_iter().map(Line::Row));
        }
        let mut sink = match self.destination.as_str() {
            "" => format!("to {}", self.sink.name()),
            destination => format!("to {} {destination}", self.sink.name()),
        };
        let (wire, raw) = (self.total.published_bytes, self.total.published_raw_bytes);
        if raw > wire {
            // A thousandth is enough for people.
            let hundredths = raw.saturating_mul(100) / wire.max(1);
            let (whole, part) = (hundredths / 100, hundredths % 100);
            let _ = write!(sink, ", compressed {whole}.{part:02} times");
        }
        lines.push(Line::Title(sink));
        let total = &self.total;
        let shed = self.dropped.get("shed");
        let answered = total.delivered + total.unconfirmed;
        let failed = self.failed.not_persisted + self.failed.possibly_persisted;
        let under_way = |entered: u64, left: u64| match self.phase {
            Phase::Running => entered.saturating_sub(left),
            Phase::Drained => 0,
        };
        let mut row = |label, entered, out, drops| {
            let queued = under_way(entered, out + drops);
            let cells = [entered, queued, out, 0, drops].map(Some);
            lines.push(Line::Row(Row { label, cells }));
        };
        row("pub", total.batched, total.published, shed);
        let label = match self.sink {
            SinkKind::Kafka | SinkKind::Librdkafka => "kaf",
            SinkKind::File => "file",
            SinkKind::Discard => "disc",
        };
        row(label, total.published, answered, failed);
        lines
    }

    /// Every count that is not 0, in words; then what is in no place.
    fn reasons(&self, text: &mut String) {
        let failed = self.failed.reasons.0.iter().copied();
        let possible = ("possibly_persisted", self.failed.possibly_persisted);
        let parts = self.dropped.0.iter().copied();
        let parts = parts.chain(failed).chain([possible]);
        let parts = parts.chain(self.aside.0.iter().copied());
        let parts = parts.chain(self.remarks.0.iter().copied());
        let told: Vec<_> = parts.filter(|(_, count)| *count > 0).collect();
        let digits = told.iter().map(|(_, count)| number(*count, true).len());
        let width = digits.max().unwrap_or(0);
        for (name, count) in told {
            let (count, words) = (number(count, true), words(name));
            let _ = writeln!(text, "  {count:>width$} {name:18}  {words}");
        }
        for equation in self
            .equations
            .iter()
            .filter(|equation| equation.unaccounted > 0)
        {
            let count = number(equation.unaccounted, true);
            let side = match equation.residual {
                ..0 => "too many",
                _ => "missing",
            };
            let _ = writeln!(
                text,
                "  {count} unaccounted for: {side} after {}",
                equation.of
            );
            text.push_str(&cut(&format!(
                "    at {} (equation {})",
                equation.at, equation.number
            )));
            text.push('\n');
        }
    }

    fn closing(&self, text: &mut String) {
        let kernel = self.queues.iter().map(|queue| {
            let counts = &queue.counts;
            counts.kernel_drops() - counts.pcap_if_dropped + counts.xdp_aborted
        });
        let seen = self.queues.iter().map(|queue| match self.is_xdp(queue) {
            true => queue.seen(true) + queue.ahead(self.phase),
            false => queue.seen(false) - queue.counts.pcap_if_dropped,
        });
        let card = self
            .queues
            .iter()
            .map(|queue| queue.counts.pcap_if_dropped)
            .sum();
        let missed = self
            .interfaces
            .iter()
            .filter_map(|interface| interface.driver);
        let missed: u64 = missed.map(|driver| driver.missed).sum();
        let mut say = |count: u64, what: &str| {
            let packets = if count == 1 { "packet" } else { "packets" };
            let _ = writeln!(text, "{count} {packets} {what}");
        };
        say(self.total.batched, "captured");
        say(seen.sum(), "received by filter");
        say(kernel.sum(), "dropped by kernel");
        if card > 0 || missed > 0 {
            say(missed.max(card), "dropped by interface");
        }
    }
}

/// The rows of one interface.
fn rows(interface: &InterfaceLine, queues: &[&QueueLine], phase: Phase) -> Vec<Row> {
    let sum = |count: &dyn Fn(&QueueLine) -> u64| queues.iter().map(|queue| count(queue)).sum();
    let mut rows = Vec::new();
    if let Some(driver) = interface.driver {
        let (received, missed) = (driver.received, driver.missed);
        rows.push(Row {
            label: "nic",
            cells: [
                Some(received + missed),
                None,
                Some(received),
                None,
                Some(missed),
            ],
        });
    }
    if interface.entry.mode == Mode::Xdp {
        let passed = |queue: &QueueLine| queue.counts.xdp_passed + queue.counts.xdp_filtered;
        rows.push(Row {
            label: "xdp",
            cells: [
                Some(sum(&|queue| queue.seen(true) + queue.ahead(phase))),
                None,
                Some(sum(&|queue| {
                    queue.counts.xdp_redirected + queue.ahead(phase)
                })),
                Some(sum(&passed)),
                Some(sum(&|queue| queue.counts.xdp_aborted)),
            ],
        });
    }
    let label = match interface.entry.mode {
        Mode::Xdp => "xsk",
        Mode::Pcap => "pcap",
        Mode::File => "read",
        Mode::Synthetic => "made",
    };
    let lost = |queue: &QueueLine| queue.counts.kernel_drops() + queue.counts.rejections();
    let aside = |queue: &QueueLine| queue.counts.filtered + queue.counts.over_count;
    let entered: u64 = sum(&|queue| queue.seen(false));
    let out: u64 = sum(&|queue| queue.counts.batched);
    let (aside, lost): (u64, u64) = (sum(&aside), sum(&lost));
    let queued = match phase {
        Phase::Running => Some(entered.saturating_sub(out + aside + lost)),
        Phase::Drained => None,
    };
    rows.push(Row {
        label,
        cells: [Some(entered), queued, Some(out), Some(aside), Some(lost)],
    });
    rows
}

fn title(interface: &InterfaceLine) -> String {
    let entry = &interface.entry;
    let Some(attach) = entry.attach else {
        return format!("{} ({})", entry.name, entry.mode.name());
    };
    let copy = if entry.zero_copy { "zero-copy" } else { "copy" };
    let (mode, attach) = (entry.mode.name(), attach.name());
    format!("{} ({mode}, {attach}, {copy})", entry.name)
}

fn column(lines: &[Line], grouping: bool) -> usize {
    let rows = lines.iter().filter_map(|line| match line {
        Line::Row(row) => Some(row.cells),
        Line::Title(_) => None,
    });
    let widths = rows
        .flatten()
        .flatten()
        .map(|cell| number(cell, grouping).len());
    widths.max().unwrap_or(0).max(9)
}

/// The number in digits, with a comma between thousands where `grouping`.
pub(crate) fn number(value: u64, grouping: bool) -> String {
    let digits = value.to_string();
    if !grouping {
        return digits;
    }
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The end of a line that is too long: of a path, the end tells more than the beginning.
fn cut(line: &str) -> String {
    let length = line.chars().count();
    if length <= WIDTH {
        return line.to_owned();
    }
    let end: String = line.chars().skip(length - (WIDTH - 3)).collect();
    format!("...{end}")
}

/// What a reason means; 38 characters at most, so that a line fits.
fn words(name: &str) -> &'static str {
    match name {
        "xdp_aborted" => "the XDP program could not handle them",
        "rx_dropped" => "no free frame, or larger than one",
        "rx_ring_full" => "the worker did not keep up",
        "redirect_errors" => "the kernel refused the redirect",
        "left_in_ring" => "not received when the drain was cut",
        "pcap_dropped" => "libpcap's ring had no room",
        "pcap_if_dropped" => "dropped by the interface",
        "rejected_link_type" => "not the sink's link type",
        "rejected_too_long" => "longer than a batch takes",
        "merged" => "merged by the NIC or GRO",
        "shed" => "given up at exit, not published",
        "too_large" => "larger than the broker takes",
        "timed_out" => "not delivered in time",
        "not_authorized" => "topic gone, or not ours to write to",
        "refused" => "refused by the broker",
        "disk" => "disk full or failing, or a pipe closed",
        "purged" => "given up at the drain deadline",
        "possibly_persisted" => "sent, the answer never came",
        "xdp_passed" => "queue not captured, left to the host",
        "xdp_filtered" => "filtered, left to the host",
        "filtered" => "refused by the filter",
        "over_count" => "beyond the count of -c",
        "truncated" => "cut by the snap length",
        "clamped" => "time raised to that of the one before",
        "steps_back" => "earlier than the one before",
        "late" => "written after a later packet",
        "retried" => "sent to a broker again",
        "rx_invalid_descs" => "invalid descriptors: a fault of ours",
        "fill_ring_empty" => "times no frame was free (a cause)",
        _ => "no words for it",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::counters::{Failed, Reason};
    use crate::kafka::counters::ProducerCounters;
    use crate::ledger::Board;
    use crate::ledger::tests::busy;

    fn cells(table: &str, label: &str) -> Vec<Vec<u64>> {
        let label = format!("[{label}]");
        let rows = table.lines().filter(|line| line.starts_with(&label));
        let number = |cell: &str| cell.replace(',', "").parse().unwrap_or(0);
        rows.map(|row| row.split_whitespace().skip(1).map(number).collect())
            .collect()
    }

    #[test]
    fn every_row_adds_up_and_leads_to_the_next() {
        for phase in [Phase::Running, Phase::Drained] {
            let table = busy(SinkKind::Kafka, 1).0.snapshot(phase).table();
            for label in ["xdp", "xsk", "read", "pub", "kaf"] {
                for row in cells(&table, label) {
                    assert_eq!(row[0], row[1..].iter().sum::<u64>(), "{label}\n{table}");
                }
            }
            let only = |label| cells(&table, label)[0].clone();
            assert_eq!(only("xdp")[2], only("xsk")[0]);
            assert_eq!(only("xsk")[2] + only("read")[2], only("pub")[0]);
            assert_eq!(only("pub")[2], only("kaf")[0]);
        }
    }

    #[test]
    fn what_is_queued_shows_while_running() {
        let (board, queues) = busy(SinkKind::Discard, 1);
        queues[2].received.add(90);
        queues[2].batched.add(90);
        let table = board.snapshot(Phase::Running).table();
        assert_eq!(cells(&table, "pub")[0][1], 90, "{table}");
        let table = board.snapshot(Phase::Drained).table();
        assert_eq!(cells(&table, "pub")[0][1], 0, "{table}");
        assert!(
            table.contains("  90 unaccounted for: missing after batched\n"),
            "{table}"
        );
        assert!(
            table.contains("    at /captures/monday.pcap queue 0 (equation 4)\n"),
            "{table}"
        );
    }

    #[test]
    fn no_line_is_longer_than_80_columns() {
        for unit in [1, 1_000_000, 1_000_000_000] {
            let (board, queues) = busy(SinkKind::Kafka, unit);
            queues[0].batched.add(unit * 1_000);
            let table = board.snapshot(Phase::Drained).table();
            let longest = table.lines().map(|line| line.chars().count()).max();
            assert!(longest <= Some(WIDTH), "{table}");
        }
        assert_eq!(cut(&"x".repeat(200)).chars().count(), WIDTH);
    }

    #[test]
    fn every_reason_has_words_and_is_shown_when_it_is_not_0() {
        let (board, queues) = busy(SinkKind::File, 1);
        queues[2].pcap_dropped.set(1);
        queues[2].pcap_if_dropped.set(1);
        let producer = Arc::<ProducerCounters>::default();
        producer.retried.add(1);
        board.add_producer(producer);
        let ledger = board.snapshot(Phase::Drained);
        let table = ledger.table();
        let lists = [&ledger.dropped, &ledger.aside, &ledger.remarks];
        let names = lists
            .iter()
            .flat_map(|list| list.0.iter().map(|(name, _)| *name));
        let names = names.chain(Failed::ALL.iter().map(|reason| reason.name()));
        for name in names.chain(["possibly_persisted"]) {
            assert!(table.contains(&format!(" {name:18}  ")), "{name}\n{table}");
            assert_ne!(words(name), words("?"), "{name}");
            assert!(words(name).len() <= 38, "{name}");
        }
    }

    #[test]
    fn the_closing_lines_are_those_of_tcpdump() {
        let table = busy(SinkKind::File, 1).0.snapshot(Phase::Drained).table();
        let closing = "2100 packets captured\n2800 packets received by filter\n\
                       206 packets dropped by kernel\n";
        assert!(table.ends_with(closing), "{table}");
        let empty = Board::new(SinkKind::Discard, "")
            .snapshot(Phase::Drained)
            .table();
        assert!(empty.starts_with("               in"), "{empty}");
        assert!(empty.contains("[disc]"), "{empty}");
    }
}
