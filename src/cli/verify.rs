//! `ringtap verify`: are the frames that `generate` sent in a capture, each once and whole?
//!
//! The rule: it judges frames, not files; whoever reads the file hands each frame to the [`Checker`].

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use crate::check::{Checker, Report};
use crate::cli::complain;
use crate::exit::Exit;
use crate::format::read::{ReadError, Reader};

/// Check that a capture holds each numbered frame that was sent, once and whole
#[derive(Clone, Debug, clap::Args)]
pub struct VerifyArgs {
    /// Capture file (pcap or pcapng; - for standard input)
    file: PathBuf,

    /// Frames that were sent on stream 0
    #[arg(long, value_name = "N", conflicts_with = "expect")]
    sent: Option<u64>,

    /// Frames that were sent on a stream; may be given several times
    #[arg(long, value_name = "STREAM=COUNT", value_parser = stream_and_count)]
    expect: Vec<(u32, u64)>,
}

impl VerifyArgs {
    /// Judges what the checker has seen, prints it as one line of JSON, and answers whether every
    /// frame is there once and whole: exit code 0, else 4.
    ///
    /// Without `--sent` and `--expect` a stream is judged by its highest number.
    fn judge(&self, checker: &Checker) -> io::Result<bool> {
        let report = self.report(checker);
        let complete = report.is_complete();
        let mut line = serde_json::to_value(&report).expect("numbers and names are JSON");
        line["complete"] = complete.into();
        writeln!(io::stdout(), "{line}")?;
        Ok(complete)
    }

    fn report(&self, checker: &Checker) -> Report {
        let one = self.sent.map(|count| (0, count));
        let expected: BTreeMap<_, _> = one.into_iter().chain(self.expect.iter().copied()).collect();
        checker.report(&expected)
    }
}

/// Runs `ringtap verify`: exit code 0 where every frame is there once and whole, else 4.
pub(super) fn run(args: &VerifyArgs) -> Exit {
    let mut checker = Checker::new();
    let read = Reader::open(&args.file).and_then(|mut reader| {
        while let Some(packet) = reader.next()? {
            checker.check(packet.data);
        }
        Ok(())
    });
    let exit = match read {
        Ok(()) => Exit::Done,
        Err(error) => {
            complain(&error);
            match error {
                ReadError::Open { .. } => return Exit::Setup,
                ReadError::Io { .. } => Exit::Failed,
                _ => Exit::Damaged,
            }
        }
    };
    match args.judge(&checker) {
        Ok(true) => exit,
        Ok(false) => exit.and(Exit::LeftOver),
        Err(cause) => {
            complain(&cause);
            Exit::Failed
        }
    }
}

fn stream_and_count(text: &str) -> Result<(u32, u64), String> {
    let refused = || format!("`{text}` is not STREAM=COUNT");
    let (stream, count) = text.split_once('=').ok_or_else(refused)?;
    let stream = stream.parse().map_err(|_| refused())?;
    Ok((stream, count.parse().map_err(|_| refused())?))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::frames::{Plan, Size};

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: VerifyArgs,
    }

    fn args(words: &str) -> VerifyArgs {
        let words = ["verify"].into_iter().chain(words.split_whitespace());
        Command::try_parse_from(words).unwrap().args
    }

    #[test]
    fn a_capture_is_judged_by_what_was_sent() {
        let mut table = Plan::new(0, Size::Imix).table();
        let frames: Vec<_> = (0..1_000)
            .map(|number| table.frame(number).to_vec())
            .collect();
        let mut checker = Checker::new();
        for frame in &frames {
            checker.check(frame);
        }
        assert!(args("f --sent 1000").judge(&checker).unwrap());
        assert!(args("f --expect 0=1000").judge(&checker).unwrap());
        assert!(args("f").judge(&checker).unwrap());
        assert!(!args("f --sent 1001").judge(&checker).unwrap());
        assert!(!args("f --sent 999").judge(&checker).unwrap());
        assert!(
            !args("f --expect 0=1000 --expect 1=1")
                .judge(&checker)
                .unwrap()
        );
    }
}
