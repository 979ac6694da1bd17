//! The pipeline in memory: a source that counts, a sink that stalls, and the sums between them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ringtap::batch::{Batch, Codec};
use ringtap::control::{Allowance, Control};
use ringtap::counters::{Failed, PublisherCounters, QueueCounters};
use ringtap::filler::{Filler, OneLinkType, Route, Rules};
use ringtap::histogram::Histogram;
use ringtap::packet::{Clock, LinkType, Packet, Timestamp};
use ringtap::publisher::Publisher;
use ringtap::record::{Encoding, KeyTime, RecordTime};
use ringtap::ring::{Ready, Spent};
use ringtap::sink::{Finished, Outcome, Sink, SinkError};
use ringtap::source::{Burst, Source, SourceError};
use ringtap::worker::Worker;

/// Offers the numbers from 0 as packets of varying length, in bursts, until `end` or a stop.
struct Numbers {
    next: u64,
    end: u64,
    link_type: fn(u64) -> LinkType,
    stopped: bool,
}

impl Numbers {
    fn until(end: u64) -> Self {
        Self {
            next: 0,
            end,
            link_type: |_| LinkType::ETHERNET,
            stopped: false,
        }
    }
}

fn frame(number: u64) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize(
        60 + usize::try_from(number % 700).unwrap(),
        number.to_le_bytes()[0],
    );
    bytes
}

impl Source for Numbers {
    fn recv(
        &mut self,
        take: &mut impl FnMut(&Packet<'_>) -> ControlFlow<()>,
    ) -> Result<Burst, SourceError> {
        for offered in 0..64 {
            if self.next == self.end || self.stopped {
                return Ok(if offered == 0 {
                    Burst::End
                } else {
                    Burst::Packets(offered)
                });
            }
            let data = frame(self.next);
            let packet = Packet {
                clock: Clock::Arrival,
                time: Timestamp::from_nanos(1_000_000_000 + self.next),
                orig_len: u32::try_from(data.len()).unwrap(),
                link_type: (self.link_type)(self.next),
                interface: 0,
                data: &data,
                more: &[],
            };
            if take(&packet).is_break() {
                return Ok(Burst::Refused(offered));
            }
            self.next += 1;
        }
        Ok(Burst::Packets(64))
    }

    fn wait(&mut self, limit: Duration, _: Duration) -> Result<(), SourceError> {
        thread::sleep(limit);
        Ok(())
    }

    fn account(&mut self, _: &QueueCounters) {}

    fn stop(&mut self) -> Result<(), SourceError> {
        self.stopped = true;
        Ok(())
    }
}

/// Keeps every record, holds at most `depth` batches, and answers the oldest only now and then.
struct Stalling {
    held: VecDeque<Batch>,
    depth: usize,
    stall: Duration,
    fails: fn(u64) -> bool,
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Stalling {
    fn answer(&mut self, finished: &mut Vec<Finished>) {
        let Some(batch) = self.held.pop_front() else {
            return;
        };
        let first = batch.records().next().expect("no empty batch is published");
        let number = u64::from_be_bytes(first.value[..8].try_into().unwrap());
        if (self.fails)(number) {
            let outcome = Outcome::failed(batch.count(), Failed::Refused);
            return finished.push(Finished { batch, outcome });
        }
        let mut kept = self.kept.lock().unwrap();
        kept.extend(batch.records().map(|record| record.value.to_vec()));
        let outcome = Outcome::delivered(batch.count());
        finished.push(Finished { batch, outcome });
    }
}

impl Sink for Stalling {
    fn has_room(&self) -> bool {
        self.held.len() < self.depth
    }

    fn send(&mut self, batch: Batch) {
        self.held.push_back(batch);
    }

    fn poll(
        &mut self,
        _: BorrowedFd<'_>,
        limit: Duration,
        finished: &mut Vec<Finished>,
    ) -> Result<(), SinkError> {
        thread::sleep(self.stall.min(limit));
        self.answer(finished);
        Ok(())
    }

