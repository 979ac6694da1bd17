//! The end of the file sink: records are encoded into one buffer, and the buffer goes out in one write.
//!
//! The rule: a record counts as written when every byte of it is.

use std::fmt;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use super::merge::{Fate, Place, Settled};
use super::regular::Files;
use super::stream::Stream;
use super::{Totals, unix_seconds};
use crate::batch::Record;
use crate::counters::Failed;
use crate::format::write::{Encoder, Format, Section};
use crate::interfaces::Interfaces;
use crate::packet::{Clock, LinkType, MAX_PACKET, Packet};
use crate::record::RecordInfo;
use crate::sink::SinkError;

/// The buffer is written when it holds this much, or when nothing else may go.
///
/// It stays in a second-level cache, so that the kernel copies what was just encoded; a write of this
/// size costs less than a nanosecond a packet for the system call.
const WRITE_AT: usize = 256 * 1024;

/// Room for the packet that fills the buffer, and for the blocks around it.
const BEYOND: usize = MAX_PACKET + 4_096;

/// What the files are like.
#[derive(Debug)]
pub(super) struct Style {
    pub(super) format: Format,
    pub(super) snaplen: u32,
    pub(super) link_type: Option<LinkType>,
    pub(super) interfaces: Interfaces,
}

impl Style {
    /// The encoder, unless it needs a link type that only the first packet tells.
    fn encoder(&self, link_type: Option<LinkType>) -> Option<Encoder> {
        match self.format {
            Format::Pcap(fraction) => {
                let link_type = self.link_type.or(link_type)?;
                Some(Encoder::pcap(fraction, self.snaplen, link_type))
            }
            Format::Pcapng => Some(Encoder::pcapng(Section::here(), self.interfaces.clone())),
        }
    }
}

/// Where the bytes go.
#[derive(Debug)]
pub(super) enum Target {
    /// Regular files, one after another.
    Files(Files),
    /// Standard output, or whatever else has no length.
    Stream(Stream),
}

/// Records of one batch that lie side by side in the buffer.
#[derive(Clone, Copy, Debug)]
struct Run {
    place: Place,
    records: u32,
    fate: Fate,
}

