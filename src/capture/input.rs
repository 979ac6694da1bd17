//! The inputs of a capture: opened all together, each in the best way its interface allows.
//!
//! The rule: ask for the best mode, take what there is, say which. Every step down is a log line with its
//! reason, and what is in force stands in the ledger.

use std::io;
use std::sync::Arc;

use tracing::{info, warn};

use crate::batch::LEAST_RECORD;
use crate::cli::capture::{self as flags, Mode};
use crate::config::{Config, Input};
use crate::counters::QueueCounters;
use crate::exit::Exit;
use crate::filler::Rules;
use crate::filter::{FilterError, Filters};
use crate::format::read::ReadError;
use crate::histogram::Histogram;
use crate::interfaces::{Interface, Interfaces};
use crate::ledger::{Board, InterfaceEntry, Mode as Means, QueueEntry};
use crate::nic::offload::{self, Offloads};
use crate::nic::promiscuous::Promiscuous;
use crate::nic::{Nic, NicError};
use crate::packet::LinkType;
use crate::source::file::FileSource;
use crate::source::pcap::{Direction, OpenError, PcapOptions, PcapSource};
use crate::source::printing::Printing;
use crate::source::synthetic::SyntheticSource;
use crate::source::xsk::{Idle, XskConfig, XskError, XskSource};
use crate::xdp::{Attached, Options, Program, XdpError};

use super::cpus::Plan;
use super::pipeline::{self, Post, Rings, Shared};
use super::{CaptureError, Terms, system};

/// What libpcap calls all interfaces together.
const ANY: &str = "any";

/// An Ethernet header and two VLAN tags: what a frame has beyond its MTU.
const FRAME_HEADERS: u32 = 14 + 8;

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
enum Feed {
    Xsk(Box<XskSource>),
    Pcap(Box<PcapSource>),
    File(Box<FileSource>),
    Synthetic(Box<SyntheticSource>),
}

/// A source that is open, and what the ledger says of it.
struct Prepared {
    feed: Feed,
    /// Its interface, as the board numbers it.
    interface: usize,
    name: String,
    queue: u32,
    live: bool,
    /// Whether the filter runs in the source itself.
    filtered: bool,
    longest_frame: Option<u32>,
    /// Packets that its kernel ring holds.
    ring: u64,
}

/// An interface whose program is loaded and attached last.
struct Port {
    interface: usize,
    entry: InterfaceEntry,
    program: Program,
}

/// Every input of a capture. Dropping it detaches and restores what it changed.
pub(super) struct Inputs {
    prepared: Vec<Prepared>,
    attached: Vec<Attached>,
    ports: Vec<Port>,
    offloads: Vec<Offloads>,
    promiscuous: Vec<Promiscuous>,
    names: Vec<String>,
    live: bool,
    board: Board,
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

