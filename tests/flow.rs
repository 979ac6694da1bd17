//! Partitions by flow: packets that belong together stay together, whatever queue they come on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::mocking::MockCluster;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use ringtap::batch::{Batch, Codec};
use ringtap::control::Control;
use ringtap::counters::{PublisherCounters, QueueCounters};
use ringtap::filler::{Filler, Route, Rules};
use ringtap::histogram::Histogram;
use ringtap::interfaces::Interfaces;
use ringtap::kafka::Settings;
use ringtap::packet::{Clock, LinkType, Packet, Timestamp};
use ringtap::publisher::Publisher;
use ringtap::record::{Encoding, KeyTime, RecordTime};
use ringtap::ring::{Ready, Spent};
use ringtap::sink::librdkafka::Cluster;
use ringtap::sink::{Finished, Outcome, Sink, SinkError};
use ringtap::source::file::{FileSource, Speed};
use ringtap::worker::Worker;

const FLOWS: u32 = 50;
const PACKETS: u32 = 10_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// Packet `number`, of flow `number % FLOWS`; what goes back is in a VLAN. Every other flow is of IPv6.
fn frame(number: u32, goes_back: bool) -> Vec<u8> {
    let flow = u16::try_from(number % FLOWS).unwrap();
    let ends = |ends: [Vec<u8>; 2]| {
        let [here, there] = ends;
        if goes_back {
            [there, here].concat()
        } else {
            [here, there].concat()
        }
    };
    let low = flow.to_be_bytes()[1];
    let mut frame = ends([vec![2, 0, 0, 0, 0, low], vec![2, 0, 0, 0, 1, 1]]);
    if goes_back {
        frame.extend([0x81, 0, 0, 9]);
    }
    if flow % 2 == 0 {
        frame.extend([8, 0, 0x45, 0, 0, 60, 0, 0, 0, 0, 64, 6, 0, 0]);
        frame.extend(ends([vec![10, 0, 0, low], vec![192, 0, 2, 1]]));
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 17, 64]);
        frame.extend(ends([[vec![0xfd; 15], vec![low]].concat(), vec![0xfd; 16]]));
    }
    frame.extend(ends([(50_000 + flow).to_be_bytes().to_vec(), vec![1, 187]]));
    frame.extend(number.to_be_bytes());
    frame.push(u8::from(goes_back));
    frame.resize(frame.len() + usize::try_from(number % 300).unwrap(), 7);
    frame
}

/// The number of a frame and its direction, from behind its ports.
fn identity(frame: &[u8]) -> (u32, bool) {
    let goes_back = frame[12] == 0x81;
    let packet = if goes_back {
        &frame[16..]
    } else {
        &frame[12..]
    };
    let payload = if packet[0] == 8 {
        &packet[26..]
    } else {
        &packet[46..]
    };
    let number = u32::from_be_bytes(payload[..4].try_into().unwrap());
    assert_eq!(payload[4] == 1, goes_back);
    (number, goes_back)
}

/// A capture file of one direction.
fn file(folder: &Path, goes_back: bool) -> PathBuf {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        bytes.extend(word.to_le_bytes());
    }
    for number in 0..PACKETS {
        let frame = frame(number, goes_back);
        let length = u32::try_from(frame.len()).unwrap();
        for word in [
            1_700_000_000 + number / 1_000,
            number % 1_000,
            length,
            length,
        ] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    let path = folder.join(format!("{goes_back}.pcap"));
    fs::write(&path, bytes).unwrap();
    path
}

fn rules() -> Rules {
    Rules {
        encoding: Encoding {
            key_time: KeyTime::Micros,
            record_time: RecordTime::Now,
            headers: false,
            snaplen: 65_535,
        },
        queue: 0,
        linger: Duration::from_millis(20),
        live: false,
        filter: None,
        allowance: None,
        one_link_type: None,
        compress: Codec::None,
        longest_frame: None,
    }
}

/// What was counted.
struct Counts {
    queues: Vec<Arc<QueueCounters>>,
    publishers: Vec<Arc<PublisherCounters>>,
}

