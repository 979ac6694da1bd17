//! The other end: an XDP program that counts what arrives at an interface, and drops it.
//!
//! The rule: it counts every frame it drops, so its figure is what reached the interface.

use std::mem::MaybeUninit;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use super::GenerateError;
use super::skeleton::GenerateSkelBuilder;

/// What arrived at an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Frames.
    pub frames: u64,
    /// Their bytes, without FCS.
    pub bytes: u64,
}

/// Drops every frame that arrives at an interface, and counts it; until it is dropped itself.
#[derive(Debug)]
pub struct Tally {
    interface: String,
    _link: Link,
    arrivals: MapHandle,
}

impl Tally {
    /// Attaches to an interface of the caller's network namespace, natively where its driver can.
    pub fn attach(interface: &str) -> Result<Self, GenerateError> {
        let failed = |doing| {
            let interface = interface.to_owned();
            move |cause| GenerateError::Bpf {
                doing,
                interface,
                cause,
            }
        };
        let index = if_nametoindex(interface)
            .and_then(|index| i32::try_from(index).map_err(|_| Errno::ENODEV))
            .map_err(|errno| GenerateError::Interface {
                interface: interface.to_owned(),
                cause: errno.into(),
            })?;
        let mut storage = MaybeUninit::uninit();
        let mut open = GenerateSkelBuilder::default()
            .open(&mut storage)
            .map_err(failed("opening the tally program"))?;
        open.progs.generate.set_autoload(false);
        open.progs.answer.set_autoload(false);
        open.progs.no_answer.set_autoload(false);
        let skeleton = open.load().map_err(failed("loading the tally program"))?;
        let arrivals = MapHandle::try_from(&skeleton.maps.arrivals)
            .map_err(failed("keeping the tally's counters"))?;
        let link = skeleton
            .progs
            .tally
            .attach_xdp(index)
            .map_err(failed("attaching the tally program"))?;
        Ok(Self {
            interface: interface.to_owned(),
            _link: link,
            arrivals,
        })
    }

    /// What arrived so far, over all CPUs.
    pub fn arrived(&self) -> Result<Arrived, GenerateError> {
        let counters = self
            .arrivals
            .lookup_percpu(&[0; 4], MapFlags::ANY)
            .map_err(|cause| GenerateError::Bpf {
                doing: "reading the tally's counters",
                interface: self.interface.clone(),
                cause,
            })?;
        let mut sum = Arrived::default();
        for counter in counters.iter().flatten() {
            let (frames, bytes) = counter.split_at(8);
            sum.frames += u64::from_ne_bytes(*frames.first_chunk().expect("a counter has 8 bytes"));
            sum.bytes += u64::from_ne_bytes(*bytes.first_chunk().expect("a counter has 8 bytes"));
        }
        Ok(sum)
    }
}
