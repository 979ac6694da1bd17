use std::fs::{File, OpenOptions};
use std::io::Write;
use std::num::NonZeroU64;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::*;
use crate::format::read::Order;
use crate::format::read::sample::{Made, Owned};
use crate::packet::LinkType;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn packets(from: u64, count: u64) -> Vec<Owned> {
    let lengths = [60, 0, 9, 255];
    let packet = |number| {
        Owned::new(
            number * 1_000,
            lengths[usize::try_from(number % 4).unwrap()],
        )
    };
    (from..from + count).map(packet).collect()
}

fn pcap(packets: &[Owned]) -> Vec<u8> {
    Made::pcap(Order::Little, 1_000, packets).bytes
}

fn open(files: &[PathBuf], interfaces: &Interfaces) -> FileSource {
    FileSource::open(files, Speed::Max, interfaces.clone()).unwrap()
}

/// One burst, of which `most` packets are taken.
fn recv(source: &mut FileSource, most: usize, into: &mut Vec<Owned>) -> Result<Burst, SourceError> {
    let mut left = most;
    source.recv(&mut |packet| {
        if left == 0 {
            return ControlFlow::Break(());
        }
        left -= 1;
        into.push(Owned {
            time: packet.time,
            orig_len: packet.orig_len,
            link_type: packet.link_type,
            interface: packet.interface.into(),
            data: packet.data.to_vec(),
        });
        ControlFlow::Continue(())
    })
}

/// Everything up to the end, or to the first thing that is no burst of packets.
fn drain(source: &mut FileSource, into: &mut Vec<Owned>) -> Result<Burst, SourceError> {
    loop {
        match recv(source, usize::MAX, into)? {
            Burst::Packets(count) => assert!((1..=256).contains(&count)),
            other => return Ok(other),
        }
    }
}

fn registered(interfaces: &Interfaces) -> Vec<(String, LinkType)> {
    let numbers = 0..u16::try_from(interfaces.len()).unwrap();
    let interfaces = numbers.map(|number| interfaces.get(number).unwrap());
    interfaces
        .map(|known| (known.name, known.link_type))
        .collect()
}

#[test]
fn several_files_are_read_one_after_another() {
    let folder = Folder::new();
    let mut named = Made::new(Order::Big);
    let expected = packets(0, 600);
    named.section().interface(1, 0, &[(2, b"eth7"), (9, &[9])]);
    for packet in &expected[300..] {
        named.enhanced(0, packet.time.nanos(), packet);
    }
    let files = [
        folder.write("first.pcap", &pcap(&expected[..300])),
        folder.write("none.pcap", &pcap(&[])),
        folder.write("second.pcapng", &named.bytes),
    ];
    let interfaces = Interfaces::default();
    let mut source = open(&files, &interfaces);
    let mut found = Vec::new();
    assert_eq!(drain(&mut source, &mut found).unwrap(), Burst::End);
    assert!(found[300..].iter().all(|packet| packet.interface == 1));
    for packet in &mut found {
        packet.interface = 0;
    }
    assert_eq!(found, expected);
    assert_eq!(
        registered(&interfaces),
        [
            ("first.pcap".to_owned(), LinkType::ETHERNET),
            ("eth7".to_owned(), LinkType::ETHERNET)
        ]
    );
    assert_eq!(drain(&mut source, &mut found).unwrap(), Burst::End);
}

#[test]
fn a_refused_packet_is_offered_again() {
    let folder = Folder::new();
    let expected = packets(0, 1_000);
    let files = [folder.write("a.pcap", &pcap(&expected))];
    let mut source = open(&files, &Interfaces::default());
    let mut found = Vec::new();
    for most in 0.. {
        match recv(&mut source, most, &mut found).unwrap() {
            Burst::Refused(count) => assert_eq!(count, most),
            Burst::Packets(_) => {}
            other => {
                assert_eq!(other, Burst::End);
                break;
            }
        }
    }
    assert_eq!(found, expected);
}

#[test]
fn a_damaged_file_is_told_once_after_its_packets_and_the_next_one_follows() {
    let folder = Folder::new();
    let expected = packets(0, 6);
    let mut cut = pcap(&expected[..4]);
    cut.pop();
    let files = [
        folder.write("cut.pcap", &cut),
        folder.write("good.pcap", &pcap(&expected[4..])),
    ];
    let mut source = open(&files, &Interfaces::default());
    let mut found = Vec::new();
    assert_eq!(recv(&mut source, 9, &mut found).unwrap(), Burst::Packets(3));
    let Err(SourceError::Damaged { file, offset, .. }) = recv(&mut source, 9, &mut found) else {
        panic!("the damage is told");
    };
    assert_eq!(file, files[0].display().to_string());
    assert_eq!(offset, u64::try_from(cut.len() + 1 - 16 - 255).unwrap());
    assert_eq!(drain(&mut source, &mut found).unwrap(), Burst::End);
    assert_eq!(found.len(), 5);
    assert_eq!(found[3].data, expected[4].data);
}

#[test]
fn what_is_no_capture_is_refused_before_anything_is_read() {
    let folder = Folder::new();
    let good = folder.write("good.pcap", &pcap(&packets(0, 1)));
    for wrong in [
        folder.path("missing.pcap"),
        folder.0.path().to_owned(),
        folder.write("empty", b""),
        folder.write("text", b"hello, world"),
    ] {
        let files = [good.clone(), wrong];
        let opened = FileSource::open(&files, Speed::Max, Interfaces::default());
        let error = opened.unwrap_err().to_string();
        assert!(error.contains(&files[1].display().to_string()), "{error}");
    }
}

