//! Elections that an operator asks for.

use super::{Admin, text};
use crate::error::{Error, Result};
use crate::topic_partition::TopicPartition;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse, TopicName};
use kafka_protocol::protocol::Request;
use std::collections::BTreeMap;

/// Before this version preferred leaders only are elected.
const FIRST_ELECTION_TYPES: i16 = 1;

/// Who is to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Election {
    /// The first of a partition's replicas, so that load is spread as it was planned.
    Preferred,
    /// Any replica that lives, should none be in sync. **Loses records that only the others have.**
    /// Tidelog never does that, and says so.
    Unclean,
}

impl Election {
    /// Kafka's `ElectionType`.
    fn id(self) -> i8 {
        match self {
            Election::Preferred => 0,
            Election::Unclean => 1,
        }
    }
}

impl Admin {
    /// Elects leaders of some partitions, or of all where there is something to do (`None`).
    ///
    /// # Errors
    /// The outer one when no broker could be asked. For each partition what stood against it, such
    /// as `ELECTION_NOT_NEEDED` (84) when the right broker leads already.
    pub async fn elect_leaders(
        &self,
        election: Election,
        places: Option<&[TopicPartition]>,
    ) -> Result<BTreeMap<TopicPartition, Result<()>>> {
        let topics = places.map(|places| {
            let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
            for place in places {
                let partitions = topics.entry(&*place.topic).or_default();
                partitions.push(place.partition);
            }
            let topics = topics.into_iter().map(|(name, partitions)| {
                TopicPartitions::default()
                    .with_topic(TopicName(text(name)))
                    .with_partitions(partitions)
            });
            topics.collect()
        });
        let request = ElectLeadersRequest::default()
            .with_election_type(election.id())
            .with_topic_partitions(topics)
            .with_timeout_ms(self.broker_timeout_ms());
        let mut retry = self.cluster.retry("elect leaders");
        loop {
            let attempt = async {
                let connection = self.cluster.controller().await?;
                let version = connection.version::<ElectLeadersRequest>(i16::MAX)?;
                if version < FIRST_ELECTION_TYPES && election != Election::Preferred {
                    return Err(Error::Unsupported {
                        address: connection.address().clone(),
                        api: ElectLeadersRequest::KEY,
                    });
                }
                let sent = self.cluster.send(&connection, &request, retry.deadline());
                let response = sent.await?;
                Error::check("elect leaders", response.error_code, None)?;
                Ok(response)
            };
            match attempt.await {
                Ok(response) => return Ok(outcomes(response)),
                Err(error) => retry.pause(error).await?,
            }
            self.look_again().await;
        }
    }
}

fn outcomes(response: ElectLeadersResponse) -> BTreeMap<TopicPartition, Result<()>> {
    let results = response.replica_election_results.into_iter();
    let outcomes = results.flat_map(|topic| {
        let name = topic.topic.0;
        topic.partition_result.into_iter().map(move |partition| {
            let place = TopicPartition::new(&*name, partition.partition_id);
            let what = format!("elect the leader of {place}");
            let message = partition.error_message.as_deref();
            let outcome = Error::check(what, partition.error_code, message);
            (place, outcome)
        })
    });
    outcomes.collect()
}
