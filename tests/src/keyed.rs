//! Records with keys: written one batch at a time until acknowledged, and read back batch by batch, so
//! that what compaction leaves can be told exactly.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record,
    RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

use crate::broker::Broker;
use crate::cluster::Cluster;
use crate::produce::produce;
use crate::read::{end_offset, fetch};
use crate::wire::Wire;
use crate::{topics, wait};

/// Longer than any recovery.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// A key and its value; `None` deletes it.
pub type Update = (u32, Option<Vec<u8>>);

/// One batch of updates.
///
/// # Errors
/// When there is none.
pub fn batch(updates: &[Update], timestamp: i64) -> Result<Bytes> {
    let records: Vec<Record> = (0_i32..)
        .zip(updates)
        .map(|(n, (key, value))| Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            timestamp_type: TimestampType::Creation,
            offset: i64::from(n),
            sequence: NO_SEQUENCE + n,
            timestamp,
            key: Some(key.to_be_bytes().to_vec().into()),
            value: value.clone().map(Bytes::from),
            headers: Default::default(),
        })
        .collect();
    let options = RecordEncodeOptions {
        version: 2,
        compression: Compression::None,
    };
    let mut encoded = BytesMut::new();
    RecordBatchEncoder::encode(&mut encoded, &records, &options)?;
    Ok(encoded.freeze())
}

/// Writes to one partition through whoever leads it, each batch until it is acknowledged.
pub struct Writer {
    topic: String,
    wire: Option<Wire>,
    /// What each key should have: nobody else writes.
    pub model: BTreeMap<u32, Vec<u8>>,
    pub written_bytes: u64,
    /// The offset after the last acknowledged record.
    pub end: i64,
}

impl Writer {
    #[must_use]
    pub fn new(topic: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            wire: None,
            model: BTreeMap::new(),
            written_bytes: 0,
            end: 0,
        }
    }

    /// Writes one batch. It may be written twice when a leader dies, which changes no key's value.
    ///
    /// # Errors
    /// When no leader takes it within a minute.
    pub async fn write(
        &mut self,
        cluster: &Cluster,
        updates: &[Update],
        timestamp: i64,
    ) -> Result<()> {
        let batch = batch(updates, timestamp)?;
        self.written_bytes += batch.len() as u64;
        wait::until("a write is acknowledged", WRITE_LIMIT, async || {
            let written = self.try_write(cluster, &batch).await;
            if let Err(error) = &written {
                println!("{}: {error:#}", self.topic);
            }
            Ok(written.ok())
        })
        .await
        .map(|base| self.end = base + updates.len() as i64)?;
        for (key, value) in updates {
            match value {
                Some(value) => self.model.insert(*key, value.clone()),
                None => self.model.remove(key),
            };
        }
        Ok(())
    }

    async fn try_write(&mut self, cluster: &Cluster, batch: &Bytes) -> Result<i64> {
        if self.wire.is_none() {
            let leader = topics::leader_of(cluster, &self.topic, 0).await?;
            self.wire = Some(Wire::connect(cluster.broker(leader).kafka).await?);
        }
        // Forgotten unless it is answered as it should be.
        let mut wire = self.wire.take().context("a connection")?;
        let told = produce(&mut wire, &self.topic, 0, batch.clone()).await?;
        ensure!(told.error_code == 0, "error {}", told.error_code);
        self.wire = Some(wire);
        Ok(told.base_offset)
    }
}

/// What one broker's replica holds.
#[derive(Debug, Default)]
pub struct Replica {
    /// By offset.
    pub records: BTreeMap<i64, Update>,
    /// Batches without any record.
    pub empty_batches: usize,
}

impl Replica {
    /// Reads partition 0 whole from one broker, whether it leads or not.
    ///
    /// # Errors
    /// When it answers an error, or batches that do not follow each other.
    pub async fn read(broker: &Broker, topic: &str, from: i64) -> Result<Self> {
        let end = end_offset(broker.kafka, topic, 0).await?;
        let mut wire = Wire::connect(broker.kafka).await?;
        let mut replica = Self::default();
        let mut next = from;
        while next < end {
            let data = fetch(&mut wire, topic, 0, next).await?;
            ensure!(
                data.error_code == 0,
                "error {} at offset {next}",
                data.error_code
            );
            let before = next;
            next = replica.take(data.records.unwrap_or_default(), next)?;
            ensure!(next > before, "nothing at offset {next}, the end is {end}");
        }
        Ok(replica)
    }

    fn take(&mut self, mut bytes: Bytes, mut next: i64) -> Result<i64> {
        while !bytes.is_empty() {
            let field = |at: usize| -> Result<i32> {
                let field = bytes.get(at..at + 4).context("a cut header")?;
                Ok(i32::from_be_bytes(field.try_into()?))
            };
            let base = i64::from_be_bytes(bytes[..8].try_into()?);
            let (size, last_delta) = (12 + field(8)? as usize, field(23)?);
            let count = field(57)?;
            let last = base + i64::from(last_delta);
            if last < next {
                bail!("the batch at {base} ends before {next}");
            }
            let mut batch = bytes.split_to(size.min(bytes.len()));
            if count == 0 {
                self.empty_batches += 1;
            } else {
                for set in RecordBatchDecoder::decode_all(&mut batch)? {
                    for record in set.records {
                        let key = record.key.context("a key")?;
                        let key = u32::from_be_bytes(key[..].try_into()?);
                        let value = record.value.map(|v| v.to_vec());
                        self.records.insert(record.offset, (key, value));
                    }
                }
            }
            next = last + 1;
        }
        Ok(next)
    }

    /// The last value of each key.
    #[must_use]
    pub fn latest(&self) -> BTreeMap<u32, Vec<u8>> {
        let mut latest = BTreeMap::new();
        for (key, value) in self.records.values() {
            match value {
                Some(value) => latest.insert(*key, value.clone()),
                None => latest.remove(key),
            };
        }
        latest
    }
}
