//! The `rt` header of a record that librdkafka holds.
//!
//! The rule: only the header of that name is looked at. The crate's own accessors give up on a name that
//! is not UTF-8, and anyone may write such names.

#![allow(unsafe_code)] // librdkafka looks a header up by name; the crate does not offer it

use std::ptr;
use std::slice;

use rdkafka::Message;
use rdkafka::message::BorrowedMessage;
use rdkafka_sys as sys;

/// The value of the last `rt` header of `record`.
pub(super) fn rt<'a>(record: &'a BorrowedMessage<'_>) -> Option<&'a [u8]> {
    let headers = record.headers()?;
    // A `BorrowedHeaders` has no contents: its address is that of librdkafka's own list.
    let headers = ptr::from_ref(headers).cast::<sys::rd_kafka_headers_t>();
    let mut value = ptr::null();
    let mut len = 0;
    // SAFETY: the list belongs to the record, which is alive; the name is terminated; both results
    // go to locals.
    let code = unsafe {
        sys::rd_kafka_header_get_last(headers, c"rt".as_ptr(), &raw mut value, &raw mut len)
    };
    if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || value.is_null() {
        return None;
    }
    // SAFETY: librdkafka set `value` to `len` bytes inside the record, which outlives the result.
    Some(unsafe { slice::from_raw_parts(value.cast::<u8>(), len) })
}
