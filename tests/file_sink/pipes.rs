//! Pipes: readers that are prompt, slow, still, or gone.

use std::fs::File;
use std::io::Read;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::*;

/// A named pipe, for whatever cannot be taken back.
fn fifo(folder: &Path) -> PathBuf {
    let path = folder.join("pipe");
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    path
}

/// A sink on a named pipe, and the end that reads it.
fn piped(folder: &Path) -> (Run, File) {
    let path = fifo(folder);
    let reader = thread::spawn({
        let path = path.clone();
        move || File::open(path).unwrap()
    });
    let mut config = config(&path, 1);
    config.format = PCAP;
    config.hold = 4;
    let run = Run::new(config);
    (run, reader.join().unwrap())
}

#[test]
fn a_reader_that_goes_away_ends_the_sink_and_nothing_is_left_uncounted() {
    let folder = tempdir().unwrap();
    let (mut run, reader) = piped(folder.path());
    run.send(batch(0, START..START + 10, 60)).unwrap();
    assert_eq!(run.sum(), Outcome::delivered(10));
    drop(reader);
    let error = run.send(batch(0, START..START + 10, 60)).unwrap_err();
    assert_eq!(error.cause.kind(), std::io::ErrorKind::BrokenPipe);
    run.finish().unwrap();
    assert_eq!(run.finished.len(), 2);
    assert_eq!(run.sum().not_persisted[Failed::Disk as usize], 10);
}

#[test]
fn a_reader_that_goes_away_is_noticed_on_a_silent_link() {
    let folder = tempdir().unwrap();
    let (mut run, reader) = piped(folder.path());
    run.poll().unwrap();
    drop(reader);
    assert!(run.poll().is_err());
}

#[test]
fn a_reader_that_stands_still_does_not_hold_up_the_sink() {
    let folder = tempdir().unwrap();
    let (mut run, mut reader) = piped(folder.path());
    let mut sent = 0;
    while run.sink.has_room() {
        run.send(batch(0, START..START + 500, 984)).unwrap();
        sent += 500;
    }
    run.sink.finish(Instant::now(), &mut run.finished).unwrap();
    let sum = run.sum();
    let purged = sum.not_persisted[Failed::Purged as usize];
    assert_eq!(sum.delivered + purged, sent);
    assert!(sum.delivered > 0 && purged > 0);
    drop(run);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    assert_eq!((bytes.len() as u64 - 24) / 1_000, sum.delivered);
}

#[test]
fn a_slow_reader_gets_every_packet_before_the_sink_is_finished() {
    let folder = tempdir().unwrap();
    let (mut run, mut reader) = piped(folder.path());
    let reading = thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    });
    for _ in 0..3 {
        run.send(batch(0, START..START + 900, 984)).unwrap();
    }
    run.finish().unwrap();
    assert_eq!(run.sum(), Outcome::delivered(2_700));
    drop(run);
    assert_eq!(reading.join().unwrap().len(), 24 + 2_700 * 1_000);
}

#[test]
fn tshark_shows_packets_from_a_pipe_as_they_come() {
    let folder = tempdir().unwrap();
    let path = fifo(folder.path());
    let mut config = config(&path, 1);
    config.format = Format::Pcapng;
    let opened = thread::spawn(move || File::open(path).unwrap());
    let mut run = Run::new(config);
    let tshark = Command::new("tshark")
        .args(["-i", "-", "-c", "2", "-Tfields", "-eframe.time_epoch"])
        .stdin(opened.join().unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    run.send(batch(0, [START + 5], 60)).unwrap();
    run.send(batch(0, [START + 6], 60)).unwrap();
    let shown = tshark.wait_with_output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(shown, "1700000000.000000005\n1700000000.000000006\n");
    drop(run);
}
