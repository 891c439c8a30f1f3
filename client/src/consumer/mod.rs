//! The consumer: reads partitions in offset order, from their leaders, by long polls. Which ones is
//! said by the caller ([`Consumer::assign`]) or agreed upon in a group ([`Consumer::subscribe`]).
//!
//! `fetcher` fetches ahead, `fetch` is one request and its answer, `membership` the consumer's part
//! in a group, `committer` commits, `config` the settings, `hook` what a caller is told of
//! rebalances.

mod committer;
mod config;
mod fetch;
mod fetcher;
mod hook;
mod membership;

pub use committer::Committer;
pub use config::{ConsumerConfig, GroupConfig, GroupProtocol, Isolation, OffsetReset};
pub use hook::RebalanceHook;

use crate::cluster::Cluster;
use crate::config::ClientConfig;
use crate::error::{Error, Result};
use crate::offsets::{self, StartPosition};
use crate::record::ConsumerRecord;
use crate::topic_partition::TopicPartition;
use fetcher::Fetcher;
use futures_util::stream::{self, Stream};
use membership::Member;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Records of one partition, in offset order.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Fetched {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The id of the topic that these records are of; another when a deleted topic's name came back.
    /// All zero when the broker is too old to fetch by id (before Kafka 3.1, KIP-516).
    pub topic_id: [u8; 16],
    /// The partition.
    pub partition: i32,
    /// Empty when there is only the end to report, or nothing but control records.
    pub records: Vec<ConsumerRecord>,
    /// Where the next records of this partition will start.
    pub next_offset: i64,
    /// The first offset that is not committed yet.
    pub high_watermark: i64,
    /// The end for this consumer: the high watermark, or with [`Isolation::ReadCommitted`] the
    /// first offset of a transaction that is still open.
    pub last_stable_offset: i64,
}

impl Fetched {
    /// No record for this consumer follows, as the leader saw it.
    pub fn at_end(&self) -> bool {
        self.next_offset >= self.last_stable_offset
    }
}

/// Reads records of partitions it is given, or of those its group gives it.
///
/// Whatever [`Consumer::next`] or [`Consumer::next_record`] has handed out counts as dealt with when
/// either is called again: that, and never more, is what automatic commits tell the group. Call
/// [`Consumer::close`] at the end to commit the rest and to leave the group at once.
///
/// ```no_run
/// # async fn example() -> tidelog_client::Result<()> {
/// use tidelog_client::{ClientConfig, Consumer, ConsumerConfig, GroupConfig};
///
/// let group = GroupConfig::new("billing");
/// let config = ConsumerConfig::group(group);
/// let mut consumer = Consumer::new(ClientConfig::new("localhost:9092"), config).await?;
/// consumer.subscribe(["orders"]).await?;
/// loop {
///     let record = consumer.next_record().await?;
///     println!("{} {:?}", record.offset, record.value);
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Consumer {
    cluster: Cluster,
    config: ConsumerConfig,
    fetcher: Fetcher,
    member: Option<Member>,
    hook: hook::Hook,
    /// Being handed out record by record.
    current: Option<Current>,
    /// Handed out last, and settled with the next call.
    last: Option<u64>,
}

#[derive(Debug)]
struct Current {
    id: u64,
    records: std::vec::IntoIter<ConsumerRecord>,
    fetched: Fetched,
}

impl Consumer {
    /// # Errors
    /// [`Error::NoBroker`] when no bootstrap address answers, [`Error::Config`] for settings that
    /// cannot work.
    pub async fn new(client: ClientConfig, config: ConsumerConfig) -> Result<Consumer> {
        config.check()?;
        let cluster = Cluster::connect(client).await?;
        Ok(Consumer {
            fetcher: Fetcher::new(cluster.clone(), config.clone()),
            cluster,
            config,
            member: None,
            hook: hook::Hook::default(),
            current: None,
            last: None,
        })
    }

