//! Captures on veth pairs, each test in a network namespace of its own, which ends with its thread.

#![allow(unsafe_code)] // capabilities are a thread's own only below the C library

use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::counters::Counter;

/// Frames are sent by `out` and received by `in`.
const SENDING: &str = "rt-out";
const RECEIVING: &str = "rt-in";

/// Runs `test` in a new network namespace with a veth pair, both ends up, without IPv6 chatter.
fn with_veth(test: impl FnOnce() + Send + 'static) {
    let outcome = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests run as root");
        for which in ["all", "default"] {
            let file = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
            std::fs::write(file, "1").ok();
        }
        ip(&format!(
            "link add {SENDING} type veth peer name {RECEIVING}"
        ));
        ip(&format!("link set {SENDING} up"));
        ip(&format!("link set {RECEIVING} up"));
        test();
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Sends numbered Ethernet frames from one end of the pair.
struct Sender {
    capture: Capture<Active>,
    next: u32,
}

impl Sender {
    fn new(interface: &str) -> Self {
        let inactive = Capture::from_device(interface).unwrap().snaplen(64);
        let capture = inactive.buffer_size(1 << 19).open().unwrap();
        Self { capture, next: 0 }
    }

    /// A UDP frame of `len` bytes to port `port`, with the next number at its end.
    fn frame(&mut self, len: usize, port: u16) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        let ip_len = u16::try_from(len - 14).unwrap().to_be_bytes();
        frame.extend([0x45, 0, ip_len[0], ip_len[1], 0, 0, 0, 0, 64, 17, 0, 0]);
        frame.extend([10, 0, 0, 1, 10, 0, 0, 2, 0x13, 0x88]);
        frame.extend(port.to_be_bytes());
        frame.resize(len - 4, 0);
        frame.extend(self.next.to_be_bytes());
        self.next += 1;
        frame
    }

    fn put(&mut self, frame: &[u8]) {
        while self.capture.sendpacket(frame).is_err() {
            thread::yield_now();
        }
    }

    fn send(&mut self, count: usize, len: usize) {
        for _ in 0..count {
            let frame = self.frame(len, 53);
            self.put(&frame);
        }
    }
}

/// A packet that was received, owned.
#[derive(Debug, PartialEq, Eq)]
struct Received {
    time: Timestamp,
    orig_len: u32,
    data: Vec<u8>,
}

impl Received {
    fn number(&self) -> u32 {
        u32::from_be_bytes(*self.data.last_chunk().unwrap())
    }
}

fn open(options: &PcapOptions) -> PcapSource {
    PcapSource::open(options, &Interfaces::default()).unwrap()
}

/// One burst, appended to `received`.
fn recv(source: &mut PcapSource, received: &mut Vec<Received>) -> Result<Burst, SourceError> {
    source.recv(&mut |packet| {
        received.push(Received {
            time: packet.time,
            orig_len: packet.orig_len,
            data: packet.data.to_vec(),
        });
        ControlFlow::Continue(())
    })
}

/// Receives until `count` packets have come.
fn receive(source: &mut PcapSource, count: usize) -> Vec<Received> {
    let mut received = Vec::new();
    while received.len() < count {
        recv(source, &mut received).unwrap();
        source
            .wait(Duration::from_millis(50), Duration::ZERO)
            .unwrap();
    }
    received
}

/// Stops the source and receives what is left.
fn drain(source: &mut PcapSource) -> Vec<Received> {
    source.stop().unwrap();
    let mut received = Vec::new();
    while recv(source, &mut received).unwrap() != Burst::End {
        source.wait(Duration::from_secs(1), Duration::ZERO).unwrap();
    }
    received
}

fn numbers(received: &[Received]) -> Vec<u32> {
    received.iter().map(Received::number).collect()
}

fn count(counter: &Counter) -> usize {
    usize::try_from(counter.get()).unwrap()
}

#[test]
fn every_frame_arrives_once_in_order_with_its_bytes_and_time() {
    with_veth(|| {
        let interfaces = Interfaces::default();
        let mut source = PcapSource::open(&PcapOptions::new(RECEIVING), &interfaces).unwrap();
        let mut sender = Sender::new(SENDING);
        let before = Timestamp::now();
        let mut sent = Vec::new();
        for len in 60..1_514 {
            let frame = sender.frame(len, 53);
            sender.put(&frame);
            sent.push(frame);
        }
        let mut received = receive(&mut source, sent.len());
        received.extend(drain(&mut source));
        let after = Timestamp::now();
        assert_eq!(source.link_type(), LinkType::ETHERNET);
        assert_eq!(interfaces.get(source.interface()).unwrap().name, RECEIVING);
        assert!(received.iter().map(|packet| &packet.data).eq(&sent));
        assert!(
            received
                .iter()
                .all(|packet| packet.orig_len as usize == packet.data.len())
        );
        assert!(received.is_sorted_by_key(|packet| packet.time));
        assert!(before <= received[0].time && received.last().unwrap().time <= after);
        assert!(
            received
                .iter()
                .any(|packet| packet.time.nanos() % 1_000 != 0)
        );
        let counters = QueueCounters::default();
        source.account(&counters);
        assert_eq!(counters.pcap_dropped.get(), 0);
        assert_eq!(source.state(), QueueState::Ended);
    });
}

