//! AF_XDP over a veth pair: what was sent is received once, byte for byte, or counted.
//!
//! The property, to the frame: redirected = received + rx_dropped + rx_ring_full + redirect errors.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod net;

mod root {
    use std::ops::ControlFlow;
    use std::process::{Command, Stdio};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};
    use std::{env, thread};

    use ringtap::counters::{QueueCounters, QueueState};
    use ringtap::packet::{Packet, Timestamp};
    use ringtap::source::xsk::{Bind, Idle, XskConfig, XskError, XskSource, ZeroCopy};
    use ringtap::source::{Burst, Source, SourceError};
    use ringtap::xdp::{Attach, Attached, Options, Program, XdpError};

    use super::net::{self, Net, SHORTEST};

    const MTU: u32 = 1_500;

    /// What one queue received, in order.
    #[derive(Default)]
    struct Received {
        numbers: Vec<u64>,
        times: Vec<Timestamp>,
        lengths: Vec<usize>,
        counters: QueueCounters,
        end: Option<SourceError>,
    }

    impl Received {
        fn take(&mut self, packet: &Packet<'_>) {
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
        fn balance(&self) {
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
    struct Orders {
        stop: AtomicBool,
        refuse: AtomicBool,
    }

    /// What a worker does, but to collect packets.
    fn drive(source: &mut XskSource, orders: &Orders) -> Received {
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

    fn load(net: &Net, jumbo: bool) -> Program {
        let options = Options {
            interface: "rx".into(),
            ifindex: net.ifindex(),
            jumbo,
        };
        Program::load(options).unwrap()
    }

    fn open_all(program: &Program, config: &XskConfig) -> Vec<XskSource> {
        (0..2)
            .map(|queue| XskSource::open(program, queue, config).unwrap())
            .collect()
    }

    /// Captures on both queues while `send` runs, then drains.
    fn capture(
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
    fn assert_all(received: &[Received], sent: u64) {
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

    fn ethernet(number: u64) -> usize {
        SHORTEST + 10 + usize::try_from(number * 7_919 % 1_455).unwrap()
    }

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
                received.balance();
                left += received.counters.left_in_ring.get();
                // What was left can still be had.
                let burst = source.recv(&mut |packet| {
                    received.take(packet);
                    ControlFlow::Continue(())
                });
                assert!(matches!(burst, Ok(Burst::Packets(_))), "{burst:?}");
                source.account(&received.counters);
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

    #[test]
    fn a_program_that_is_there_already_is_named_and_left_alone() {
        let net = Net::new("taken", MTU);
        let foreign = load(&net, false);
        let program = load(&net, false);
        let theirs = foreign.attach(Some(Attach::Generic)).unwrap();
        let error = program.attach(None).unwrap_err();
        let XdpError::Taken { id, name, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(name, "ringtap");
        assert!(net.show().contains(&format!("id {id} ")), "{}", net.show());
        assert!(
            error
                .to_string()
                .contains(&format!("program {id} (ringtap)")),
            "{error}"
        );
        theirs.detach().unwrap();
        program.attach(None).unwrap().detach().unwrap();
        assert!(!net.show().contains("prog/xdp"));
    }

    #[test]
    fn a_jumbo_link_refuses_a_program_for_single_buffers_with_the_kernels_word() {
        let net = Net::new("range", 9_000);
        let program = load(&net, false);
        let error = program.attach(Some(Attach::Native)).unwrap_err();
        let XdpError::Refused {
            mode: Attach::Native,
            cause,
            ..
        } = error
        else {
            panic!("{error}")
        };
        assert_eq!(cause.raw_os_error(), Some(nix::libc::ERANGE));
        assert_eq!(program.attach(None).unwrap().mode(), Attach::Generic);
    }

    #[test]
    fn a_queue_that_is_bound_is_busy_until_it_is_let_go() {
        let net = Net::new("busy", MTU);
        let program = load(&net, false);
        let config = XskConfig::for_mtu(MTU);
        let first = XskSource::open(&program, 0, &config).unwrap();
        let error = XskSource::open(&program, 0, &config).unwrap_err();
        assert!(matches!(error, XskError::Busy { queue: 0, .. }), "{error}");
        drop(first);
        for _ in 0..5 {
            drop(XskSource::open(&program, 0, &config).unwrap());
        }
    }

    #[test]
    fn what_the_interface_does_not_have_is_refused_with_the_kernels_word() {
        let net = Net::new("refused", MTU);
        let program = load(&net, false);
        let config = XskConfig {
            zero_copy: ZeroCopy::Require,
            ..XskConfig::for_mtu(MTU)
        };
        let error = XskSource::open(&program, 0, &config).unwrap_err();
        assert!(
            matches!(
                error,
                XskError::Refused {
                    mode: Bind::ZeroCopy,
                    ..
                }
            ),
            "{error}"
        );
        let error = XskSource::open(&program, 7, &XskConfig::for_mtu(MTU)).unwrap_err();
        assert!(
            matches!(error, XskError::Refused { queue: 7, .. }),
            "{error}"
        );
    }

    /// Runs one of the ignored tests below as a process of its own.
    fn child(test: &str, net: &Net, through: &[&str]) -> Command {
        let mut words = through.iter().map(ToString::to_string).collect::<Vec<_>>();
        words.push(env::current_exe().unwrap().display().to_string());
        words.extend(["--ignored", "--exact", "--nocapture"].map(str::to_owned));
        words.push(format!("root::{test}"));
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env("RINGTAP_TEST_NET", net.namespace());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    #[test]
    fn a_killed_process_leaves_nothing_attached() {
        let net = Net::new("kill", MTU);
        let mut child = child("child_attaches_and_sleeps", &net, &[])
            .spawn()
            .unwrap();
        while !net.show().contains("prog/xdp") {
            assert!(child.try_wait().unwrap().is_none(), "the child ended early");
            thread::sleep(Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while net.show().contains("prog/xdp") {
            assert!(Instant::now() < deadline, "{}", net.show());
            thread::sleep(Duration::from_millis(10));
        }
        // The queues are free as well.
        open_all(&load(&net, false), &XskConfig::for_mtu(MTU));
    }

    #[test]
    #[ignore = "the child of a_killed_process_leaves_nothing_attached, which runs it"]
    fn child_attaches_and_sleeps() {
        if env::var_os("RINGTAP_TEST_NET").is_none() {
            return;
        }
        let options = Options {
            interface: "rx".into(),
            ifindex: nix::net::if_::if_nametoindex("rx").unwrap(),
            jumbo: false,
        };
        let program = Program::load(options).unwrap();
        let _sources = open_all(&program, &XskConfig::for_mtu(MTU));
        let _attached = program.attach(None).unwrap();
        thread::sleep(Duration::from_secs(60));
    }

    #[test]
    fn a_missing_right_is_named() {
        let net = Net::new("rights", MTU);
        for (lost, name) in [("-bpf,-sys_admin", "CAP_BPF"), ("-net_raw", "CAP_NET_RAW")] {
            let bounding = format!("--bounding-set={lost}");
            let status = child("child_lacks_a_right", &net, &["setpriv", &bounding])
                .env("RINGTAP_TEST_LACKS", name)
                .status()
                .unwrap();
            assert!(status.success(), "{name}");
        }
    }

    #[test]
    #[ignore = "the child of a_missing_right_is_named, which runs it"]
    fn child_lacks_a_right() {
        let Ok(lacks) = env::var("RINGTAP_TEST_LACKS") else {
            return;
        };
        let options = Options {
            interface: "rx".into(),
            ifindex: nix::net::if_::if_nametoindex("rx").unwrap(),
            jumbo: false,
        };
        let error = match Program::load(options) {
            Ok(program) => match XskSource::open(&program, 0, &XskConfig::for_mtu(MTU)) {
                Err(XskError::Program(error)) => error,
                other => panic!("{other:?}"),
            },
            Err(error) => error,
        };
        assert!(
            error.to_string().ends_with(&format!("lacks {lacks}")),
            "{error}"
        );
    }
}
