//! Every frame is received once, unaltered, or is in a counter.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ringtap::counters::QueueCounters;
use ringtap::packet::Timestamp;
use ringtap::source::xsk::{Bind, Idle, XskConfig, XskSource};
use ringtap::source::{Burst, Source};
use ringtap::xdp::{Attach, Options, Program};

use crate::net::{Net, SHORTEST};
use crate::rig::*;

#[test]
fn every_frame_arrives_once_and_unaltered_whatever_the_source_does_between_bursts() {
    let idles = [Idle::DEFAULT, Idle::Poll, Idle::Spin, Idle::BusyPoll];
    let net = Net::new("idle", MTU);
    for idle in idles {
        let program = load(&net, false);
        let config = XskConfig {
            idle,
            ..XskConfig::for_mtu(MTU)
        };
        let sources = open_all(&program, &config);
        assert!(
            sources.iter().all(|source| source.mode() == Bind::Copy),
            "veth has no zero-copy"
        );
        let attached = program.attach(None).unwrap();
        assert_eq!(attached.mode(), Attach::Native);
        let orders = Orders::default();
        let received = capture(sources, attached, &orders, || {
            net.sender().send(0..20_000, ethernet)
        });
        assert_all(&received, 20_000);
        assert!(
            received.iter().all(|queue| !queue.numbers.is_empty()),
            "both queues are used"
        );
    }
}

#[test]
fn generic_mode_delivers_the_same() {
    let net = Net::new("generic", MTU);
    let program = load(&net, false);
    let sources = open_all(&program, &XskConfig::for_mtu(MTU));
    let attached = program.attach(Some(Attach::Generic)).unwrap();
    assert_eq!(attached.mode().name(), "generic");
    let received = capture(sources, attached, &Orders::default(), || {
        net.sender().send(0..10_000, ethernet)
    });
    assert_all(&received, 10_000);
}

#[test]
fn a_packet_of_several_fragments_is_one_packet() {
    let net = Net::new("jumbo", 9_000);
    let program = load(&net, true);
    let sources = open_all(&program, &XskConfig::for_mtu(9_000));
    let attached = program.attach(None).unwrap();
    assert_eq!(attached.mode(), Attach::Native);
    let edges = [1_791, 1_792, 1_793, 3_584, 3_585, 9_014, 60];
    let len = |number: u64| match edges.get(usize::try_from(number).unwrap()) {
        Some(len) => *len,
        None => SHORTEST + usize::try_from(number * 7_919 % 8_960).unwrap(),
    };
    let received = capture(sources, attached, &Orders::default(), || {
        net.sender().send(0..8_000, len)
    });
    assert_all(&received, 8_000);
    let lengths = received.iter().flat_map(|queue| &queue.lengths);
    assert_eq!(lengths.max(), Some(&9_014));
}

#[test]
fn while_packets_are_refused_every_loss_is_one_the_kernel_counts() {
    for (test, mtu, ring) in [
        ("refuse", MTU, None),
        ("ring", MTU, Some(128)),
        ("sg", 9_000, None),
    ] {
        let net = Net::new(test, mtu);
        let program = load(&net, mtu > MTU);
        let config = XskConfig {
            frames: 1_024,
            ring,
            ..XskConfig::for_mtu(mtu)
        };
        let sources = open_all(&program, &config);
        let attached = program.attach(None).unwrap();
        let orders = Orders {
            refuse: AtomicBool::new(true),
            ..Orders::default()
        };
        let longest = u64::from(mtu) - 60;
        let len = |number| SHORTEST + usize::try_from(number * 7_919 % longest).unwrap();
        let received = capture(sources, attached, &orders, || {
            let mut sender = net.sender();
            sender.send(0..6_000, len);
            orders.refuse.store(false, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(50));
            sender.send(6_000..7_000, len);
        });
        let mut lost = 0;
        let mut last = 0;
        for queue in &received {
            queue.balance();
            let numbers = &queue.numbers;
            assert!(
                numbers.windows(2).all(|pair| pair[0] < pair[1]),
                "once and in order"
            );
            last += numbers.iter().filter(|number| **number >= 6_000).count();
            lost += queue.counters.rx_dropped.get() + queue.counters.rx_ring_full.get();
        }
        assert!(lost > 0, "the rings were meant to overflow");
        assert!(last > 0, "after the refusal packets come again");
    }
}

