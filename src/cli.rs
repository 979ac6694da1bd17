//! What was written on the command line, one file per subcommand.

pub mod generate;
pub mod verify;
