//! A network of one wire in a namespace of its own, and numbered frames to send over it.
//!
//! The rule: the calling thread moves into the namespace and stays there; nothing outside is touched.

use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, setns};
use pcap::{Active, Capture};

/// Bytes before the number: Ethernet, IPv4, UDP.
const HEADERS: usize = 42;

/// The shortest frame that carries a number.
pub(crate) const SHORTEST: usize = HEADERS + 8;

/// A veth pair, `rx` and `tx`, with two queues each.
pub(crate) struct Net {
    namespace: String,
}

impl Net {
    /// Makes the namespace and the pair, and moves this thread in.
    pub(crate) fn new(test: &str, mtu: u32) -> Self {
        let net = Self {
            namespace: format!("rt-xdp-{test}-{}", std::process::id()),
        };
        run("ip", &["netns", "add", &net.namespace]);
        net.enter();
        // A kernel without IPv6 sends no neighbour discovery into the counts by itself.
        for word in ["all", "default"] {
            let key = format!("/proc/sys/net/ipv6/conf/{word}/disable_ipv6");
            if Path::new(&key).exists() {
                fs::write(key, "1").unwrap();
            }
        }
        let queues = ["numrxqueues", "2", "numtxqueues", "2"];
        let rx = ["link", "add", "rx"]
            .into_iter()
            .chain(queues)
            .chain(["type", "veth"]);
        let both: Vec<_> = rx.chain(["peer", "name", "tx"]).chain(queues).collect();
        run("ip", &both);
        for end in ["rx", "tx"] {
            run(
                "ip",
                &["link", "set", "dev", end, "mtu", &mtu.to_string(), "up"],
            );
        }
        net
    }

    /// Moves this thread into the namespace.
    pub(crate) fn enter(&self) {
        let file = File::open(format!("/var/run/netns/{}", self.namespace)).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// The number of the interface that receives.
    pub(crate) fn ifindex(&self) -> u32 {
        nix::net::if_::if_nametoindex("rx").unwrap()
    }

    /// What `ip -d link show rx` says.
    pub(crate) fn show(&self) -> String {
        run("ip", &["-d", "link", "show", "dev", "rx"])
    }

    /// Sets an end of the wire.
    pub(crate) fn set(&self, words: &[&str]) {
        let words: Vec<_> = ["link", "set", "dev"]
            .iter()
            .chain(words)
            .copied()
            .collect();
        run("ip", &words);
    }

    /// Takes the wire away.
    pub(crate) fn remove(&self) {
        run("ip", &["link", "del", "dev", "rx"]);
    }

    /// A way to send on the other end.
    pub(crate) fn sender(&self) -> Sender {
        let wire = Capture::from_device("tx")
            .unwrap()
            .snaplen(64)
            .open()
            .unwrap();
        Sender { wire }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.namespace])
            .status();
    }
}

/// Sends numbered frames.
pub(crate) struct Sender {
    wire: Capture<Active>,
}

impl Sender {
    /// Sends the frames with these numbers.
    pub(crate) fn send(&mut self, numbers: Range<u64>, len: impl Fn(u64) -> usize) {
        for number in numbers {
            self.wire.sendpacket(frame(number, len(number))).unwrap();
        }
    }
}

/// The frame with this number: its flow, and so its queue, follows from the number.
pub(crate) fn frame(number: u64, len: usize) -> Vec<u8> {
    assert!(len >= SHORTEST);
    let mut frame = vec![0; len];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    frame[12] = 8;
    let total = u16::try_from(len - 14).unwrap().to_be_bytes();
    let udp = u16::try_from(len - 34).unwrap().to_be_bytes();
    let ip = [
        0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];
    frame[14..34].copy_from_slice(&ip);
    let port = u8::try_from(number % 64).unwrap();
    frame[34..42].copy_from_slice(&[0x10, port, 0x22, 0xb8, udp[0], udp[1], 0, 0]);
    frame[42..50].copy_from_slice(&number.to_le_bytes());
    for (at, byte) in frame.iter_mut().enumerate().skip(SHORTEST) {
        *byte = u8::try_from((number + at as u64) % 251).unwrap();
    }
    frame
}

/// The number in a frame, after a look at its every byte.
pub(crate) fn number(bytes: &[u8]) -> u64 {
    let number = u64::from_le_bytes(bytes[42..50].try_into().unwrap());
    assert!(
        bytes == frame(number, bytes.len()),
        "frame {number} of {} bytes is altered",
        bytes.len()
    );
    number
}

/// Runs a command that must succeed; returns what it printed.
pub(crate) fn run(command: &str, arguments: &[&str]) -> String {
    let output = Command::new(command).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
