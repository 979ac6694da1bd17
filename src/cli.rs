//! What was written on the command line, one file per subcommand.
//!
//! The rule: this is the only place that prints an error or settles an exit code.

pub mod capture;
pub mod consume;
pub mod doctor;
pub mod generate;
pub mod kafka;
mod manual;
pub mod pycapa;
pub mod verify;

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::exit::Exit;

use capture::CaptureArgs;
use consume::ConsumeArgs;
use doctor::DoctorArgs;
use generate::GenerateArgs;
use manual::{CompletionsArgs, ManArgs};
use pycapa::PycapaArgs;
use verify::VerifyArgs;

/// Packets off a NIC with AF_XDP, one Kafka record each, every frame accounted for.
#[derive(Debug, Parser)]
#[command(
    name = "ringtap",
    version,
    arg_required_else_help = true,
    subcommand_required = true
)]
#[command(after_help = manual::EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Capture packets from interfaces or files into Kafka or a file
    #[command(after_help = manual::EXIT_CODES)]
    Capture(Box<CaptureArgs>),
    /// Read packets back from Kafka, as a capture file or a stream for tshark
    #[command(after_help = manual::EXIT_CODES)]
    Consume(Box<ConsumeArgs>),
    /// Do what Apache Metron's pycapa does, with its options
    #[command(args_override_self = true, infer_long_args = true)]
    Pycapa(PycapaArgs),
    /// Check whether this machine, an interface and a cluster are ready, and say what to mend
    Doctor(DoctorArgs),
    /// Send numbered, checksummed frames out of an interface
    #[command(hide = true)]
    Generate(GenerateArgs),
    /// Check the frames that `generate` sent, as a capture file holds them
    #[command(hide = true)]
    Verify(VerifyArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Write the man pages
    Man(ManArgs),
}

/// Runs what the command line says and returns how it ended; errors are on standard error by then.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let arguments = pycapa::translate(arguments.into_iter().collect());
    let version = manual::version();
    let command = Cli::command().version(version);
    let parsed = command
        .try_get_matches_from(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match cli.command {
        Command::Capture(args) => capture::run(*args),
        Command::Consume(args) => consume::run(&args),
        Command::Pycapa(args) => pycapa::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Completions(args) => manual::completions(&args, Cli::command()),
        Command::Man(args) => manual::man(&args, Cli::command()),
    }
}

/// Prints clap's answer: help and version end well, everything else is wrong usage.
fn usage(error: &clap::Error) -> Exit {
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Done,
        _ => Exit::Usage,
    }
}

/// Prints an error with everything that caused it, in one line.
pub(crate) fn complain(error: &dyn Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        let deeper_text = deeper.to_string();
        if !text.ends_with(&deeper_text) {
            text.push_str(": ");
            text.push_str(&deeper_text);
        }
        cause = deeper.source();
    }
    let _ = writeln!(io::stderr(), "ringtap: {text}");
}
