//! What becomes of a source when its link goes down or its device goes away.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringtap::counters::{QueueCounters, QueueState};
use ringtap::packet::Packet;
use ringtap::source::xsk::XskConfig;
use ringtap::source::{Burst, Source, SourceError};

use crate::net::{self, Net};
use crate::rig::*;

#[test]
fn a_link_that_goes_down_is_named_and_comes_back_by_itself() {
    let net = Net::new("down", MTU);
    let program = load(&net, false);
    let mut sources = open_all(&program, &XskConfig::for_mtu(MTU));
    let attached = program.attach(None).unwrap();
    let counters = [QueueCounters::default(), QueueCounters::default()];
    let mut numbers = vec![];
    let mut turn = |until: &mut dyn FnMut(&[QueueCounters], usize) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !until(&counters, numbers.len()) {
            assert!(Instant::now() < deadline, "{counters:?}");
            for (source, counters) in sources.iter_mut().zip(&counters) {
                let mut take = |packet: &Packet<'_>| {
                    numbers.push(net::number(packet.data));
                    ControlFlow::Continue(())
                };
                if source.recv(&mut take).unwrap() == Burst::Empty {
                    source
                        .wait(Duration::from_millis(20), Duration::ZERO)
                        .unwrap();
                }
                source.account(counters);
                counters.set_state(source.state());
            }
        }
    };
    counters
        .iter()
        .for_each(|counters| counters.set_state(QueueState::Up));
    let all = |state| {
        move |counters: &[QueueCounters], _| counters.iter().all(|queue| queue.state() == state)
    };
    net.sender().send(0..100, ethernet);
    turn(&mut |_, count| count == 100);
    for end in ["rx", "tx"] {
        net.set(&[end, "down"]);
        turn(&mut all(QueueState::Down));
        net.set(&[end, "up"]);
        turn(&mut all(QueueState::Up));
        let sent = if end == "rx" { 100..200 } else { 200..300 };
        let last = usize::try_from(sent.end).unwrap();
        net.sender().send(sent, ethernet);
        turn(&mut |_, count| count == last);
    }
    assert!(
        counters
            .iter()
            .all(|counters| counters.recoveries.get() == 2)
    );
    attached.detach().unwrap();
}

#[test]
fn a_device_that_is_removed_ends_its_sources_after_their_last_packet() {
    let net = Net::new("gone", MTU);
    let program = load(&net, false);
    let sources = open_all(&program, &XskConfig::for_mtu(MTU));
    let attached = program.attach(None).unwrap();
    let orders = Orders {
        refuse: AtomicBool::new(true),
        ..Orders::default()
    };
    let received: Vec<_> = thread::scope(|scope| {
        let drive = |mut source| drive(&mut source, &orders);
        let workers: Vec<_> = sources
            .into_iter()
            .map(|source| scope.spawn(move || drive(source)))
            .collect();
        net.sender().send(0..1_000, ethernet);
        net.remove();
        orders.refuse.store(false, Ordering::Relaxed);
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .collect()
    });
    for queue in &received {
        let Some(SourceError::Gone { interface }) = &queue.end else {
            panic!("not gone")
        };
        assert_eq!(interface, "rx");
    }
    assert_all(&received, 1_000);
    attached.detach().unwrap();
}
