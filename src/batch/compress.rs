//! Compressing the records of a batch in place, and restoring them.
//!
//! The rule: a batch in flight needs no second buffer. What a codec makes of the records goes into the
//! compressor's scratch, and back into the batch's own memory where it is smaller; else the batch stays as it
//! is. Contexts and scratch are made once and used for every batch.
//!
//! The forms are those that every reader takes: gzip with a plain header; Snappy in the framing of snappy-java,
//! blocks of 32 KiB, as the Java client writes it (librdkafka and the Go clients read both that and the bare
//! block, older Java readers only this); LZ4 frames of independent 64 KiB blocks, as the Java client cannot read
//! others; a single zstd frame.

mod codec;
mod engine;
mod trial;

use std::fmt;

use super::{Batch, HEADER_LEN};

pub use codec::{Codec, CodecError};
use engine::Engine;
pub(super) use engine::Form;
use trial::Trial;

/// A codec that was asked for must save one byte in so many: less is not worth the readers' time.
const SAVES_ONE_IN: usize = 32;

/// What [`Codec::Auto`] asks for, in percent of the compressed length.
const PAYS: usize = 115;

/// The contexts and the scratch of one thread that compresses batches.
pub struct Compressor {
    codec: Codec,
    engine: Engine,
    trial: Trial,
    scratch: Vec<u8>,
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor")
            .field("codec", &self.codec)
            .field("scratch", &self.scratch.capacity())
            .finish_non_exhaustive()
    }
}

impl Compressor {
    /// A compressor of `codec`; the scratch grows once, to what the largest batch takes.
    pub fn new(codec: Codec) -> Self {
        Self {
            codec,
            engine: Engine::new(codec),
            trial: Trial::default(),
            scratch: Vec::new(),
        }
    }

    /// Its codec.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Compresses `raw` into the scratch; `None` where that does not pay.
    fn pack(&mut self, raw: &[u8]) -> Option<Form> {
        let is_auto = self.codec == Codec::Auto;
        if is_auto && !self.trial.is_on() {
            return None;
        }
        let form = self.engine.pack(raw, &mut self.scratch)?;
        let (packed, raw) = (self.scratch.len(), raw.len());
        let pays = packed * PAYS <= raw * 100;
        if is_auto {
            self.trial.learn(raw, packed, PAYS);
            return pays.then_some(form);
        }
        (packed <= raw - raw / SAVES_ONE_IN && packed < raw).then_some(form)
    }
}

impl Batch {
    /// Compresses the records where that makes the batch smaller; returns whether it did.
    ///
    /// A compressed batch goes on the wire as it is: [`len`](Self::len) is its length there,
    /// [`raw_len`](Self::raw_len) the length before. No record can be pushed to it, or read from it. An empty
    /// batch, and one that is compressed already, stay as they are.
    pub fn compress(&mut self, compressor: &mut Compressor) -> bool {
        if self.records == 0 || self.form.is_some() {
            return false;
        }
        let Some(form) = compressor.pack(&self.bytes[HEADER_LEN..self.len]) else {
            return false;
        };
        let packed = &compressor.scratch;
        self.raw_len = self.len;
        self.len = HEADER_LEN + packed.len();
        self.bytes[HEADER_LEN..self.len].copy_from_slice(packed);
        self.form = Some(form);
        true
    }

    /// Restores the records of a compressed batch, byte for byte; any compressor will do. Allocates.
    ///
    /// # Panics
    ///
    /// Where the bytes are not those that [`compress`](Self::compress) wrote.
    pub fn decompress(&mut self, compressor: &mut Compressor) {
        let Some(form) = self.form.take() else {
            return;
        };
        let raw = self.raw_len - HEADER_LEN;
        let packed = &self.bytes[HEADER_LEN..self.len];
        form.unpack(packed, raw, &mut compressor.scratch)
            .expect("a batch holds what it was compressed to");
        self.len = self.raw_len;
        self.bytes[HEADER_LEN..self.len].copy_from_slice(&compressor.scratch);
    }

    /// Whether its records are compressed.
    pub fn is_compressed(&self) -> bool {
        self.form.is_some()
    }

    /// Its length in bytes with its records as they were pushed, header included.
    pub fn raw_len(&self) -> usize {
        if self.form.is_some() {
            return self.raw_len;
        }
        self.len
    }
}

#[cfg(test)]
mod tests;