    /// Reads these partitions from now on, and no others, without being a member of a group. With
    /// a [`ConsumerConfig::group`] offsets can be committed for it all the same.
    ///
    /// # Errors
    /// When a topic or partition does not exist.
    pub async fn assign<T: Into<Arc<str>>>(
        &mut self,
        partitions: impl IntoIterator<Item = (T, i32, StartPosition)>,
    ) -> Result<()> {
        let mut assigned = Vec::new();
        for (topic, partition, start) in partitions {
            let topic = topic.into();
            let info = self.cluster.topic(&topic, false).await?;
            if info.partition(partition).is_none() {
                return Err(Error::UnknownPartition {
                    topic: topic.to_string(),
                    partition,
                    count: info.partitions.len(),
                });
            }
            assigned.push((TopicPartition { topic, partition }, start));
        }
        self.unsubscribe().await?;
        for (place, start) in assigned {
            self.fetcher.add(place, start);
        }
        Ok(())
    }

    /// The indexes of a topic's partitions.
    ///
    /// # Errors
    /// When the topic does not exist.
    pub async fn partitions(&self, topic: &str) -> Result<Vec<i32>> {
        let info = self.cluster.topic(topic, false).await?;
        Ok(info.partitions.iter().map(|p| p.index).collect())
    }

    /// The offset of each place.
    ///
    /// # Errors
    /// When one cannot be found before the call's deadline.
    pub async fn offsets(
        &self,
        places: impl IntoIterator<Item = (String, i32, StartPosition)>,
    ) -> Result<Vec<(String, i32, i64)>> {
        let places = places.into_iter().map(|(topic, p, at)| ((topic, p), at));
        let isolation = self.config.isolation;
        let found = offsets::find(&self.cluster, places.collect(), isolation).await?;
        Ok(found.into_iter().map(|((t, p), o)| (t, p, o)).collect())
    }

    /// Waits for the next records, or for the end of a partition, told once each time it is reached.
    /// Goes on through leader changes, lost connections and rebalances. Dropping the future loses
    /// nothing. What was handed out before counts as dealt with.
    ///
    /// # Errors
    /// [`Error::Timeout`] when nothing could be reached for the call timeout, and what does not pass
    /// by itself: a deleted topic, a damaged batch, an offset out of range, a membership taken over
    /// by another. Calling again goes on where this ended.
    pub async fn next(&mut self) -> Result<Fetched> {
        self.settle();
        if let Some(current) = self.current.take() {
            let mut fetched = current.fetched;
            fetched.records = current.records.collect();
            self.hand_out(current.id, fetched.next_offset);
            return Ok(fetched);
        }
        let (id, fetched) = self.fetch().await?;
        self.hand_out(id, fetched.next_offset);
        Ok(fetched)
    }

    /// Waits for the next record. As [`Consumer::next`], record by record.
    ///
    /// # Errors
    /// As [`Consumer::next`].
    pub async fn next_record(&mut self) -> Result<ConsumerRecord> {
        self.settle();
        loop {
            if let Some(current) = &mut self.current {
                let id = current.id;
                if let Some(record) = current.records.next() {
                    let next_offset = match current.records.len() {
                        0 => current.fetched.next_offset,
                        _ => record.offset + 1,
                    };
                    self.hand_out(id, next_offset);
                    return Ok(record);
                }
                self.current = None;
            }
            let (id, mut fetched) = self.fetch().await?;
            let records = std::mem::take(&mut fetched.records).into_iter();
            if records.len() == 0 {
                // Nothing but control records: nobody has to deal with those.
                self.hand_out(id, fetched.next_offset);
                self.settle();
            }
            self.current = Some(Current {
                id,
                records,
                fetched,
            });
        }
    }

