//! A capture from start to end: what is opened in which order, and closed in the reverse one.
//!
//! The rule: a start succeeds as a whole or leaves nothing behind, and each step that can fail says what
//! it was doing. Interfaces are attached last and detached first, so that no packet is taken that nobody
//! is there to receive.

mod cpus;
mod input;
mod interface;
mod output;
mod pipeline;
mod supervisor;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::cli::capture::{LogFormat, PartitionBy};
use crate::config::{Config, ConfigError, Output};
use crate::control::{Allowance, Control};
use crate::counters::QueueCounters;
use crate::exit::Exit;
use crate::filler::OneLinkType;
use crate::interfaces::Interfaces;
use crate::ledger::{Board, ExitClass, Ledger, LedgerError, Phase};
use crate::metrics::{MetricsError, Server};
use crate::packet::LinkType;
use crate::progress::{self, Progress};
use crate::signals;

use cpus::Plan;
pub use input::InputError;
use input::Inputs;
pub use output::OutputError;
use pipeline::{Rings, Shared};
use supervisor::{Capture, Event, Supervisor};

/// Why a capture did not start, or why its ledger could not be written.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The configuration does not hold on this machine.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An input was refused.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The sink was refused.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// Metrics cannot be served.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The ledger cannot be written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The system refused a thread, a descriptor or a signal mask.
    #[error("starting {what}")]
    System {
        /// What was being started.
        what: &'static str,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
}

impl CaptureError {
    /// The exit code that this error ends a run with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_) => Exit::Usage,
            Self::Input(error) => error.exit(),
            Self::Output(error) => error.exit(),
            Self::Metrics(_) | Self::System { .. } => Exit::Setup,
            Self::Ledger(_) => Exit::Failed,
        }
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> CaptureError {
    move |cause| CaptureError::System { what, cause }
}

/// Hears of the turns of a capture, off the packet path.
pub(crate) trait Watch {
    /// Packets are taken from here on.
    fn started(&mut self);
    /// The first signal to stop has come.
    fn signalled(&mut self);
    /// Every packet is batched that will be; what is not delivered yet is waited for.
    fn draining(&mut self, ledger: &Ledger);
    /// This is how it ended.
    fn ended(&mut self, ledger: &Ledger);
}

/// Nobody is told.
#[derive(Debug)]
struct Unwatched;

impl Watch for Unwatched {
    fn started(&mut self) {}
    fn signalled(&mut self) {}
    fn draining(&mut self, _: &Ledger) {}
    fn ended(&mut self, _: &Ledger) {}
}

/// Captures as `config` says, until the input ends, a limit is reached, or a signal comes.
///
/// Returns the exit code once the ledger is printed and written.
pub fn run(config: &Config) -> Result<Exit, CaptureError> {
    run_watched(config, &mut Unwatched)
}

/// As [`run`], with somebody who is told of its turns.
pub(crate) fn run_watched(config: &Config, watch: &mut dyn Watch) -> Result<Exit, CaptureError> {
    signals::block().map_err(system("the handling of signals"))?;
    let interfaces = Interfaces::default();
    let board = Board::new(output::kind(config), &output::destination(config));

    let mut inputs = Inputs::open(config, &interfaces, &board)?;
    let workers = inputs.feeds();
    fits_memory(config, workers)?;
    let plan = if inputs.is_live() || config.cpus.is_some() {
        let plan = Plan::new(config.cpus.as_deref(), workers);
        plan.map_err(|rule| ConfigError::cpus(config.cpus.as_deref(), rule))?
    } else {
        Plan::none()
    };
    plan.stay_off();

    let (sender, events) = mpsc::channel();
    let signalled = sender.clone();
    signals::watch(move |signal| signalled.send(Event::Signal(signal)).is_ok())
        .map_err(system("the signal thread"))?;
    let metrics = config.metrics.map(|address| Server::start(address, &board));
    let _metrics = metrics.transpose()?;
    let asking = sender.clone();
    let control = Arc::new(Control::new(move || drop(asking.send(Event::Asked))));
    let shared = Shared {
        control: control.clone(),
        board: board.clone(),
        events: sender,
    };

    let queues: Vec<_> = (0..workers)
        .map(|_| Arc::new(QueueCounters::default()))
        .collect();
    let names = inputs.names();
    let sinks = output::open(config, &queues, &interfaces, &board, names, &control)?;
    let publishers = sinks.publishers();
    let by_flow = config.partition_by == PartitionBy::Flow;
    let owners = sinks.owners().filter(|_| by_flow);
    let config = &config
        .fitted(sinks.max_batch())
        .shared_out(owners.as_ref().map(Vec::len))?;
    let rings =
        Rings::new(workers, publishers, config.batches, owners).map_err(system("the rings"))?;
    sinks
        .publish(&rings, &shared)
        .map_err(system("a publisher"))?;
    board.set_connected(true);

    let progress = (!config.quiet).then(|| Progress::start(&board)).flatten();
    let terms = Terms {
        allowance: config.count.map(|count| Arc::new(Allowance::new(count))),
        one_link_type: output::holds_one_link_type(config).then(OneLinkType::default),
    };
    inputs.work(config, &terms, &plan, &rings, &shared, &queues)?;
    if let Err(error) = inputs.attach() {
        control.stop(Duration::ZERO);
        control.set_workers_done();
        rings.wake();
        return Err(error.into());
    }
    board.set_attached(true);
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    watch.started();

    let mut run = Run {
        config,
        inputs,
        rings,
        board: board.clone(),
        control,
        interfaces,
        watch,
        warned: false,
    };
    run.say_link_types();
    let supervisor = Supervisor {
        events,
        workers,
        live: if run.inputs.is_live() { workers } else { 0 },
        publishers,
        until: config.duration.map(|limit| Instant::now() + limit),
        stats: config.stats,
    };
    let exit = supervisor.run(&mut run);
    drop(progress);
    run.finish(exit)
}

