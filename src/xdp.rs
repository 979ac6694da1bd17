//! The XDP program: loaded, given the sockets it redirects to, attached, detached.
//!
//! The rule: the program is ours alone. It is attached last and detached first, through a `bpf_link`
//! that dies with the process; what somebody else attached is named and left where it is.

mod link;
mod meter;
mod redirects;
mod rights;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use libbpf_rs::query::ProgInfoIter;
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, MapHandle, PrintLevel};

pub(crate) use meter::{Meter, Tally};
use redirects::RedirectErrors;
use rights::{BPF, NET_ADMIN, PERFMON};
pub(crate) use rights::{IPC_LOCK, NET_RAW};

/// The generated bindings of `bpf/ringtap.bpf.c` and `bpf/redirect_errors.bpf.c`.
#[allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::all,
    clippy::multiple_unsafe_ops_per_block,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    reason = "generated"
)]
mod skeleton {
    pub(super) mod ringtap {
        include!(concat!(env!("OUT_DIR"), "/ringtap.skel.rs"));
    }
    pub(super) mod redirect_errors {
        include!(concat!(env!("OUT_DIR"), "/redirect_errors.skel.rs"));
    }
}

/// The number of queues the program tells apart: `RINGTAP_QUEUES` of `bpf/ringtap.h`.
pub const MAX_QUEUES: u32 = 1024;

/// The first kernel whose `bpf_link`, XSKMAP and statistics are as this code needs them.
const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// The first kernel that takes an XDP program for frames of several buffers.
const OLDEST_FRAGS_KERNEL: (u32, u32) = (5, 18);

/// The first kernel whose AF_XDP sockets take packets of several fragments (`XDP_USE_SG`).
pub(crate) const OLDEST_JUMBO_KERNEL: (u32, u32) = (6, 6);

/// Why the program is not where it should be.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// A right is missing.
    #[error("{doing} needs {needs}: this process lacks {lacks}")]
    NoRights {
        /// What was being done.
        doing: String,
        /// The capabilities it takes.
        needs: String,
        /// Those that are not in effect; `a right the kernel does not name` where all are.
        lacks: String,
    },
    /// The kernel cannot do this.
    #[error("{doing} needs Linux {needs} or later with BPF and AF_XDP; this is {release}")]
    TooOld {
        /// What was being done.
        doing: String,
        /// The first kernel release that can.
        needs: String,
        /// The release that runs.
        release: String,
    },
    /// The verifier or the loader refused the program.
    #[error("loading the XDP program for {interface}")]
    Load {
        /// The interface.
        interface: String,
        /// What libbpf said.
        #[source]
        cause: libbpf_rs::Error,
    },
    /// Another XDP program is attached to the interface.
    #[error("interface {interface} is taken by XDP program {id} ({name})")]
    Taken {
        /// The interface.
        interface: String,
        /// The id of the program that is there, as `bpftool prog` shows it.
        id: u32,
        /// Its name; empty where the kernel has none.
        name: String,
    },
    /// The interface does not take the program in this mode.
    #[error("attaching the XDP program to {interface} in {mode} mode")]
    Refused {
        /// The interface.
        interface: String,
        /// The mode that was asked for; the last one of the ladder.
        mode: Attach,
        /// What the kernel said: ERANGE or EINVAL where the MTU does not fit one buffer.
        #[source]
        cause: io::Error,
    },
    /// Native mode is refused or not asked for, and a socket is bound for zero-copy, which needs it.
    ///
    /// The mend: drop the sources, open them with [`ZeroCopy::Never`](crate::source::xsk::ZeroCopy),
    /// attach again.
    #[error("generic XDP would leave the zero-copy sockets of {interface} without a packet")]
    ZeroCopyNeedsNative {
        /// The interface.
        interface: String,
        /// Why not natively; `Unsupported` where generic mode was asked for.
        #[source]
        cause: io::Error,
    },
    /// A map or a link of ours did not do what it should.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Attach {
    /// In the driver, before the kernel makes a socket buffer of the frame.
    Native,
    /// In the stack's generic hook: any driver, several times slower.
    Generic,
}