/// Moves both files, each by a worker of its own, into `sinks`; sink `n` has every partition `p` with
/// `p % sinks == n`.
fn run<K: Sink + Send>(sinks: Vec<K>, partitions: usize, batches: usize) -> Counts {
    let folder = tempfile::tempdir().unwrap();
    let files = [false, true].map(|goes_back| file(folder.path(), goes_back));
    let control = Control::default();
    let counts = Counts {
        queues: files.iter().map(|_| Arc::default()).collect(),
        publishers: sinks.iter().map(|_| Arc::default()).collect(),
    };
    let spent: Vec<_> = files.iter().map(|_| Spent::new(batches)).collect();
    let room = batches * files.len();
    let ready: Vec<_> = sinks.iter().map(|_| Ready::new(room).unwrap()).collect();
    thread::scope(|scope| {
        for (at, sink) in sinks.into_iter().enumerate() {
            let counters = counts.publishers[at].clone();
            let recorder = Histogram::new().0;
            let publisher =
                Publisher::new(ready[at].clone(), spent.clone(), sink, counters, recorder);
            scope.spawn(|| publisher.run(&control).unwrap());
        }
        let mut workers = Vec::new();
        for (at, file) in files.iter().enumerate() {
            let owner = u16::try_from(at).unwrap();
            let owners = (0..partitions).map(|partition| partition % ready.len());
            let filler = Filler::new(
                rules(),
                counts.queues[at].clone(),
                (0..batches).map(|_| Batch::new(70_000, owner)).collect(),
                Route::Flow(owners.map(|owner| ready[owner].clone()).collect()),
                spent[at].clone(),
                Histogram::new().0,
            );
            let files = std::slice::from_ref(file);
            let source = FileSource::open(files, Speed::Max, Interfaces::default()).unwrap();
            let worker = Worker::new(source, filler, counts.queues[at].clone());
            let control = &control;
            workers.push(scope.spawn(move || worker.run(control)));
        }
        for worker in workers {
            worker.join().unwrap().unwrap();
        }
        control.set_workers_done();
        ready.iter().for_each(|ready| ready.wake().wake());
    });
    counts
}

/// The records of each partition.
type Held = BTreeMap<i32, Vec<Vec<u8>>>;

/// Keeps every record by the partition of its batch; answers a batch a turn, each turn after `stall`.
struct Keeping {
    number: usize,
    publishers: usize,
    stall: Duration,
    batches: VecDeque<Batch>,
    held: Arc<Mutex<Held>>,
}

impl Keeping {
    fn answer(&mut self, finished: &mut Vec<Finished>) {
        let Some(batch) = self.batches.pop_front() else {
            return;
        };
        let partition = batch.partition().unwrap();
        assert_eq!(
            usize::try_from(partition).unwrap() % self.publishers,
            self.number
        );
        let values = batch.records().map(|record| record.value.to_vec());
        self.held
            .lock()
            .unwrap()
            .entry(partition)
            .or_default()
            .extend(values);
        let outcome = Outcome::delivered(batch.count());
        finished.push(Finished { batch, outcome });
    }
}

impl Sink for Keeping {
    fn has_room(&self) -> bool {
        self.batches.len() < 2
    }

    fn send(&mut self, batch: Batch) {
        self.batches.push_back(batch);
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
        while !self.batches.is_empty() {
            self.answer(finished);
        }
        Ok(())
    }
}

fn keeping(
    publishers: usize,
    stall: impl Fn(usize) -> Duration,
) -> (Vec<Keeping>, Arc<Mutex<Held>>) {
    let held = Arc::new(Mutex::new(Held::new()));
    let sinks = (0..publishers).map(|number| Keeping {
        number,
        publishers,
        stall: stall(number),
        batches: VecDeque::new(),
        held: held.clone(),
    });
    (sinks.collect(), held)
}

/// Asserts that every packet is there once, those of a flow in one partition, each direction in order; and
/// that several partitions are used.
fn together(held: &Held) {
    let mut home = BTreeMap::new();
    let mut last = BTreeMap::new();
    let mut packets = 0;
    for (partition, frames) in held {
        for bytes in frames {
            let (number, goes_back) = identity(bytes);
            assert_eq!(*bytes, frame(number, goes_back));
            let flow = number % FLOWS;
            assert_eq!(
                home.entry(flow).or_insert(partition),
                &partition,
                "flow {flow}"
            );
            let before = last.insert((flow, goes_back), number);
            assert!(
                before.is_none_or(|before| before < number),
                "{number} of {flow}"
            );
            packets += 1;
        }
    }
    assert_eq!(packets, 2 * PACKETS);
    assert!(held.len() > 2, "{:?}", held.keys());
}

fn balanced(counts: &Counts) {
    let sum =
        |of: fn(&QueueCounters) -> u64| counts.queues.iter().map(|queue| of(queue)).sum::<u64>();
    let delivered = counts
        .publishers
        .iter()
        .map(|publisher| publisher.delivered.get());
    let all = u64::from(2 * PACKETS);
    assert_eq!(sum(|queue| queue.received.get()), all);
    assert_eq!(sum(|queue| queue.batched.get()), all);
    assert_eq!(sum(|queue| queue.handed.get()), all);
    assert_eq!(delivered.sum::<u64>(), all);
    assert!(
        counts
            .publishers
            .iter()
            .all(|publisher| publisher.in_flight.get() == 0)
    );
}

