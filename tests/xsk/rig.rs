//! A worker that collects what it receives, and checks it.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ringtap::counters::QueueCounters;
use ringtap::packet::{Packet, Timestamp};
use ringtap::source::xsk::{XskConfig, XskSource};
use ringtap::source::{Burst, Source, SourceError};
use ringtap::xdp::{Attached, Options, Program};

use crate::net::{self, Net, SHORTEST};

pub(crate) const MTU: u32 = 1_500;

/// What one queue received, in order.
#[derive(Default)]
pub(crate) struct Received {
    pub(crate) numbers: Vec<u64>,
    pub(crate) times: Vec<Timestamp>,
    pub(crate) lengths: Vec<usize>,
    pub(crate) counters: QueueCounters,
    pub(crate) end: Option<SourceError>,
}

impl Received {
    pub(crate) fn take(&mut self, packet: &Packet<'_>) {
        let mut bytes = packet.data.to_vec();
        packet
            .more
            .iter()
            .for_each(|part| bytes.extend_from_slice(part));
        assert_eq!(bytes.len(), packet.orig_len as usize);
        self.numbers.push(net::number(&bytes));
        self.times.push(packet.time);
        self.lengths.push(bytes.len());
    }

    /// Checks the equations of the ledger for this queue.
    pub(crate) fn balance(&self) {
        let c = &self.counters;
        let seen = c.xdp_redirected.get() + c.xdp_passed.get() + c.xdp_aborted.get();
        assert_eq!(c.xdp_seen.get(), seen);
        let dropped = c.rx_dropped.get() + c.rx_ring_full.get() + c.redirect_errors.get();
        let received = self.numbers.len() as u64 + c.left_in_ring.get();
        assert_eq!(c.xdp_redirected.get(), received + dropped, "{c:?}");
        assert_eq!(c.rx_invalid_descs.get(), 0);
    }
}

/// Set by the main thread once the program is detached, and while packets are to be refused.
#[derive(Default)]
pub(crate) struct Orders {
    pub(crate) stop: AtomicBool,
    pub(crate) refuse: AtomicBool,
}

/// What a worker does, but to collect packets.
pub(crate) fn drive(source: &mut XskSource, orders: &Orders) -> Received {
    let mut received = Received::default();
    let mut stopping = false;
    loop {
        if orders.stop.load(Ordering::SeqCst) && !stopping {
            stopping = true;
            source.stop().unwrap();
        }
        let burst = source.recv(&mut |packet| {
            if orders.refuse.load(Ordering::Relaxed) {
                return ControlFlow::Break(());
            }
            received.take(packet);
            ControlFlow::Continue(())
        });
        match burst {
            Ok(Burst::Packets(_)) => {}
            Ok(Burst::Refused(_)) => thread::sleep(Duration::from_millis(1)),
            Ok(Burst::Empty) => {
                source
                    .wait(Duration::from_millis(20), Duration::ZERO)
                    .unwrap();
            }
            Ok(Burst::End) => break,
            Err(error) => {
                received.end = Some(error);
                break;
            }
        }
        source.account(&received.counters);
    }
    source.account(&received.counters);
    received
}

pub(crate) fn load(net: &Net, jumbo: bool) -> Program {
    let options = Options {
        interface: "rx".into(),
        ifindex: net.ifindex(),
        jumbo,
    };
    Program::load(options).unwrap()
}

pub(crate) fn open_all(program: &Program, config: &XskConfig) -> Vec<XskSource> {
    (0..2)
        .map(|queue| XskSource::open(program, queue, config).unwrap())
        .collect()
}

/// Captures on both queues while `send` runs, then drains.
pub(crate) fn capture(
    sources: Vec<XskSource>,
    attached: Attached,
    orders: &Orders,
    send: impl FnOnce(),
) -> Vec<Received> {
    thread::scope(|scope| {
        let workers: Vec<_> = sources
            .into_iter()
            .map(|mut source| scope.spawn(move || drive(&mut source, orders)))
            .collect();
        send();
        attached.detach().unwrap();
        orders.stop.store(true, Ordering::SeqCst);
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .collect()
    })
}

/// Checks that every frame came exactly once, and in the order it was sent in within its queue.
pub(crate) fn assert_all(received: &[Received], sent: u64) {
    let mut all = vec![];
    for queue in received {
        queue.balance();
        assert!(
            queue.numbers.is_sorted(),
            "a queue keeps the order of sending"
        );
        all.extend_from_slice(&queue.numbers);
    }
    all.sort_unstable();
    assert!(
        all.iter().copied().eq(0..sent),
        "{} of {sent} frames came",
        all.len()
    );
    let seen: u64 = received
        .iter()
        .map(|queue| queue.counters.xdp_seen.get())
        .sum();
    assert_eq!(seen, sent);
}

pub(crate) fn ethernet(number: u64) -> usize {
    SHORTEST + 10 + usize::try_from(number * 7_919 % 1_455).unwrap()
}
