//! The generator over a veth pair between two network namespaces; needs root.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use super::*;
use crate::check::{Checker, Report, Verdict};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Two namespaces and a veth pair with two queues between them: `out` in one, `tap` in the other.
struct Pair {
    from: String,
    to: String,
}

impl Pair {
    fn new(mtu: u32) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |end| format!("rt-gen-{}-{number}-{end}", std::process::id());
        let pair = Self {
            from: name("out"),
            to: name("tap"),
        };
        command(&["ip", "netns", "add", &pair.from]);
        command(&["ip", "netns", "add", &pair.to]);
        let queues = [
            "mtu",
            &mtu.to_string(),
            "numrxqueues",
            "2",
            "numtxqueues",
            "2",
        ];
        let mut link = vec!["ip", "link", "add", "name", "out", "netns", &pair.from];
        link.extend(queues);
        link.extend(["type", "veth", "peer", "name", "tap", "netns", &pair.to]);
        link.extend(queues);
        command(&link);
        for (netns, end) in [(&pair.from, "out"), (&pair.to, "tap")] {
            // No IPv6: its own packets would be counted too.
            let quiet = format!("net.ipv6.conf.{end}.disable_ipv6=1");
            command(&["ip", "netns", "exec", netns, "sysctl", "-qw", &quiet]);
            command(&["ip", "-n", netns, "link", "set", end, "up"]);
        }
        pair
    }

    fn send(&self, jobs: &[Job]) -> Result<Vec<Sent>, GenerateError> {
        inside(&self.from, || run("out", jobs, &AtomicBool::new(false)))
    }

    fn tally(&self) -> Tally {
        inside(&self.to, || Tally::attach("tap").unwrap())
    }

    fn switch_gro_on(&self) {
        let words = [
            "ip", "netns", "exec", &self.to, "ethtool", "-K", "tap", "gro", "on",
        ];
        command(&words);
    }

    /// Moves reception from the sender's own context to a kernel thread, so that the ring overflows.
    fn receive_in_a_thread(&self) {
        let threaded = "echo 1 > /sys/class/net/tap/threaded";
        command(&["ip", "netns", "exec", &self.to, "sh", "-c", threaded]);
    }

    /// Captures what `jobs` send with libpcap, and checks it; the last figure is that of frames that
    /// told when they were sent.
    fn check(&self, jobs: &[Job]) -> (Vec<Sent>, Report, u64) {
        let mut capture = inside(&self.to, || {
            let capture = pcap::Capture::from_device("tap").unwrap();
            let capture = capture
                .promisc(true)
                .snaplen(65_535)
                .buffer_size(256 << 20)
                .timeout(100);
            capture.open().unwrap().setnonblock().unwrap()
        });
        let sent = self.send(jobs).unwrap();
        let expected = BTreeMap::from_iter(sent.iter().map(|sent| (sent.stream, sent.frames)));
        let mut checker = Checker::new();
        let mut stamped = 0;
        let mut empty = 0;
        while empty < 20 {
            match capture.next_packet() {
                Ok(packet) => {
                    let verdict = checker.check(packet.data);
                    let Verdict::Received { sent_at, .. } = verdict else {
                        continue;
                    };
                    stamped += u64::from(sent_at.is_some());
                    empty = 0;
                }
                Err(_) if checker.report(&expected).is_complete() => break,
                Err(_) => {
                    thread::sleep(Duration::from_millis(100));
                    empty += 1;
                }
            }
        }
        (sent, checker.report(&expected), stamped)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        command(&["ip", "netns", "del", &self.from]);
        command(&["ip", "netns", "del", &self.to]);
    }
}

fn command(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
}

/// Runs `task` in a thread of its own in namespace `netns`.
fn inside<T: Send>(netns: &str, task: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let netns = File::open(format!("/run/netns/{netns}")).unwrap();
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            task()
        });
        thread.join().unwrap()
    })
}

/// What arrived, once `frames` did and no more come, or nothing has come for two seconds.
fn settled(tally: &Tally, frames: u64) -> Arrived {
    let mut arrived = tally.arrived().unwrap();
    let mut quiet = 0;
    while quiet < if arrived.frames >= frames { 1 } else { 20 } {
        thread::sleep(Duration::from_millis(100));
        let now = tally.arrived().unwrap();
        quiet = if now == arrived { quiet + 1 } else { 0 };
        arrived = now;
    }
    arrived
}

fn two_streams(size: Size, count: u64) -> [Job; 2] {
    [0, 1].map(|number| Job {
        cpu: Some(number),
        ..Job::new(Plan::new(u32::try_from(number).unwrap(), size), count)
    })
}

#[test]
fn what_was_sent_at_full_speed_on_two_queues_arrives_to_the_frame() {
    let pair = Pair::new(1_500);
    let tally = pair.tally();
    let jobs = two_streams(Size::Range(60, 1_514), 1_000_000);
    let sent = pair.send(&jobs).unwrap();
    let arrived = settled(&tally, 2_000_000);
    assert_eq!(
        sent.iter().map(|sent| sent.frames).collect::<Vec<_>>(),
        [1_000_000; 2]
    );
    assert_eq!(arrived.frames, 2_000_000);
    assert_eq!(
        arrived.bytes,
        jobs.iter()
            .map(|job| job.plan.bytes(1_000_000))
            .sum::<u64>()
    );
    assert!(sent.iter().all(|sent| sent.engine == Engine::Live));
}