#[test]
fn received_and_dropped_are_what_was_sent_when_the_ring_overruns() {
    with_veth(|| {
        let mut options = PcapOptions::new(RECEIVING);
        options.buffer = 1 << 20;
        let mut source = open(&options);
        let mut sender = Sender::new(SENDING);
        let counters = QueueCounters::default();
        let mut received = Vec::new();
        for _ in 0..5 {
            sender.send(4_000, 1_000);
            recv(&mut source, &mut received).unwrap();
            source.account(&counters);
        }
        received.extend(drain(&mut source));
        source.account(&counters);
        assert!(
            counters.pcap_dropped.get() > 0,
            "the ring was too large for the test"
        );
        assert_eq!(received.len() + count(&counters.pcap_dropped), 20_000);
        assert!(numbers(&received).is_sorted_by(|one, next| one < next));
        source.account(&counters);
        assert_eq!(received.len() + count(&counters.pcap_dropped), 20_000);
    });
}

#[test]
fn received_and_dropped_are_what_the_kernel_counted_after_a_stop_under_load() {
    with_veth(|| {
        let mut options = PcapOptions::new(RECEIVING);
        options.buffer = 1 << 20;
        let mut source = open(&options);
        let sending = thread::spawn(|| Sender::new(SENDING).send(30_000, 1_000));
        let mut received = Vec::new();
        while received.len() < 5_000 {
            recv(&mut source, &mut received).unwrap();
        }
        received.extend(drain(&mut source));
        sending.join().unwrap();
        let counters = QueueCounters::default();
        source.account(&counters);
        let stat = source.capture.stats().unwrap();
        let seen = usize::try_from(stat.received).unwrap();
        assert!(seen >= 5_000);
        assert_eq!(received.len() + count(&counters.pcap_dropped), seen);
    });
}

#[test]
fn a_refused_packet_and_the_rest_are_offered_again_unchanged() {
    with_veth(|| {
        let mut source = open(&PcapOptions::new(RECEIVING));
        let mut sender = Sender::new(SENDING);
        sender.send(1_000, 200);
        let mut received = Vec::new();
        let mut offers = 0;
        let mut refusals = 0;
        while received.len() < 1_000 {
            let mut taken = 0;
            let burst = source.recv(&mut |packet| {
                offers += 1;
                if offers % 7 == 0 || offers % 7 == 1 {
                    return ControlFlow::Break(());
                }
                taken += 1;
                received.push(Received {
                    time: packet.time,
                    orig_len: packet.orig_len,
                    data: packet.data.to_vec(),
                });
                ControlFlow::Continue(())
            });
            match burst.unwrap() {
                Burst::Refused(before) => {
                    assert_eq!(before, taken);
                    refusals += 1;
                }
                Burst::Packets(many) => assert_eq!(many, taken),
                Burst::Empty => assert_eq!(taken, 0),
                Burst::End => unreachable!("it was not stopped"),
            }
        }
        received.extend(drain(&mut source));
        assert!(refusals > 100);
        assert_eq!(numbers(&received), (0..1_000).collect::<Vec<_>>());
        assert!(received.is_sorted_by_key(|packet| packet.time));
    });
}

#[test]
fn a_held_packet_survives_the_stop() {
    with_veth(|| {
        let mut source = open(&PcapOptions::new(RECEIVING));
        Sender::new(SENDING).send(10, 100);
        while source.recv(&mut |_| ControlFlow::Break(())).unwrap() != Burst::Refused(0) {
            source
                .wait(Duration::from_millis(50), Duration::ZERO)
                .unwrap();
        }
        let received = drain(&mut source);
        assert_eq!(numbers(&received), (0..10).collect::<Vec<_>>());
    });
}

#[test]
fn the_filter_runs_in_the_kernel() {
    with_veth(|| {
        let mut options = PcapOptions::new(RECEIVING);
        options.filter = Some("udp dst port 80".to_owned());
        let mut source = open(&options);
        let mut sender = Sender::new(SENDING);
        for round in 0..2_000_u16 {
            let frame = sender.frame(100, if round % 4 == 0 { 80 } else { 53 });
            sender.put(&frame);
        }
        let received = drain(&mut source);
        let wanted = (0..2_000).filter(|number| number % 4 == 0);
        assert_eq!(numbers(&received), wanted.collect::<Vec<_>>());
        assert_eq!(source.capture.stats().unwrap().received, 500);
    });
}

