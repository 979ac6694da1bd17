//! The inputs of a capture: opened all together, each in the best way its interface allows.
//!
//! The rule: ask for the best mode, take what there is, say which. Every step down is a log line with its
//! reason, and what is in force stands in the ledger.

use std::io;
use std::sync::Arc;

use tracing::{info, warn};

use crate::batch::{Codec, LEAST_RECORD};
use crate::cli::capture::CompressOn;

use crate::config::{Config, Input, Output};
use crate::counters::QueueCounters;
use crate::exit::Exit;
use crate::filler::Rules;
use crate::filter::{FilterError, Filters};
use crate::format::read::ReadError;
use crate::histogram::Histogram;
use crate::interfaces::{Interface, Interfaces};
use crate::ledger::{Board, InterfaceEntry, Mode as Means, QueueEntry};
use crate::nic::NicError;
use crate::nic::offload::Offloads;
use crate::nic::promiscuous::Promiscuous;
use crate::packet::LinkType;
use crate::source::file::FileSource;
use crate::source::pcap::{OpenError, PcapSource};
use crate::source::printing::Printing;
use crate::source::synthetic::SyntheticSource;
use crate::source::xsk::{XskError, XskSource};
use crate::xdp::{Attached, Program, XdpError};

use super::cpus::Plan;
use super::pipeline::{self, Post, Rings, Shared};
use super::{CaptureError, Terms, system};

