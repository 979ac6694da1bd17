//! The stages of the packet path, one by one, per packet.
//!
//! - `encode`: a packet into a batch, and the batch sealed (CRC-32C): the copy, the record's fields, the
//!   checksum; the source packet is hot in the cache, as a UMEM frame is.
//! - `seal`: header and checksum of a full batch.
//! - `compress`: a full batch of numbered frames, by codec; restoring it is not counted.
//! - `flow`: the number of the flow of a packet that is hot in the cache.
//! - `ring`: a batch from worker to publisher and back, divided by the packets it holds.
//! - `turn`: the worker's loop on the synthetic source, into a publisher that discards: everything of
//!   user space but the socket.
//!
//! `cargo bench --bench path`

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use ringtap::batch::{Batch, Codec, Compressor, Origin, Seal};
use ringtap::counters::QueueCounters;
use ringtap::filler::{Filler, Route, Rules};
use ringtap::flow;
use ringtap::frames::{Plan, Size};
use ringtap::histogram::Histogram;
use ringtap::packet::{Clock, LinkType, Packet, Timestamp};
use ringtap::record::{Encoding, KeyTime, RecordTime};
use ringtap::ring::{Ready, Spent};
use ringtap::source::synthetic::{Spec, SyntheticSource};
use ringtap::worker::Worker;

const SIZES: [usize; 4] = [60, 124, 512, 1_514];
const BATCH: usize = 1 << 20;

fn encoding() -> Encoding {
    Encoding {
        key_time: KeyTime::Micros,
        record_time: RecordTime::Packet,
        headers: false,
        snaplen: 65_535,
    }
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(1));
    for size in SIZES {
        // As many frames as a burst holds, so that the copy reads what was just written, not one line.
        let frames: Vec<Vec<u8>> = (0..64_u8).map(|fill| vec![fill; size]).collect();
        let mut batch = Batch::new(BATCH, 0);
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter_custom(|packets| {
                let start = Instant::now();
                let mut time = 1_700_000_000_000_000_000;
                for (at, data) in (0..packets).zip(frames.iter().cycle()) {
                    time += 1_000;
                    let packet = Packet {
                        clock: Clock::Arrival,
                        time: Timestamp::from_nanos(time),
                        orig_len: u32::try_from(size).expect("sizes are small"),
                        link_type: LinkType::ETHERNET,
                        interface: 0,
                        data: black_box(data),
                        more: &[],
                    };
                    let origin = Origin {
                        sequence: at,
                        ..Origin::default()
                    };
                    if batch.push(&packet, &encoding(), origin).is_err() {
                        black_box(batch.seal(Seal::default()));
                        batch.clear();
                    }
                }
                black_box(batch.seal(Seal::default()));
                batch.clear();
                start.elapsed()
            });
        });
    }
    group.finish();
}

/// A full batch of numbered frames.
fn full(size: usize) -> Batch {
    let size = u16::try_from(size).expect("sizes are small");
    let mut frames = Plan::new(0, Size::Fixed(size)).table();
    let mut batch = Batch::new(BATCH, 0);
    for sequence in 0.. {
        let packet = Packet {
            clock: Clock::Arrival,
            time: Timestamp::from_nanos(1_700_000_000_000_000_000 + sequence * 1_000),
            orig_len: size.into(),
            link_type: LinkType::ETHERNET,
            interface: 0,
            data: frames.frame(sequence),
            more: &[],
        };
        let pushed = batch.push(&packet, &encoding(), Origin::default());
        if pushed.is_err() {
            break;
        }
    }
    batch
}

fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    for size in [60, 512, 1_514] {
        let mut batch = full(size);
        group.throughput(Throughput::Bytes(batch.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| black_box(batch.seal(Seal::default())).len());
        });
    }
    group.finish();
}

fn compress(c: &mut Criterion) {
    let mut group = c.benchmark_group("compress");
    for codec in ["lz4", "snappy", "zstd:1", "zstd:3", "gzip:1"] {
        for size in [60, 512, 1_514] {
            let mut batch = full(size);
            let codec: Codec = codec.parse().expect("the codec is right");
            let mut compressor = Compressor::new(codec);
            group.throughput(Throughput::Bytes(batch.len() as u64));
            group.bench_function(BenchmarkId::new(codec.to_string(), size), |b| {
                b.iter_custom(|batches| {
                    let mut spent = Duration::ZERO;
                    for _ in 0..batches {
                        let start = Instant::now();
                        black_box(batch.compress(&mut compressor));
                        spent += start.elapsed();
                        batch.decompress(&mut compressor);
                    }
                    spent
                });
            });
        }
    }
    group.finish();
}