impl Attach {
    /// Its name in logs, the ledger and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

impl std::fmt::Display for Attach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What to load.
#[derive(Clone, Debug)]
pub struct Options {
    /// The interface's name; sockets are bound by it.
    pub interface: String,
    /// The interface's number in this network namespace; the program is attached by it.
    pub ifindex: u32,
    /// Whether packets of several fragments are taken (`xdp.frags`); for an MTU above
    /// [`room`](crate::source::xsk::room) of a frame only, as fewer drivers and kernels can.
    pub jumbo: bool,
}

/// The program in the kernel, with its maps; not attached.
#[derive(Debug)]
pub struct Program {
    options: Options,
    program: OwnedFd,
    sockets: MapHandle,
    counts: MapHandle,
    errors: Option<RedirectErrors>,
    zero_copy: ZeroCopyToken,
}

/// Tells a program by its copies how many sockets are open for zero-copy.
#[derive(Debug, Default)]
pub(crate) struct ZeroCopyToken(Arc<()>);

impl Program {
    /// Loads the program for one interface.
    ///
    /// # Errors
    ///
    /// [`NoRights`](XdpError::NoRights), [`TooOld`](XdpError::TooOld) (with `jumbo`, before Linux 5.18)
    /// or [`Load`](XdpError::Load).
    pub fn load(options: Options) -> Result<Self, XdpError> {
        libbpf_rs::set_print(Some((PrintLevel::Info, log)));
        let doing = format!("loading the XDP program for {}", options.interface);
        let oldest = if options.jumbo {
            OLDEST_FRAGS_KERNEL
        } else {
            OLDEST_KERNEL
        };

        let failed = |cause: libbpf_rs::Error| match cause.kind() {
            libbpf_rs::ErrorKind::PermissionDenied => no_rights(&doing, &[BPF, PERFMON, NET_ADMIN]),
            _ => too_old(&doing, oldest).unwrap_or_else(|| XdpError::Load {
                interface: options.interface.clone(),
                cause,
            }),
        };
        let mut storage = MaybeUninit::uninit();
        let builder = skeleton::ringtap::RingtapSkelBuilder::default();
        let mut open = builder.open(&mut storage).map_err(failed)?;
        open.progs.ringtap.set_autoload(!options.jumbo);
        open.progs.ringtap_frags.set_autoload(options.jumbo);
        let loaded = open.load().map_err(failed)?;

        let chosen = if options.jumbo {
            &loaded.progs.ringtap_frags
        } else {
            &loaded.progs.ringtap
        };
        let program = chosen
            .as_fd()
            .try_clone_to_owned()
            .map_err(|cause| XdpError::Io {
                doing: doing.clone(),
                cause,
            })?;
        let errors = RedirectErrors::watch(program.as_fd())
            .inspect_err(|cause| {
                tracing::warn!(
                    interface = options.interface,
                    cause = format!("{cause:#}"),
                    "redirect errors are not counted"
                );
            })
            .ok();
        Ok(Self {
            sockets: MapHandle::try_from(&loaded.maps.xsks).map_err(failed)?,
            counts: MapHandle::try_from(&loaded.maps.counts).map_err(failed)?,
            errors,
            program,
            zero_copy: ZeroCopyToken::default(),
            options,
        })
    }

    /// The interface's name.
    pub fn interface(&self) -> &str {
        &self.options.interface
    }

    /// The interface's number.
    pub fn ifindex(&self) -> u32 {
        self.options.ifindex
    }

    /// Whether the program takes packets of several fragments.
    pub fn is_jumbo(&self) -> bool {
        self.options.jumbo
    }

    /// Whether redirects that the kernel refuses are counted; needs `CAP_PERFMON` and the kernel's types
    /// (BTF).
    pub fn counts_redirect_errors(&self) -> bool {
        self.errors.is_some()
    }

    /// Attaches the program: natively, or else, where `mode` is `None`, in generic mode.
    ///
    /// From here on frames of queues with a socket go to it. Every socket should be open by now.
    ///
    /// # Errors
    ///
    /// [`Taken`](XdpError::Taken), [`NoRights`](XdpError::NoRights), [`Refused`](XdpError::Refused), or
    /// [`ZeroCopyNeedsNative`](XdpError::ZeroCopyNeedsNative).
    pub fn attach(&self, mode: Option<Attach>) -> Result<Attached, XdpError> {
        if mode == Some(Attach::Generic) {
            return self.attach_generic(io::ErrorKind::Unsupported.into());
        }
        match self.link(Attach::Native) {
            Err(XdpError::Refused { cause, .. }) if mode.is_none() => {
                tracing::info!(
                    interface = self.options.interface,
                    cause = cause.to_string(),
                    "native XDP refused, trying generic"
                );
                self.attach_generic(cause)
            }
            answer => answer,
        }
    }

    /// Makes frames of `queue` go to `socket`, an AF_XDP socket bound to that queue.
    pub(crate) fn register(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), XdpError> {
        use std::os::fd::AsRawFd;
        self.sockets
            .update(
                &queue.to_ne_bytes(),
                &socket.as_raw_fd().to_ne_bytes(),
                MapFlags::ANY,
            )
            .map_err(|cause| XdpError::Io {
                doing: format!(
                    "registering the socket of queue {queue} of {}",
                    self.options.interface
                ),
                cause: io::Error::other(cause.to_string()),
            })
    }

    /// What a socket bound for zero-copy holds as long as it is open.
    pub(crate) fn zero_copy(&self) -> ZeroCopyToken {
        ZeroCopyToken(Arc::clone(&self.zero_copy.0))
    }

