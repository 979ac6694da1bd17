//! What the program says of itself: version, exit codes, completions, man pages.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Command, ValueHint};
use clap_complete::Shell;

use crate::exit::Exit;
use crate::kafka;

use super::complain;

/// The contract on exit codes, as help and man pages show it.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  drained; all that was received is delivered, or with acks=0 sent
  1  failed while running
  2  wrong usage or configuration
  3  set-up refused: rights, interface busy or taken, broker, topic
  4  records left over or failed
  5  the device is gone and no interface is left
  6  damaged input; what came before the damage is delivered
Where several apply: 2, 3, 1, 5, 4, 6.";

/// The version, and what librdkafka was built with.
pub(super) fn version() -> String {
    format!("{}\n{}", env!("CARGO_PKG_VERSION"), kafka::librdkafka())
}

/// `ringtap completions SHELL`.
#[derive(Args, Debug)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(super) fn completions(args: &CompletionsArgs, mut command: Command) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "ringtap", &mut script);
    print(&script)
}

/// `ringtap man [DIR]`.
#[derive(Args, Debug)]
pub(super) struct ManArgs {
    /// Folder for one page per subcommand, made where it is missing; without it, the main page goes to standard output
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    folder: Option<PathBuf>,
}

pub(super) fn man(args: &ManArgs, command: Command) -> Exit {
    let Some(folder) = &args.folder else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(command).render(&mut page);
        rendered.expect("writing to memory cannot go wrong");
        return print(&page);
    };
    match write_pages(command, folder) {
        Ok(pages) => {
            print(format!("{pages} man pages written to {}\n", folder.display()).as_bytes())
        }
        Err(cause) => {
            complain(&io::Error::new(
                cause.kind(),
                format!("writing man pages to {}: {cause}", folder.display()),
            ));
            Exit::Failed
        }
    }
}

/// Writes a page for each subcommand into the folder, which it makes where it is missing, and says how
/// many there are now.
fn write_pages(command: Command, folder: &Path) -> io::Result<usize> {
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(command, folder)?;
    let pages = fs::read_dir(folder)?.filter_map(Result::ok);
    let ours = pages.filter(|page| page.file_name().to_string_lossy().starts_with("ringtap"));
    Ok(ours.count())
}

/// Prints to standard output; a reader that has seen enough is no failure.
fn print(bytes: &[u8]) -> Exit {
    match io::stdout().write_all(bytes) {
        Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => {
            complain(&cause);
            Exit::Failed
        }
        _ => Exit::Done,
    }
}