fn flow(c: &mut Criterion) {
    let mut group = c.benchmark_group("flow");
    group.throughput(Throughput::Elements(64));
    let mut frames = Plan::new(0, Size::Fixed(60));
    frames.flows = 64;
    let mut frames = frames.table();
    let udp: Vec<Vec<u8>> = (0..64)
        .map(|sequence| frames.frame(sequence).to_vec())
        .collect();
    let tagged = udp.iter().map(|frame| {
        let tag: &[u8] = &[0x81, 0, 0, 7];
        [&frame[..12], tag, &frame[12..]].concat()
    });
    // IPv6 and UDP behind an extension header of hop-by-hop options, and without.
    let version_6 = |extension: &[u8]| -> Vec<Vec<u8>> {
        let next = if extension.is_empty() { 17 } else { 0 };
        let of = |number: u8| {
            let mut frame = vec![2; 12];
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, next, 64]);
            frame.extend([number; 32]);
            frame.extend(extension);
            frame.extend([number; 20]);
            frame
        };
        (0..64).map(of).collect()
    };
    let cases = [
        ("IPv4", udp.clone()),
        ("VLAN IPv4", tagged.collect()),
        ("IPv6", version_6(&[])),
        ("IPv6 with options", version_6(&[17, 0, 5, 2, 0, 0, 1, 0])),
    ];
    for (name, frames) in &cases {
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| {
                frames.iter().fold(0, |sum: u64, data| {
                    let packet = Packet {
                        clock: Clock::Arrival,
                        time: Timestamp::from_nanos(1),
                        orig_len: 60,
                        link_type: LinkType::ETHERNET,
                        interface: 0,
                        data: black_box(data),
                        more: &[],
                    };
                    sum.wrapping_add(flow::hash(&packet))
                })
            });
        });
    }
    group.finish();
}

fn ring(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring");
    let mut batch = Batch::new(BATCH, 0);
    let data = [0; 60];
    let packet = Packet {
        clock: Clock::Arrival,
        time: Timestamp::from_nanos(1),
        orig_len: 60,
        link_type: LinkType::ETHERNET,
        interface: 0,
        data: &data,
        more: &[],
    };
    while batch.push(&packet, &encoding(), Origin::default()).is_ok() {}
    group.throughput(Throughput::Elements(batch.count().into()));
    let (ready, spent) = (
        Ready::new(4).expect("an eventfd is to be had"),
        Spent::new(4),
    );
    let mut batch = Some(batch);
    group.bench_function("hand over and give back, a batch of 60 B packets", |b| {
        b.iter(|| {
            ready.push(batch.take().expect("it came back"));
            spent.push(ready.pop().expect("it was handed over"));
            batch = spent.pop();
        });
    });
    group.finish();
}

fn turn(c: &mut Criterion) {
    let mut group = c.benchmark_group("turn");
    group.throughput(Throughput::Elements(64));
    for size in ["60", "124", "512", "1514", "imix"] {
        let spec: Spec = format!("synthetic,size={size}")
            .parse()
            .expect("the spec is right");
        let counters = Arc::new(QueueCounters::default());
        let (ready, spent) = (
            Ready::new(8).expect("an eventfd is to be had"),
            Spent::new(8),
        );
        let rules = Rules {
            encoding: encoding(),
            queue: 0,
            linger: Duration::from_millis(50),
            live: true,
            filter: None,
            allowance: None,
            one_link_type: None,
            compress: Codec::None,
            longest_frame: None,
        };
        let batches = (0..8).map(|_| Batch::new(BATCH, 0)).collect();
        let (recorder, _histogram) = Histogram::new();
        let filler = Filler::new(
            rules,
            counters.clone(),
            batches,
            Route::Batch(ready.clone()),
            spent.clone(),
            recorder,
        );
        let mut worker = Worker::new(SyntheticSource::new(&spec, 0), filler, counters);
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                black_box(worker.turn()).expect("a synthetic source has no errors");
                while let Some(batch) = ready.pop() {
                    spent.push(batch);
                }
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = path;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .sample_size(20);
    targets = encode, seal, compress, flow, ring, turn
}
criterion_main!(path);