#[test]
fn both_directions_of_a_flow_are_in_one_partition_whatever_worker_took_them() {
    for (publishers, partitions) in [(1, 4), (2, 5), (3, 64)] {
        let (sinks, held) = keeping(publishers, |_| Duration::ZERO);
        let counts = run(sinks, partitions, 2 * partitions);
        balanced(&counts);
        together(&held.lock().unwrap());
    }
}

#[test]
fn a_publisher_that_stalls_holds_packets_back_and_loses_none() {
    let stall = |number| Duration::from_millis(if number == 0 { 2 } else { 0 });
    let (sinks, held) = keeping(2, stall);
    let counts = run(sinks, 5, 10);
    balanced(&counts);
    together(&held.lock().unwrap());
    assert!(
        counts
            .queues
            .iter()
            .any(|queue| queue.backpressure.get() > 0)
    );
}

#[test]
fn a_topic_holds_both_directions_of_a_flow_in_one_partition() {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("pcap", 6, 1).unwrap();
    let brokers = mock.bootstrap_servers();
    let mut settings = Settings::new();
    settings.set("bootstrap.servers", &brokers).unwrap();
    let cluster = Cluster::connect(&settings, "pcap", PATIENCE).unwrap();
    let encoding = rules().encoding;
    let sinks = (0..2).map(|at| cluster.sink(cluster.share(at, 2), &encoding).unwrap());
    let counts = run(sinks.collect(), 6, 24);
    balanced(&counts);
    together(&read(&brokers, "pcap", 2 * PACKETS));
}

#[test]
fn captures_one_after_another_agree_on_the_partition_of_a_flow() {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("pcap", 6, 1).unwrap();
    let brokers = mock.bootstrap_servers();
    let folder = tempfile::tempdir().unwrap();
    let captured = |goes_back, more: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_ringtap"))
            .args(["capture", "-k", &brokers, "-t", "pcap", "-r"])
            .arg(file(folder.path(), goes_back))
            .args(["--partition-by", "flow", "--producer", "librdkafka"])
            .args(more)
            .output()
            .unwrap()
    };
    for goes_back in [false, true] {
        let output = captured(goes_back, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
    }
    together(&read(&brokers, "pcap", 2 * PACKETS));

    let output = captured(false, &["--buffer", "512KiB", "--batch-size", "100KiB"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("6 partitions") && said.contains("least"),
        "{said}"
    );
}

/// The values of a topic, by partition.
fn read(brokers: &str, topic: &str, records: u32) -> Held {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "ringtap-test")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        let added = list.add_partition_offset(topic, partition.id(), Offset::Beginning);
        added.unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut held = Held::new();
    for _ in 0..records {
        let message = consumer.poll(PATIENCE).expect("a record comes").unwrap();
        let value = message.payload().unwrap().to_vec();
        held.entry(message.partition()).or_default().push(value);
    }
    held
}

#[test]
fn each_open_batch_has_a_linger_of_its_own_and_waits_for_a_busy_publisher() {
    let ready: Vec<_> = (0..2).map(|_| Ready::new(8).unwrap()).collect();
    let counters = Arc::new(QueueCounters::default());
    let batches = (0..8).map(|_| Batch::new(70_000, 0)).collect();
    let route = Route::Flow(ready.clone());
    let linger = rules().linger;
    let mut filler = Filler::new(
        rules(),
        counters,
        batches,
        route,
        Spent::new(8),
        Histogram::new().0,
    );
    let take = |filler: &mut Filler, number| {
        let data = frame(number, false);
        let packet = Packet {
            time: Timestamp::from_nanos(1),
            clock: Clock::Arrival,
            orig_len: u32::try_from(data.len()).unwrap(),
            link_type: LinkType::ETHERNET,
            interface: 0,
            data: &data,
            more: &[],
        };
        assert!(filler.take(&packet).is_continue());
    };
    let start = Instant::now();
    assert!(filler.open(start));
    assert_eq!(filler.linger_left(start), None);
    (0..FLOWS).for_each(|number| take(&mut filler, number));
    filler.close_if_due(start);
    assert!(ready.iter().all(Ready::is_empty));

    let later = Instant::now() + 2 * linger;
    assert_eq!(filler.linger_left(later), Some(Duration::ZERO));
    filler.close_if_due(later);
    assert_eq!(filler.linger_left(later), None);
    assert!(ready.iter().all(|ready| ready.len() == 1));

    // The first publisher takes its batch, the second does not.
    let first = ready[0].pop().unwrap();
    (0..FLOWS).for_each(|number| take(&mut filler, number));
    let later = later + 2 * linger;
    filler.close_if_due(later);
    assert_eq!(ready[0].len(), 1);
    assert_eq!(ready[1].len(), 1);
    filler.finish(later);
    assert_eq!(ready[1].len(), 2);
    assert_eq!(first.partition(), Some(0));
    assert_eq!(ready[1].pop().unwrap().partition(), Some(1));
}
