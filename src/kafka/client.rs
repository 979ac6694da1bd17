//! A client of one topic: connections to the brokers that matter, and who leads which partition.
//!
//! The rule: nothing here waits but [`Client::wait`], and nothing here knows what is in a batch. Requests go
//! to the leader or to any broker that answers; what comes back are [`Event`]s.

mod link;
mod resolve;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::messages::{
    ApiKey, CreateTopicsRequest, DescribeConfigsRequest, InitProducerIdRequest, MetadataRequest,
    TopicName, create_topics_request::CreatableTopic,
    describe_configs_request::DescribeConfigsResource, metadata_request::MetadataRequestTopic,
};
use kafka_protocol::protocol::StrBytes;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use uuid::Uuid;

use super::address::BrokerAddress;
use super::answer::{self, Leader, Malformed, Metadata, Produced};
use super::connection::{Bodies, Connection, ConnectionError, Heard, Lost, Profile, Tag, Told};
use super::counters::ProducerCounters;
use super::request::{PRODUCE_BY_ID, Produce};

use link::Link;
pub(crate) use link::{Obstacle, Reconnect};
use resolve::Resolver;

/// What one broker of those that were asked may take for metadata before another is asked as well.
const METADATA_PATIENCE: Duration = Duration::from_secs(2);

/// A leader that does not answer for so long may have lost its partitions: others are asked.
const SILENCE: Duration = Duration::from_secs(3);

/// The first pause between two questions for metadata while a leader is missing, and the longest.
const REFRESH: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The setting that limits a topic's record batches.
const MAX_MESSAGE_BYTES: &str = "max.message.bytes";

/// What a client works with.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) profile: Profile,
    pub(crate) reconnect: Reconnect,
    /// `topic.metadata.refresh.interval.ms`.
    pub(crate) refresh: Duration,
    /// The brokers that were named.
    pub(crate) bootstrap: Vec<BrokerAddress>,
    /// The topic.
    pub(crate) topic: String,
    /// Whether asking for the topic may create it: `allow.auto.create.topics`.
    pub(crate) creates: bool,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A batch is answered.
    Produced { slot: usize, produced: Produced },
    /// A batch that is not answered (`acks=0`) went out.
    Written { slot: usize },
    /// A batch was lost with its connection; `whole` where all of it went out.
    Lost { slot: usize, whole: bool },
    /// An answer to the question for a producer id: an error code, the id, its epoch.
    ProducerId {
        partition: i32,
        code: i16,
        id: i64,
        epoch: i16,
    },
    /// The question for a producer id was lost.
    NoProducerId { partition: i32 },
    /// Who leads what is known anew.
    Topology,
    /// The brokers say this of the topic: an error code.
    TopicRefused(i16),
    /// The largest batch of the topic, where we may know it.
    Limit(Option<u32>),
    /// What became of the topic that was to be made: an error code, and the broker's words.
    Created(i16, String),
}

/// Everything there is to know of the topic.
#[derive(Clone, Debug, Default)]
struct Topology {
    /// Nil where the brokers know no ids.
    id: Uuid,
    leaders: Vec<Leader>,
}

/// What one client has learnt and another may begin with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    topology: Topology,
    nodes: Vec<(i32, BrokerAddress)>,
}

impl Known {
    /// The number of partitions.
    pub(crate) fn partitions(&self) -> usize {
        self.topology.leaders.len()
    }

    /// The brokers of the cluster.
    pub(crate) fn brokers(&self) -> impl Iterator<Item = &BrokerAddress> {
        self.nodes.iter().map(|(_, address)| address)
    }
}

#[derive(Debug)]
struct Refresh {
    due: Instant,
    /// When, and through which link, it was asked last.
    asked: Option<(Instant, usize)>,
    pause: Duration,
}

/// A client of one topic.
#[derive(Debug)]
pub(crate) struct Client {
    terms: Terms,
    resolver: Resolver,
    counters: Arc<ProducerCounters>,
    links: Vec<Link>,
    topology: Topology,
    /// The partitions that this client writes to: those with this remainder by that divisor.
    share: (usize, usize),
    refresh: Refresh,
    lost: Vec<Lost>,
}

