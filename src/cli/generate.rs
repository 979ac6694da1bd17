//! `ringtap generate`: sends numbered frames, for tests and measurements.
//!
//! The rule: what it prints is what the device took, to the frame.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use crate::cli::complain;
use crate::exit::Exit;
use crate::frames::{Plan, SLOTS, Size};
use crate::generate::{self, Engine, GenerateError, Job, Sent};
use crate::signals;

/// Send numbered, checksummed frames out of an interface, and print how many went
#[derive(Clone, Debug, clap::Args)]
pub struct GenerateArgs {
    /// Interface to send from
    #[arg(short = 'i', long, value_name = "IF")]
    interface: String,

    /// Bytes of each frame without FCS: a number, FROM-TO, or imix (60, 590 and 1514, 7:4:1)
    #[arg(long, default_value = "60")]
    size: Size,

    /// Flows that the frames belong to in turn
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=SLOTS as i64))]
    flows: u32,

    /// Frames per second and thread [default: all that the interface takes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pps: Option<u64>,

    /// Stop after this many frames per thread
    #[arg(short = 'c', long, value_name = "COUNT")]
    count: Option<u64>,

    /// Stop after this many seconds
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    duration: Option<Duration>,

    /// Number of the first thread's stream; each further thread has the next
    #[arg(long, value_name = "N", default_value_t = 0)]
    stream: u32,

    /// One thread on each of these CPUs; a veth peer receives on the queue of that number
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    cpus: Vec<usize>,

    /// Tag the frames with this VLAN
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(0..=4095))]
    vlan: Option<u16>,

    /// Write the time into frames of 76 bytes and more (CLOCK_MONOTONIC)
    #[arg(long)]
    stamp: bool,

    /// How frames leave [default: live, or socket where live frames cannot go or pps is low]
    #[arg(long, value_name = "ENGINE")]
    engine: Option<Engine>,
}

/// The line that is printed.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    sent: u64,
    bytes: u64,
    seconds: f64,
    streams: &'a [Sent],
}

/// Why `generate` ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Frames could not be sent.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// Signals could not be taken.
    #[error("starting the handling of signals")]
    Signals(#[source] io::Error),
    /// The result could not be written.
    #[error("writing the result to standard output")]
    Print(#[source] io::Error),
}

/// Runs `ringtap generate`; a signal ends it early, with the count of what went.
pub(super) fn run(args: &GenerateArgs) -> Exit {
    let stop = Arc::new(AtomicBool::new(false));
    let ended = stop.clone();
    let watched = signals::block().and_then(|()| {
        signals::watch(move |_| {
            ended.store(true, Ordering::Release);
            true
        })
    });
    match watched
        .map_err(Error::Signals)
        .and_then(|()| send(args, &stop))
    {
        Ok(()) => Exit::Done,
        Err(error) => {
            complain(&error);
            if matches!(error, Error::Print(_)) {
                Exit::Failed
            } else {
                Exit::Setup
            }
        }
    }
}

/// Sends until the job is done or `stop` is set, and prints one line of JSON: `sent`, `bytes`,
/// `seconds`, and `streams` with the same by stream.
fn send(args: &GenerateArgs, stop: &AtomicBool) -> Result<(), Error> {
    let streams = generate::run(&args.interface, &args.jobs(), stop)?;
    let summary = Summary {
        sent: streams.iter().map(|stream| stream.frames).sum(),
        bytes: streams.iter().map(|stream| stream.bytes).sum(),
        seconds: streams
            .iter()
            .map(|stream| stream.seconds)
            .fold(0.0, f64::max),
        streams: &streams,
    };
    let line = serde_json::to_string(&summary).expect("numbers and names are JSON");
    writeln!(io::stdout(), "{line}").map_err(Error::Print)
}

impl GenerateArgs {
    fn jobs(&self) -> Vec<Job> {
        let job = |stream, cpu| Job {
            plan: Plan {
                stream,
                size: self.size,
                flows: self.flows,
                vlan: self.vlan,
            },
            count: self.count,
            duration: self.duration,
            rate: self.pps,
            cpu,
            stamp: self.stamp,
            engine: self.engine,
            ..Job::default()
        };
        if self.cpus.is_empty() {
            return vec![job(self.stream, None)];
        }
        let streams = self.stream..=u32::MAX;
        streams
            .zip(&self.cpus)
            .map(|(stream, cpu)| job(stream, Some(*cpu)))
            .collect()
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: GenerateArgs,
    }

    fn jobs(words: &str) -> Result<Vec<Job>, clap::Error> {
        let words = ["generate"].into_iter().chain(words.split_whitespace());
        Command::try_parse_from(words).map(|command| command.args.jobs())
    }

    #[test]
    fn each_cpu_gets_a_stream_of_its_own() {
        let jobs =
            jobs("-i eth0 --size 60-1514 --cpus 0,1 --stream 5 -c 9 --duration 0.5").unwrap();
        let streams: Vec<_> = jobs.iter().map(|job| (job.plan.stream, job.cpu)).collect();
        assert_eq!(streams, [(5, Some(0)), (6, Some(1))]);
        assert_eq!(jobs[0].plan.size, Size::Range(60, 1_514));
        assert_eq!(
            (jobs[0].count, jobs[0].duration),
            (Some(9), Some(Duration::from_millis(500)))
        );
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        for words in [
            "",
            "-i eth0 --size 59",
            "-i eth0 --flows 0",
            "-i eth0 --pps 0",
            "-i eth0 --duration -1",
            "-i eth0 --vlan 4096",
        ] {
            assert!(jobs(words).is_err(), "{words}");
        }
    }
}
