//! What needs root: each test makes a network namespace of its own.

mod delivery;
mod fate;
mod setup;
