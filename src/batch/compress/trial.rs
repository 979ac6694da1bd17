//! Whether compressing pays for the traffic there is.
//!
//! The rule: batches are counted, and nothing else decides, so that the same batches are always treated the
//! same. A sample is compressed; where that does not pay, batches rest for a while, longer each time.

/// So many batches are compressed before it is judged.
const SAMPLE: u32 = 4;

/// The batches of the first rest, doubled up to the longest: a sample then takes less than one batch in a
/// hundred.
const SHORTEST_REST: u32 = 32;
const LONGEST_REST: u32 = 512;

/// What was learnt of the last batches.
#[derive(Debug)]
pub(super) struct Trial {
    /// Batches that are still to pass untouched.
    resting: u32,
    rest: u32,
    sampled: u32,
    raw: usize,
    packed: usize,
}

impl Default for Trial {
    fn default() -> Self {
        Self {
            resting: 0,
            rest: SHORTEST_REST,
            sampled: 0,
            raw: 0,
            packed: 0,
        }
    }
}

impl Trial {
    /// Whether the next batch is to be compressed; counts it.
    pub(super) fn is_on(&mut self) -> bool {
        let is_on = self.resting == 0;
        self.resting = self.resting.saturating_sub(1);
        is_on
    }

    /// Takes note of a batch; `pays` is the least raw length in percent of the packed one.
    pub(super) fn learn(&mut self, raw: usize, packed: usize, pays: usize) {
        self.raw += raw;
        self.packed += packed;
        self.sampled += 1;
        if self.sampled < SAMPLE {
            return;
        }
        if self.packed * pays <= self.raw * 100 {
            self.rest = SHORTEST_REST;
        } else {
            self.resting = self.rest;
            self.rest = (self.rest * 2).min(LONGEST_REST);
        }
        (self.sampled, self.raw, self.packed) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `batches` are compressed, each to `packed` of 100 bytes.
    fn compressed(trial: &mut Trial, batches: u32, packed: usize) -> u32 {
        let mut count = 0;
        for _ in 0..batches {
            if trial.is_on() {
                trial.learn(100, packed, 115);
                count += 1;
            }
        }
        count
    }

    #[test]
    fn what_pays_is_compressed_always_and_what_does_not_ever_more_seldom() {
        let mut trial = Trial::default();
        assert_eq!(compressed(&mut trial, 1_000, 80), 1_000);
        assert_eq!(compressed(&mut trial, 36, 99), 4);
        assert_eq!(compressed(&mut trial, 68, 99), 4);
        let seldom = compressed(&mut trial, 10_000, 99);
        assert!((60..110).contains(&seldom), "{seldom}");
        // Traffic that changes is found out within the longest rest, and compressed from then on.
        assert!(compressed(&mut trial, LONGEST_REST + SAMPLE, 50) >= SAMPLE);
        assert_eq!(compressed(&mut trial, 100, 50), 100);
    }
}
