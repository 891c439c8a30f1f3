//! DescribeLogDirs (versions 1 to 4): one data folder, its partitions' sizes, its disk's space.

use super::{RequestContext, text};
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};
use std::collections::BTreeMap;

pub async fn handle(
    context: &RequestContext,
    request: DescribeLogDirsRequest,
    _version: i16,
) -> DescribeLogDirsResponse {
    let broker = &context.broker;
    let wanted = |topic: &str, partition: i32| {
        request.topics.as_ref().is_none_or(|topics| {
            topics.iter().any(|t| {
                t.topic.as_str() == topic
                    && (t.partitions.is_empty() || t.partitions.contains(&partition))
            })
        })
    };
    let mut topics: BTreeMap<String, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for replica in broker.node.partitions() {
        let spec = replica.spec();
        if wanted(&spec.topic, spec.partition) {
            topics.entry(spec.topic.clone()).or_default().push(
                DescribeLogDirsPartition::default()
                    .with_partition_index(spec.partition)
                    .with_partition_size(replica.log().size_bytes() as i64),
            );
        }
    }
    let (total, usable) = broker.disk_space();
    let dir = DescribeLogDirsResult::default()
        .with_log_dir(text(broker.data_dir().display().to_string()))
        .with_total_bytes(total as i64)
        .with_usable_bytes(usable as i64)
        .with_topics(
            topics
                .into_iter()
                .map(|(name, mut partitions)| {
                    partitions.sort_by_key(|p| p.partition_index);
                    DescribeLogDirsTopic::default()
                        .with_name(TopicName(text(name)))
                        .with_partitions(partitions)
                })
                .collect(),
        );
    DescribeLogDirsResponse::default().with_results(vec![dir])
}
