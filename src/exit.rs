//! Exit codes: a contract with whoever starts ringtap.

use std::process::{ExitCode, Termination};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Drained: all that was received is delivered, or with `acks=0` sent.
    Done = 0,
    /// Failed while running.
    Failed = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// Set-up refused: rights, interface, broker, topic.
    Setup = 3,
    /// Records are left over or failed.
    LeftOver = 4,
    /// A device is gone and no interface is left.
    Gone = 5,
    /// Damaged input; what came before the damage is delivered.
    Damaged = 6,
}

impl Exit {
    /// The code that stands where both apply: 2, 3, 1, 5, 4, 6, 0, in this order.
    pub fn and(self, other: Self) -> Self {
        let rank = |exit| match exit {
            Self::Usage => 0,
            Self::Setup => 1,
            Self::Failed => 2,
            Self::Gone => 3,
            Self::LeftOver => 4,
            Self::Damaged => 5,
            Self::Done => 6,
        };
        if rank(other) < rank(self) {
            other
        } else {
            self
        }
    }

    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_graver_code_stands_whichever_comes_first() {
        let order = [
            Exit::Usage,
            Exit::Setup,
            Exit::Failed,
            Exit::Gone,
            Exit::LeftOver,
            Exit::Damaged,
            Exit::Done,
        ];
        for (at, graver) in order.into_iter().enumerate() {
            for lighter in &order[at..] {
                assert_eq!(graver.and(*lighter), graver);
                assert_eq!(lighter.and(graver), graver);
            }
        }
    }
}