    /// A reader of what the program counted on `queue`, and of what it passed on the queues `left_out`.
    pub(crate) fn meter(&self, queue: u32, left_out: &[u32]) -> io::Result<Meter> {
        let errors = self.errors.as_ref().map(RedirectErrors::map);
        Meter::new(queue, left_out, &self.sockets, &self.counts, errors)
    }

    /// Attaches in generic mode, unless zero-copy sockets are open; `native` tells why not natively.
    fn attach_generic(&self, native: io::Error) -> Result<Attached, XdpError> {
        if Arc::strong_count(&self.zero_copy.0) > 1 {
            let interface = self.options.interface.clone();
            return Err(XdpError::ZeroCopyNeedsNative {
                interface,
                cause: native,
            });
        }
        self.link(Attach::Generic)
    }

    /// Attaches in this very mode.
    fn link(&self, mode: Attach) -> Result<Attached, XdpError> {
        let interface = self.options.interface.clone();
        match link::attach_xdp(self.program.as_fd(), self.options.ifindex, mode) {
            Ok(link) => Ok(Attached {
                interface,
                mode,
                link,
            }),
            Err(cause) if cause.raw_os_error() == Some(libc::EPERM) => Err(no_rights(
                &format!("attaching an XDP program to {interface}"),
                &[NET_ADMIN],
            )),
            Err(cause) => Err(match self.owner() {
                Some((id, name)) => XdpError::Taken {
                    interface,
                    id,
                    name,
                },
                None => XdpError::Refused {
                    interface,
                    mode,
                    cause,
                },
            }),
        }
    }

    /// The id and name of the program that is attached to the interface now.
    fn owner(&self) -> Option<(u32, String)> {
        let ifindex = i32::try_from(self.options.ifindex).ok()?;
        let xdp = libbpf_rs::Xdp::new(self.program.as_fd());
        let found = xdp.query(ifindex, libbpf_rs::XdpFlags::NONE).ok()?;
        let ids = [
            found.prog_id,
            found.drv_prog_id,
            found.skb_prog_id,
            found.hw_prog_id,
        ];
        let id = ids.into_iter().find(|id| *id != 0)?;
        let name = ProgInfoIter::default()
            .find(|program| program.id == id)
            .map(|program| program.name.to_string_lossy().into_owned());
        Some((id, name.unwrap_or_default()))
    }
}

/// The program at work on an interface; dropping it detaches as well.
#[derive(Debug)]
pub struct Attached {
    interface: String,
    mode: Attach,
    link: OwnedFd,
}

impl Attached {
    /// How the program is attached.
    pub fn mode(&self) -> Attach {
        self.mode
    }

    /// Takes the program off the interface; frames go to the stack again when this returns.
    ///
    /// # Errors
    ///
    /// [`Io`](XdpError::Io), which has not been seen; a device that is gone is not an error.
    pub fn detach(self) -> Result<(), XdpError> {
        link::detach(self.link.as_fd()).map_err(|cause| XdpError::Io {
            doing: format!("detaching the XDP program from {}", self.interface),
            cause,
        })
    }
}

/// The error for a step that takes `needs`, naming those of them that are not in effect.
pub(crate) fn no_rights(doing: &str, needs: &[rights::Capability]) -> XdpError {
    let (needs, lacks) = rights::describe(needs);
    XdpError::NoRights {
        doing: doing.to_owned(),
        needs,
        lacks,
    }
}

/// The error for a step that was refused by a kernel before `oldest`; `None` where that is not why.
///
/// Asked after the fact only: distributions carry features to older releases.
pub(crate) fn too_old(doing: &str, oldest: (u32, u32)) -> Option<XdpError> {
    let name = nix::sys::utsname::uname().ok()?;
    let release = name.release().to_string_lossy().into_owned();
    (version(&release)? < oldest).then(|| XdpError::TooOld {
        doing: doing.to_owned(),
        needs: format!("{}.{}", oldest.0, oldest.1),
        release,
    })
}

/// The first two numbers of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Passes on what libbpf has to say.
fn log(level: PrintLevel, text: String) {
    let text = text.trim_end();
    match level {
        PrintLevel::Warn => tracing::debug!(target: "libbpf", "{text}"),
        PrintLevel::Info | PrintLevel::Debug => tracing::trace!(target: "libbpf", "{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_release_is_read_by_its_first_two_numbers() {
        assert_eq!(version("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(version("5.10.0-28-amd64"), Some((5, 10)));
        assert_eq!(version("7.2-rc1"), Some((7, 2)));
        assert_eq!(version("mainline"), None);
    }

    #[test]
    fn a_kernel_is_too_old_only_for_what_came_after_it() {
        assert!(too_old("testing", (5, 10)).is_none());
        let error = too_old("testing", (9_999, 0)).unwrap().to_string();
        assert!(error.contains("Linux 9999.0"), "{error}");
    }
}