#[test]
fn a_stop_leaves_the_rest_of_a_file_unread() {
    let folder = Folder::new();
    let files = [
        folder.write("a.pcap", &pcap(&packets(0, 600))),
        folder.write("b.pcap", &pcap(&packets(0, 600))),
    ];
    let mut source = open(&files, &Interfaces::default());
    let mut found = Vec::new();
    recv(&mut source, 100, &mut found).unwrap();
    source.stop().unwrap();
    assert_eq!(drain(&mut source, &mut found).unwrap(), Burst::End);
    assert_eq!(found.len(), 100);
}

/// A FIFO that is open at both ends.
fn fifo(folder: &Folder, interfaces: &Interfaces) -> (File, FileSource) {
    let path = folder.path("fifo");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    let mut source = open(std::slice::from_ref(&path), interfaces);
    assert_eq!(drain(&mut source, &mut Vec::new()).unwrap(), Burst::Empty);
    (OpenOptions::new().write(true).open(path).unwrap(), source)
}

#[test]
fn a_pipe_yields_packets_as_they_come_and_nothing_in_between() {
    let (folder, interfaces) = (Folder::new(), Interfaces::default());
    let (mut writer, mut source) = fifo(&folder, &interfaces);
    let expected = packets(0, 3);
    let made = Made::pcap(Order::Big, 1_000, &expected);
    let mut found = Vec::new();
    for (at, byte) in made.bytes.iter().enumerate() {
        let whole = made.packet_ends.iter().filter(|end| **end <= at).count();
        assert_eq!(drain(&mut source, &mut found).unwrap(), Burst::Empty);
        assert_eq!(found.len(), whole);
        source.wait(Duration::ZERO, Duration::ZERO).unwrap();
        writer.write_all(&[*byte]).unwrap();
    }
    drop(writer);
    assert_eq!(drain(&mut source, &mut found).unwrap(), Burst::End);
    assert_eq!(found, expected);
    assert_eq!(registered(&interfaces)[0].0, "fifo");
}

#[test]
fn what_lies_in_a_pipe_at_a_stop_is_received_and_the_writer_is_not_waited_for() {
    let folder = Folder::new();
    let (mut writer, mut source) = fifo(&folder, &Interfaces::default());
    let expected = packets(0, 500);
    let bytes = pcap(&expected);
    writer.write_all(&bytes[..bytes.len() - 1]).unwrap();
    let mut found = Vec::new();
    recv(&mut source, 10, &mut found).unwrap();
    source.stop().unwrap();
    assert_eq!(drain(&mut source, &mut found).unwrap(), Burst::End);
    assert_eq!(found, expected[..499]);
    drop(writer);
}

#[test]
fn a_pipe_whose_writer_goes_away_inside_a_record_is_damaged() {
    let folder = Folder::new();
    let (mut writer, mut source) = fifo(&folder, &Interfaces::default());
    let expected = packets(0, 3);
    let bytes = pcap(&expected);
    writer.write_all(&bytes[..bytes.len() - 1]).unwrap();
    drop(writer);
    let mut found = Vec::new();
    let error = drain(&mut source, &mut found).unwrap_err();
    assert!(matches!(error, SourceError::Damaged { .. }));
    assert_eq!(found, expected[..2]);
    assert_eq!(drain(&mut source, &mut found).unwrap(), Burst::End);
}

#[test]
fn paced_packets_all_come_in_order_and_none_before_its_time() {
    let folder = Folder::new();
    let expected = packets(0, 50);
    let files = [folder.write("a.pcap", &pcap(&expected))];
    let rate = Speed::Rate(NonZeroU64::new(10_000).unwrap());
    for (speed, least) in [(rate, 4_900), (Speed::Recorded, 49)] {
        let mut source = FileSource::open(&files, speed, Interfaces::default()).unwrap();
        let (mut found, begun) = (Vec::new(), std::time::Instant::now());
        loop {
            match drain(&mut source, &mut found).unwrap() {
                Burst::End => break,
                other => assert_eq!(other, Burst::Empty),
            }
            source
                .wait(Duration::from_secs(60), Duration::ZERO)
                .unwrap();
        }
        assert_eq!(found, expected);
        assert!(begun.elapsed() >= Duration::from_micros(least));
    }
}

#[test]
fn a_stop_does_not_wait_for_a_packet_that_is_due_much_later() {
    let folder = Folder::new();
    let far = [Owned::new(0, 1), Owned::new(3_600 * 1_000_000_000, 1)];
    let files = [folder.write("a.pcap", &pcap(&far))];
    let mut source = FileSource::open(&files, Speed::Recorded, Interfaces::default()).unwrap();
    let mut found = Vec::new();
    assert_eq!(drain(&mut source, &mut found).unwrap(), Burst::Empty);
    source
        .wait(Duration::from_secs(3_600), Duration::ZERO)
        .unwrap();
    assert_eq!(drain(&mut source, &mut found).unwrap(), Burst::Empty);
    source.stop().unwrap();
    assert_eq!(drain(&mut source, &mut found).unwrap(), Burst::End);
    assert_eq!(found.len(), 1);
}