    /// The records of each [`Consumer::next`] as a stream without end. After an error it goes on.
    pub fn batches(&mut self) -> impl Stream<Item = Result<Fetched>> + Send + '_ {
        stream::unfold(self, |consumer| async move {
            let next = consumer.next().await;
            Some((next, consumer))
        })
    }

    /// Each [`Consumer::next_record`] as a stream without end. After an error it goes on.
    pub fn records(&mut self) -> impl Stream<Item = Result<ConsumerRecord>> + Send + '_ {
        stream::unfold(self, |consumer| async move {
            let next = consumer.next_record().await;
            Some((next, consumer))
        })
    }

    /// Fetches what comes next, looking after the group meanwhile.
    async fn fetch(&mut self) -> Result<(u64, Fetched)> {
        let _polling = self.member.as_ref().and_then(Member::polling);
        loop {
            self.finish_change().await?;
            let Some(member) = &mut self.member else {
                return self.fetcher.next().await;
            };
            member.commit_if_due(&mut self.fetcher);
            let clock = member.clock();
            tokio::select! {
                biased;
                () = member.next_change() => {}
                () = Member::commit_due(clock) => {}
                fetched = self.fetcher.next() => return fetched,
            }
        }
    }

    fn hand_out(&mut self, id: u64, next_offset: i64) {
        if let Some(partition) = self.fetcher.by_id(id) {
            partition.position = Some(next_offset);
            self.last = Some(id);
        }
    }

    /// What was handed out last is dealt with.
    fn settle(&mut self) {
        if let Some(id) = self.last.take()
            && let Some(partition) = self.fetcher.by_id(id)
        {
            // None after a seek: then what was dealt with before stays as it is.
            partition.settled = partition.position.or(partition.settled);
        }
        if let Some(member) = &mut self.member {
            member.commit_if_due(&mut self.fetcher);
        }
    }

    /// Forgets the rest of what is handed out record by record, unless it is of another partition.
    fn drop_current(&mut self, place: &TopicPartition) {
        let fetched = self.current.as_ref().map(|current| &current.fetched);
        if fetched.is_some_and(|f| f.topic == place.topic && f.partition == place.partition) {
            self.current = None;
        }
    }

    /// What is read now, assigned by the caller or by the group.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.fetcher.partitions().map(|p| p.place.clone()).collect()
    }

    /// The next offset to be handed out of a partition; None while it is looked up, or when the
    /// partition is not read.
    pub fn position(&self, partition: &TopicPartition) -> Option<i64> {
        self.fetcher.get(partition)?.position
    }

    /// The next offsets to be handed out, of all partitions of which anything was: what
    /// [`Transaction::send_offsets`](crate::Transaction::send_offsets) commits when all that was
    /// handed out is dealt with.
    pub fn positions(&mut self) -> BTreeMap<TopicPartition, i64> {
        self.settle();
        let known = self.fetcher.partitions().filter_map(|partition| {
            let position = partition.settled?;
            Some((partition.place.clone(), position))
        });
        known.collect()
    }

    /// How many offsets are between what is handed out of each partition and its end, as its leader
    /// last said it. Partitions of which nothing was fetched yet are left out.
    pub fn lag(&self) -> BTreeMap<TopicPartition, i64> {
        let known = self.fetcher.partitions().filter_map(|partition| {
            let lag = partition.end? - partition.position?;
            Some((partition.place.clone(), lag.max(0)))
        });
        known.collect()
    }

    /// Goes on from another place. What was fetched of the partition is forgotten.
    ///
    /// # Errors
    /// [`Error::Config`] when the partition is not assigned.
    pub fn seek(&mut self, partition: &TopicPartition, to: StartPosition) -> Result<()> {
        self.drop_current(partition);
        if self.fetcher.seek(partition, to) {
            return Ok(());
        }
        Err(Error::Config {
            setting: "seek",
            reason: format!("{partition} is not assigned"),
        })
    }

    /// Hands out nothing of these partitions until [`Consumer::resume`]; the membership in a group
    /// is kept as long as [`Consumer::next`] is called. Partitions that are not read are left out.
    pub fn pause<'a>(&mut self, partitions: impl IntoIterator<Item = &'a TopicPartition>) {
        for place in partitions {
            self.drop_current(place);
            self.fetcher.pause(place);
        }
    }

    /// Goes on where [`Consumer::pause`] stopped.
    pub fn resume<'a>(&mut self, partitions: impl IntoIterator<Item = &'a TopicPartition>) {
        for place in partitions {
            if let Some(partition) = self.fetcher.get_mut(place) {
                partition.paused = false;
            }
        }
    }
}
