//! How records are sent.

use crate::compression::Compression;
use crate::error::{Error, Result};
use crate::partitioner::Partitioner;
use std::time::Duration;

/// Who must have a record before it counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acks {
    /// Nobody: the broker does not answer, and offsets stay unknown.
    None,
    /// The leader.
    Leader,
    /// Every replica in sync; for Tidelog, a majority on disk.
    #[default]
    All,
}

impl Acks {
    pub(super) fn code(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }
}

/// How records are sent.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProducerConfig {
    /// Who must have a record before it counts as written.
    pub acks: Acks,
    /// Numbers the batches so that none is written twice or out of order, whatever is sent again.
    /// Only with [`Acks::All`].
    pub idempotent: bool,
    /// Of each batch.
    pub compression: Compression,
    /// Which partition a record goes to that names none.
    pub partitioner: Partitioner,
    /// A batch is sent when it has this many bytes before compression, or after `linger`.
    pub batch_bytes: usize,
    /// How long a batch waits for more records before it is sent.
    pub linger: Duration,
    /// Records waiting or on their way; [`Producer::send`] waits when they are more.
    pub buffer_bytes: usize,
    /// Batches of several partitions travel together up to this size.
    pub request_bytes_max: usize,
    /// Requests to one broker that are not answered yet; 5 is the most a broker can put in order.
    pub in_flight_max: usize,
    /// From [`Producer::send`] to the last attempt.
    pub delivery_timeout: Duration,
    /// Lets the broker create topics that do not exist, if it is set to (`auto.create.topics.enable`).
    pub create_topics: bool,
    /// Gives records the `traceparent` of the [`TraceContext`](crate::TraceContext) they are sent in.
    pub trace: bool,
    /// Makes the producer transactional: it sends within a [`Transaction`](crate::Transaction), and
    /// takes over from an earlier producer with the same id.
    pub transactional_id: Option<String>,
    /// The coordinator aborts a transaction that is open for longer.
    pub transaction_timeout: Duration,
}

impl Default for ProducerConfig {
    fn default() -> ProducerConfig {
        ProducerConfig {
            acks: Acks::All,
            idempotent: true,
            compression: Compression::None,
            partitioner: Partitioner::default(),
            batch_bytes: 512 << 10,
            linger: Duration::from_millis(5),
            buffer_bytes: 32 << 20,
            request_bytes_max: 4 << 20,
            in_flight_max: 5,
            delivery_timeout: Duration::from_secs(120),
            create_topics: true,
            trace: true,
            transactional_id: None,
            transaction_timeout: Duration::from_secs(60),
        }
    }
}

impl ProducerConfig {
    /// Sets [`ProducerConfig::acks`]; anything but [`Acks::All`] also gives up idempotence.
    #[must_use]
    pub fn with_acks(mut self, acks: Acks) -> ProducerConfig {
        self.acks = acks;
        self.idempotent &= acks == Acks::All;
        self
    }

    /// Sets [`ProducerConfig::idempotent`].
    #[must_use]
    pub fn with_idempotent(mut self, idempotent: bool) -> ProducerConfig {
        self.idempotent = idempotent;
        self
    }

    /// Sets [`ProducerConfig::compression`].
    #[must_use]
    pub fn with_compression(mut self, compression: Compression) -> ProducerConfig {
        self.compression = compression;
        self
    }

    /// Sets [`ProducerConfig::partitioner`].
    #[must_use]
    pub fn with_partitioner(mut self, partitioner: Partitioner) -> ProducerConfig {
        self.partitioner = partitioner;
        self
    }

    /// Sets [`ProducerConfig::batch_bytes`].
    #[must_use]
    pub fn with_batch_bytes(mut self, bytes: usize) -> ProducerConfig {
        self.batch_bytes = bytes;
        self
    }

    /// Sets [`ProducerConfig::linger`].
    #[must_use]
    pub fn with_linger(mut self, linger: Duration) -> ProducerConfig {
        self.linger = linger;
        self
    }

    /// Sets [`ProducerConfig::buffer_bytes`].
    #[must_use]
    pub fn with_buffer_bytes(mut self, bytes: usize) -> ProducerConfig {
        self.buffer_bytes = bytes;
        self
    }

    /// Sets [`ProducerConfig::delivery_timeout`].
    #[must_use]
    pub fn with_delivery_timeout(mut self, timeout: Duration) -> ProducerConfig {
        self.delivery_timeout = timeout;
        self
    }

    /// Sets [`ProducerConfig::create_topics`].
    #[must_use]
    pub fn with_create_topics(mut self, create: bool) -> ProducerConfig {
        self.create_topics = create;
        self
    }

    /// Sets [`ProducerConfig::trace`].
    #[must_use]
    pub fn with_trace(mut self, trace: bool) -> ProducerConfig {
        self.trace = trace;
        self
    }

    /// Sets [`ProducerConfig::transactional_id`].
    #[must_use]
    pub fn with_transactional_id(mut self, id: impl Into<String>) -> ProducerConfig {
        self.transactional_id = Some(id.into());
        self
    }

    /// Sets [`ProducerConfig::transaction_timeout`].
    #[must_use]
    pub fn with_transaction_timeout(mut self, timeout: Duration) -> ProducerConfig {
        self.transaction_timeout = timeout;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        let bad = |setting, reason: String| Err(Error::Config { setting, reason });
        if self.idempotent && self.acks != Acks::All {
            return bad("idempotent", "needs acks=all".to_owned());
        }
        if self.transactional_id.is_some() && !self.idempotent {
            return bad("transactional_id", "needs idempotence".to_owned());
        }
        if self.transactional_id.as_deref() == Some("") {
            return bad("transactional_id", "must not be empty".to_owned());
        }
        if !(1..=5).contains(&self.in_flight_max) {
            let reason = format!("{} is not between 1 and 5", self.in_flight_max);
            return bad("in_flight_max", reason);
        }
        let range = 1024..=1 << 30;
        for (setting, bytes) in [
            ("batch_bytes", self.batch_bytes),
            ("buffer_bytes", self.buffer_bytes),
        ] {
            if !range.contains(&bytes) {
                return bad(setting, format!("{bytes} is not between 1024 and 2^30"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_exclude_each_other_are_refused_by_name() {
        let setting = |config: ProducerConfig| match config.check() {
            Err(Error::Config { setting, .. }) => setting,
            other => panic!("{other:?}"),
        };
        let config = ProducerConfig::default;
        config().check().unwrap();
        config().with_acks(Acks::Leader).check().unwrap();
        let asking = config().with_acks(Acks::None).with_idempotent(true);
        assert_eq!(setting(asking), "idempotent");
        let unsure = config().with_transactional_id("t").with_acks(Acks::Leader);
        assert_eq!(setting(unsure), "transactional_id");
        assert_eq!(
            setting(config().with_transactional_id("")),
            "transactional_id"
        );
        assert_eq!(setting(config().with_batch_bytes(1)), "batch_bytes");
        assert_eq!(setting(config().with_buffer_bytes(1 << 31)), "buffer_bytes");
    }
}