impl Client {
    /// A client that begins with the brokers that were named, and with what is known already.
    ///
    /// It writes to every partition whose number divided by `share.1` leaves `share.0`.
    pub(crate) fn new(
        terms: Terms,
        share: (usize, usize),
        known: &Known,
        counters: Arc<ProducerCounters>,
    ) -> io::Result<Self> {
        let nodes = known.nodes.iter();
        let mut links: Vec<_> = nodes
            .map(|(node, address)| {
                let counters = counters.broker(&address.to_string());
                Link::new(Some(*node), address.clone(), counters)
            })
            .collect();
        for broker in &terms.bootstrap {
            if !links.iter().any(|link| link.address == *broker) {
                links.push(Link::new(None, broker.clone(), Arc::default()));
            }
        }
        Ok(Self {
            counters,
            links,
            resolver: Resolver::new()?,
            topology: known.topology.clone(),
            share,
            refresh: Refresh {
                due: Instant::now(),
                asked: None,
                pause: REFRESH.0,
            },
            lost: Vec::new(),
            terms,
        })
    }

    /// What it has learnt.
    pub(crate) fn known(&self) -> Known {
        let nodes = self.links.iter();
        Known {
            topology: self.topology.clone(),
            nodes: nodes
                .filter_map(|link| Some((link.node?, link.address.clone())))
                .collect(),
        }
    }

    /// The number of partitions, as far as known.
    pub(crate) fn partitions(&self) -> usize {
        self.topology.leaders.len()
    }

    /// The numbers of the partitions that this client writes to.
    pub(crate) fn owned(&self) -> impl Iterator<Item = i32> {
        let (first, step) = self.share;
        let all = self.topology.leaders.iter().map(|leader| leader.partition);
        all.skip(first).step_by(step.max(1))
    }

    /// The node that leads `partition`.
    pub(crate) fn leader(&self, partition: i32) -> Option<i32> {
        let at = usize::try_from(partition).ok()?;
        let leader = self.topology.leaders.get(at)?;
        (leader.code == 0 && leader.node >= 0).then_some(leader.node)
    }

    /// What stands in the way of each broker that was not reached.
    pub(crate) fn troubles(&self) -> impl Iterator<Item = (&BrokerAddress, Obstacle, &str)> {
        self.links.iter().filter_map(|link| {
            let (obstacle, said) = link.trouble()?;
            Some((&link.address, *obstacle, said.as_str()))
        })
    }

    /// Whether everything that was written to brokers has left this process.
    pub(crate) fn is_flushed(&self) -> bool {
        let mut open = self.links.iter().filter_map(Link::connection);
        open.all(Connection::is_flushed)
    }

    /// Whether some broker takes requests.
    pub(crate) fn is_connected(&self, now: Instant) -> bool {
        self.links.iter().any(|link| link.is_ready(now))
    }

    /// Whether `node` takes a batch now.
    pub(crate) fn is_open(&self, node: i32, now: Instant) -> bool {
        self.links
            .iter()
            .any(|link| link.node == Some(node) && link.is_ready(now) && link.quiet_until.is_none())
    }

    /// Leaves `node` alone until `until`, as it asked.
    pub(crate) fn quieten(&mut self, node: i32, until: Instant) {
        if let Some(link) = of_node(&mut self.links, node) {
            link.quiet_until = link.quiet_until.max(Some(until));
        }
    }

    /// Sends the batch in `slot` to `node`, which must be [open](Self::is_open). False where it cannot be.
    pub(crate) fn produce(
        &mut self,
        node: i32,
        slot: usize,
        request: Produce<'_>,
        now: Instant,
    ) -> bool {
        let has_id = !self.topology.id.is_nil();
        let newest = if has_id {
            PRODUCE_BY_ID
        } else {
            PRODUCE_BY_ID - 1
        };
        let link = of_node(&mut self.links, node);
        let Some(connection) = link.and_then(Link::ready) else {
            return false;
        };
        let Some(version) = connection.version(ApiKey::Produce, 3, newest) else {
            return false;
        };
        let request = Produce {
            version,
            topic: &self.terms.topic,
            client_id: &self.terms.profile.client_id,
            topic_id: self.topology.id,
            ..request
        };
        connection.produce(slot, request, now);
        true
    }

