//! The file sink by what a user has: files that other programs accept, and counts that add up.

#![allow(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::collections::BTreeSet;
use std::fs;
use std::num::{NonZeroU32, NonZeroU64};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pcap::{Capture, Precision};
use ringtap::batch::{Batch, Origin};
use ringtap::counters::{Failed, QueueState};
use ringtap::format::write::{Format, Fraction, InterfaceTotals};
use ringtap::interfaces::{Interface, Interfaces};
use ringtap::packet::{Clock, LinkType, Packet, Timestamp};
use ringtap::record::{Encoding, KeyTime, RecordTime};
use ringtap::ring::Wake;
use ringtap::sink::file::{Destination, FileConfig, FileError, FileSink, Rotation};
use ringtap::sink::{Finished, Outcome, Sink, SinkError};
use tempfile::tempdir;

mod pipes;
mod root;

const ENCODING: Encoding = Encoding {
    key_time: KeyTime::Micros,
    record_time: RecordTime::Packet,
    headers: true,
    snaplen: 262_144,
};
/// A moment in 2023, in nanoseconds.
const START: u64 = 1_700_000_000_000_000_000;
const PCAP: Format = Format::Pcap(Fraction::Micros);

fn interface(name: &str, link_type: LinkType) -> Interface {
    Interface {
        name: name.to_owned(),
        link_type,
        snaplen: 262_144,
        filter: Some("tcp or udp".to_owned()),
    }
}

fn config(path: &Path, queues: usize) -> FileConfig {
    let interfaces = Interfaces::default();
    interfaces.register(interface("eth0", LinkType::ETHERNET));
    FileConfig {
        destination: Destination::Path(path.to_owned()),
        format: Format::of_path(path),
        rotation: Rotation::default(),
        snaplen: 262_144,
        link_type: Some(LinkType::ETHERNET),
        interfaces,
        totals: Arc::new(|_| None),
        queues: (0..queues).map(|_| Arc::default()).collect(),
        hold: 1_000,
        patience: Duration::from_secs(3_600),
        at_end: Arc::new(|| ()),
    }
}

fn frame(time: u64, data: &[u8]) -> Packet<'_> {
    Packet {
        clock: Clock::Arrival,
        time: Timestamp::from_nanos(time),
        orig_len: u32::try_from(data.len()).unwrap(),
        link_type: LinkType::ETHERNET,
        interface: 0,
        data,
        more: &[],
    }
}

/// A batch of packets of `len` bytes at these times.
fn batch(owner: u16, times: impl IntoIterator<Item = u64>, len: usize) -> Batch {
    let mut batch = Batch::new(1 << 20, owner);
    let data = vec![0xa5; len];
    for time in times {
        batch
            .push(&frame(time, &data), &ENCODING, Origin::default())
            .unwrap();
    }
    batch
}

/// A sink, what drives it, and what it gave back.
struct Run {
    sink: FileSink,
    wake: Wake,
    finished: Vec<Finished>,
}

impl Run {
    fn new(config: FileConfig) -> Self {
        Self {
            sink: FileSink::new(config).unwrap(),
            wake: Wake::new().unwrap(),
            finished: Vec::new(),
        }
    }

    fn send(&mut self, batch: Batch) -> Result<(), SinkError> {
        assert!(self.sink.has_room());
        self.sink.send(batch);
        self.poll()
    }

    fn poll(&mut self) -> Result<(), SinkError> {
        let mut finished = Vec::new();
        let outcome = self
            .sink
            .poll(self.wake.as_fd(), Duration::ZERO, &mut finished);
        self.finished.append(&mut finished);
        outcome
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        let deadline = Instant::now() + Duration::from_secs(60);
        self.sink.finish(deadline, &mut self.finished)
    }

