//! Which records are read, which packets are written, and in which order.

use crate::support::{EPOCH, Record, consume, done, numbers, packet, produce, said, topic};

fn on(partition: i32, record: Record) -> Record {
    Record {
        partition,
        ..record
    }
}

#[test]
fn a_topic_without_records_ends_at_once_with_a_header() {
    let topic = topic("empty", 2);
    for words in ["-o begin -e", "-o end -e", "-o begin -e --sort"] {
        let output = done(&mut consume(&topic, words));
        assert_eq!(output.stdout.len(), 24);
    }
    let output = done(&mut consume(&topic, "-o begin -e --format pcap-ns"));
    assert_eq!(output.stdout.len(), 24);
}

#[test]
fn it_begins_where_it_is_told() {
    let topic = topic("begin", 1);
    produce(
        &topic,
        (0..10).map(|number| Record {
            millis: Some(i64::try_from(EPOCH / 1_000 + number * 10).unwrap()),
            ..packet(number)
        }),
    );
    let from = |position: &str| {
        let output = done(&mut consume(&topic, &format!("-o {position} -e")));
        numbers(&output)
    };
    assert_eq!(from("begin"), (0..10).collect::<Vec<_>>());
    assert_eq!(from("7"), [7, 8, 9]);
    assert_eq!(from("@1795219200.075"), [8, 9]);
    assert_eq!(from("@2026-11-21T00:00:00.09Z"), [9]);
    assert_eq!(from("@2026-11-22T00:00:00Z"), [0; 0]);
    assert_eq!(from("end"), [0; 0]);
    let output = done(&mut consume(&topic, "-o 99 -e"));
    assert!(
        said(&output).contains("offset 99 is not there"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_count_ends_it_after_exactly_so_many_packets() {
    let topic = topic("count", 1);
    produce(&topic, (0..10).map(packet));
    assert_eq!(
        numbers(&done(&mut consume(&topic, "-o begin -c 3"))),
        [0, 1, 2]
    );
    let filtered = done(&mut consume(&topic, "-o begin -c 3 udp port 80"));
    assert_eq!(numbers(&filtered), [1, 3, 5]);
    let output = done(&mut consume(&topic, "-o begin -e -c 30"));
    assert_eq!(numbers(&output).len(), 10);
}

#[test]
fn a_window_and_a_filter_choose_packets_and_count_the_others() {
    let topic = topic("window", 1);
    produce(&topic, (0..10).map(packet));
    let window = "-o begin -e --from 1795219200.002 --to 2026-11-21T00:00:00.008Z";
    let output = done(&mut consume(&topic, window));
    assert_eq!(numbers(&output), [2, 3, 4, 5, 6, 7]);
    let output = done(consume(&topic, window).arg("udp dst port 53"));
    assert_eq!(numbers(&output), [2, 4, 6]);
    let summary = "10 records read, 3 written, 7 filtered, 0 bad_record";
    assert!(said(&output).contains(summary), "{}", said(&output));
    let output = done(&mut consume(&topic, "-o begin -e tcp"));
    assert_eq!(output.stdout.len(), 24);
}

#[test]
fn partitions_are_chosen_by_number() {
    let topic = topic("partitions", 3);
    produce(
        &topic,
        (0..9).map(|number| on((number % 3) as i32, packet(number))),
    );
    let of = |list: &str| {
        let mut numbers = numbers(&done(&mut consume(
            &topic,
            &format!("-o begin -e -p {list}"),
        )));
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(of("1"), [1, 4, 7]);
    assert_eq!(of("0,2"), [0, 2, 3, 5, 6, 8]);
    assert_eq!(of("0-2"), (0..9).collect::<Vec<_>>());
}

#[test]
fn sorted_packets_come_by_time_whatever_partition_they_are_in() {
    let topic = topic("sort", 3);
    // Runs of very different lengths, and within a partition one batch that overlaps the one before.
    let records = (0..30_000).map(|number| {
        let partition = match number {
            0..20_000 => 2,
            number => (number % 2) as i32,
        };
        on(partition, packet(number))
    });
    let (early, late): (Vec<_>, Vec<_>) = records.enumerate().partition(|(at, _)| at % 500 < 250);
    produce(
        &topic,
        late.into_iter().chain(early).map(|(_, record)| record),
    );
    let output = done(&mut consume(&topic, "-o begin -e --sort"));
    let numbers = numbers(&output);
    let wrong = (0..30_000).zip(&numbers).find(|(at, number)| at != *number);
    assert_eq!((numbers.len(), wrong), (30_000, None), "{}", said(&output));
}

#[test]
fn keys_in_another_unit_are_read_when_told_and_doubted_when_not() {
    let topic = topic("units", 2);
    let key = |partition, key: u64| Record {
        partition,
        key: Some(key.to_be_bytes().to_vec()),
        ..packet(1)
    };
    let (millis, nanos) = (EPOCH / 1_000, EPOCH * 1_000);
    produce(
        &topic,
        [key(0, millis), key(0, millis), key(1, nanos), key(1, nanos)],
    );
    for (partition, unit) in [(0, "ms"), (1, "ns")] {
        let words = format!("-o begin -e -p {partition}");
        let wrong = done(&mut consume(&topic, &words));
        assert_eq!(
            said(&wrong).matches("--key-time").count(),
            1,
            "{}",
            said(&wrong)
        );
        let right = done(&mut consume(&topic, &format!("{words} --key-time {unit}")));
        assert!(!said(&right).contains("--key-time"), "{}", said(&right));
        let packets = crate::support::bytes(&right.stdout);
        assert_eq!(packets.len(), 2);
        assert!(packets.iter().all(|packet| packet.nanos == nanos));
    }
}
