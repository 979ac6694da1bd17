//! stub
pub mod capture;
use crate::exit::Exit;
/// stub
pub fn run(_: std::env::ArgsOs) -> Exit {
    Exit::Done
}
//! What was written on the command line, one file per subcommand.

pub mod generate;
pub mod verify;
