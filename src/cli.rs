//! The command line: one file per subcommand, from what was written to what is to be done.

pub mod doctor;
