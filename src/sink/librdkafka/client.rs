//! The one file that calls librdkafka: a producer with one topic handle, and the events it reports.
//!
//! The rule: librdkafka is lent the bytes of a record from the hand-over until its report, never longer
//! and never copied. Everything it has to say comes through one queue, read by one thread.

#![allow(unsafe_code)] // The crate's own producer copies each payload and looks the topic up each time.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka_sys as sys;
use rdkafka_sys::bindings::rd_kafka_vtype_t as VuType;
use rdkafka_sys::bindings::rd_kafka_vu_s__bindgen_ty_1 as VuValue;
use rdkafka_sys::bindings::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 as VuBytes;
use rdkafka_sys::bindings::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_2 as VuHeader;
use rdkafka_sys::rd_kafka_resp_err_t as Code;

use crate::batch::Record;
use crate::kafka::connect::ClientError;
use crate::record::RecordInfo;

/// The most records handed over in one call: their descriptions stay in the first-level cache.
pub(super) const BURST: usize = 256;

/// The lowest bits of what comes back with a report: the slot. Above them stands the record's number.
const SLOT_BITS: u32 = 8;
const _: () = assert!(usize::BITS == 64 && super::MAX_BATCHES <= 1 << SLOT_BITS);

/// What librdkafka writes to the event descriptor, as an eventfd wants it: eight bytes.
static WAKE: u64 = 1;

/// What may be purged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purge {
    /// What was never sent.
    Queue,
    /// That, and what was sent and is not answered.
    All,
}

/// A librdkafka producer for one topic.
///
/// Dropping it gives up every record that is not answered, and returns once no thread of librdkafka
/// can read a byte of theirs any more.
pub(super) struct Client {
    topic: NonNull<sys::rd_kafka_topic_t>,
    queue: NonNull<sys::rd_kafka_queue_t>,
    rk: NonNull<sys::rd_kafka_t>,
    messages: Box<[sys::rd_kafka_message_t]>,
    keys: Box<[[u8; 8]]>,
}

// SAFETY: librdkafka's handles may be used from any thread (its INTRODUCTION.md, "Threads and
// callbacks"), and the descriptions of messages hold no pointers between calls.
unsafe impl Send for Client {}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// How far a hand-over came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HandedOver {
    /// The records that are librdkafka's now, or were refused for good.
    pub records: u32,
    /// Why it stopped there, if before the end.
    pub stopped: Option<Code>,
}

impl Client {
    /// A producer for `topic` that makes `wake` readable when it has something to report.
    ///
    /// `wake` must stay open until the client is dropped.
    pub(super) fn new(
        config: &ClientConfig,
        topic: &str,
        wake: BorrowedFd<'_>,
    ) -> Result<Self, ClientError> {
        let refuse = |said: &dyn fmt::Display| ClientError {
            said: said.to_string(),
        };
        let topic = CString::new(topic).map_err(|error| refuse(&error))?;
        let mut config = config.clone();
        config.set("log.queue", "true");
        let config = config
            .create_native_config()
            .map_err(|error| refuse(&error))?;
        // SAFETY: the configuration is alive; the copy is ours.
        let conf = unsafe { sys::rd_kafka_conf_dup(config.ptr()) };
        let events = sys::RD_KAFKA_EVENT_DR
            | sys::RD_KAFKA_EVENT_ERROR
            | sys::RD_KAFKA_EVENT_LOG
            | sys::RD_KAFKA_EVENT_STATS;
        // SAFETY: the copy made above is alive and nobody else's.
        unsafe { sys::rd_kafka_conf_set_events(conf, events) };
        let mut said = [0_u8; 512];
        // SAFETY: the buffer is as long as is said; on success librdkafka owns the configuration.
        let rk = unsafe {
            sys::rd_kafka_new(
                sys::rd_kafka_type_t::RD_KAFKA_PRODUCER,
                conf,
                said.as_mut_ptr().cast::<c_char>(),
                said.len(),
            )
        };
        let Some(rk) = NonNull::new(rk) else {
            // SAFETY: on failure the configuration is still ours, and nobody uses it after this.
            unsafe { sys::rd_kafka_conf_destroy(conf) };
            let text = CStr::from_bytes_until_nul(&said).unwrap_or_default();
            return Err(refuse(&text.to_string_lossy()));
        };
        // SAFETY: the handle is alive; without a queue, the log goes to the main one.
        unsafe { sys::rd_kafka_set_log_queue(rk.as_ptr(), ptr::null_mut()) };
        // SAFETY: the handle is alive; the reference returned is given back on drop.
        let queue = unsafe { sys::rd_kafka_queue_get_main(rk.as_ptr()) };
        let queue = NonNull::new(queue).expect("every handle has a main queue");
        // SAFETY: the queue is alive; the eight bytes are copied; the descriptor stays open as the caller promises.
        unsafe {
            sys::rd_kafka_queue_io_event_enable(
                queue.as_ptr(),
                wake.as_raw_fd(),
                (&raw const WAKE).cast(),
                size_of::<u64>(),
            );
        };
        // SAFETY: handle and name are alive; without a configuration, the default one is used.
        let handle =
            unsafe { sys::rd_kafka_topic_new(rk.as_ptr(), topic.as_ptr(), ptr::null_mut()) };
        let Some(topic) = NonNull::new(handle) else {
            // SAFETY: the reference was taken above and is used no more.
            unsafe { sys::rd_kafka_queue_destroy(queue.as_ptr()) };
            // SAFETY: the handle was made above, and nothing of it is used any more.
            unsafe { sys::rd_kafka_destroy(rk.as_ptr()) };
            return Err(refuse(&"it does not take the topic's name"));
        };
        Ok(Self {
            topic,
            queue,
            rk,
            messages: vec![empty(); BURST].into_boxed_slice(),
            keys: vec![[0; 8]; BURST].into_boxed_slice(),
        })
    }

