//! AF_XDP over a veth pair: what was sent is received once, byte for byte, or counted.
//!
//! The property, to the frame: redirected = received + rx_dropped + rx_ring_full + redirect errors.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod net;
mod rig;
mod root;
