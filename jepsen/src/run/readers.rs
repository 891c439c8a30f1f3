//! Clients that read: partitions of their own choice, or those their group gives them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tidelog_client::{
    Admin, Consumer, ConsumerConfig, Fetched, GroupConfig, Isolation, RebalanceHook, StartPosition,
    TopicPartition,
};
use tokio::time::{Instant, sleep, timeout};

use super::churn::{churned_key, id_of};
use super::clients::Client;
use super::key_of;
use super::recorder::Recorder;
use crate::history::{Kind, Op, ProcessId};

/// After healing, everything must have been read by then.
const READ_LIMIT: Duration = Duration::from_secs(60);
/// How often a group's members commit.
const COMMIT_EVERY: Duration = Duration::from_millis(500);

/// One reading client.
pub struct Reader(pub Client);

struct Assignments {
    recorder: Arc<Recorder>,
    process: ProcessId,
}

impl RebalanceHook for Assignments {
    fn assigned(&mut self, partitions: &[TopicPartition]) {
        let keys = partitions.iter().map(ToString::to_string).collect();
        self.recorder
            .event(self.process, Kind::Ok, Op::Assign { keys });
    }
}

/// The number a value begins with; what follows a space is padding.
pub(super) fn number(value: &[u8]) -> Result<u64> {
    let digits = value.split(|byte| *byte == b' ').next();
    Ok(std::str::from_utf8(digits.unwrap_or_default())?.parse()?)
}

impl Reader {
    fn isolation(&self) -> ConsumerConfig {
        let mut config = ConsumerConfig::default();
        config.isolation = Isolation::ReadCommitted;
        config
    }

    /// The name of a partition in histories; `id` is that of a topic whose name comes back.
    fn key(&self, id: Option<&str>, partition: i32) -> String {
        match id {
            Some(id) => churned_key(&self.0.topic, id, partition),
            None => key_of(&self.0.topic, partition),
        }
    }

    /// Writes down one poll.
    fn polled(&self, began_ms: u64, id: Option<&str>, fetched: &Fetched) -> Result<()> {
        if fetched.records.is_empty() {
            return Ok(());
        }
        let mut records = Vec::new();
        for record in &fetched.records {
            let value = record
                .value
                .as_deref()
                .context("a record without a value")?;
            records.push((record.offset, number(value)?));
        }
        let count = records.len();
        let records = BTreeMap::from([(self.key(id, fetched.partition), records)]);
        self.0.event(Kind::Ok, Op::Poll { records });
        self.0.timed("poll", began_ms, Kind::Ok, count);
        Ok(())
    }

    /// Whether these records are of another topic than meant: one of this name that is deleted, of which
    /// a broker still told that had not heard of it. Kafka's protocol does not prevent that; the
    /// answer says which topic it is of.
    fn is_of_another(id: Option<&str>, fetched: &Fetched) -> bool {
        id.is_some_and(|id| id != id_of(fetched.topic_id))
    }

    async fn poll_while_running(&self, consumer: &mut Consumer, commits: bool) -> Result<()> {
        let mut next_commit = Instant::now() + COMMIT_EVERY;
        while self.0.goes_on() {
            let began_ms = self.0.recorder.now_ms();
            match timeout(Duration::from_millis(500), consumer.next()).await {
                Err(_) => {}
                Ok(Ok(fetched)) => self.polled(began_ms, None, &fetched)?,
                Ok(Err(error)) => {
                    self.0.recorder.error(&error);
                    sleep(Duration::from_millis(100)).await;
                }
            }
            if commits && Instant::now() > next_commit {
                self.commit(consumer).await?;
                next_commit = Instant::now() + COMMIT_EVERY;
            }
        }
        Ok(())
    }

    async fn commit(&self, consumer: &mut Consumer) -> Result<()> {
        let Some(group) = &self.0.group else {
            return Ok(());
        };
        let positions = consumer.positions();
        match consumer.committer()?.commit(&positions).await {
            Ok(()) => self.0.event(
                Kind::Ok,
                Op::Commit {
                    group: group.clone(),
                    offsets: by_key(positions),
                },
            ),
            Err(error) => self.0.recorder.error(&error),
        }
        Ok(())
    }

    /// Follows all partitions from their beginning until told to stop.
    ///
    /// # Errors
    /// When a record is none of ours.
    pub async fn follow(self) -> Result<()> {
        let mut consumer = Consumer::new(self.0.config(), self.isolation()).await?;
        self.assign_all(&mut consumer, None).await?;
        self.poll_while_running(&mut consumer, false).await
    }

