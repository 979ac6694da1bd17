//! Signals as events.
//!
//! The rule: signals are blocked before the first thread is made, so that every thread inherits it and
//! one thread alone takes them. Nothing runs in a signal handler.

use std::io;
use std::sync::mpsc::Sender;
use std::thread;

use nix::sys::signal::{SigSet, Signal};

use super::supervisor::Event;

fn ours() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1].into_iter().collect()
}

/// Blocks SIGINT, SIGTERM and SIGUSR1 in this thread and in those it makes.
pub(super) fn block() -> io::Result<()> {
    Ok(ours().thread_block()?)
}

/// Starts the thread that turns signals into events; it ends with the process.
pub(super) fn watch(events: Sender<Event>) -> io::Result<()> {
    thread::Builder::new().name("signals".into()).spawn(move || {
        while let Ok(signal) = ours().wait() {
            if events.send(Event::Signal(signal)).is_err() {
                break;
            }
        }
    })?;
    Ok(())
}