    /// The outcomes so far, added up; every batch's own has to add up to its records.
    fn sum(&self) -> Outcome {
        let mut sum = Outcome::default();
        for Finished { batch, outcome } in &self.finished {
            let failed: u64 = outcome.not_persisted.iter().sum();
            assert_eq!(outcome.delivered + failed, u64::from(batch.count()));
            sum.delivered += outcome.delivered;
            sum.late += outcome.late;
            for (sum, count) in sum.not_persisted.iter_mut().zip(outcome.not_persisted) {
                *sum += count;
            }
        }
        sum
    }
}

/// The times of the packets that libpcap reads from a file.
fn times(path: &Path) -> Vec<u64> {
    let mut capture = Capture::from_file_with_precision(path, Precision::Nano).unwrap();
    let mut times = Vec::new();
    loop {
        match capture.next_packet() {
            Ok(packet) => {
                let stamp = packet.header.ts;
                let nanos = stamp.tv_sec * 1_000_000_000 + stamp.tv_usec;
                times.push(u64::try_from(nanos).unwrap());
            }
            Err(pcap::Error::NoMorePackets) => return times,
            Err(error) => panic!("{error}"),
        }
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn output(program: &str, arguments: &[&str], file: &Path) -> String {
    let output = Command::new(program)
        .args(arguments)
        .arg(file)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn capinfos_and_tshark_accept_a_pcapng_file_and_show_what_is_in_it() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("x.pcapng");
    let mut config = config(&path, 1);
    config
        .interfaces
        .register(interface("any", LinkType::LINUX_SLL2));
    config.totals = Arc::new(|number| {
        Some(InterfaceTotals {
            start: Some(Timestamp::from_nanos(START)),
            end: Some(Timestamp::from_nanos(START + 5_000_000_000)),
            received: Some(1_000 + u64::from(number)),
            interface_dropped: Some(17),
            accepted: Some(900),
            system_dropped: Some(5),
            delivered: Some(895),
        })
    });
    let mut run = Run::new(config);
    let mut batch = batch(0, [START + 1, START + 2_000_000_003], 60);
    let cooked = Packet {
        orig_len: 9_000,
        link_type: LinkType::LINUX_SLL2,
        interface: 1,
        ..frame(START + 3_000_000_000, &[0; 41])
    };
    batch.push(&cooked, &ENCODING, Origin::default()).unwrap();
    run.send(batch).unwrap();
    run.finish().unwrap();
    assert_eq!(run.sum(), Outcome::delivered(3));

    let shown = output("capinfos", &[], &path);
    for line in [
        "File type:           Wireshark/... - pcapng",
        "Number of packets:   3",
        "Capture application: ringtap 0.1.0",
        "Number of interfaces in file: 2",
        "Name = eth0",
        "Name = any",
        "Time precision = nanoseconds (9)",
        "Filter string = tcp or udp",
        "Number of stat entries = 1",
    ] {
        assert!(shown.contains(line), "{line} is not in:\n{shown}");
    }
    let fields = [
        "-Tfields",
        "-eframe.time_epoch",
        "-eframe.len",
        "-eframe.interface_name",
        "-r",
    ];
    let shown = output("tshark", &fields, &path);
    assert_eq!(
        shown.lines().collect::<Vec<_>>(),
        [
            "1700000000.000000001\t60\teth0",
            "1700000002.000000003\t60\teth0",
            "1700000003.000000000\t9000\tany",
        ]
    );
    let totals = output("tshark", &["-q", "-zio,stat,0", "-r"], &path);
    assert!(totals.contains("IO Statistics"));
}

#[test]
fn an_empty_capture_is_a_file_that_readers_accept() {
    let folder = tempdir().unwrap();
    for name in ["x.pcap", "x.pcapng"] {
        let path = folder.path().join(name);
        let mut config = config(&path, 2);
        config.totals = Arc::new(|_| Some(InterfaceTotals::default()));
        config.link_type = None;
        let mut run = Run::new(config);
        run.poll().unwrap();
        run.finish().unwrap();
        assert!(output("capinfos", &["-c"], &path).contains("Number of packets:   0"));
        assert!(times(&path).is_empty());
    }
}

#[test]
fn a_pcap_file_takes_the_link_type_of_its_first_packet_and_refuses_others() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("x.pcap");
    let mut config = config(&path, 1);
    config.link_type = None;
    let mut run = Run::new(config);
    let raw = Packet {
        link_type: LinkType::RAW,
        ..frame(START, &[1; 40])
    };
    let mut mixed = Batch::new(4_096, 0);
    for packet in [raw, frame(START + 1_000, &[2; 60]), raw] {
        mixed.push(&packet, &ENCODING, Origin::default()).unwrap();
    }
    run.send(mixed).unwrap();
    run.finish().unwrap();
    assert_eq!(run.sum().delivered, 2);
    assert_eq!(run.sum().not_persisted[Failed::Refused as usize], 1);
    assert_eq!(times(&path), [START, START]);
}

#[test]
fn a_file_by_its_own_name_is_readable_while_it_is_written() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("x.pcap");
    let mut run = Run::new(config(&path, 1));
    assert!(times(&path).is_empty());
    run.send(batch(0, [START], 60)).unwrap();
    assert_eq!(times(&path).len(), 1);
    assert_eq!(run.finished.len(), 1);
}

