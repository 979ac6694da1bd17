//! stub
pub mod capture;
use crate::exit::Exit;
/// stub
pub fn run(_: std::env::ArgsOs) -> Exit {
    Exit::Done
}
