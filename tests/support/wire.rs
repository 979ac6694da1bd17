//! A veth pair between two network namespaces, and numbered frames over it.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::{RINGTAP, said, sh};

/// How a wire is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// The MTU of both ends.
    pub(crate) mtu: u32,
    /// The transmit queues of the sending end. With more than the receiving end has receive queues,
    /// veth refuses native XDP.
    pub(crate) tx_queues: u32,
    /// Whether the receiving end stays in this process's namespace, where a broker can be reached.
    pub(crate) beside_broker: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            mtu: 1_500,
            tx_queues: 2,
            beside_broker: false,
        }
    }
}

/// Two interfaces with two receive queues each; all that goes out of the one arrives at the other.
#[derive(Debug)]
pub(crate) struct Wire {
    /// The namespace of the receiving end; `None` for this process's.
    sensor: Option<String>,
    sender: String,
    rx: String,
}

impl Wire {
    /// A wire of MTU 1,500.
    pub(crate) fn new() -> Self {
        Self::shaped(Shape::default())
    }

    /// A wire whose receiving end is where the broker is.
    pub(crate) fn beside_broker() -> Self {
        Self::shaped(Shape {
            beside_broker: true,
            ..Shape::default()
        })
    }

    /// A wire as told.
    pub(crate) fn shaped(shape: Shape) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let base = format!("rt-test-{pid}-{number}");
        let wire = Self {
            sensor: (!shape.beside_broker).then(|| format!("{base}-rx")),
            sender: format!("{base}-tx"),
            // An interface's name has 15 bytes at most.
            rx: if shape.beside_broker {
                format!("rt{pid}n{number}")
            } else {
                "rx".to_owned()
            },
        };
        for namespace in wire.sensor.iter().chain([&wire.sender]) {
            sh(&format!("ip netns add {namespace}"));
        }
        let Shape { mtu, tx_queues, .. } = shape;
        let peer = format!("peer name tx netns {}", wire.sender);
        let queues = format!("numrxqueues 2 numtxqueues {tx_queues}");
        wire.ip(&format!(
            "link add {} mtu {mtu} numrxqueues 2 numtxqueues 2 type veth {peer} mtu {mtu} {queues}",
            wire.rx
        ));
        // No address is made, so that nothing but our frames is sent.
        wire.ip(&format!("link set dev {} addrgenmode none up", wire.rx));
        wire.tx("link set dev tx addrgenmode none up");
        wire
    }

    /// The name of the receiving end.
    pub(crate) fn rx(&self) -> &str {
        &self.rx
    }

    /// Runs `ip` where the receiving end is.
    pub(crate) fn ip(&self, words: &str) -> String {
        match &self.sensor {
            Some(namespace) => sh(&format!("ip -n {namespace} {words}")),
            None => sh(&format!("ip {words}")),
        }
    }

    /// Runs `ip` where the sending end is.
    pub(crate) fn tx(&self, words: &str) -> String {
        sh(&format!("ip -n {} {words}", self.sender))
    }

    /// What `ip -d link show` says of the receiving end.
    pub(crate) fn link(&self) -> String {
        self.ip(&format!("-d link show dev {}", self.rx))
    }

    /// A command that will run where the receiving end is, as process of its own and not behind `ip`.
    pub(crate) fn command(&self, program: &str) -> Command {
        let Some(namespace) = &self.sensor else {
            return Command::new(program);
        };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, program]);
        command
    }

    /// Starts sending; the words are those of `ringtap generate`.
    pub(crate) fn start(&self, words: &str) -> Generator {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.sender, RINGTAP, "generate"]);
        command.args(["-i", "tx"]).args(words.split(' '));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Generator(Some(command.spawn().unwrap()))
    }

    /// Sends until the count is reached, and says what went; a panic where not all went.
    pub(crate) fn generate(&self, words: &str) -> Value {
        self.start(words).finish()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let namespaces = self.sensor.iter().chain([&self.sender]);
        for namespace in namespaces {
            let _ = Command::new("ip")
                .args(["netns", "del", namespace])
                .status();
        }
    }
}

/// A generator that sends.
#[derive(Debug)]
pub(crate) struct Generator(Option<Child>);

impl Generator {
    /// Waits until all is sent, and returns what it prints.
    pub(crate) fn finish(mut self) -> Value {
        let output = self.0.take().unwrap().wait_with_output().unwrap();
        assert!(output.status.success(), "generate: {}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