#[test]
fn three_workers_make_one_file_in_order_of_time() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("x.pcapng");
    let config = config(&path, 3);
    let queues = config.queues.clone();
    let mut run = Run::new(config);
    let mut clocks = [START; 3];
    let mut sent = 0;
    for turn in 0..200_u64 {
        let owner = usize::try_from(turn * turn % 7 % 3).unwrap();
        let first = clocks[owner] + 1 + turn % 5;
        let times: Vec<u64> = (0..50).map(|step| first + step * (1 + turn % 3)).collect();
        clocks[owner] = *times.last().unwrap();
        sent += times.len();
        let batch = batch(u16::try_from(owner).unwrap(), times, 60);
        queues[owner].handed_batches.add(1);
        queues[owner].watermark.set(clocks[owner]);
        run.send(batch).unwrap();
    }
    queues
        .iter()
        .for_each(|queue| queue.set_state(QueueState::Ended));
    run.finish().unwrap();
    assert_eq!(run.sum(), Outcome::delivered(u32::try_from(sent).unwrap()));
    let times = times(&path);
    assert_eq!(times.len(), sent);
    assert!(times.is_sorted());
}

fn rotated(folder: &Path, name: &str, rotation: Rotation, batches: u64) -> Run {
    let mut config = config(&folder.join(name), 1);
    config.rotation = rotation;
    config.format = PCAP;
    let mut run = Run::new(config);
    for number in 0..batches {
        let times = (0..100).map(|step| START + (number * 100 + step) * 1_000);
        run.send(batch(0, times, 984)).unwrap();
    }
    run
}

#[test]
fn files_by_size_have_the_names_and_lengths_that_tcpdump_gives_them() {
    let folder = tempdir().unwrap();
    let rotation = Rotation {
        size: NonZeroU64::new(100_000),
        ..Rotation::default()
    };
    let mut run = rotated(folder.path(), "f.pcap", rotation, 3);
    run.finish().unwrap();
    assert_eq!(run.sum(), Outcome::delivered(300));

    let source = tempdir().unwrap();
    let whole = source.path().join("whole.pcap");
    rotated(source.path(), "whole.pcap", Rotation::default(), 3)
        .finish()
        .unwrap();
    // tcpdump counts in millions of bytes: the same packets ten times over.
    let ten = source.path().join("ten.pcap");
    let merged = Command::new("mergecap")
        .args(["-F", "pcap", "-a", "-w"])
        .arg(&ten)
        .args(vec![&whole; 10])
        .status()
        .unwrap();
    assert!(merged.success());
    let theirs = tempdir().unwrap();
    let split = Command::new("tcpdump")
        .args(["-Z", "root", "-C", "1", "-r"])
        .arg(&ten)
        .arg("-w")
        .arg(theirs.path().join("f.pcap"))
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(split.success());
    assert_eq!(names(folder.path()), names(theirs.path()));

    let lens: Vec<u64> = names(folder.path())
        .iter()
        .map(|name| fs::metadata(folder.path().join(name)).unwrap().len())
        .collect();
    assert_eq!(lens, [100_024, 100_024, 100_024]);
    let all: Vec<u64> = names(folder.path())
        .iter()
        .flat_map(|name| times(&folder.path().join(name)))
        .collect();
    assert_eq!(all.len(), 300);
    assert!(all.is_sorted());
}

