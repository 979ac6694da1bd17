//! A capture that runs, and one that has ended.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::wire::Wire;
use super::{RINGTAP, json};

/// How long anything may take that takes a moment; no figure, only an end to waiting.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `holds`; a panic that names `what` where it never does.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// How a capture is started: its arguments, and what it runs under.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    wire: Option<&'a Wire>,
    under: Vec<String>,
    arguments: Vec<String>,
    piped: bool,
    folder: TempDir,
}

impl<'a> Start<'a> {
    /// `ringtap capture WORDS`, and `--ledger`. `{}` in the words is a folder of the capture's own.
    pub(crate) fn new(words: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().display().to_string();
        let words = words.split(' ').filter(|word| !word.is_empty());
        Self {
            wire: None,
            under: Vec::new(),
            arguments: words.map(|word| word.replace("{}", &here)).collect(),
            piped: false,
            folder,
        }
    }

    /// The same on the receiving end of a wire.
    pub(crate) fn on(wire: &'a Wire, words: &str) -> Self {
        let words = format!("-i {} {words}", wire.rx());
        Self {
            wire: Some(wire),
            ..Self::new(&words)
        }
    }

    /// Puts another program in front, as in `setpriv --bounding-set=-net_raw`.
    pub(crate) fn under(mut self, words: &str) -> Self {
        self.under = words.split(' ').map(str::to_owned).collect();
        self
    }

    /// Makes its standard output a pipe.
    pub(crate) fn piped(mut self) -> Self {
        self.piped = true;
        self
    }

    /// The folder that `{}` stands for.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it, and waits until it says that it is ready, or has ended.
    pub(crate) fn ready(self) -> Running {
        let socket = self.folder.path().join("notify");
        let notified = UnixDatagram::bind(&socket).unwrap();
        notified
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let mut running = self.spawn(Some(&socket));
        let end = Instant::now() + PATIENCE;
        let mut message = [0; 1_024];
        loop {
            if let Ok(length) = notified.recv(&mut message)
                && message[..length].starts_with(b"READY=1")
            {
                return running;
            }
            if running.child.try_wait().unwrap().is_some() {
                return running;
            }
            assert!(Instant::now() < end, "never ready: {}", running.log());
        }
    }

    /// Starts it, and waits for its end.
    pub(crate) fn run(self) -> Ended {
        self.spawn(None).wait()
    }

    fn spawn(self, notify: Option<&Path>) -> Running {
        let mut line: Vec<&str> = self.under.iter().map(String::as_str).collect();
        line.push(RINGTAP);
        let mut command = match self.wire {
            Some(wire) => wire.command(line[0]),
            None => Command::new(line[0]),
        };
        let ledger = self.folder.path().join("ledger.json");
        let log = File::create(self.folder.path().join("log")).unwrap();
        command.args(&line[1..]).arg("capture");
        command.args(&self.arguments).arg("--ledger").arg(&ledger);
        command.current_dir(self.folder.path()).stderr(log);
        if self.piped {
            command.stdout(Stdio::piped());
        } else {
            command.stdout(File::create(self.folder.path().join("printed")).unwrap());
        }
        if let Some(socket) = notify {
            command.env("NOTIFY_SOCKET", socket);
        }
        Running {
            child: command.spawn().unwrap(),
            folder: Some(self.folder),
        }
    }
}

/// A capture that runs; killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    folder: Option<TempDir>,
}

impl Running {
    /// What it has written to standard error.
    pub(crate) fn log(&self) -> String {
        let folder = self.folder.as_ref().unwrap();
        fs::read_to_string(folder.path().join("log")).unwrap()
    }

    /// A file in its folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.as_ref().unwrap().path().join(name)
    }

    /// Its standard output, where it is a pipe.
    pub(crate) fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().unwrap()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, signal).unwrap();
    }

    /// Whether it has not ended.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ended {
        eventually("the capture ends", || !self.runs());
        let status = self.child.wait().unwrap();
        Ended {
            code: status.code(),
            log: self.log(),
            folder: self.folder.take().unwrap(),
        }
    }

    /// Asks it to stop, and waits for its end.
    pub(crate) fn stop(self) -> Ended {
        self.signal(Signal::SIGTERM);
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A capture that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it wrote to standard error.
    pub(crate) log: String,
    folder: TempDir,
}

impl Ended {
    /// Its last ledger.
    pub(crate) fn ledger(&self) -> Value {
        assert!(self.file("ledger.json").exists(), "{}", self.log);
        json(&self.file("ledger.json"))
    }

    /// A file in its folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Asserts that it ended with this code.
    pub(crate) fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.log);
        self
    }

    /// Asserts that it ended with this code and said all of `texts`.
    pub(crate) fn saying(self, code: i32, texts: &[&str]) -> Self {
        let ended = self.with(code);
        for text in texts {
            assert!(ended.log.contains(text), "no `{text}` in:\n{}", ended.log);
        }
        ended
    }
}
