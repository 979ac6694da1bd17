//! The codecs themselves: each with its context, from bytes into a buffer and back.
//!
//! The rule: the buffer is given room for the worst case beforehand, so that compressing cannot fail for
//! want of it.

use std::fmt;
use std::io::{self, Read, Write};

use flate2::{Compress, Compression, Crc, Decompress, FlushCompress, FlushDecompress, Status};
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use snap::raw::{Decoder, Encoder, max_compress_len};
use zstd::bulk;
use zstd::zstd_safe::compress_bound;

use super::Codec;

/// RFC 1952: magic, deflate, no flags, no time, no extra flags, unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// The check sum and the length.
const GZIP_TRAILER: usize = 8;

/// `SnappyCodec` of snappy-java: magic, version, least version that reads it.
const SNAPPY_HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// The block size of snappy-java.
const SNAPPY_BLOCK: usize = 32 << 10;

/// The form that the records of a batch are in, by Kafka's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::batch) enum Form {
    Gzip = 1,
    Snappy = 2,
    Lz4 = 3,
    Zstd = 4,
}

impl Form {
    /// What stands in bits 0 to 2 of a batch's attributes.
    pub(in crate::batch) fn attributes(self) -> i16 {
        match self {
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// Restores the `raw` bytes that `packed` was made of, into `out`.
    pub(super) fn unpack(self, packed: &[u8], raw: usize, out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        out.reserve(raw);
        match self {
            Self::Gzip => gunzip(packed, out)?,
            Self::Snappy => unsnap(packed, out)?,
            Self::Lz4 => drop(FrameDecoder::new(packed).read_to_end(out)?),
            Self::Zstd => drop(bulk::Decompressor::new()?.decompress_to_buffer(packed, out)?),
        }
        if out.len() == raw {
            return Ok(());
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// A codec with its context.
pub(super) enum Engine {
    None,
    Gzip(Compress),
    Snappy(Box<Encoder>),
    Lz4(Box<FrameEncoder<Vec<u8>>>),
    Zstd(bulk::Compressor<'static>),
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Engine")
    }
}

impl Engine {
    pub(super) fn new(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::None,
            Codec::Gzip(level) => Self::Gzip(Compress::new(Compression::new(level), false)),
            Codec::Snappy => Self::Snappy(Box::new(Encoder::new())),
            Codec::Lz4 | Codec::Auto => {
                let mut info = FrameInfo::new();
                info.block_mode = BlockMode::Independent;
                info.block_size = BlockSize::Max64KB;
                Self::Lz4(Box::new(FrameEncoder::with_frame_info(info, Vec::new())))
            }
            Codec::Zstd(level) => Self::Zstd(
                bulk::Compressor::new(level).expect("a level from 1 to 22 is one of zstd's"),
            ),
        }
    }

    /// Compresses `raw` into `out`, emptied before; `None` where there is no codec.
    pub(super) fn pack(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Option<Form> {
        out.clear();
        match self {
            Self::None => None,
            Self::Gzip(context) => gzip(context, raw, out).map(|()| Form::Gzip),
            Self::Snappy(context) => snap(context, raw, out).map(|()| Form::Snappy),
            Self::Lz4(context) => lz4(context, raw, out).map(|()| Form::Lz4),
            Self::Zstd(context) => {
                out.reserve(compress_bound(raw.len()));
                context.compress_to_buffer(raw, out).ok()?;
                Some(Form::Zstd)
            }
        }
    }
}

fn gzip(context: &mut Compress, raw: &[u8], out: &mut Vec<u8>) -> Option<()> {
    // What deflate cannot compress it stores, at five bytes for each block of some kilobytes.
    out.reserve(GZIP_HEADER.len() + raw.len() + raw.len() / 256 + 64 + GZIP_TRAILER);
    out.extend(GZIP_HEADER);
    context.reset();
    let status = context.compress_vec(raw, out, FlushCompress::Finish).ok()?;
    if status != Status::StreamEnd {
        return None;
    }
    let mut check = Crc::new();
    check.update(raw);
    out.extend(check.sum().to_le_bytes());
    out.extend(check.amount().to_le_bytes());
    Some(())
}

fn gunzip(packed: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let body = packed.get(GZIP_HEADER.len()..).unwrap_or_default();
    let status = Decompress::new(false).decompress_vec(body, out, FlushDecompress::Finish)?;
    if status == Status::StreamEnd {
        return Ok(());
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn snap(context: &mut Encoder, raw: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let blocks = raw.len().div_ceil(SNAPPY_BLOCK);
    out.resize(
        SNAPPY_HEADER.len() + blocks * (4 + max_compress_len(SNAPPY_BLOCK)),
        0,
    );
    out[..SNAPPY_HEADER.len()].copy_from_slice(&SNAPPY_HEADER);
    let mut at = SNAPPY_HEADER.len();
    for block in raw.chunks(SNAPPY_BLOCK) {
        let len = context.compress(block, &mut out[at + 4..]).ok()?;
        let prefix = u32::try_from(len).ok()?.to_be_bytes();
        out[at..at + 4].copy_from_slice(&prefix);
        at += 4 + len;
    }
    out.truncate(at);
    Some(())
}

fn unsnap(packed: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut rest = packed.get(SNAPPY_HEADER.len()..).unwrap_or_default();
    let mut context = Decoder::new();
    while let Some((len, after)) = rest.split_first_chunk() {
        let len = usize::try_from(u32::from_be_bytes(*len)).unwrap_or(usize::MAX);
        let (block, after) = after
            .split_at_checked(len)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.extend(context.decompress_vec(block)?);
        rest = after;
    }
    Ok(())
}

fn lz4(context: &mut FrameEncoder<Vec<u8>>, raw: &[u8], out: &mut Vec<u8>) -> Option<()> {
    // A header, a length for each block, which is stored where it does not become smaller, and an end mark.
    out.reserve(19 + raw.len() + 4 * raw.len().div_ceil(64 << 10) + 4);
    std::mem::swap(context.get_mut(), out);
    let written = context.write_all(raw).is_ok() && context.try_finish().is_ok();
    std::mem::swap(context.get_mut(), out);
    written.then_some(())
}
