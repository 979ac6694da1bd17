//! Signals as events.
//!
//! The rule: signals are blocked before the first thread is made, so that every thread inherits it and
//! one thread alone takes them. Nothing runs in a signal handler.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::SigSet;
pub use nix::sys::signal::Signal;

/// Whether SIGINT or SIGTERM has come: signals are the process's, and so is this.
static STOP: AtomicBool = AtomicBool::new(false);

fn ours() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1]
        .into_iter()
        .collect()
}

/// Blocks SIGINT, SIGTERM and SIGUSR1 in this thread and in those it makes.
pub fn block() -> io::Result<()> {
    Ok(ours().thread_block()?)
}

/// Starts the thread that hands each signal to `take`, until that answers false or the process ends.
///
/// [`block`] comes first, before any other thread is made.
pub fn watch(mut take: impl FnMut(Signal) -> bool + Send + 'static) -> io::Result<()> {
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            while let Ok(signal) = ours().wait() {
                if signal != Signal::SIGUSR1 {
                    STOP.store(true, Ordering::Release);
                }
                if !take(signal) {
                    break;
                }
            }
        })?;
    Ok(())
}

/// Whether a signal to stop has come to [`watch`]. For what waits before there is anybody to be asked: a
/// first answer, a first reader.
pub fn stop_came() -> bool {
    STOP.load(Ordering::Acquire)
}