    /// Hands over up to [`BURST`] records by one call; each is stamped with the time of now.
    ///
    /// Stops at the first record that librdkafka has no room for; `refused` is told of those it will
    /// never take.
    ///
    /// # Safety
    ///
    /// The values of `records`, each with its number, must stay where they are, unchanged, until each
    /// record handed over is reported or the client is dropped.
    pub(super) unsafe fn produce_burst<'a>(
        &mut self,
        partition: i32,
        slot: usize,
        records: impl Iterator<Item = (u32, Record<'a>)>,
        mut refused: impl FnMut(Code),
    ) -> HandedOver {
        let mut count = 0;
        let places = self.messages.iter_mut().zip(self.keys.iter_mut());
        for ((message, place), (number, record)) in places.zip(records) {
            *place = record.key;
            *message = sys::rd_kafka_message_t {
                payload: record.value.as_ptr().cast_mut().cast(),
                len: record.value.len(),
                key: place.as_mut_ptr().cast(),
                key_len: place.len(),
                _private: mark(slot, number),
                ..empty()
            };
            count += 1;
        }
        let burst = c_int::try_from(count).expect("a burst is small");
        // SAFETY: the first `count` descriptions are filled; keys are copied in the call; values stay, as the
        // caller promises, and librdkafka only reads them.
        unsafe {
            sys::rd_kafka_produce_batch(
                self.topic.as_ptr(),
                partition,
                0,
                self.messages.as_mut_ptr(),
                burst,
            )
        };
        let mut handed = HandedOver {
            records: 0,
            stopped: None,
        };
        for message in &self.messages[..count] {
            if waits(message.err) {
                handed.stopped = Some(message.err);
                break;
            }
            if message.err != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
                refused(message.err);
            }
            handed.records += 1;
        }
        handed
    }

    /// Hands over one record with its own time, and with the `rt` header where it has one.
    ///
    /// # Safety
    ///
    /// As for [`produce_burst`](Self::produce_burst).
    pub(super) unsafe fn produce_one(
        &mut self,
        partition: i32,
        slot: usize,
        (number, record): (u32, &Record<'_>),
    ) -> Result<(), Code> {
        let header = record.info.map(|info| info.encode());
        let mut fields = [
            field(
                VuType::RD_KAFKA_VTYPE_RKT,
                VuValue {
                    rkt: self.topic.as_ptr(),
                },
            ),
            field(
                VuType::RD_KAFKA_VTYPE_PARTITION,
                VuValue { i32_: partition },
            ),
            field(
                VuType::RD_KAFKA_VTYPE_VALUE,
                VuValue {
                    mem: VuBytes {
                        ptr: record.value.as_ptr().cast_mut().cast(),
                        size: record.value.len(),
                    },
                },
            ),
            field(
                VuType::RD_KAFKA_VTYPE_KEY,
                VuValue {
                    mem: VuBytes {
                        ptr: record.key.as_ptr().cast_mut().cast(),
                        size: record.key.len(),
                    },
                },
            ),
            field(
                VuType::RD_KAFKA_VTYPE_OPAQUE,
                VuValue {
                    ptr: mark(slot, number),
                },
            ),
            field(
                VuType::RD_KAFKA_VTYPE_TIMESTAMP,
                VuValue { i64_: record.time },
            ),
            field(VuType::RD_KAFKA_VTYPE_END, VuValue { i: 0 }),
        ];
        let mut count = fields.len() - 1;
        if let Some(header) = &header {
            fields[count] = field(
                VuType::RD_KAFKA_VTYPE_HEADER,
                VuValue {
                    header: VuHeader {
                        name: c"rt".as_ptr(),
                        val: header.as_ptr().cast(),
                        size: RecordInfo::LEN.cast_signed(),
                    },
                },
            );
            count += 1;
        }
        // SAFETY: the first `count` fields are filled as their types say; key and header are copied in the
        // call; the value stays, as the caller promises, and librdkafka only reads it.
        let error = unsafe { sys::rd_kafka_produceva(self.rk.as_ptr(), fields.as_ptr(), count) };
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: the error was just returned to us.
        let code = unsafe { sys::rd_kafka_error_code(error) };
        // SAFETY: the error is ours, and used no more.
        unsafe { sys::rd_kafka_error_destroy(error) };
        Err(code)
    }

    /// The next thing it has to report; never waits.
    pub(super) fn next(&self) -> Option<Event<'_>> {
        // SAFETY: the queue is alive; the event returned is ours.
        let event = unsafe { sys::rd_kafka_queue_poll(self.queue.as_ptr(), 0) };
        NonNull::new(event).map(|event| Event {
            event,
            client: PhantomData,
        })
    }

    /// Sends what waits for company, for at most `limit`; returns early once nothing is unanswered.
    pub(super) fn flush(&self, limit: Duration) {
        let millis = c_int::try_from(limit.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the handle is alive; reports stay in the queue.
        unsafe { sys::rd_kafka_flush(self.rk.as_ptr(), millis) };
    }

    /// Gives up records; each is reported.
    pub(super) fn purge(&self, what: Purge) {
        let flags = sys::RD_KAFKA_PURGE_F_NON_BLOCKING
            | match what {
                Purge::Queue => sys::RD_KAFKA_PURGE_F_QUEUE,
                Purge::All => sys::RD_KAFKA_PURGE_F_QUEUE | sys::RD_KAFKA_PURGE_F_INFLIGHT,
            };
        // SAFETY: the handle is alive.
        unsafe { sys::rd_kafka_purge(self.rk.as_ptr(), flags) };
    }

    /// The error that ended this producer, if one did.
    pub(super) fn fatal(&self) -> Option<(Code, String)> {
        let mut said = [0_u8; 512];
        // SAFETY: the handle is alive, and the buffer as long as is said.
        let code = unsafe {
            sys::rd_kafka_fatal_error(
                self.rk.as_ptr(),
                said.as_mut_ptr().cast::<c_char>(),
                said.len(),
            )
        };
        if code == Code::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        let text = CStr::from_bytes_until_nul(&said).unwrap_or_default();
        Some((code, text.to_string_lossy().into_owned()))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.purge(Purge::All);
        // SAFETY: the handle was made with the client, and nobody uses it any more.
        unsafe { sys::rd_kafka_topic_destroy(self.topic.as_ptr()) };
        // SAFETY: the reference was taken with the client, and nobody uses it any more.
        unsafe { sys::rd_kafka_queue_destroy(self.queue.as_ptr()) };
        // SAFETY: no handle into it is left; it returns when its threads have ended.
        unsafe { sys::rd_kafka_destroy(self.rk.as_ptr()) };
    }
}

