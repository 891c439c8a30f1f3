//! Topics that come and go under the same names.

use std::collections::BTreeSet;
use std::time::Duration;

use tidelog_client::{Admin, NewTopic, ProducerConfig, Record};
use tokio::time::{Instant, sleep};

use super::BROKERS;
use super::clients::Client;
use super::readers::Reader;
use super::writers::next_value;
use crate::history::{Kind, Op};

/// After this long the view of a deleted topic is no longer only late news.
const STALE_LIMIT: Duration = Duration::from_secs(40);
/// Values appended to each partition of a topic.
const VALUES: usize = 8;

/// One who creates a topic, appends to it, reads it back and deletes it, again and again.
pub struct Churner(pub Client);

/// The name of a partition in histories: a topic's id is part of it, as another with this name may follow.
#[must_use]
pub fn churned_key(topic: &str, id: &str, partition: i32) -> String {
    format!("{topic}@{id}-{partition}")
}

/// A topic's id as histories have it.
#[must_use]
pub fn id_of(id: [u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(id: &str) -> [u8; 16] {
    u128::from_str_radix(id, 16)
        .unwrap_or_default()
        .to_be_bytes()
}

/// All topics there are, with their ids.
///
/// # Errors
/// When no broker can be asked.
pub async fn list(admin: &Admin) -> tidelog_client::Result<Vec<(String, String)>> {
    let topics = admin.list_topics().await?;
    Ok(topics
        .iter()
        .map(|topic| (topic.name.clone(), id_of(topic.id)))
        .collect())
}

impl Churner {
    /// Goes on until told to stop; the last topic may remain.
    pub async fn churn(self) {
        let mut known = BTreeSet::new();
        while self.0.goes_on() {
            let Some(id) = self.create(&mut known).await else {
                return;
            };
            if !self.append(&id).await || !self.read(&id).await {
                return;
            }
            if !self.delete(&id).await {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn admin(&self) -> Option<Admin> {
        while self.0.goes_on() {
            match Admin::new(self.0.config()).await {
                Ok(admin) => return Some(admin),
                Err(error) => self.0.recorder.error(&error),
            }
            sleep(Duration::from_millis(200)).await;
        }
        None
    }

    /// The id of a new topic; None when told to stop.
    async fn create(&self, known: &mut BTreeSet<String>) -> Option<String> {
        let began_ms = self.0.recorder.now_ms();
        let new = NewTopic {
            name: self.0.topic.clone(),
            partitions: Some(self.0.partitions),
            replication_factor: Some(BROKERS as i16),
            ..NewTopic::default()
        };
        while self.0.goes_on() {
            let admin = self.admin().await?;
            match admin.create_topic(&new, false).await {
                Ok(()) => break,
                // Nobody else creates it: an earlier attempt had succeeded.
                Err(error) if error.to_string().contains("exists") => break,
                Err(error) => self.0.recorder.error(&error),
            }
            sleep(Duration::from_millis(200)).await;
        }
        let deadline = Instant::now() + STALE_LIMIT;
        while self.0.goes_on() {
            let admin = self.admin().await?;
            match admin.describe_topic(&self.0.topic).await {
                Ok(topic) => {
                    let id = id_of(topic.id);
                    // A broker may not have heard yet that the one before is gone.
                    if !known.contains(&id) || Instant::now() > deadline {
                        known.insert(id.clone());
                        let topic = self.0.topic.clone();
                        self.0.event(
                            Kind::Ok,
                            Op::Create {
                                topic,
                                id: id.clone(),
                            },
                        );
                        self.0.timed("create", began_ms, Kind::Ok, 1);
                        return Some(id);
                    }
                }
                Err(error) => self.0.recorder.error(&error),
            }
            sleep(Duration::from_millis(200)).await;
        }
        None
    }

    /// Appends to every partition; false when told to stop before it was made.
    async fn append(&self, id: &str) -> bool {
        let config = ProducerConfig::default().with_delivery_timeout(Duration::from_secs(120));
        let Some(producer) = self.0.producer(config).await else {
            return false;
        };
        for partition in 0..self.0.partitions {
            let mut sent = Vec::new();
            for _ in 0..VALUES {
                let value = next_value();
                let record = Record::new(self.0.topic.as_str(), value.to_string());
                sent.push((value, producer.send(record.with_partition(partition)).await));
            }
            for (value, delivery) in sent {
                let outcome = match delivery {
                    Ok(delivery) => delivery.await,
                    Err(error) => Err(error),
                };
                let (kind, offsets) = match outcome {
                    Ok(position) if id_of(position.topic_id) == id => {
                        (Kind::Ok, vec![position.offset])
                    }
                    // A broker that had not heard yet that the topic before is gone took it for that one.
                    Ok(_) => {
                        self.0
                            .recorder
                            .error(&"written to the deleted topic of that name");
                        continue;
                    }
                    Err(error) => {
                        self.0.recorder.error(&error);
                        (Kind::Info, Vec::new())
                    }
                };
                let op = Op::Send {
                    key: churned_key(&self.0.topic, id, partition),
                    values: vec![value],
                    offsets,
                };
                self.0.event(kind, op);
            }
        }
        true
    }

    /// Reads what was appended; false when told to stop before that was possible.
    async fn read(&self, id: &str) -> bool {
        while self.0.goes_on() {
            match Reader(self.0.clone()).read_all(Some(id)).await {
                Ok(()) => return true,
                Err(error) => self.0.recorder.error(&error),
            }
            sleep(Duration::from_millis(200)).await;
        }
        false
    }

    async fn delete(&self, id: &str) -> bool {
        let began_ms = self.0.recorder.now_ms();
        let deletion = || Op::Delete {
            topic: self.0.topic.clone(),
            id: id.to_owned(),
        };
        self.0.event(Kind::Invoke, deletion());
        while self.0.goes_on() {
            let Some(admin) = self.admin().await else {
                break;
            };
            // By name, an attempt that was given up could hit the next topic, late.
            match admin.delete_topic_by_id(bytes_of(id)).await {
                // One that is not there was deleted by an attempt of unknown end.
                Ok(()) | Err(tidelog_client::Error::UnknownTopic { .. }) => {
                    self.0.event(Kind::Ok, deletion());
                    self.0.timed("delete", began_ms, Kind::Ok, 1);
                    return true;
                }
                Err(error) => self.0.recorder.error(&error),
            }
            sleep(Duration::from_millis(200)).await;
        }
        self.0.event(Kind::Info, deletion());
        false
    }
}
