//! gzip and zstd, unpacked from one buffer into another.
//!
//! The rule: whatever was unpacked before a fault is handed over before the fault is told, and the end
//! of the packed bytes is good only between two members or frames.
//!
//! The decoders of the crates that implement `Read` lose what a failing call had already unpacked.
//! Therefore these two work on slices: inflate counts its output even when it fails, and zstd is given
//! one block at a time.

use std::io;

use flate2::{Crc, Decompress, FlushDecompress, Status};
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

/// The longest gzip header that is taken, in bytes: an extra field of 65,535 and long names.
const MAX_HEADER: usize = 128 << 10;

/// How many bytes zstd wants first: the magic and one byte of the frame header.
const ZSTD_START: usize = 5;

/// How many bytes of a following block's header zstd's hint includes (`ZSTD_blockHeaderSize`).
const ZSTD_BLOCK_HEADER: usize = 3;

/// How far one step came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unpacked {
    /// Packed bytes used.
    pub(super) used: usize,
    /// Bytes unpacked.
    pub(super) made: usize,
}

/// A decoder and its fault, if it met one.
pub(super) struct Unpack {
    codec: Codec,
    broken: Option<String>,
}

enum Codec {
    Gzip(Gzip),
    Zstd(Zstd),
}

impl Unpack {
    /// The decoder for bytes that begin like this; `None` where they are not packed.
    pub(super) fn detect(start: &[u8]) -> Option<Self> {
        let codec = match *start {
            [0x1f, 0x8b, ..] => Codec::Gzip(Gzip::default()),
            // A frame, or a frame to be skipped.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Codec::Zstd(Zstd::default())
            }
            _ => return None,
        };
        Some(Self {
            codec,
            broken: None,
        })
    }

    /// Unpacks some of `packed` into `out`. Nothing used and nothing made: more is needed, or broken.
    pub(super) fn run(&mut self, packed: &[u8], out: &mut [u8]) -> Unpacked {
        if self.broken.is_some() {
            return Unpacked::default();
        }
        let (unpacked, fault) = match &mut self.codec {
            Codec::Gzip(gzip) => gzip.run(packed, out),
            Codec::Zstd(zstd) => zstd.run(packed, out),
        };
        self.broken = fault.map(|fault| format!("{} data: {fault}", self.name()));
        unpacked
    }

    /// What is wrong with the packed bytes.
    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Whether the packed bytes may end here.
    pub(super) fn is_whole(&self) -> bool {
        match &self.codec {
            Codec::Gzip(gzip) => gzip.part == Part::Header,
            Codec::Zstd(zstd) => zstd.between,
        }
    }

    /// The name of the packing.
    pub(super) fn name(&self) -> &'static str {
        match self.codec {
            Codec::Gzip(_) => "gzip",
            Codec::Zstd(_) => "zstd",
        }
    }
}

/// How far a step came, and what stopped it for good.
type Ran = (Unpacked, Option<String>);

/// The parts of a gzip member (RFC 1952).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Header,
    Body,
    Trailer,
}

struct Gzip {
    part: Part,
    inflate: Decompress,
    crc: Crc,
}

impl Default for Gzip {
    fn default() -> Self {
        Self {
            part: Part::Header,
            inflate: Decompress::new(false),
            crc: Crc::new(),
        }
    }
}

impl Gzip {
    fn run(&mut self, packed: &[u8], out: &mut [u8]) -> Ran {
        let taken = match self.part {
            Part::Header => self.header(packed),
            Part::Body => return self.body(packed, out),
            Part::Trailer => self.trailer(packed),
        };
        let (used, fault) = match taken {
            Ok(used) => (used, None),
            Err(fault) => (0, Some(fault)),
        };
        (Unpacked { used, made: 0 }, fault)
    }

    /// Passes over the header of a member once it is there whole.
    fn header(&mut self, packed: &[u8]) -> Result<usize, String> {
        match gzip_header(packed)? {
            Some(used) => {
                self.part = Part::Body;
                self.inflate.reset(false);
                self.crc.reset();
                Ok(used)
            }
            None if packed.len() > MAX_HEADER => {
                Err(format!("a header of more than {MAX_HEADER} bytes"))
            }
            None => Ok(0),
        }
    }

