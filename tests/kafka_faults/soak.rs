//! Faults of every kind at random times, for a minute or for as long as `RINGTAP_SOAK_SECONDS` says.
//!
//! The seed is printed; `RINGTAP_SOAK_SEED` has the same faults come in the same order.

use std::env;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kafka_protocol::error::ResponseError;

use crate::admin::Admin;
use crate::everybody::{Everybody, Rate};
use crate::lasting;
use crate::nodes::Nodes;
use crate::proxy::{Act, Proxy, Rule, Side};
use crate::support::broker::Kafka;

const ADMIN: Admin = Admin(Kafka::Cluster);

/// What a broker says of a batch that it will take later.
const RETRIABLE: [ResponseError; 5] = [
    ResponseError::NotLeaderOrFollower,
    ResponseError::UnknownTopicOrPartition,
    ResponseError::NotEnoughReplicas,
    ResponseError::RequestTimedOut,
    ResponseError::KafkaStorageError,
];

/// Numbers that follow from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn index(&mut self, sides: usize) -> usize {
        usize::try_from(self.roll(sides as u64)).unwrap()
    }

    fn node(&mut self) -> i32 {
        i32::try_from(self.roll(3)).unwrap() + 1
    }

    /// A time from `from` to `to` milliseconds.
    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.roll(to - from + 1))
    }

    fn rest(&mut self, from: u64, to: u64) {
        thread::sleep(self.millis(from, to));
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Something to do to a message.
fn rule(dice: &mut Dice) -> Rule {
    let error = RETRIABLE[dice.index(RETRIABLE.len())];
    let at = dice.index(60);
    let act = match dice.roll(11) {
        0 => Act::Delay(dice.millis(100, 5_000)),
        1 => Act::Lose,
        2 => Act::Mute,
        3 => Act::Hold,
        4 => Act::Cut(at),
        5 => Act::Trickle,
        6 => Act::Flip(at),
        7 => Act::Announce(i32::MAX),
        8 => Act::Swap,
        9 => Act::Rewrite(error),
        _ => Act::Refuse(error),
    };
    let side = match act {
        Act::Refuse(_) => Side::Request,
        // A request that is damaged on its way is stored damaged or refused: TCP is there to prevent it.
        Act::Mute | Act::Flip(_) | Act::Announce(_) | Act::Swap | Act::Rewrite(_) => Side::Answer,
        _ if dice.roll(2) == 0 => Side::Request,
        _ => Side::Answer,
    };
    Rule {
        side,
        ..Rule::answers(dice.index(3), 1 + dice.index(3), act)
    }
}

/// Does one thing, and what is needed to undo it.
fn strike(dice: &mut Dice, nodes: &mut Nodes, proxy: &Proxy, everybody: &Everybody) {
    let node = dice.node();
    match dice.roll(12) {
        0 => {
            println!("  kill {node}");
            nodes.kill(node);
            dice.rest(500, 8_000);
            nodes.restart(node);
        }
        1 => {
            println!("  restart {node}");
            nodes.restart(node);
        }
        2 => {
            println!("  hold {node} still");
            nodes.pause(node);
            dice.rest(500, 8_000);
            nodes.resume(node);
        }
        3 => {
            println!("  leaders to {node}");
            everybody.led_by(node);
        }
        4 => {
            println!("  resets");
            proxy.reset();
        }
        5 => {
            println!("  slammed doors");
            proxy.slam(true);
            proxy.reset();
            dice.rest(500, 3_000);
            proxy.slam(false);
        }
        6 => {
            println!("  sips");
            proxy.sip(true);
            proxy.reset();
            dice.rest(500, 3_000);
            proxy.sip(false);
            proxy.reset();
        }
        7 => {
            println!("  small limit");
            for limit in ["5000", "1048588"] {
                for topic in everybody.topics() {
                    ADMIN.configure(topic.name(), "max.message.bytes", limit);
                }
                dice.rest(500, 2_000);
            }
        }
        _ => {
            let rule = rule(dice);
            println!("  {rule:?}");
            proxy.plan(rule);
            dice.rest(500, 3_000);
            proxy.heal();
        }
    }
}

#[test]
fn faults_at_random_leave_every_record_accounted_for() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("RINGTAP_SOAK_SEED").unwrap_or_else(|| u64::from(now.subsec_nanos()));
    let length = number("RINGTAP_SOAK_SECONDS").map_or(lasting(60, 600), Duration::from_secs);
    println!("seed {seed}, {} s", length.as_secs());
    let mut dice = Dice(seed);
    let mut nodes = Nodes::alone();
    let proxy = Proxy::before(&Kafka::Cluster.brokers());
    let everybody = Everybody::start(&proxy.brokers(), Rate::LOW);
    let since = Instant::now();
    while since.elapsed() < length {
        print!("{:7.1} s", since.elapsed().as_secs_f64());
        strike(&mut dice, &mut nodes, &proxy, &everybody);
        dice.rest(200, 1_500);
    }
    proxy.heal();
    everybody.settled();
    everybody.wait();
    for sum in everybody.end() {
        println!("{sum:?}");
        assert!(sum.delivered > 0);
        let accounted = sum.delivered + sum.not_persisted + sum.possibly_persisted;
        assert_eq!(accounted, sum.sent);
    }
    println!("balanced");
}