    async fn assign_all(&self, consumer: &mut Consumer, id: Option<&str>) -> Result<()> {
        let all = 0..self.0.partitions;
        let places = all
            .clone()
            .map(|p| (&*self.0.topic, p, StartPosition::Earliest));
        consumer.assign(places).await?;
        let keys = all.map(|p| self.key(id, p)).collect();
        self.0.event(Kind::Ok, Op::Assign { keys });
        Ok(())
    }

    /// Reads as a member of a group until told to stop; commits every half second, by itself or by
    /// the client's automatic commits.
    ///
    /// # Errors
    /// When a record is none of ours.
    pub async fn join(mut self, group: &str, by_broker: bool, automatic: bool) -> Result<()> {
        let group_id = group.to_owned();
        let mut group = GroupConfig::new(group)
            .with_session_timeout(Duration::from_secs(6))
            .with_auto_commit(automatic.then_some(COMMIT_EVERY));
        if by_broker {
            group = group.assigned_by_broker();
        }
        let config = self.isolation().with_group(group);
        let mut consumer = Consumer::new(self.0.config(), config).await?;
        consumer.set_rebalance_hook(Assignments {
            recorder: Arc::clone(&self.0.recorder),
            process: self.0.process,
        });
        self.0.event(
            Kind::Ok,
            Op::Join {
                group: group_id.clone(),
            },
        );
        self.0.group = Some(group_id);
        consumer.subscribe([&*self.0.topic]).await?;
        self.poll_while_running(&mut consumer, !automatic).await?;
        let _ = timeout(Duration::from_secs(15), consumer.close()).await;
        Ok(())
    }

    /// Asks what a group has committed until told to stop, and then once more.
    ///
    /// # Errors
    /// When it could not be asked at the end.
    pub async fn observe(self, group: &str) -> Result<()> {
        let ask = async || {
            let op = |offsets| Op::Committed {
                group: group.to_owned(),
                offsets,
            };
            self.0.event(Kind::Invoke, op(BTreeMap::new()));
            let admin = Admin::new(self.0.config()).await?;
            let committed = admin.group_offsets(group).await?;
            let offsets = committed.into_iter().map(|(place, c)| (place, c.offset));
            self.0.event(Kind::Ok, op(by_key(offsets)));
            Ok::<(), tidelog_client::Error>(())
        };
        while self.0.goes_on() {
            if let Err(error) = ask().await {
                self.0.recorder.error(&error);
            }
            sleep(COMMIT_EVERY).await;
        }
        ask().await.with_context(|| format!("group {group}"))
    }

    /// Reads everything there is below the ends at the time of the call; `id` is that of a topic
    /// whose name comes back.
    ///
    /// # Errors
    /// When it is not all there within a minute, or a broker still tells of a deleted topic of that name.
    pub async fn read_all(self, id: Option<&str>) -> Result<()> {
        let mut consumer = Consumer::new(self.0.config(), self.isolation()).await?;
        self.assign_all(&mut consumer, id).await?;
        let admin = Admin::new(self.0.config()).await?;
        let all = 0..self.0.partitions;
        let ends = all.map(|p| (self.0.topic.clone(), p, StartPosition::Latest));
        let mut left: BTreeMap<i32, i64> = BTreeMap::new();
        for (_, partition, end) in admin.offsets(ends).await? {
            if end > 0 {
                left.insert(partition, end);
            }
        }
        let deadline = Instant::now() + READ_LIMIT;
        while !left.is_empty() {
            let began_ms = self.0.recorder.now_ms();
            let remaining = deadline.saturating_duration_since(Instant::now());
            let Ok(fetched) = timeout(remaining, consumer.next()).await else {
                bail!(
                    "{} is not readable up to offsets {left:?} within {READ_LIMIT:?}",
                    self.0.topic
                );
            };
            let fetched = match fetched {
                Ok(fetched) => fetched,
                Err(error) => {
                    self.0.recorder.error(&error);
                    continue;
                }
            };
            if Self::is_of_another(id, &fetched) {
                let of = id_of(fetched.topic_id);
                bail!("{} was read with the deleted topic's id {of}", self.0.topic);
            }
            self.polled(began_ms, id, &fetched)?;
            if left
                .get(&fetched.partition)
                .is_some_and(|end| fetched.next_offset >= *end)
            {
                left.remove(&fetched.partition);
            }
        }
        Ok(())
    }
}

fn by_key(offsets: impl IntoIterator<Item = (TopicPartition, i64)>) -> BTreeMap<String, i64> {
    let named = offsets
        .into_iter()
        .map(|(place, offset)| (place.to_string(), offset));
    named.collect()
}
