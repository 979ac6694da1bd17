//! Latencies, as their thread records them and as others read them.
//!
//! The rule: the recording thread never waits and never allocates. It counts in a histogram of its
//! own and adds that to the shared one now and then, if nobody is reading just then.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram as Hdr;
use serde::Serialize;

/// The finest latency told apart in nanoseconds: below a microsecond the clock reads differ more.
const LOWEST: u64 = 1_000;
/// The longest latency told apart: an hour, beyond any delivery timeout that makes sense.
const HIGHEST: u64 = 3_600_000_000_000;
/// Two digits keep an error below 1 % and a histogram at 27 KiB; three would take 200 KiB.
const DIGITS: u8 = 2;
/// Records between two hand-overs: adding costs some microseconds, which 1,024 bursts hide.
const HAND_OVER: u32 = 1_024;

/// Upper bounds of the buckets shown in metrics, in seconds.
pub const BOUNDS: [f64; 19] = [
    0.000_01, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// The readers' side of a latency histogram; cheap to clone.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<Mutex<Hdr<u64>>>);

impl Histogram {
    /// An empty histogram and the recorder that fills it, for 1 µs to 1 h with two digits.
    pub fn new() -> (Recorder, Self) {
        let shared = Self(Arc::new(Mutex::new(empty())));
        let recorder = Recorder {
            own: empty(),
            waiting: 0,
            shared: shared.clone(),
        };
        (recorder, shared)
    }

    /// What the histograms hold together.
    pub fn merge<'a>(histograms: impl IntoIterator<Item = &'a Self>) -> Quantiles {
        let mut sum = empty();
        for histogram in histograms {
            let shared = histogram.0.lock().unwrap_or_else(PoisonError::into_inner);
            sum.add(&*shared).expect("all histograms have one range");
        }
        Quantiles::new(&sum)
    }
}

/// The writer's side: owned by the thread that measures.
#[derive(Debug)]
pub struct Recorder {
    own: Hdr<u64>,
    waiting: u32,
    shared: Histogram,
}

impl Recorder {
    /// Records that `packets` packets took `latency`; once per burst or per batch.
    ///
    /// More than an hour counts as an hour. Every 1,024th call tries to [`share`](Self::share).
    pub fn record(&mut self, latency: Duration, packets: u64) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(HIGHEST);
        self.own.saturating_record_n(nanos.min(HIGHEST), packets);
        self.waiting += 1;
        if self.waiting >= HAND_OVER {
            self.share();
        }
    }

    /// Shows readers what was recorded; tried again later where one is reading just now.
    ///
    /// Costs some microseconds; meant for a few calls a second, beside the source's own figures.
    pub fn share(&mut self) {
        if self.waiting == 0 {
            return;
        }
        let Ok(mut shared) = self.shared.0.try_lock() else {
            return;
        };
        shared.add(&self.own).expect("both have one range");
        self.own.reset();
        self.waiting = 0;
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let mut shared = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.add(&self.own).expect("both have one range");
    }
}

/// Figures of a latency distribution; nanoseconds, 0 where nothing was recorded.
#[derive(Clone, Debug, Serialize)]
pub struct Quantiles {
    /// Packets recorded.
    pub count: u64,
    /// The median.
    pub p50: u64,
    /// 99 of 100 packets took no longer.
    pub p99: u64,
    /// 999 of 1,000 packets took no longer.
    pub p999: u64,
    /// The longest.
    pub max: u64,
    /// Packets at or below each of [`BOUNDS`].
    #[serde(skip)]
    pub buckets: [u64; BOUNDS.len()],
    /// The sum of all latencies in seconds, to the two digits of the histogram.
    #[serde(skip)]
    pub sum: f64,
}

impl Quantiles {
    fn new(of: &Hdr<u64>) -> Self {
        let mut buckets = [0; BOUNDS.len()];
        let mut sum = 0.0;
        for step in of.iter_recorded() {
            let seconds = Duration::from_nanos(step.value_iterated_to()).as_secs_f64();
            let packets = step.count_since_last_iteration();
            sum += seconds * Duration::from_nanos(packets).as_secs_f64() * 1e9;
            let fits = BOUNDS.iter().zip(&mut buckets);
            for (_, bucket) in fits.filter(|(bound, _)| seconds <= **bound) {
                *bucket += packets;
            }
        }
        let at = |quantile| of.value_at_quantile(quantile).min(of.max());
        Self {
            count: of.len(),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: of.max(),
            buckets,
            sum,
        }
    }
}

fn empty() -> Hdr<u64> {
    Hdr::new_with_bounds(LOWEST, HIGHEST, DIGITS).expect("the bounds and digits are constants")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_read_after_it_is_shared() {
        let (mut recorder, histogram) = Histogram::new();
        recorder.record(Duration::from_micros(100), 98);
        recorder.record(Duration::from_millis(40), 2);
        assert_eq!(Histogram::merge([&histogram]).count, 0);

        recorder.share();
        let read = Histogram::merge([&histogram]);
        assert_eq!(read.count, 100);
        assert!((99_000..=101_000).contains(&read.p50), "{}", read.p50);
        assert!(
            (39_600_000..=40_400_000).contains(&read.p99),
            "{}",
            read.p99
        );
        assert!(
            (39_600_000..=40_400_000).contains(&read.max),
            "{}",
            read.max
        );
    }

    #[test]
    fn a_recorder_that_ends_leaves_nothing_behind() {
        let (mut recorder, histogram) = Histogram::new();
        recorder.record(Duration::from_secs(9_000), 1);
        drop(recorder);
        let read = Histogram::merge([&histogram]);
        assert_eq!(read.count, 1);
        assert!(read.max >= HIGHEST);
    }

    #[test]
    fn a_recorder_never_waits_for_a_reader() {
        let (mut recorder, histogram) = Histogram::new();
        recorder.record(Duration::from_micros(5), 1);
        let reading = histogram.0.lock().expect("nobody panicked");
        recorder.share();
        assert_eq!(reading.len(), 0);
        drop(reading);
        recorder.share();
        assert_eq!(Histogram::merge([&histogram]).count, 1);
    }

    #[test]
    fn buckets_count_what_is_at_or_below_their_bound() {
        let (mut recorder, histogram) = Histogram::new();
        for millis in [2, 20, 200, 100_000] {
            recorder.record(Duration::from_millis(millis), 10);
        }
        recorder.share();
        let read = Histogram::merge([&histogram, &Histogram::new().1]);
        let at = |bound: f64| read.buckets[BOUNDS.iter().position(|b| *b == bound).unwrap()];
        assert_eq!(
            (at(0.001), at(0.002_5), at(0.1), at(0.25), at(60.0)),
            (0, 10, 20, 30, 30)
        );
        assert!((990.0..1_020.0).contains(&read.sum), "{}", read.sum);
    }
}
