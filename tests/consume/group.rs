//! Offsets that a group stores: where it stopped is where it goes on.

use std::io::Read as _;
use std::process::Stdio;
use std::thread;

use crate::support::{Record, consume, done, name, number, numbers, packet, produce, said, topic};

#[test]
fn stored_offsets_go_on_without_loss_and_without_repetition() {
    let topic = topic("stored", 1);
    let group = name("group");
    produce(&topic, (0..100).map(packet));
    let next = |words: &str| {
        let words = format!("-o stored -G {group} {words}");
        numbers(&done(&mut consume(&topic, &words)))
    };
    assert_eq!(next("-c 30"), (0..30).collect::<Vec<_>>());
    assert_eq!(next("-c 1"), [30]);
    assert_eq!(next("-e"), (31..100).collect::<Vec<_>>());
    assert_eq!(next("-e"), [0; 0]);
    produce(&topic, [packet(100)]);
    assert_eq!(next("-c 1"), [100]);
}

#[test]
fn sorted_reading_stores_nothing_beyond_what_it_wrote() {
    let topic = topic("stored-sort", 3);
    let group = name("group");
    produce(
        &topic,
        (0..3_000).map(|number| Record {
            partition: (number / 7 % 3) as i32,
            ..packet(number)
        }),
    );
    let next = |words: &str| {
        let words = format!("--sort -o stored -G {group} {words}");
        numbers(&done(&mut consume(&topic, &words)))
    };
    let mut all = next("-e -c 1000");
    all.extend(next("-e -c 17"));
    all.extend(next("-e"));
    assert_eq!(all, (0..3_000).collect::<Vec<_>>());
}

#[test]
fn a_reader_that_goes_away_early_is_not_taken_for_one_that_has_read() {
    let topic = topic("stored-gone", 1);
    let group = name("group");
    produce(&topic, (0..50_000).map(packet));
    let words = format!("-o stored -G {group} -e");
    let mut child = consume(&topic, &words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut head = [0; 24];
    child.stdout.take().unwrap().read_exact(&mut head).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(
        said(&output).contains("not taken by the reader"),
        "{}",
        said(&output)
    );
    let again = done(&mut consume(&topic, &words));
    assert_eq!(numbers(&again).len(), 50_000);
}

#[test]
fn what_is_deleted_before_it_is_read_is_counted_and_the_reading_goes_on() {
    use rdkafka::admin::AdminOptions;
    use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

    let topic = topic("deleted", 1);
    let wide = |number: u64| {
        let mut frame = vec![0; 10_000];
        frame.extend(number.to_be_bytes());
        Record {
            value: Some(frame),
            ..packet(number)
        }
    };
    produce(&topic, (0..2_000).map(wide));
    // Little is fetched ahead of a reader that takes nothing.
    let words = "-o begin -e -X queued.max.messages.kbytes=64 -X fetch.message.max.bytes=65536";
    let mut child = consume(&topic, words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut head = [0; 24];
    out.read_exact(&mut head).unwrap();
    let mut upto = TopicPartitionList::new();
    upto.add_partition_offset(&topic, 0, Offset::Offset(1_990))
        .unwrap();
    let deleted = crate::support::admin();
    let deleted = deleted.delete_records(&upto, &AdminOptions::new());
    crate::support::wait(deleted).unwrap();
    let reader = thread::spawn(move || {
        let mut bytes = head.to_vec();
        out.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let read: Vec<_> = crate::support::bytes(&reader.join().unwrap())
        .iter()
        .map(|packet| number(&packet.data))
        .collect();
    assert!(read.len() < 1_990, "{}", read.len());
    assert!(
        read.ends_with(&(1_990..2_000).collect::<Vec<_>>()),
        "{read:?}"
    );
    let gone = 2_000 - read.len();
    let summary = format!("{gone} deleted before they were read");
    assert!(said(&output).contains(&summary), "{}", said(&output));
}