    /// Asks `node` for a producer id. False where it cannot be asked.
    pub(crate) fn ask_producer_id(&mut self, node: i32, partition: i32, now: Instant) -> bool {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000);
        let link = of_node(&mut self.links, node);
        let Some(connection) = link.and_then(Link::ready) else {
            return false;
        };
        let tag = Tag::ProducerId(partition);
        let version = connection.version(ApiKey::InitProducerId, 0, 4);
        version.is_some_and(|version| connection.ask(&request, version, tag, now).is_ok())
    }

    /// Asks for the largest batch that the topic takes. False where no broker can be asked.
    pub(crate) fn ask_limit(&mut self, now: Instant) -> bool {
        const TOPIC: i8 = 2;
        let keys = vec![StrBytes::from_static_str(MAX_MESSAGE_BYTES)];
        let resource = DescribeConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(StrBytes::from_string(self.terms.topic.clone()))
            .with_configuration_keys(Some(keys));
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let Some(connection) = self.any(now) else {
            return false;
        };
        let version = connection.version(ApiKey::DescribeConfigs, 1, 4);
        version.is_some_and(|version| connection.ask(&request, version, Tag::Config, now).is_ok())
    }

    /// Asks for the topic to be made. False where no broker can be asked.
    pub(crate) fn create_topic(&mut self, partitions: i32, replication: i16, now: Instant) -> bool {
        let topic = CreatableTopic::default()
            .with_name(TopicName(StrBytes::from_string(self.terms.topic.clone())))
            .with_num_partitions(partitions)
            .with_replication_factor(replication);
        let request = CreateTopicsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(30_000);
        let Some(connection) = self.any(now) else {
            return false;
        };
        let version = connection.version(ApiKey::CreateTopics, 2, 7);
        let tag = Tag::CreateTopic;
        version.is_some_and(|version| connection.ask(&request, version, tag, now).is_ok())
    }

    /// The slots of batches that went out whole and are not answered.
    pub(crate) fn sent_whole(&self) -> Vec<usize> {
        let open = self.links.iter().filter_map(Link::connection);
        open.flat_map(Connection::lost)
            .filter(|lost| lost.whole)
            .filter_map(|lost| match lost.tag {
                Tag::Produce { slot, .. } => Some(slot),
                _ => None,
            })
            .collect()
    }

    /// Has the metadata asked for soon: what is known of leaders has proved wrong.
    pub(crate) fn refresh(&mut self, now: Instant) {
        let at = now + self.refresh.pause;
        self.refresh.due = self.refresh.due.min(at);
    }

    /// Does all that can be done without waiting.
    pub(crate) fn turn(&mut self, now: Instant, bodies: &dyn Bodies, events: &mut Vec<Event>) {
        self.choose(now);
        let mut news = None;
        for at in 0..self.links.len() {
            let link = &mut self.links[at];
            let mut tell = |told: Told<'_>| match told {
                Told::Written(Tag::Produce { slot, .. }) => {
                    events.push(Event::Written { slot });
                    Ok(())
                }
                Told::Written(_) => Ok(()),
                Told::Answer(heard) => hear(&heard, &mut news, events),
            };
            let ways = (&self.resolver, &self.terms.profile, self.terms.reconnect);
            link.turn(now, ways, bodies, &mut tell, &mut self.lost);
            self.settle_lost(now, events);
        }
        if let Some(metadata) = news {
            self.learn(metadata, now, events);
        }
        self.ask_metadata(now);
    }

    /// Waits until a broker has something for us, until `wake` is readable, or until `limit` or what is due
    /// next.
    pub(crate) fn wait(
        &self,
        wake: Option<BorrowedFd<'_>>,
        limit: Duration,
        now: Instant,
    ) -> io::Result<()> {
        let due = self.deadline().map(|at| at.saturating_duration_since(now));
        let limit = due.map_or(limit, |due| due.min(limit));
        let mut fds = vec![PollFd::new(self.resolver.as_fd(), PollFlags::POLLIN)];
        fds.extend(wake.map(|wake| PollFd::new(wake, PollFlags::POLLIN)));
        let open = self.links.iter().filter_map(Link::connection);
        fds.extend(open.map(|open| PollFd::new(open.as_fd(), open.interest())));
        match ppoll(&mut fds, Some(TimeSpec::from_duration(limit)), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let links = self.links.iter().flat_map(|link| {
            let silent = link.connection().filter(|open| open.unanswered() > 0);
            [
                link.deadline(),
                link.quiet_until,
                silent.map(|_| Instant::now() + SILENCE),
            ]
        });
        let asked = self.refresh.asked.map(|(at, _)| at + METADATA_PATIENCE);
        let is_askable = self.is_connected(Instant::now());
        let refresh = asked.unwrap_or(self.refresh.due);
        let refresh = is_askable.then_some(refresh);
        links.chain([refresh]).flatten().min()
    }

    /// Decides which brokers are to be connected: the leaders of our partitions, and while nobody takes requests,
    /// everybody.
    fn choose(&mut self, now: Instant) {
        let is_connected = self.is_connected(now);
        let leaders: Vec<_> = self
            .owned()
            .filter_map(|number| self.leader(number))
            .collect();
        for link in &mut self.links {
            let leads = link.node.is_some_and(|node| leaders.contains(&node));
            link.is_wanted = leads || !is_connected;
        }
        for at in 0..self.links.len() {
            let link = &self.links[at];
            let Some(connection) = link.connection() else {
                continue;
            };
            let silence = connection.silence(now);
            if silence < SILENCE || !connection.is_ready() {
                continue;
            }
            self.refresh.due = self.refresh.due.min(now + REFRESH.1);
            // Its partitions have moved: what it did not answer is asked of the new leader.
            if self.links[at].node.is_some() && !self.links[at].is_wanted {
                let error = ConnectionError::NoAnswer {
                    api: ApiKey::Produce,
                    limit: silence,
                };
                let Terms {
                    profile, reconnect, ..
                } = &self.terms;
                self.links[at].lose(&error, now, profile, *reconnect, &mut self.lost);
            }
        }
    }

    /// Tells what was lost with a connection.
    fn settle_lost(&mut self, now: Instant, events: &mut Vec<Event>) {
        let mut is_any = false;
        for Lost { tag, whole } in self.lost.drain(..) {
            is_any = true;
            match tag {
                Tag::Produce { slot, .. } => events.push(Event::Lost { slot, whole }),
                Tag::ProducerId(partition) => events.push(Event::NoProducerId { partition }),
                Tag::Metadata => self.refresh.asked = None,
                Tag::Config => events.push(Event::Limit(None)),
                Tag::CreateTopic => {
                    events.push(Event::Created(-1, "the connection was lost".to_owned()));
                }
                Tag::Setup => {}
            }
        }
        if is_any {
            self.refresh(now);
        }
    }

    /// A broker that takes requests, the least busy one.
    fn any(&mut self, now: Instant) -> Option<&mut Connection> {
        let at = self.least_busy(now, None)?;
        self.links[at].ready()
    }

    fn least_busy(&self, now: Instant, but: Option<usize>) -> Option<usize> {
        let ready = (0..self.links.len()).filter(|at| self.links[*at].is_ready(now));
        ready.min_by_key(|at| {
            let busy = self.links[*at]
                .connection()
                .map_or(0, Connection::unanswered);
            (but == Some(*at), busy)
        })
    }

    fn ask_metadata(&mut self, now: Instant) {
        let before = match self.refresh.asked {
            Some((at, _)) if now < at + METADATA_PATIENCE => return,
            Some((_, link)) => Some(link),
            None if now < self.refresh.due => return,
            None => None,
        };
        let Some(at) = self.least_busy(now, before) else {
            return;
        };
        let name = TopicName(StrBytes::from_string(self.terms.topic.clone()));
        let topic = MetadataRequestTopic::default().with_name(Some(name));
        let creates = self.terms.creates;
        let request = MetadataRequest::default()
            .with_topics(Some(vec![topic]))
            .with_allow_auto_topic_creation(creates);
        let Some(connection) = self.links[at].ready() else {
            return;
        };
        let asked = connection
            .version(ApiKey::Metadata, 4, 12)
            .is_some_and(|version| {
                connection
                    .ask(&request, version, Tag::Metadata, now)
                    .is_ok()
            });
        if asked {
            self.refresh.asked = Some((now, at));
        }
    }

    /// Takes over what a broker says of the cluster and the topic.
    fn learn(&mut self, metadata: Metadata, now: Instant, events: &mut Vec<Event>) {
        self.refresh.asked = None;
        self.meet(&metadata);
        if metadata.code != 0 {
            self.soon(now);
            events.push(Event::TopicRefused(metadata.code));
            return;
        }
        let is_same = metadata.id == self.topology.id;
        if !is_same {
            self.topology.leaders.clear();
        }
        for (at, mut leader) in metadata.partitions.into_iter().enumerate() {
            match self.topology.leaders.get_mut(at) {
                // A broker that lags behind tells of an earlier leader.
                Some(known) if leader.epoch >= 0 && leader.epoch < known.epoch => {}
                Some(known) => *known = leader,
                None => {
                    leader.partition = i32::try_from(at).unwrap_or(leader.partition);
                    self.topology.leaders.push(leader);
                }
            }
        }
        self.topology.id = metadata.id;
        let mut owned = self.owned();
        if owned.any(|number| self.leader(number).is_none()) {
            drop(owned);
            self.soon(now);
        } else {
            drop(owned);
            self.refresh.due = now + self.terms.refresh;
            self.refresh.pause = REFRESH.0;
        }
        events.push(Event::Topology);
    }

    /// Asks again soon, with growing pauses.
    fn soon(&mut self, now: Instant) {
        self.refresh.due = now + self.refresh.pause;
        self.refresh.pause = (self.refresh.pause * 2).min(REFRESH.1);
    }

    /// Knows the brokers of the cluster by their numbers from here on.
    fn meet(&mut self, metadata: &Metadata) {
        for node in &metadata.brokers {
            let address = BrokerAddress {
                host: node.host.clone(),
                port: node.port,
            };
            let counters = self.counters.broker(&address.to_string());
            let by_number = self
                .links
                .iter()
                .position(|link| link.node == Some(node.id));
            let is_same = |link: &Link| link.node.is_none() && link.address == address;
            let known = by_number.filter(|at| self.links[*at].address == address);
            match (known, by_number, self.links.iter().position(is_same)) {
                (Some(_), _, _) => {}
                (None, Some(moved), _) if self.links[moved].connection().is_none() => {
                    self.links[moved] = Link::new(Some(node.id), address, counters);
                }
                (None, Some(_), _) => {}
                (None, None, Some(named)) => self.links[named].meet(node.id, counters),
                (None, None, None) => {
                    self.links.push(Link::new(Some(node.id), address, counters));
                }
            }
        }
    }
}

