//! Signals as events.
//!
//! The rule: signals are blocked before the first thread is made, so that every thread inherits it and
//! one thread alone takes them. Nothing runs in a signal handler.

use std::io;
use std::thread;

use nix::sys::signal::SigSet;
pub use nix::sys::signal::Signal;

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
                if !take(signal) {
                    break;
                }
            }
        })?;
    Ok(())
}
