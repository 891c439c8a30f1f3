//! Clients that read: partitions of their own choice, or those their group gives them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tidelog_client::{
    Admin, Consumer, ConsumerConfig, Fetched, GroupConfig, Isolation, RebalanceHook, StartPosition,
    TopicPartition,
};
use tokio::time::{Instant, timeout};

use super::recorder::{Recorder, Timed};
use super::{Run, key_of};
use crate::history::{Kind, Op, ProcessId};

/// After healing, everything must have been read by then.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// One reading client.
pub struct Reader {
    pub run: Arc<Run>,
    pub recorder: Arc<Recorder>,
    pub stop: Arc<AtomicBool>,
    pub process: ProcessId,
    pub topic: String,
}

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

    /// Writes down one poll.
    fn polled(&self, began_ms: u64, fetched: &Fetched) -> Result<()> {
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
        let records = BTreeMap::from([(key_of(&fetched.topic, fetched.partition), records)]);
        self.recorder
            .event(self.process, Kind::Ok, Op::Poll { records });
        self.recorder.timed(Timed {
            process: self.process,
            f: "poll",
            kind: Kind::Ok,
            partition: None,
            began_ms,
            ended_ms: 0,
            records: count,
        });
        Ok(())
    }

    async fn poll_while_running(&self, consumer: &mut Consumer) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            let began_ms = self.recorder.now_ms();
            match timeout(Duration::from_millis(500), consumer.next()).await {
                Err(_) => {}
                Ok(Ok(fetched)) => self.polled(began_ms, &fetched)?,
                Ok(Err(error)) => {
                    self.recorder.error(&error);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        Ok(())
    }

    /// Follows all partitions from their beginning until told to stop.
    ///
    /// # Errors
    /// When a record is none of ours.
    pub async fn follow(self) -> Result<()> {
        let mut consumer = Consumer::new(self.run.client(), self.isolation()).await?;
        self.assign_all(&mut consumer).await?;
        self.poll_while_running(&mut consumer).await
    }

    async fn assign_all(&self, consumer: &mut Consumer) -> Result<()> {
        let places = (0..self.run.partitions).map(|p| (&*self.topic, p, StartPosition::Earliest));
        consumer.assign(places).await?;
        let keys = (0..self.run.partitions)
            .map(|p| key_of(&self.topic, p))
            .collect();
        self.recorder
            .event(self.process, Kind::Ok, Op::Assign { keys });
        Ok(())
    }

    /// Reads as a member of a group until told to stop; commits every half second.
    ///
    /// # Errors
    /// When a record is none of ours.
    pub async fn join(self, group: &str, assigned_by_broker: bool) -> Result<()> {
        let mut group = GroupConfig::new(group)
            .with_session_timeout(Duration::from_secs(6))
            .with_auto_commit(Some(Duration::from_millis(500)));
        if assigned_by_broker {
            group = group.assigned_by_broker();
        }
        let config = self.isolation().with_group(group);
        let mut consumer = Consumer::new(self.run.client(), config).await?;
        consumer.set_rebalance_hook(Assignments {
            recorder: Arc::clone(&self.recorder),
            process: self.process,
        });
        consumer.subscribe([&*self.topic]).await?;
        self.poll_while_running(&mut consumer).await?;
        let _ = timeout(Duration::from_secs(15), consumer.close()).await;
        Ok(())
    }

    /// Reads everything there is below the ends at the time of the call.
    ///
    /// # Errors
    /// When it is not all there within a minute.
    pub async fn read_all(self) -> Result<()> {
        let mut consumer = Consumer::new(self.run.client(), self.isolation()).await?;
        self.assign_all(&mut consumer).await?;
        let admin = Admin::new(self.run.client()).await?;
        let ends = (0..self.run.partitions).map(|p| (self.topic.clone(), p, StartPosition::Latest));
        let mut left: BTreeMap<i32, i64> = BTreeMap::new();
        for (_, partition, end) in admin.offsets(ends).await? {
            if end > 0 {
                left.insert(partition, end);
            }
        }
        let deadline = Instant::now() + READ_LIMIT;
        while !left.is_empty() {
            let began_ms = self.recorder.now_ms();
            let remaining = deadline.saturating_duration_since(Instant::now());
            let Ok(fetched) = timeout(remaining, consumer.next()).await else {
                bail!(
                    "{} is not readable up to offsets {left:?} a minute after healing",
                    self.topic
                );
            };
            let fetched = match fetched {
                Ok(fetched) => fetched,
                Err(error) => {
                    self.recorder.error(&error);
                    continue;
                }
            };
            self.polled(began_ms, &fetched)?;
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