#[test]
fn packets_are_cut_to_the_snap_length_and_keep_their_length() {
    with_veth(|| {
        let mut options = PcapOptions::new(RECEIVING);
        options.snaplen = 96;
        let mut source = open(&options);
        Sender::new(SENDING).send(10, 1_000);
        let received = drain(&mut source);
        assert_eq!(received.len(), 10);
        for packet in received {
            assert_eq!((packet.data.len(), packet.orig_len), (96, 1_000));
        }
    });
}

#[test]
fn a_vlan_tag_that_the_kernel_takes_off_is_put_back() {
    with_veth(|| {
        let mut options = PcapOptions::new(RECEIVING);
        options.filter = Some("vlan 42 and udp".to_owned());
        let mut source = open(&options);
        let mut sender = Sender::new(SENDING);
        let plain = sender.frame(100, 53);
        let tagged = [&plain[..12], &[0x81, 0, 0, 42], &plain[12..]].concat();
        sender.put(&tagged);
        sender.put(&plain);
        let received = drain(&mut source);
        assert_eq!(received.len(), 1);
        assert_eq!(received[0].data, tagged);
        assert_eq!(received[0].orig_len, 104);
    });
}

#[test]
fn a_direction_leaves_out_the_other() {
    with_veth(|| {
        let directions = [Direction::In, Direction::Out, Direction::InOut];
        let mut sources = directions.map(|direction| {
            let mut options = PcapOptions::new(RECEIVING);
            options.direction = direction;
            open(&options)
        });
        Sender::new(SENDING).send(20, 100);
        Sender::new(RECEIVING).send(30, 100);
        let [incoming, outgoing, both] = &mut sources;
        assert_eq!(drain(incoming).len(), 20);
        assert_eq!(drain(outgoing).len(), 30);
        assert_eq!(drain(both).len(), 50);
        assert_eq!(incoming.capture.stats().unwrap().received, 20);
    });
}

#[test]
fn any_captures_every_interface_and_says_which() {
    with_veth(|| {
        let mut source = open(&PcapOptions::new(ANY));
        Sender::new(SENDING).send(10, 100);
        let received = drain(&mut source);
        assert_eq!(source.link_type(), LinkType::LINUX_SLL2);
        assert_eq!(source.state(), QueueState::Ended);
        for (name, what) in [(SENDING, 4), (RECEIVING, 3)] {
            let index = nix::net::if_::if_nametoindex(name).unwrap().to_be_bytes();
            let of_it = received.iter().filter(|packet| packet.data[4..8] == index);
            // Byte 10 of SLL2 tells packets sent by the host (4) from those for others (3).
            let kinds: Vec<_> = of_it.map(|packet| packet.data[10]).collect();
            assert_eq!(kinds, [what; 10], "{name}");
        }
    });
}

#[test]
fn loopback_gives_each_packet_once() {
    with_veth(|| {
        ip("link set lo up");
        let mut source = open(&PcapOptions::new("lo"));
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for number in 0..10_u32 {
            socket
                .send_to(&number.to_be_bytes(), socket.local_addr().unwrap())
                .unwrap();
        }
        let received = drain(&mut source);
        assert_eq!(numbers(&received), (0..10).collect::<Vec<_>>());
        assert_eq!(source.capture.stats().unwrap().received, 10);
    });
}

#[test]
fn a_stop_on_a_silent_link_ends_the_capture() {
    with_veth(|| {
        let mut source = open(&PcapOptions::new(RECEIVING));
        let mut none = Vec::new();
        assert_eq!(recv(&mut source, &mut none).unwrap(), Burst::Empty);
        assert_eq!(source.state(), QueueState::Up);
        source.stop().unwrap();
        source.stop().unwrap();
        assert_eq!(source.state(), QueueState::Draining);
        assert!(drain(&mut source).is_empty());
        assert_eq!(recv(&mut source, &mut none).unwrap(), Burst::End);
    });
}

#[test]
fn packets_after_the_stop_are_not_offered() {
    with_veth(|| {
        let mut source = open(&PcapOptions::new(RECEIVING));
        let mut sender = Sender::new(SENDING);
        sender.send(10, 100);
        source.stop().unwrap();
        sender.send(10, 100);
        assert_eq!(numbers(&drain(&mut source)), (0..10).collect::<Vec<_>>());
    });
}

