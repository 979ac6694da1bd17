//! One interface: by which means its packets are taken, and what is set for it.
//!
//! The rule: never blind the host. AF_XDP takes packets away from the stack, so by itself it is chosen only
//! for an interface that carries nothing of the host's own; each step down is said with its reason.

use tracing::{info, warn};

use crate::cli::capture::{self as flags, Mode};
use crate::config::Config;
use crate::interfaces::Interfaces;
use crate::ledger::{InterfaceEntry, Mode as Means};
use crate::nic::Nic;
use crate::nic::offload::{self, Offloads};
use crate::nic::promiscuous::Promiscuous;
use crate::source::pcap::{Direction, PcapOptions, PcapSource};
use crate::source::xsk::{Bind, Idle, XskConfig, XskSource, frame_size};
use crate::xdp::{Options, Program};

use super::input::{Feed, InputError, Inputs, Port, Prepared};

/// What libpcap calls all interfaces together.
const ANY: &str = "any";

/// An Ethernet header and two VLAN tags: what a frame has beyond its MTU.
const FRAME_HEADERS: u32 = 14 + 8;

impl Inputs {
    /// Opens one interface in the best way it allows.
    pub(super) fn interface(
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
            (Mode::Auto, _) if config.direction == flags::Direction::Out => {
                info!("no AF_XDP: it sees what arrives only (-Q out)");
                self.pcap(Some(&nic), config, interfaces)
            }
            (Mode::Auto, Some(reason)) => {
                info!("no AF_XDP: {reason}");
                self.pcap(Some(&nic), config, interfaces)
            }
            (Mode::Auto, None) => match self.xdp(&nic, config, interfaces) {
                Err(error @ (InputError::Xdp(_) | InputError::Xsk(_))) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    warn!(cause, "no AF_XDP, it is refused: {error}");
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
        let jumbo = frame_size(nic.mtu()).1;
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
        let zero_copy = sources.iter().all(|source| source.mode() == Bind::ZeroCopy);
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
        info!(interface = name, mode = "pcap", "capturing through libpcap");
        self.add(Feed::Pcap(Box::new(source)), name, Means::Pcap);
        let prepared = self.prepared.last_mut().expect("one was added just now");
        prepared.live = true;
        prepared.filtered = true;
        prepared.longest_frame = longest_frame;
        prepared.ring = (config.pcap_buffer / 64) as u64;
        Ok(())
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