#[test]
fn frames_that_a_full_receiver_refused_are_sent_again_until_all_arrived() {
    let pair = Pair::new(1_500);
    let tally = pair.tally();
    pair.receive_in_a_thread();
    let mut arrived = 0;
    for (engine, count) in [(Engine::Live, 300_000), (Engine::Socket, 50_000)] {
        let jobs = two_streams(Size::Fixed(60), count).map(|job| Job {
            engine: Some(engine),
            ..job
        });
        let sent = pair.send(&jobs).unwrap();
        assert!(engine == Engine::Socket || sent.iter().any(|sent| sent.refused > 0));
        arrived += 2 * count;
        assert_eq!(settled(&tally, arrived).frames, arrived);
    }
}

#[test]
fn frames_that_are_sent_again_arrive_once_and_whole() {
    let pair = Pair::new(1_500);
    pair.switch_gro_on();
    pair.receive_in_a_thread();
    let (sent, report, _) = pair.check(&two_streams(Size::Range(60, 200), 50_000));
    assert!(sent.iter().any(|sent| sent.refused > 0));
    assert!(report.is_complete(), "{report:?}");
}

#[test]
fn every_numbered_frame_arrives_whole() {
    let pair = Pair::new(1_500);
    pair.switch_gro_on();
    let plan = Plan {
        flows: 16,
        vlan: Some(42),
        ..Plan::new(7, Size::Imix)
    };
    for engine in [Engine::Live, Engine::Socket] {
        let job = Job {
            rate: Some(100_000),
            stamp: true,
            engine: Some(engine),
            ..Job::new(plan, 20_000)
        };
        let (sent, report, stamped) = pair.check(&[job]);
        assert_eq!((sent[0].frames, sent[0].engine), (20_000, engine));
        let long = (0..20_000).filter(|number| plan.len(*number) > 80).count();
        assert_eq!(stamped, long as u64);
        assert!(report.is_complete(), "{report:?}");
        assert_eq!(report.streams[&7].reordered, 0);
    }
}

#[test]
fn jumbo_frames_and_receivers_without_xdp_are_served_by_a_packet_socket() {
    let pair = Pair::new(9_000);
    for size in [Size::Fixed(9_014), Size::Fixed(60)] {
        let job = Job {
            rate: Some(20_000),
            ..Job::new(Plan::new(1, size), 2_000)
        };
        let (sent, report, _) = pair.check(&[job]);
        assert_eq!((sent[0].frames, sent[0].engine), (2_000, Engine::Socket));
        assert!(report.is_complete(), "{report:?}");
    }
}

#[test]
fn a_rate_and_a_duration_bound_what_is_sent() {
    let pair = Pair::new(1_500);
    let tally = pair.tally();
    let mut arrived = 0;
    for (rate, engine) in [(50_000, Engine::Socket), (500_000, Engine::Live)] {
        let job = Job {
            count: None,
            rate: Some(rate),
            duration: Some(Duration::from_secs(1)),
            ..Job::new(Plan::new(0, Size::Fixed(60)), 0)
        };
        let sent = pair.send(&[job]).unwrap();
        assert_eq!(sent[0].engine, engine);
        assert!((1..=rate).contains(&sent[0].frames));
        arrived += sent[0].frames;
        assert_eq!(settled(&tally, arrived).frames, arrived);
    }
}

#[test]
fn an_interface_that_takes_nothing_is_an_error_that_says_so() {
    let pair = Pair::new(1_500);
    let tally = pair.tally();
    command(&["ip", "-n", &pair.from, "link", "set", "out", "down"]);
    let job = Job {
        patience: Duration::from_millis(50),
        ..Job::new(Plan::new(0, Size::Fixed(60)), 10)
    };
    for engine in [Engine::Live, Engine::Socket] {
        let refused = pair
            .send(&[Job {
                engine: Some(engine),
                ..job.clone()
            }])
            .unwrap_err();
        let GenerateError::Refused { sent: 0, cause, .. } = &refused else {
            panic!("{refused}")
        };
        assert_eq!(cause.raw_os_error(), Some(libc::ENETDOWN), "{engine:?}");
    }
    assert_eq!(tally.arrived().unwrap().frames, 0);
    assert!(matches!(
        inside(&pair.from, || run("none", &[job], &AtomicBool::new(false))),
        Err(GenerateError::Interface { .. })
    ));
}

#[test]
fn a_full_speed_run_that_is_stopped_has_sent_what_it_says() {
    let pair = Pair::new(1_500);
    let tally = pair.tally();
    let stop = AtomicBool::new(false);
    let job = Job {
        count: None,
        ..Job::new(Plan::new(0, Size::Imix), 0)
    };
    let sent = thread::scope(|scope| {
        let sender = scope.spawn(|| inside(&pair.from, || run("out", &[job], &stop).unwrap()));
        while tally.arrived().unwrap().frames < 100_000 {
            thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap()
    });
    assert_eq!(
        settled(&tally, sent[0].frames),
        Arrived {
            frames: sent[0].frames,
            bytes: sent[0].bytes
        }
    );
}

#[test]
fn the_longest_frames_of_each_engine_arrive_in_full() {
    let pair = Pair::new(9_000);
    let tally = pair.tally();
    let mut all = Arrived::default();
    for (size, engine) in [(2_096, Engine::Live), (9_014, Engine::Socket)] {
        let sent = pair
            .send(&[Job::new(Plan::new(0, Size::Fixed(size)), 20_000)])
            .unwrap();
        assert_eq!((sent[0].frames, sent[0].engine), (20_000, engine));
        all.frames += 20_000;
        all.bytes += 20_000 * u64::from(size);
        assert_eq!(settled(&tally, all.frames), all);
    }
    let too_long = Job {
        engine: Some(Engine::Live),
        ..Job::new(Plan::new(0, Size::Fixed(2_097)), 1)
    };
    assert!(matches!(
        pair.send(&[too_long]),
        Err(GenerateError::TooLong { len: 2_097 })
    ));
}