/// The encoded records that are not written yet, and the place they go.
pub(super) struct Output {
    style: Style,
    totals: Totals,
    encoder: Option<Encoder>,
    buffer: Vec<u8>,
    runs: Vec<Run>,
    settled: Vec<Settled>,
    target: Target,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("style", &self.style)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl Output {
    /// Begins the first file: its start is written at once where its link type is known.
    pub(super) fn new(style: Style, totals: Totals, target: Target) -> Result<Self, SinkError> {
        let mut output = Self {
            encoder: style.encoder(None),
            style,
            totals,
            buffer: Vec::with_capacity(WRITE_AT + BEYOND),
            runs: Vec::new(),
            settled: Vec::new(),
            target,
        };
        if let Some(encoder) = &mut output.encoder {
            encoder.start(&mut output.buffer);
            if let Target::Files(files) = &mut output.target {
                files.begin(&output.buffer)?;
                encoder.keep_all();
                output.buffer.clear();
            }
        }
        Ok(output)
    }

    /// Encodes a record; breaks when the buffer has to be flushed before the next one.
    #[inline]
    pub(super) fn push(
        &mut self,
        place: Place,
        late: bool,
        record: &Record<'_>,
    ) -> ControlFlow<()> {
        let packet = packet(record);
        if self.encoder.is_none() {
            self.begin(packet.link_type);
        }
        let encoder = self.encoder.as_mut().expect("it was begun above");
        let fate = match late {
            true => Fate::Late,
            false => Fate::Written,
        };
        if encoder.packet(&packet, &mut self.buffer).is_err() {
            self.settled.push(Settled {
                place,
                records: 1,
                fate: Fate::Failed(Failed::Refused),
            });
            return ControlFlow::Continue(());
        }
        match self.runs.last_mut() {
            Some(run) if run.place == place && run.fate == fate => run.records += 1,
            _ => self.runs.push(Run {
                place,
                records: 1,
                fate,
            }),
        }
        if self.buffer.len() >= WRITE_AT || self.fills_file() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    #[cold]
    fn begin(&mut self, link_type: LinkType) {
        if let Some(mut encoder) = self.style.encoder(Some(link_type)) {
            encoder.start(&mut self.buffer);
            self.encoder = Some(encoder);
        }
    }

    fn fills_file(&self) -> bool {
        match &self.target {
            Target::Files(files) => files.is_full(self.buffer.len()),
            Target::Stream(_) => false,
        }
    }

    /// Writes the buffer as far as can be done without waiting for a reader.
    ///
    /// What goes to a regular file is written, or failed, when this returns. Fails when a stream is
    /// broken.
    pub(super) fn flush(&mut self, now: Instant) -> Result<(), SinkError> {
        let Some(encoder) = &mut self.encoder else {
            return Ok(());
        };
        match &mut self.target {
            Target::Stream(stream) => {
                if stream.send(&self.buffer)? {
                    encoder.keep_all();
                    self.settle(u64::MAX, Failed::Disk);
                }
            }
            // The start of a file alone waits for the first packet, which says when the file began.
            Target::Files(_) if self.runs.is_empty() => {}
            Target::Files(files) => {
                let kept = files.put(encoder, &self.buffer, now);
                let lost = self.settle(kept, Failed::Disk);
                self.restart();
                if let Target::Files(files) = &mut self.target {
                    files.lost(lost);
                }
            }
        }
        Ok(())
    }

    /// Ends the file if it is full, so that the next record begins another one.
    pub(super) fn turn_if_full(&mut self, now: Instant) -> Result<(), SinkError> {
        if !self.fills_file() {
            return Ok(());
        }
        self.complete(now)?;
        if let Target::Files(files) = &mut self.target {
            files.names.next_file();
        }
        Ok(())
    }

    /// Ends the file if its interval is over and it holds a packet. Returns whether capture is to end,
    /// because it was the last one; that one stays open for what is under way.
    pub(super) fn turn_if_old(&mut self, now: Instant) -> Result<bool, SinkError> {
        let Target::Files(files) = &mut self.target else {
            return Ok(false);
        };
        if files.names.seconds_left(unix_seconds()) != Some(0) {
            return Ok(false);
        }
        if files.names.is_last() {
            return Ok(true);
        }
        if files.holds_packets() || !files.is_open() {
            self.complete(now)?;
            if let Target::Files(files) = &mut self.target {
                files.names.next_interval();
            }
        }
        Ok(false)
    }

    /// How long until the file's interval is over; `None` where none is running.
    pub(super) fn interval_left(&self) -> Option<Duration> {
        let Target::Files(files) = &self.target else {
            return None;
        };
        let seconds = files.names.seconds_left(unix_seconds())?;
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    /// Writes the end of the file and gives it its final name.
    fn complete(&mut self, now: Instant) -> Result<(), SinkError> {
        if let (Target::Files(files), Some(encoder)) = (&mut self.target, &mut self.encoder)
            && files.is_open()
        {
            encoder.finish(&*self.totals, &mut self.buffer);
            files.try_again(now);
            files.put(encoder, &self.buffer, now);
            files.close()?;
        }
        self.restart();
        Ok(())
    }

    /// Completes the last file, or a stream as far as its reader takes it until `deadline`.
    pub(super) fn finish(&mut self, deadline: Instant) -> Result<(), SinkError> {
        if self.encoder.is_none() {
            self.begin(LinkType::ETHERNET);
        }
        if let Target::Files(_) = self.target {
            return self.complete(Instant::now());
        }
        if let Some(encoder) = &mut self.encoder {
            encoder.finish(&*self.totals, &mut self.buffer);
        }
        self.drain(deadline)
    }

    /// Waits for the reader of a stream until everything is written or `deadline` is over.
    pub(super) fn drain(&mut self, deadline: Instant) -> Result<(), SinkError> {
        loop {
            let now = Instant::now();
            self.flush(now)?;
            let Target::Stream(stream) = &self.target else {
                return Ok(());
            };
            if !self.is_pending() || now >= deadline {
                return Ok(());
            }
            stream.wait(deadline - now)?;
        }
    }

    /// Whether bytes wait for the reader of a stream.
    pub(super) fn is_pending(&self) -> bool {
        matches!(self.target, Target::Stream(_)) && !self.buffer.is_empty()
    }

    /// What to wait on besides new batches: a stream, for room or for its end.
    pub(super) fn stream(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let Target::Stream(stream) = &self.target else {
            return None;
        };
        let wanted = match self.is_pending() {
            true => PollFlags::POLLOUT,
            false => PollFlags::empty(),
        };
        Some((stream.fd()?, wanted))
    }

    /// The error of a stream whose reader is gone.
    pub(super) fn reader_gone(&self) -> Option<SinkError> {
        let Target::Stream(stream) = &self.target else {
            return None;
        };
        Some(stream.reader_gone())
    }

    /// Gives up what is not written; records of which a stream took every byte count as written.
    pub(super) fn abandon(&mut self, why: Failed) {
        let mut written = 0;
        if let (Target::Stream(stream), Some(encoder)) = (&self.target, &mut self.encoder) {
            let sent = stream.sent_of(&self.buffer);
            written = encoder.keep(sent, stream.is_at_start()).packets;
        }
        self.settle(written, why);
    }

    /// What became of records since the last call.
    pub(super) fn settled(&mut self) -> std::vec::Drain<'_, Settled> {
        self.settled.drain(..)
    }

    /// Settles the first `written` records of the buffer as written and the others as failed, and
    /// empties it. Returns how many failed.
    fn settle(&mut self, mut written: u64, why: Failed) -> u64 {
        let mut failed = 0;
        for run in self.runs.drain(..) {
            let done = u32::try_from(written).map_or(run.records, |left| left.min(run.records));
            let undone = run.records - done;
            written -= u64::from(done);
            failed += u64::from(undone);
            for (records, fate) in [(done, run.fate), (undone, Fate::Failed(why))] {
                if records > 0 {
                    self.settled.push(Settled {
                        place: run.place,
                        records,
                        fate,
                    });
                }
            }
        }
        self.buffer.clear();
        failed
    }

    /// Empties the buffer, but for the start of the file where no byte of it is in the file.
    fn restart(&mut self) {
        self.buffer.clear();
        if let (Target::Files(files), Some(encoder)) = (&self.target, &mut self.encoder)
            && files.is_empty()
        {
            encoder.start(&mut self.buffer);
        }
    }
}

/// The packet that a record holds; one without the `rt` header is taken for an uncut Ethernet frame.
#[inline]
fn packet<'a>(record: &Record<'a>) -> Packet<'a> {
    let info = record.info.unwrap_or_else(|| RecordInfo {
        flags: 0,
        link_type: LinkType::ETHERNET,
        queue: 0,
        interface: 0,
        orig_len: u32::try_from(record.value.len()).unwrap_or(u32::MAX),
        time: super::merge::time(record),
        sequence: 0,
    });
    Packet {
        clock: Clock::Arrival,
        time: info.time,
        orig_len: info.orig_len,
        link_type: info.link_type,
        interface: info.interface,
        data: record.value,
        more: &[],
    }
}
