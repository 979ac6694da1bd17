//! The watch over redirects that the kernel takes from our program and then refuses.
//!
//! The rule: it is optional. Without the right to trace (`CAP_PERFMON`) or the kernel's types (BTF) the
//! sensor runs all the same, and says that these losses are not counted.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libbpf_rs::MapHandle;
use libbpf_rs::skel::{OpenSkel, SkelBuilder};

use super::link;
use super::skeleton::redirect_errors::RedirectErrorsSkelBuilder;

/// Counts the refused redirects of one program until it is dropped.
#[derive(Debug)]
pub(super) struct RedirectErrors {
    errors: MapHandle,
    _links: Vec<OwnedFd>,
}

impl RedirectErrors {
    /// Begins to watch `program`.
    pub(super) fn watch(program: BorrowedFd<'_>) -> libbpf_rs::Result<Self> {
        let mut storage = MaybeUninit::uninit();
        let mut open = RedirectErrorsSkelBuilder::default().open(&mut storage)?;
        let id = libbpf_rs::Program::id_from_fd(program)?;
        let constants = open.maps.rodata_data.as_deref_mut();
        constants.expect("the program has a constant").ours = id;
        let loaded = open.load()?;

        // The event moved with 5.13, and so did its arguments: whatever attaches is right.
        let attach = |program: BorrowedFd<'_>| {
            [c"xdp_redirect_err", c"xdp_redirect_map_err"]
                .map(|event| link::attach_tracepoint(program, event))
        };
        let mut tried = attach(loaded.progs.redirect_err.as_fd());
        if tried.iter().all(Result::is_err) {
            tried = attach(loaded.progs.redirect_err_before_5_13.as_fd());
        }
        let links = match tried {
            [Err(cause), Err(_)] => return Err(cause.into()),
            some => some.into_iter().flatten().collect(),
        };
        let errors = MapHandle::try_from(&loaded.maps.errors)?;
        Ok(Self {
            errors,
            _links: links,
        })
    }

    /// The counts, by queue.
    pub(super) fn map(&self) -> &MapHandle {
        &self.errors
    }
}