#[test]
fn a_drain_that_is_cut_short_says_how_much_it_left() {
    for mtu in [MTU, 9_000] {
        let net = Net::new(if mtu == MTU { "cut" } else { "cutsg" }, mtu);
        let program = load(&net, mtu > MTU);
        let mut sources = open_all(&program, &XskConfig::for_mtu(mtu));
        let attached = program.attach(None).unwrap();
        net.sender().send(0..500, |_| usize::try_from(mtu).unwrap());
        attached.detach().unwrap();
        let mut left = 0;
        for source in &mut sources {
            let mut received = Received::default();
            source.stop().unwrap();
            let mut few = 0;
            source
                .recv(&mut |packet| {
                    if few == 10 {
                        return ControlFlow::Break(());
                    }
                    few += 1;
                    received.take(packet);
                    ControlFlow::Continue(())
                })
                .unwrap();
            source.account(&received.counters);
            received.counters.left_in_ring.set(source.left());
            received.balance();
            left += received.counters.left_in_ring.get();
            // What was left can still be had.
            let burst = source.recv(&mut |packet| {
                received.take(packet);
                ControlFlow::Continue(())
            });
            assert!(matches!(burst, Ok(Burst::Packets(_))), "{burst:?}");
            source.account(&received.counters);
            received.counters.left_in_ring.set(source.left());
            received.counters.left_in_ring.set(source.left());
            received.balance();
        }
        assert!(left > 400, "{left} were left");
    }
}

#[test]
fn packets_carry_the_time_they_were_sent_at() {
    let net = Net::new("time", MTU);
    let program = load(&net, false);
    let sources = open_all(&program, &XskConfig::for_mtu(MTU));
    let attached = program.attach(None).unwrap();
    let orders = Orders {
        refuse: AtomicBool::new(true),
        ..Orders::default()
    };
    let (mut before, mut after) = (Timestamp::default(), Timestamp::default());
    let received = capture(sources, attached, &orders, || {
        before = Timestamp::now();
        net.sender().send(0..100, |_| 60);
        after = Timestamp::now();
        // Were the time read on receipt, it would be far too late.
        thread::sleep(Duration::from_millis(300));
        orders.refuse.store(false, Ordering::Relaxed);
    });
    let slack = 50_000_000;
    for time in received.iter().flat_map(|queue| &queue.times) {
        assert!(time.nanos() + slack > before.nanos() && time.nanos() < after.nanos() + slack);
    }
    assert!(received.iter().all(|queue| queue.times.is_sorted()));
    assert_all(&received, 100);
}

#[test]
fn a_queue_without_a_socket_is_passed_to_the_stack_and_counted() {
    let net = Net::new("pass", MTU);
    let program = load(&net, false);
    let mut one = XskSource::open(&program, 1, &XskConfig::for_mtu(MTU)).unwrap();
    let zero = XskSource::open(&program, 0, &XskConfig::for_mtu(MTU)).unwrap();
    let attached = program.attach(None).unwrap();
    drop(zero);
    let orders = Orders::default();
    let received = thread::scope(|scope| {
        let worker = scope.spawn(|| drive(&mut one, &orders));
        net.sender().send(0..2_000, ethernet);
        attached.detach().unwrap();
        orders.stop.store(true, Ordering::SeqCst);
        worker.join().unwrap()
    });
    received.balance();
    // The same socket again, to read what the program counted on the other queue.
    let mut zero = XskSource::open(&program, 0, &XskConfig::for_mtu(MTU)).unwrap();
    let counters = QueueCounters::default();
    zero.account(&counters);
    assert_eq!(counters.xdp_passed.get(), counters.xdp_seen.get());
    assert!(counters.xdp_passed.get() > 0);
    let seen = counters.xdp_seen.get() + received.counters.xdp_seen.get();
    assert_eq!(seen, 2_000);
}

#[test]
fn a_redirect_that_the_kernel_refuses_is_counted() {
    let net = Net::new("refusedrd", MTU);
    // The sockets are of one end of the wire and the program is on the other: EINVAL.
    let options = Options {
        interface: "tx".into(),
        ifindex: net.ifindex(),
        jumbo: false,
    };
    let program = Program::load(options).unwrap();
    assert!(program.counts_redirect_errors());
    let sources = open_all(&program, &XskConfig::for_mtu(MTU));
    for mode in [Attach::Native, Attach::Generic] {
        let attached = program.attach(Some(mode)).unwrap();
        net.sender().send(0..500, ethernet);
        attached.detach().unwrap();
    }
    let orders = Orders {
        stop: AtomicBool::new(true),
        ..Orders::default()
    };
    let received: Vec<_> = sources
        .into_iter()
        .map(|mut source| drive(&mut source, &orders))
        .collect();
    received.iter().for_each(Received::balance);
    let errors: u64 = received
        .iter()
        .map(|queue| queue.counters.redirect_errors.get())
        .sum();
    assert_eq!(errors, 1_000);
}