#[test]
fn a_ring_of_files_keeps_the_newest_packets() {
    let folder = tempdir().unwrap();
    let rotation = Rotation {
        size: NonZeroU64::new(50_000),
        files: NonZeroU32::new(3),
        ..Rotation::default()
    };
    let mut run = rotated(folder.path(), "f", rotation, 4);
    run.finish().unwrap();
    let expected = ["f0", "f1", "f2"].map(str::to_owned);
    assert_eq!(names(folder.path()), BTreeSet::from(expected));
    assert_eq!(run.sum(), Outcome::delivered(400));
    let newest = START + 399 * 1_000;
    let kept: Vec<u64> = names(folder.path())
        .iter()
        .flat_map(|name| times(&folder.path().join(name)))
        .collect();
    assert!(kept.contains(&newest));
    assert!(!kept.contains(&START));
}

#[test]
fn a_rotated_file_has_its_name_only_when_it_is_complete() {
    let folder = tempdir().unwrap();
    let rotation = Rotation {
        size: NonZeroU64::new(120_000),
        ..Rotation::default()
    };
    let mut run = rotated(folder.path(), "f", rotation, 2);
    let expected = [".f1.part", "f"].map(str::to_owned);
    assert_eq!(names(folder.path()), BTreeSet::from(expected));
    run.finish().unwrap();
    let expected = ["f", "f1"].map(str::to_owned);
    assert_eq!(names(folder.path()), BTreeSet::from(expected));
}

#[test]
fn the_last_file_by_time_ends_the_capture_and_takes_what_is_under_way() {
    let folder = tempdir().unwrap();
    let mut config = config(&folder.path().join("%s-%%.pcapng"), 1);
    config.rotation = Rotation {
        seconds: NonZeroU64::new(1),
        files: NonZeroU32::new(2),
        ..Rotation::default()
    };
    let ends = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&ends);
    config.at_end = Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let mut run = Run::new(config);
    let mut sent = 0;
    while ends.load(Ordering::Relaxed) == 0 {
        run.send(batch(0, [START + sent], 60)).unwrap();
        sent += 1;
        thread::sleep(Duration::from_millis(20));
    }
    run.send(batch(0, [START + sent], 60)).unwrap();
    run.poll().unwrap();
    run.finish().unwrap();
    assert_eq!(ends.load(Ordering::Relaxed), 1);
    let names = names(folder.path());
    assert_eq!(names.len(), 2);
    let all: Vec<u64> = names
        .iter()
        .flat_map(|name| {
            assert!(name.ends_with("-%.pcapng"));
            times(&folder.path().join(name))
        })
        .collect();
    assert_eq!(all, (START..=START + sent).collect::<Vec<_>>());
}

#[test]
fn what_cannot_be_written_is_refused_at_the_start() {
    let folder = tempdir().unwrap();
    let error = FileSink::new(config(&folder.path().join("none/x.pcap"), 1)).unwrap_err();
    assert!(error.to_string().starts_with("opening "), "{error}");

    let mut to_pipe = config(Path::new("-"), 1);
    to_pipe.destination = Destination::Stdout;
    to_pipe.rotation.size = NonZeroU64::new(1);
    let error = FileSink::new(to_pipe).unwrap_err();
    assert!(matches!(error, FileError::Stream { .. }));
}