/// Why an input was refused.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// No such interface.
    #[error(transparent)]
    Nic(#[from] NicError),
    /// The XDP program cannot be loaded or attached.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// A queue cannot be bound.
    #[error(transparent)]
    Xsk(#[from] XskError),
    /// libpcap refuses.
    #[error(transparent)]
    Pcap(#[from] OpenError),
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The filter is malformed.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A queue was asked for that is not there.
    #[error("{interface} has no queue {queue}: it has {queues}, numbered from 0")]
    NoQueue {
        /// The interface.
        interface: String,
        /// The number asked for.
        queue: usize,
        /// How many there are.
        queues: u32,
    },
    /// An interface is named twice.
    #[error("interface {0} is named twice")]
    Twice(String),
    /// Promiscuous mode was refused.
    #[error("putting {interface} into promiscuous mode; --no-promiscuous leaves it out")]
    Promiscuous {
        /// The interface.
        interface: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// More inputs than a capture can tell apart.
    #[error("more than 65,536 interfaces")]
    TooMany,
}

impl InputError {
    /// The exit code that this error ends a run with.
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Filter(_) | Self::Twice(_) => Exit::Usage,
            Self::Read(ReadError::Empty { .. } | ReadError::NotCapture { .. }) => Exit::Damaged,
            _ => Exit::Setup,
        }
    }
}

/// A source, of whatever kind.
pub(super) enum Feed {
    Xsk(Box<XskSource>),
    Pcap(Box<PcapSource>),
    File(Box<FileSource>),
    Synthetic(Box<SyntheticSource>),
}

/// A source that is open, and what the ledger says of it.
pub(super) struct Prepared {
    pub(super) feed: Feed,
    /// Its interface, as the board numbers it.
    pub(super) interface: usize,
    pub(super) name: String,
    pub(super) queue: u32,
    pub(super) live: bool,
    /// Whether the filter runs in the source itself.
    pub(super) filtered: bool,
    pub(super) longest_frame: Option<u32>,
    /// Packets that its kernel ring holds.
    pub(super) ring: u64,
}

/// An interface whose program is loaded and attached last.
pub(super) struct Port {
    pub(super) interface: usize,
    pub(super) entry: InterfaceEntry,
    pub(super) program: Program,
}

/// Every input of a capture. Dropping it detaches and restores what it changed.
pub(super) struct Inputs {
    pub(super) prepared: Vec<Prepared>,
    pub(super) attached: Vec<Attached>,
    pub(super) ports: Vec<Port>,
    pub(super) offloads: Vec<Offloads>,
    pub(super) promiscuous: Vec<Promiscuous>,
    pub(super) names: Vec<String>,
    pub(super) live: bool,
    pub(super) board: Board,
}

impl Inputs {
    /// Opens everything that `config` names; nothing is attached yet.
    pub(super) fn open(
        config: &Config,
        interfaces: &Interfaces,
        board: &Board,
    ) -> Result<Self, InputError> {
        if let Some(filter) = &config.filter {
            Filters::new(filter, LinkType::ETHERNET)?;
        }
        let mut inputs = Self {
            prepared: Vec::new(),
            attached: Vec::new(),
            ports: Vec::new(),
            offloads: Vec::new(),
            promiscuous: Vec::new(),
            names: Vec::new(),
            live: matches!(config.input, Input::Interfaces(_)),
            board: board.clone(),
        };
        match &config.input {
            Input::Interfaces(names) => {
                for name in names {
                    inputs.interface(name, config, interfaces)?;
                }
            }
            Input::Files(files) => {
                let source = FileSource::open(files, config.speed, interfaces.clone())?;
                let name = files
                    .first()
                    .map_or_else(String::new, |file| file.display().to_string());
                inputs.add(Feed::File(Box::new(source)), &name, Means::File);
            }
            Input::Synthetic(spec) => {
                let number = inputs.register(interfaces, "synthetic", config)?;
                let source = SyntheticSource::new(spec, number);
                inputs.add(
                    Feed::Synthetic(Box::new(source)),
                    "synthetic",
                    Means::Synthetic,
                );
            }
        }
        Ok(inputs)
    }

    /// How many sources, and so workers, there are.
    pub(super) fn feeds(&self) -> usize {
        self.prepared.len()
    }

    /// Whether they are interfaces.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// The names of interfaces, or the first file's.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Registers an Ethernet interface for packets to name.
    pub(super) fn register(
        &self,
        interfaces: &Interfaces,
        name: &str,
        config: &Config,
    ) -> Result<u16, InputError> {
        let interface = Interface {
            name: name.to_owned(),
            link_type: LinkType::ETHERNET,
            snaplen: u32::try_from(config.encoding.snaplen).unwrap_or(u32::MAX),
            filter: config.filter.clone(),
        };
        interfaces.register(interface).ok_or(InputError::TooMany)
    }

    /// Adds an input that is no interface.
    pub(super) fn add(&mut self, feed: Feed, name: &str, mode: Means) {
        let entry = InterfaceEntry {
            name: name.to_owned(),
            mode,
            zero_copy: false,
            attach: None,
        };
        let interface = self.board.add_interface(entry);
        self.names.push(name.to_owned());
        self.prepared.push(Prepared {
            feed,
            interface,
            name: name.to_owned(),
            queue: 0,
            live: mode == Means::Synthetic,
            filtered: false,
            longest_frame: None,
            ring: 256,
        });
    }

    /// Starts a worker for each source.
    pub(super) fn work(
        &mut self,
        config: &Config,
        terms: &Terms,
        plan: &Plan,
        rings: &Rings,
        shared: &Shared,
        queues: &[Arc<QueueCounters>],
    ) -> Result<(), CaptureError> {
        for (worker, prepared) in std::mem::take(&mut self.prepared).into_iter().enumerate() {
            let (latency, histogram) = Histogram::new();
            let core = plan.core(worker);
            let counters = queues[worker].clone();
            shared.board.add_queue(QueueEntry {
                interface: prepared.interface,
                queue: prepared.queue,
                worker,
                cpu: core,
                ring: prepared.ring,
                records: (config.batches * config.batch_size / LEAST_RECORD) as u64,
                counters: counters.clone(),
                latency: histogram,
            });
            let filter = config.filter.as_ref().filter(|_| !prepared.filtered);
            let filter = filter
                .map(|text| Filters::new(text, LinkType::ETHERNET))
                .transpose();
            let rules = Rules {
                encoding: config.encoding,
                queue: u16::try_from(prepared.queue).unwrap_or(u16::MAX),
                linger: config.linger,
                live: prepared.live,
                filter: filter.map_err(InputError::from)?,
                allowance: terms.allowance.clone(),
                one_link_type: terms.one_link_type.clone(),
                compress: match config.output {
                    Output::Kafka { compression, .. } => compression.on(CompressOn::Worker),
                    Output::File(_) | Output::Discard => Codec::None,
                },
                longest_frame: prepared.longest_frame,
            };
            let label = format!("{} queue {}", prepared.name, prepared.queue);
            let post = Post {
                worker,
                label,
                core,
                rules,
                counters,
                latency,
            };
            let started = match prepared.feed {
                Feed::Xsk(source) => pipeline::work(*source, post, config, rings, shared),
                Feed::Pcap(source) => match config.print_every {
                    None => pipeline::work(*source, post, config, rings, shared),
                    Some(every) => {
                        let source = Printing::new(*source, every, config.count);
                        pipeline::work(source, post, config, rings, shared)
                    }
                },
                Feed::File(source) => pipeline::work(*source, post, config, rings, shared),
                Feed::Synthetic(source) => pipeline::work(*source, post, config, rings, shared),
            };
            started.map_err(system("a worker"))?;
        }
        Ok(())
    }

    /// Attaches every program: from here on packets arrive.
    pub(super) fn attach(&mut self) -> Result<(), InputError> {
        for port in &mut self.ports {
            let attached = port.program.attach(None)?;
            port.entry.attach = Some(attached.mode());
            self.board.set_interface(port.interface, port.entry.clone());
            let copying = if port.entry.zero_copy {
                "zero-copy"
            } else {
                "copy"
            };
            info!(
                interface = port.entry.name,
                attach = attached.mode().name(),
                mode = copying,
                "capturing through AF_XDP"
            );
            self.attached.push(attached);
        }
        Ok(())
    }

    /// Detaches every program: from here on no more packets arrive.
    pub(super) fn detach(&mut self) {
        for attached in self.attached.drain(..) {
            if let Err(error) = attached.detach() {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                warn!(cause, "{error}");
            }
        }
    }
}
