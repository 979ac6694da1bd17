//! Capture files as other programs write them: tcpdump, Wireshark's tools, gzip and zstd.
//!
//! The rule: the packets are the same whatever program and format they went through.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests may fail as a test may"
)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ringtap::format::read::{ReadError, Reader};
use ringtap::packet::LinkType;
use tempfile::TempDir;

/// Time in nanoseconds, length on the wire, bytes.
type Packet = (u64, u32, Vec<u8>);

/// The packets every test begins with; their times are whole microseconds.
fn packets() -> Vec<Packet> {
    let packet = |number: u64| {
        let length = 60 + usize::try_from(number * 37 % 1_455).unwrap();
        let byte = u8::try_from(number % 251).unwrap();
        let time = (1_700_000_000_000_000 + number * 999_983) * 1_000;
        (time, u32::try_from(length).unwrap(), vec![byte; length])
    };
    (0..300).map(packet).collect()
}

/// A folder with `a.pcap` in it, microseconds in this machine's byte order.
fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 262_144, 1_u32] {
        bytes.extend(word.to_le_bytes());
    }
    for (time, orig_len, data) in packets() {
        let micros = time / 1_000;
        let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
        for word in [seconds, micros, u64::from(orig_len), u64::from(orig_len)] {
            bytes.extend(u32::try_from(word).unwrap().to_le_bytes());
        }
        bytes.extend(data);
    }
    let path = folder.path().join("a.pcap");
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn read(mut reader: Reader) -> Result<Vec<Packet>, ReadError> {
    let mut packets = Vec::new();
    while let Some(packet) = reader.next()? {
        assert_eq!(packet.link_type, LinkType::ETHERNET);
        packets.push((packet.time.nanos(), packet.orig_len, packet.data.to_vec()));
    }
    Ok(packets)
}

fn read_file(path: &Path) -> Result<Vec<Packet>, ReadError> {
    read(Reader::open(path)?)
}

/// Runs a program that must be installed and must succeed.
fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{:?} must be installed: {error}", command.get_program()));
    assert!(output.status.success(), "{command:?}: {output:?}");
}

#[test]
fn every_format_of_editcap_yields_the_same_packets() {
    let (folder, source) = folder();
    for format in ["pcap", "nsecpcap", "pcapng"] {
        let path = folder.path().join(format);
        run(Command::new("editcap")
            .args(["-F", format])
            .args([&source, &path]));
        assert_eq!(read_file(&path).unwrap(), packets(), "{format}");
    }
}

#[test]
fn packets_cut_by_editcap_keep_their_length_on_the_wire() {
    let (folder, source) = folder();
    let path = folder.path().join("cut.pcapng");
    run(Command::new("editcap")
        .args(["-s", "64"])
        .args([&source, &path]));
    let mut expected = packets();
    for (_, _, data) in &mut expected {
        data.truncate(64);
    }
    assert_eq!(read_file(&path).unwrap(), expected);
}

#[test]
fn several_sections_and_interfaces_of_mergecap_yield_the_same_packets() {
    let (folder, source) = folder();
    let path = folder.path().join("merged.pcapng");
    run(Command::new("mergecap")
        .args(["-I", "none", "-a", "-w"])
        .args([&path, &source, &source]));
    let twice = [packets(), packets()].concat();
    assert_eq!(read_file(&path).unwrap(), twice);

    let bytes = fs::read(&path).unwrap();
    let sections = folder.path().join("sections.pcapng");
    fs::write(&sections, [bytes.as_slice(), &bytes].concat()).unwrap();
    assert_eq!(
        read_file(&sections).unwrap(),
        [twice.as_slice(), &twice].concat()
    );
    let mut reader = Reader::open(&sections).unwrap();
    while reader.next().unwrap().is_some() {}
    assert_eq!(reader.interfaces().len(), 2);
}

#[test]
fn files_packed_by_gzip_and_zstd_yield_the_same_packets() {
    let (_folder, source) = folder();
    let packed = |program: &str| {
        let output = Command::new(program).arg("-c").arg(&source).output();
        let output = output.unwrap_or_else(|error| panic!("{program} must be installed: {error}"));
        assert!(output.status.success(), "{program}: {output:?}");
        output.stdout
    };
    for program in ["gzip", "zstd"] {
        let bytes = packed(program);
        let length = bytes.len();
        let path = source.with_extension(program);
        fs::write(&path, &bytes).unwrap();
        assert_eq!(read_file(&path).unwrap(), packets(), "{program}");

        fs::write(&path, &bytes[..length - 1]).unwrap();
        let error = read_file(&path).unwrap_err();
        assert!(error.to_string().contains(program), "{error}");
    }
}

#[test]
fn what_tcpdump_and_tshark_write_to_a_pipe_is_read_from_it() {
    let (_folder, source) = folder();
    for program in ["tcpdump", "tshark"] {
        let mut child = Command::new(program)
            .args(["-r", "-", "-w", "-"])
            .stdin(File::open(&source).unwrap())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} must be installed: {error}"));
        let pipe = child.stdout.take().unwrap();
        assert_eq!(read(Reader::new(program, pipe)).unwrap(), packets());
        assert!(child.wait().unwrap().success(), "{program}");
    }
}
