//! The programs of `bpf/generate.bpf.c`, as libbpf-cargo compiled them into a skeleton.

#![allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::multiple_unsafe_ops_per_block,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code
)]

include!(concat!(env!("OUT_DIR"), "/generate.skel.rs"));
