//! Arguments → run → exit code.

use ringtap::cli;
use ringtap::exit::Exit;

fn main() -> Exit {
    cli::run(std::env::args_os())
}