#[test]
fn a_link_that_comes_back_goes_on() {
    with_veth(|| {
        let mut source = open(&PcapOptions::new(RECEIVING));
        let counters = QueueCounters::default();
        let mut sender = Sender::new(SENDING);
        let mut received = Vec::new();
        sender.send(10, 100);
        ip(&format!("link set {RECEIVING} down"));
        for _ in 0..20 {
            recv(&mut source, &mut received).unwrap();
            source
                .wait(Duration::from_millis(5), Duration::ZERO)
                .unwrap();
        }
        source.account(&counters);
        assert_eq!(source.state(), QueueState::Down);
        assert_eq!(recv(&mut source, &mut received).unwrap(), Burst::Empty);
        ip(&format!("link set {RECEIVING} up"));
        // Both ends need a moment until their carrier is noticed; what is sent before is lost.
        let before = received.len();
        while received.len() == before || source.state() == QueueState::Down {
            sender.send(1, 100);
            source
                .wait(Duration::from_millis(50), Duration::ZERO)
                .unwrap();
            recv(&mut source, &mut received).unwrap();
            source.account(&counters);
        }
        assert_eq!(source.state(), QueueState::Up);
        assert_eq!(counters.recoveries.get(), 1);
        let next = sender.next;
        sender.send(10, 100);
        received.extend(drain(&mut source));
        let (old, new) = received.split_at(received.len() - 10);
        assert_eq!(numbers(new), (next..next + 10).collect::<Vec<_>>());
        assert_eq!(numbers(&old[..10]), (0..10).collect::<Vec<_>>());
    });
}

#[test]
fn a_device_that_is_removed_is_gone_and_its_packets_are_kept() {
    with_veth(|| {
        let mut source = open(&PcapOptions::new(RECEIVING));
        Sender::new(SENDING).send(100, 100);
        ip(&format!("link del {SENDING}"));
        let mut received = Vec::new();
        let error = loop {
            if let Err(error) = recv(&mut source, &mut received) {
                break error;
            }
            source.wait(Duration::from_secs(1), Duration::ZERO).unwrap();
        };
        assert_eq!(error.to_string(), format!("interface {RECEIVING} is gone"));
        assert!(matches!(error, SourceError::Gone { .. }));
        assert_eq!(source.state(), QueueState::Gone);
        assert_eq!(numbers(&received), (0..100).collect::<Vec<_>>());
        let counters = QueueCounters::default();
        source.account(&counters);
        assert_eq!(counters.pcap_dropped.get(), 0);
        assert_eq!(counters.pcap_if_dropped.get(), 0);
    });
}

#[test]
fn a_device_that_is_removed_while_down_is_gone() {
    with_veth(|| {
        let mut source = open(&PcapOptions::new(RECEIVING));
        ip(&format!("link set {RECEIVING} down"));
        let mut none = Vec::new();
        recv(&mut source, &mut none).unwrap();
        ip(&format!("link del {SENDING}"));
        while recv(&mut source, &mut none).is_ok() {
            source.wait(Duration::from_secs(1), Duration::ZERO).unwrap();
        }
        assert_eq!(source.state(), QueueState::Gone);
    });
}

#[test]
fn what_stands_in_the_way_of_a_capture_is_named() {
    with_veth(|| {
        let error_of =
            |options: &PcapOptions| PcapSource::open(options, &Interfaces::default()).unwrap_err();
        let unknown = error_of(&PcapOptions::new("rt-none"));
        assert!(matches!(unknown, OpenError::Unknown { .. }), "{unknown}");
        assert!(unknown.to_string().contains("rt-none"));
        let long = error_of(&PcapOptions::new("a-name-that-is-too-long"));
        assert!(matches!(long, OpenError::Unknown { .. }), "{long}");
        let mut options = PcapOptions::new(RECEIVING);
        options.filter = Some("udp prot 1".to_owned());
        let malformed = error_of(&options);
        assert!(
            malformed.to_string().contains("`udp prot 1`"),
            "{malformed}"
        );
        ip(&format!("link set {RECEIVING} down"));
        let down = error_of(&PcapOptions::new(RECEIVING));
        assert!(matches!(down, OpenError::Down { .. }), "{down}");
    });
}

#[test]
fn a_missing_capability_is_named() {
    with_veth(|| {
        drop_capabilities();
        let outcome = PcapSource::open(&PcapOptions::new(RECEIVING), &Interfaces::default());
        let error = outcome.unwrap_err();
        assert!(matches!(error, OpenError::Rights { .. }), "{error}");
        assert!(error.to_string().contains("CAP_NET_RAW"), "{error}");
    });
}

/// Takes every capability from the calling thread, and from no other.
fn drop_capabilities() {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let none = [0_u32; 6];
    // SAFETY: capset(2) of version 3 reads a header of two words and twice three words of sets,
    // which is what the arrays hold, and writes neither.
    let status = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    assert_eq!(status, 0);
}