/// Whether a record refused with `code` may be handed over later.
fn waits(code: Code) -> bool {
    matches!(
        code,
        Code::RD_KAFKA_RESP_ERR__QUEUE_FULL
            | Code::RD_KAFKA_RESP_ERR__FATAL
            | Code::RD_KAFKA_RESP_ERR__STATE
    )
}

/// Whether a record refused with `code` by [`Client::produce_one`] may be handed over later.
pub(super) fn may_wait(code: Code) -> bool {
    waits(code)
}

/// What comes back with the report of a record.
fn mark(slot: usize, number: u32) -> *mut c_void {
    let number = usize::try_from(number).expect("32 bits fit");
    ptr::without_provenance_mut(slot | number << SLOT_BITS)
}

/// The slot and the number of the record that [`mark`] made it of.
#[inline]
fn marked(mark: *mut c_void) -> (usize, u32) {
    let mark = mark.addr();
    let number = u32::try_from(mark >> SLOT_BITS).expect("it was made of 32 bits");
    (mark & ((1 << SLOT_BITS) - 1), number)
}

fn empty() -> sys::rd_kafka_message_t {
    sys::rd_kafka_message_t {
        err: Code::RD_KAFKA_RESP_ERR_NO_ERROR,
        rkt: ptr::null_mut(),
        partition: 0,
        payload: ptr::null_mut(),
        len: 0,
        key: ptr::null_mut(),
        key_len: 0,
        offset: 0,
        _private: ptr::null_mut::<c_void>(),
    }
}

fn field(vtype: VuType, u: VuValue) -> sys::bindings::rd_kafka_vu_t {
    sys::bindings::rd_kafka_vu_t { vtype, u }
}

/// What became of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// The slot of its batch.
    pub slot: usize,
    /// Its number in the batch, from 0.
    pub record: u32,
    /// What the broker or librdkafka said.
    pub code: Code,
    /// Whether it was stored.
    pub status: Status,
}