    fn body(&mut self, packed: &[u8], out: &mut [u8]) -> Ran {
        let before = (self.inflate.total_in(), self.inflate.total_out());
        let status = self.inflate.decompress(packed, out, FlushDecompress::None);
        let count = |after, before| usize::try_from(after - before).expect("within the buffers");
        let used = count(self.inflate.total_in(), before.0);
        let made = count(self.inflate.total_out(), before.1);
        self.crc.update(&out[..made]);
        let fault = match status {
            Ok(Status::StreamEnd) => {
                self.part = Part::Trailer;
                None
            }
            Ok(Status::Ok | Status::BufError) => None,
            Err(_) => Some("corrupt".to_owned()),
        };
        // The end of the stream may use and make nothing, which would look like a want of more.
        if self.part == Part::Trailer && used == 0 && made == 0 {
            return self.run(packed, out);
        }
        (Unpacked { used, made }, fault)
    }

    /// Checks the sum and the length behind a member.
    fn trailer(&mut self, packed: &[u8]) -> Result<usize, String> {
        let Some([a, b, c, d, e, f, g, h]) = packed.first_chunk::<8>().copied() else {
            return Ok(0);
        };
        if u32::from_le_bytes([a, b, c, d]) != self.crc.sum() {
            return Err("the checksum is another".to_owned());
        }
        if u32::from_le_bytes([e, f, g, h]) != self.crc.amount() {
            return Err("the length is another".to_owned());
        }
        self.part = Part::Header;
        Ok(8)
    }
}

/// How long the gzip header at the start of `packed` is; `None` while it is not there whole.
fn gzip_header(packed: &[u8]) -> Result<Option<usize>, String> {
    const HEADER_CRC: u8 = 2;
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    const RESERVED: u8 = 0xe0;

    let Some(&[one, two, method, flags, ..]) = packed.first_chunk::<10>() else {
        return Ok(None);
    };
    if [one, two, method] != [0x1f, 0x8b, 8] || flags & RESERVED != 0 {
        return Err("no header of a member where one should begin".to_owned());
    }
    let mut end = 10;
    if flags & EXTRA != 0 {
        let Some(length) = packed.get(end..).and_then(<[u8]>::first_chunk) else {
            return Ok(None);
        };
        end += 2 + usize::from(u16::from_le_bytes(*length));
    }
    for text in [NAME, COMMENT] {
        if flags & text == 0 {
            continue;
        }
        let rest = packed.get(end..).unwrap_or_default();
        let Some(length) = rest.iter().position(|byte| *byte == 0) else {
            return Ok(None);
        };
        end += length + 1;
    }
    if flags & HEADER_CRC != 0 {
        end += 2;
    }
    Ok((end <= packed.len()).then_some(end))
}

/// A zstd decoder, made at its first step; frames may follow each other.
struct Zstd {
    decoder: Option<Decoder<'static>>,
    /// How many bytes the decoder wants next.
    hint: usize,
    /// Whether the last output filled its room, so that more may be waiting.
    more: bool,
    /// Whether a frame has ended and none has begun.
    between: bool,
}

impl Default for Zstd {
    fn default() -> Self {
        Self {
            decoder: None,
            hint: ZSTD_START,
            more: false,
            between: true,
        }
    }
}

impl Zstd {
    fn run(&mut self, packed: &[u8], out: &mut [u8]) -> Ran {
        if self.more {
            match self.step(&[], out) {
                Ok(unpacked) if unpacked.made == 0 => {}
                ran => return told(ran),
            }
        }
        let most = packed.len().min(one_block(self.hint));
        if most == 0 {
            return Ran::default();
        }
        told(self.step(&packed[..most], out))
    }

    fn step(&mut self, packed: &[u8], out: &mut [u8]) -> io::Result<Unpacked> {
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            none => none.insert(Decoder::new()?),
        };
        if self.between {
            decoder.reinit()?;
        }
        let mut from = InBuffer::around(packed);
        let mut into = OutBuffer::around(out);
        let hint = decoder.run(&mut from, &mut into)?;
        let (used, made) = (from.pos(), into.pos());
        self.between = hint == 0;
        self.hint = if hint == 0 { ZSTD_START } else { hint };
        self.more = made == into.capacity() && hint != 0;
        Ok(Unpacked { used, made })
    }
}

/// A step of zstd; one that fails has made nothing.
fn told(ran: io::Result<Unpacked>) -> Ran {
    match ran {
        Ok(unpacked) => (unpacked, None),
        Err(error) => (Unpacked::default(), Some(error.to_string())),
    }
}

/// As many bytes of `hint` as belong to the block that comes next, so that a fault behind it is met by
/// another call.
fn one_block(hint: usize) -> usize {
    if hint > ZSTD_BLOCK_HEADER {
        hint - ZSTD_BLOCK_HEADER
    } else {
        hint
    }
}