    fn register(
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
    fn add(&mut self, feed: Feed, name: &str, mode: Means) {
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

    fn interface(
        &mut self,
        name: &str,
        config: &Config,
        interfaces: &Interfaces,
    ) -> Result<(), InputError> {
        if name == ANY {
            if config.mode == Mode::Xdp {
                warn!("`any` is libpcap's; AF_XDP takes single interfaces");
            }
            if self.names.iter().any(|known| known == ANY) {
                return Err(InputError::Twice(name.to_owned()));
            }
            return self.pcap(None, config, interfaces);
        }
        let nic = Nic::find(name)?;
        if self.names.iter().any(|known| known == nic.name()) {
            return Err(InputError::Twice(nic.name().to_owned()));
        }
        let reason = nic.capture_only().and_then(|()| nic.free_for_xdp()).err();
        match (config.mode, reason) {
            (Mode::Pcap, _) => self.pcap(Some(&nic), config, interfaces),
            (Mode::Auto, Some(reason)) => {
                info!("capturing through libpcap: {reason}");
                self.pcap(Some(&nic), config, interfaces)
            }
            (Mode::Auto, None) => match self.xdp(&nic, config, interfaces) {
                Err(error @ (InputError::Xdp(_) | InputError::Xsk(_))) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    warn!(
                        cause,
                        "capturing through libpcap, AF_XDP is refused: {error}"
                    );
                    self.pcap(Some(&nic), config, interfaces)
                }
                answer => answer,
            },
            (Mode::Xdp, reason) => {
                if let Some(reason) = reason {
                    warn!(
                        "AF_XDP takes all traffic of {} away from the host: {reason}",
                        nic.name()
                    );
                }
                self.xdp(&nic, config, interfaces)
            }
        }
    }

    fn xdp(
        &mut self,
        nic: &Nic,
        config: &Config,
        interfaces: &Interfaces,
    ) -> Result<(), InputError> {
        let name = nic.name();
        let mut shape = XskConfig::for_mtu(nic.mtu());
        let jumbo = crate::source::xsk::frame_size(nic.mtu()).1;
        let options = Options {
            interface: name.to_owned(),
            ifindex: nic.index(),
            jumbo,
        };
        let mut offloads = None;
        if !config.keep_offloads {
            match Offloads::of(nic) {
                Ok(mut charge) => {
                    charge.switch_off(offload::for_xdp());
                    offloads = Some(charge);
                }
                Err(error) => warn!("{error}"),
            }
        }
        let program = Program::load(options)?;
        shape.frames = config.frames.unwrap_or(shape.frames);
        shape.idle = match config.idle {
            flags::Idle::Nap => Idle::Nap {
                max: config.max_nap,
            },
            flags::Idle::Poll => Idle::Poll,
            flags::Idle::Spin => Idle::Spin,
            flags::Idle::BusyPoll => Idle::BusyPoll,
        };
        shape.interface = self.register(interfaces, name, config)?;
        let queues = chosen(nic, config.queues.as_deref())?;
        shape.left_out = (0..nic.queues())
            .filter(|queue| !queues.contains(queue))
            .collect();
        let left = shape.left_out.len();
        let mut sources = Vec::new();
        for queue in &queues {
            sources.push(XskSource::open(&program, *queue, &shape)?);
            // Counted once, with the first.
            shape.left_out.clear();
        }
        if left > 0 {
            warn!(
                interface = name,
                left, "frames on the queues left out go to the kernel's stack"
            );
        }
        if config.promiscuous {
            let on = Promiscuous::on(nic.index());
            self.promiscuous
                .push(on.map_err(|cause| InputError::Promiscuous {
                    interface: name.to_owned(),
                    cause,
                })?);
        }
        let zero_copy = sources
            .iter()
            .all(|source| source.mode() == crate::source::xsk::Bind::ZeroCopy);
        let entry = InterfaceEntry {
            name: name.to_owned(),
            mode: Means::Xdp,
            zero_copy,
            attach: None,
        };
        let interface = self.board.add_interface(entry.clone());
        for source in sources {
            let queue = source.queue();
            self.prepared.push(Prepared {
                feed: Feed::Xsk(Box::new(source)),
                interface,
                name: name.to_owned(),
                queue,
                live: true,
                filtered: false,
                longest_frame: None,
                ring: u64::from(shape.frames) * 2,
            });
        }
        self.ports.push(Port {
            interface,
            entry,
            program,
        });
        self.offloads.extend(offloads);
        self.names.push(name.to_owned());
        Ok(())
    }

    fn pcap(
        &mut self,
        nic: Option<&Nic>,
        config: &Config,
        interfaces: &Interfaces,
    ) -> Result<(), InputError> {
        let name = nic.map_or(ANY, Nic::name);
        if config.queues.is_some() {
            warn!(
                interface = name,
                "libpcap captures from all queues together: --queues is left aside"
            );
        }
        let mut longest_frame = None;
        if let Some(nic) = nic.filter(|_| !config.keep_offloads) {
            let off = offload::for_pcap(nic);
            if off.is_empty() {
                longest_frame = Some(nic.mtu().saturating_add(FRAME_HEADERS));
            } else {
                match Offloads::of(nic) {
                    Ok(mut charge) => {
                        charge.switch_off(off);
                        self.offloads.push(charge);
                    }
                    Err(error) => warn!("{error}"),
                }
            }
        }
        let snaplen = u32::try_from(config.encoding.snaplen).unwrap_or(u32::MAX);
        let options = PcapOptions {
            buffer: config.pcap_buffer,
            snaplen,
            promiscuous: config.promiscuous,
            direction: match config.direction {
                flags::Direction::In => Direction::In,
                flags::Direction::Out => Direction::Out,
                flags::Direction::Inout => Direction::InOut,
            },
            filter: config.filter.clone(),
            ..PcapOptions::new(name)
        };
        let source = PcapSource::open(&options, interfaces)?;
        self.add(Feed::Pcap(Box::new(source)), name, Means::Pcap);
        let prepared = self.prepared.last_mut().expect("one was added just now");
        prepared.live = true;
        prepared.filtered = true;
        prepared.longest_frame = longest_frame;
        prepared.ring = (config.pcap_buffer / 64) as u64;
        Ok(())
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

/// The queues of `nic` that are wanted, or all.
fn chosen(nic: &Nic, wanted: Option<&[usize]>) -> Result<Vec<u32>, InputError> {
    let queues = nic.queues();
    let Some(wanted) = wanted else {
        return Ok((0..queues).collect());
    };
    let exists = |queue: &usize| u32::try_from(*queue).ok().filter(|queue| *queue < queues);
    wanted
        .iter()
        .map(|queue| {
            exists(queue).ok_or_else(|| InputError::NoQueue {
                interface: nic.name().to_owned(),
                queue: *queue,
                queues,
            })
        })
        .collect()
}