/// Whether a record was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Certainly.
    Persisted,
    /// Certainly not.
    NotPersisted,
    /// Nobody knows.
    PossiblyPersisted,
}

/// What an event is about.
#[derive(Debug)]
pub(super) enum Kind {
    /// Records were answered: see [`Event::reports`].
    Reports,
    /// Something went wrong that belongs to no record.
    Error {
        /// What.
        code: Code,
        /// In words.
        text: String,
    },
    /// A line for the log.
    Log {
        /// As syslog counts: 0 is the worst, 7 the least.
        level: i32,
        /// What part of librdkafka writes it.
        facility: String,
        /// The line.
        text: String,
    },
    /// Statistics, as JSON.
    Statistics(String),
    /// Nothing for us.
    Other,
}

/// Something a client has to report.
pub(super) struct Event<'a> {
    event: NonNull<sys::rd_kafka_event_t>,
    client: PhantomData<&'a Client>,
}

impl Event<'_> {
    /// What it is about.
    pub(super) fn kind(&self) -> Kind {
        let event = self.event.as_ptr();
        // SAFETY: the event is alive.
        match unsafe { sys::rd_kafka_event_type(event) } {
            sys::RD_KAFKA_EVENT_DR => Kind::Reports,
            sys::RD_KAFKA_EVENT_ERROR => {
                // SAFETY: the event is alive, and an error.
                let code = unsafe { sys::rd_kafka_event_error(event) };
                // SAFETY: the event is alive, and an error.
                let text = unsafe { sys::rd_kafka_event_error_string(event) };
                let text = self.text(text);
                Kind::Error { code, text }
            }
            sys::RD_KAFKA_EVENT_LOG => self.log(),
            sys::RD_KAFKA_EVENT_STATS => {
                // SAFETY: the event is alive, and statistics.
                let json = unsafe { sys::rd_kafka_event_stats(event) };
                Kind::Statistics(self.text(json))
            }
            _ => Kind::Other,
        }
    }

    fn log(&self) -> Kind {
        let (mut facility, mut text, mut level) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the event is alive; the three places are written to, the strings are the event's.
        unsafe {
            sys::rd_kafka_event_log(
                self.event.as_ptr(),
                &raw mut facility,
                &raw mut text,
                &raw mut level,
            )
        };
        Kind::Log {
            level,
            facility: self.text(facility),
            text: self.text(text),
        }
    }

    /// A copy of a string of the event.
    fn text(&self, text: *const c_char) -> String {
        if text.is_null() {
            return String::new();
        }
        // SAFETY: librdkafka's strings are terminated and live as long as the event, which is alive.
        let text = unsafe { CStr::from_ptr(text) };
        text.to_string_lossy().trim_end().to_owned()
    }

    /// Every record it reports; none, if it is about something else.
    pub(super) fn reports(&mut self) -> impl Iterator<Item = Report> {
        std::iter::from_fn(|| {
            // SAFETY: the event is alive; the message returned is the event's.
            let message = unsafe { sys::rd_kafka_event_message_next(self.event.as_ptr()) };
            let message = NonNull::new(message.cast_mut())?;
            // SAFETY: the message lives as long as the event, which is alive.
            let (slot, record) = marked(unsafe { (*message.as_ptr())._private });
            let code = code(message);
            Some(Report {
                slot,
                record,
                code,
                status: status(message, code),
            })
        })
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        // SAFETY: the event is ours, and used no more.
        unsafe { sys::rd_kafka_event_destroy(self.event.as_ptr()) };
    }
}

/// What the message says it failed by, read as the number it is in C: a broker may send one that this
/// librdkafka has no name for.
#[inline]
fn code(message: NonNull<sys::rd_kafka_message_t>) -> Code {
    // SAFETY: the message was just taken from an event that is alive.
    let code = unsafe { &raw const (*message.as_ptr()).err };
    // SAFETY: an enum of C is a number of this size, whatever its value.
    let code = unsafe { code.cast::<i32>().read() };
    Code::try_from(code).unwrap_or(Code::RD_KAFKA_RESP_ERR_UNKNOWN)
}

#[inline]
fn status(message: NonNull<sys::rd_kafka_message_t>, code: Code) -> Status {
    if code == Code::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Status::Persisted;
    }
    // SAFETY: the message was just taken from an event that is alive.
    match unsafe { sys::rd_kafka_message_status(message.as_ptr()) } {
        sys::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_PERSISTED => Status::Persisted,
        sys::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED => Status::NotPersisted,
        sys::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED => {
            Status::PossiblyPersisted
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_slot_and_record() {
        for (slot, record) in [(0, 0), (15, 0), (0, u32::MAX), (7, 12_345)] {
            assert_eq!(marked(mark(slot, record)), (slot, record));
        }
    }
}