/// The way to a broker of the cluster.
fn of_node(links: &mut [Link], node: i32) -> Option<&mut Link> {
    links.iter_mut().find(|link| link.node == Some(node))
}

/// Reads an answer.
fn hear(
    heard: &Heard<'_>,
    news: &mut Option<Metadata>,
    events: &mut Vec<Event>,
) -> Result<(), Malformed> {
    match heard.tag {
        Tag::Setup => {}
        Tag::Metadata => *news = Some(answer::metadata(heard.body, heard.version)?),
        Tag::ProducerId(partition) => {
            let (code, id, epoch) = answer::producer_id(heard.body, heard.version)?;
            events.push(Event::ProducerId {
                partition,
                code,
                id,
                epoch,
            });
        }
        Tag::Produce { slot, partition } => {
            let produced = answer::produce(heard.body, heard.version)?;
            if produced.partition != partition {
                return Err(Malformed("it is of another partition"));
            }
            events.push(Event::Produced { slot, produced });
        }
        Tag::Config => {
            let value = answer::config(heard.body, heard.version, MAX_MESSAGE_BYTES)?;
            events.push(Event::Limit(value.and_then(|value| value.parse().ok())));
        }
        Tag::CreateTopic => {
            let (code, said) = answer::create_topic(heard.body, heard.version)?;
            events.push(Event::Created(code, said));
        }
    }
    Ok(())
}
