//! One live line on a terminal while packets are captured.
//!
//! The rule: the line is decoration. It is drawn from the ledger four times a second by a thread of
//! its own, hidden while anything else is written through [`stderr`], and erased at the end.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use crate::ledger::{Board, Ledger, Phase, number};

/// Often enough to look alive, too rarely to be measured.
const REFRESH: Duration = Duration::from_millis(250);

/// What a terminal writes behind the line when Ctrl-C is pressed: `^C`, and the cursor after it.
const ECHO: u16 = 3;

/// The line that is on the terminal now. There is one terminal, so there is one of these.
static LIVE: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// A live line; erased when dropped.
#[derive(Debug)]
pub struct Progress {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts drawing, where standard error is a terminal; `None` elsewhere.
    ///
    /// To be called before any thread is pinned: the drawing thread inherits its cores.
    pub fn start(board: &Board) -> Option<Self> {
        if !io::stderr().is_terminal() {
            return None;
        }
        let (stop, stopped) = channel::<()>();
        let terminal = Box::new(Narrow(Term::stderr()));
        let target = ProgressDrawTarget::term_like_with_hz(terminal, 5);
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(ProgressStyle::with_template("{msg}").expect("the template is constant"));
        live(|line| *line = Some(bar.clone()));
        let board = board.clone();
        let draw = move || {
            let mut rate = Rate::new(Instant::now());
            while stopped.recv_timeout(REFRESH) == Err(RecvTimeoutError::Timeout) {
                let ledger = board.snapshot(Phase::Running);
                let rate = rate.update(ledger.total.received, Instant::now());
                live(|_| bar.set_message(line(&ledger, rate)));
            }
            live(|line| {
                bar.finish_and_clear();
                *line = None;
            });
        };
        let thread = thread::Builder::new().name("progress".into()).spawn(draw);
        Some(Self {
            stop: Some(stop),
            thread: thread.ok(),
        })
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A terminal less a few columns. The line is padded to its whole width, and an echo behind that would go
/// to the next row, where the line is not looked for when it is erased.
#[derive(Debug)]
struct Narrow(Term);

impl TermLike for Narrow {
    fn width(&self) -> u16 {
        TermLike::width(&self.0).saturating_sub(ECHO).max(1)
    }

    fn height(&self) -> u16 {
        TermLike::height(&self.0)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_up(n)
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_down(n)
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_right(n)
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_left(n)
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.0.write_line(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.0.write_str(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.0.clear_line()
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Standard error beside the live line: what is written through it never lands in the line.
///
/// Fits `tracing_subscriber::fmt().with_writer(progress::stderr)`.
pub fn stderr() -> Stderr {
    Stderr
}

/// See [`stderr`].
#[derive(Clone, Copy, Debug)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        live(|line| match line {
            Some(bar) => bar.suspend(|| io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn live<R>(with: impl FnOnce(&mut Option<ProgressBar>) -> R) -> R {
    with(&mut LIVE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Packets a second, averaged over about a second so that the figure can be read.
#[derive(Debug)]
struct Rate {
    packets: u64,
    at: Instant,
    smooth: Option<f64>,
}

impl Rate {
    fn new(at: Instant) -> Self {
        Self {
            packets: 0,
            at,
            smooth: None,
        }
    }

    fn update(&mut self, packets: u64, now: Instant) -> f64 {
        let new = u32::try_from(packets.saturating_sub(self.packets)).unwrap_or(u32::MAX);
        let elapsed = now.duration_since(self.at).as_secs_f64().max(1e-6);
        let rate = f64::from(new) / elapsed;
        let smooth = self.smooth.map_or(rate, |old| old + (rate - old) * 0.25);
        self.packets = packets;
        self.at = now;
        self.smooth = Some(smooth);
        smooth
    }
}

/// The line: at most 79 columns, since a full row would wrap on some terminals.
fn line(ledger: &Ledger, rate: f64) -> String {
    let total = &ledger.total;
    let lost =
        ledger.dropped.sum() + ledger.failed.not_persisted + ledger.failed.possibly_persisted;
    let stored = total.delivered + total.unconfirmed;
    let text = |grouping| {
        format!(
            "{} packets, {}/s, {} dropped, {} delivered, {}",
            number(total.received, grouping),
            short(rate),
            number(lost, grouping),
            number(stored, grouping),
            clock(ledger.seconds),
        )
    };
    let grouped = text(true);
    if grouped.len() < 80 {
        return grouped;
    }
    text(false).chars().take(79).collect()
}

/// A rate in three digits or so.
fn short(rate: f64) -> String {
    match rate {
        1e6.. => format!("{:.2}M", rate / 1e6),
        1e3.. => format!("{:.1}k", rate / 1e3),
        _ => format!("{rate:.0}"),
    }
}

/// Seconds as hours, minutes and seconds.
fn clock(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds)
        .unwrap_or_default()
        .as_secs();
    let (hours, minutes, seconds) = (whole / 3_600, whole / 60 % 60, whole % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::SinkKind;

    #[test]
    fn the_line_fits_a_terminal_of_80_columns() {
        let mut ledger = Board::new(SinkKind::Discard, "").snapshot(Phase::Running);
        ledger.seconds = 3_725.4;
        ledger.total.received = 12_345;
        assert_eq!(
            line(&ledger, 1_234_567.0),
            "12,345 packets, 1.23M/s, 0 dropped, 0 delivered, 01:02:05"
        );
        ledger.total.received = 1_000_000_000_000;
        ledger.total.delivered = 1_000_000_000_000;
        ledger.failed.not_persisted = 1_000_000_000_000;
        assert!(line(&ledger, 14_880_952.0).len() < 80);
    }

    #[test]
    fn a_rate_follows_what_was_received_lately() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let first = rate.update(1_000, start + Duration::from_secs(1));
        assert!((999.0..1_001.0).contains(&first), "{first}");
        let second = rate.update(1_000, start + Duration::from_secs(2));
        assert!((749.0..751.0).contains(&second), "{second}");
    }
}
