//! The wish to stop, as signals express it.
//!
//! The rule: the first signal asks, the second one insists.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// How often a stop was asked for; clones share the count.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Arc<AtomicU32>);

impl Stop {
    /// Asks once more.
    pub(super) fn ask(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a stop was asked for.
    pub(super) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// Whether it was asked for again.
    pub(super) fn is_urgent(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 1
    }
}