    fn finish(&mut self, _: Instant, finished: &mut Vec<Finished>) -> Result<(), SinkError> {
        while !self.held.is_empty() {
            self.answer(finished);
        }
        Ok(())
    }
}

fn rules() -> Rules {
    Rules {
        encoding: Encoding {
            key_time: KeyTime::Micros,
            record_time: RecordTime::Packet,
            headers: false,
            snaplen: 65_535,
        },
        queue: 0,
        linger: Duration::from_millis(5),
        live: true,
        filter: None,
        allowance: None,
        one_link_type: None,
        compress: Codec::None,
        longest_frame: None,
    }
}

struct Outcomes {
    queues: Vec<Arc<QueueCounters>>,
    publisher: Arc<PublisherCounters>,
    kept: Vec<Vec<u8>>,
}

impl Outcomes {
    fn sum(&self, of: fn(&QueueCounters) -> u64) -> u64 {
        self.queues.iter().map(|queue| of(queue)).sum()
    }
}

/// Runs one worker for each of `sources` into one stalling sink, until all have ended.
fn run(
    sources: Vec<(Numbers, Rules)>,
    batches: usize,
    stall: Duration,
    fails: fn(u64) -> bool,
) -> Outcomes {
    let control = Control::default();
    let ready = Ready::new(batches * sources.len()).unwrap();
    let spent: Vec<_> = sources.iter().map(|_| Spent::new(batches)).collect();
    let publisher = Arc::new(PublisherCounters::default());
    let kept = Arc::new(Mutex::new(Vec::new()));
    let sink = Stalling {
        held: VecDeque::new(),
        depth: 2,
        stall,
        fails,
        kept: kept.clone(),
    };
    let queues: Vec<_> = sources
        .iter()
        .map(|_| Arc::new(QueueCounters::default()))
        .collect();
    thread::scope(|scope| {
        let loop_ = Publisher::new(
            ready.clone(),
            spent.clone(),
            sink,
            publisher.clone(),
            Histogram::new().0,
        );
        scope.spawn(|| loop_.run(&control).unwrap());
        let mut workers = Vec::new();
        for (at, (source, rules)) in sources.into_iter().enumerate() {
            let owner = u16::try_from(at).unwrap();
            let owned = (0..batches).map(|_| Batch::new(8_192, owner)).collect();
            let counters = queues[at].clone();
            let filler = Filler::new(
                rules,
                counters.clone(),
                owned,
                Route::Batch(ready.clone()),
                spent[at].clone(),
                Histogram::new().0,
            );
            let control = &control;
            workers.push(scope.spawn(move || Worker::new(source, filler, counters).run(control)));
        }
        for worker in workers {
            worker.join().unwrap().unwrap();
        }
        control.set_workers_done();
        ready.wake().wake();
    });
    let kept = std::mem::take(&mut *kept.lock().unwrap());
    Outcomes {
        queues,
        publisher,
        kept,
    }
}

#[test]
fn every_packet_arrives_once_and_in_order_through_a_sink_that_stalls() {
    let total = 20_000;
    let outcomes = run(
        vec![(Numbers::until(total), rules())],
        3,
        Duration::from_micros(200),
        |_| false,
    );
    assert_eq!(outcomes.kept.len() as u64, total);
    for (number, value) in outcomes.kept.iter().enumerate() {
        assert_eq!(*value, frame(number as u64));
    }
    assert_eq!(outcomes.queues[0].received.get(), total);
    assert_eq!(outcomes.queues[0].handed.get(), total);
    assert_eq!(outcomes.publisher.delivered.get(), total);
    assert!(
        outcomes.queues[0].backpressure.get() > 0,
        "the sink was to stall"
    );
}

#[test]
fn what_a_sink_refuses_is_counted_and_the_rest_arrives() {
    let total = 20_000;
    let fails = |number| number % 3 == 0;
    let outcomes = run(
        vec![(Numbers::until(total), rules())],
        4,
        Duration::ZERO,
        fails,
    );
    let failed = outcomes.publisher.not_persisted[Failed::Refused as usize].get();
    assert!(failed > 0 && failed < total);
    assert_eq!(outcomes.kept.len() as u64 + failed, total);
    assert_eq!(outcomes.publisher.delivered.get() + failed, total);
    assert_eq!(outcomes.publisher.in_flight.get(), 0);
}

#[test]
fn a_count_is_exact_over_all_workers_and_the_rest_is_counted() {
    for count in [1, 63, 64, 65, 5_000] {
        let allowance = Arc::new(Allowance::new(count));
        let limited = || Rules {
            allowance: Some(allowance.clone()),
            ..rules()
        };
        let sources = (0..3).map(|_| (Numbers::until(4_000), limited())).collect();
        let outcomes = run(sources, 4, Duration::ZERO, |_| false);
        assert_eq!(outcomes.kept.len() as u64, count);
        assert_eq!(outcomes.sum(|queue| queue.batched.get()), count);
        assert_eq!(outcomes.sum(|queue| queue.received.get()), 12_000);
        assert_eq!(outcomes.sum(|queue| queue.over_count.get()), 12_000 - count);
    }
}

#[test]
fn a_sink_of_one_link_type_gets_the_first_and_the_others_are_counted() {
    let mut source = Numbers::until(1_000);
    source.link_type = |number| {
        if number % 4 == 3 {
            LinkType::RAW
        } else {
            LinkType::ETHERNET
        }
    };
    let one = Rules {
        one_link_type: Some(OneLinkType::default()),
        ..rules()
    };
    let outcomes = run(vec![(source, one)], 4, Duration::ZERO, |_| false);
    assert_eq!(outcomes.kept.len(), 750);
    assert_eq!(outcomes.queues[0].rejected[0].get(), 250);
}