/// Every page of every batch is touched at start: more than the machine has would end it, not us alone.
fn fits_memory(config: &Config, workers: usize) -> Result<(), ConfigError> {
    let machine = nix::sys::sysinfo::sysinfo().map_or(u64::MAX, |info| info.ram_total());
    let all = config.buffer().saturating_mul(workers);
    if u64::try_from(all).is_ok_and(|all| all <= machine) {
        return Ok(());
    }
    Err(ConfigError::buffer(config.buffer(), workers, machine))
}

/// What all workers of a capture share.
#[derive(Debug)]
struct Terms {
    allowance: Option<Arc<Allowance>>,
    one_link_type: Option<OneLinkType>,
}

/// A capture that runs.
struct Run<'a> {
    config: &'a Config,
    inputs: Inputs,
    rings: Rings,
    board: Board,
    control: Arc<Control>,
    interfaces: Interfaces,
    watch: &'a mut dyn Watch,
    warned: bool,
}

impl Run<'_> {
    /// Reads the last ledger, shows it, writes it, and settles the exit code.
    fn finish(mut self, exit: Exit) -> Result<Exit, CaptureError> {
        self.say_link_types();
        let mut ledger = self.board.snapshot(Phase::Drained);
        let class = match ledger.exit_class() {
            ExitClass::Clean => Exit::Done,
            ExitClass::LeftOver => Exit::LeftOver,
        };
        let exit = exit.and(class);
        ledger.exit_code = Some(exit.code());
        if !self.config.quiet && self.config.log_format == LogFormat::Text {
            let _ = write!(progress::stderr(), "{}", ledger.table());
        }
        info!("{}", ledger.summary());
        self.watch.ended(&ledger);
        if let Some(path) = &self.config.ledger {
            ledger.write(path)?;
        }
        Ok(exit)
    }

    /// Warns once when packets that are not Ethernet go to Kafka.
    fn say_link_types(&mut self) {
        if self.warned || !matches!(self.config.output, Output::Kafka { .. }) {
            return;
        }
        let count = u16::try_from(self.interfaces.len()).unwrap_or(u16::MAX);
        let other = (0..count)
            .filter_map(|number| self.interfaces.get(number))
            .find(|interface| interface.link_type != LinkType::ETHERNET);
        if let Some(interface) = other {
            self.warned = true;
            warn!(
                interface = interface.name,
                link_type = %interface.link_type,
                "not Ethernet: the packets go to Kafka as they are, and Metron's readers will take them \
                 for Ethernet; with --record-headers each record tells its link type"
            );
        }
    }
}

impl Capture for Run<'_> {
    fn signalled(&mut self) {
        self.watch.signalled();
    }

    fn stop(&mut self) {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        self.board.set_attached(false);
        self.inputs.detach();
        self.control.stop(self.config.drain);
        debug!(limit = ?self.config.drain, "draining");
    }

    fn abandon(&mut self) {
        self.control.stop(Duration::ZERO);
        self.rings.wake();
    }

    fn workers_done(&mut self) {
        self.watch.draining(&self.board.snapshot(Phase::Running));
        self.control.set_workers_done();
        self.rings.wake();
    }

    fn progress(&mut self) {
        self.say_link_types();
    }

    fn print(&mut self) {
        let ledger = self.board.snapshot(Phase::Running);
        match self.config.log_format {
            LogFormat::Text => drop(write!(progress::stderr(), "{}", ledger.table())),
            LogFormat::Json => info!("{}", ledger.summary()),
        }
    }
}
