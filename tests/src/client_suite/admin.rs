//! What an operator does beside topics: what has settings, who leads, who is taken out of a group or a
//! transaction.

use super::ground::{client, fresh, member, topic, write};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use tidelog_client::{
    Admin, ConfigChange, ConfigResource, Consumer, ConsumerConfig, Election, Error, ErrorCode,
    GroupConfig, Isolation, NewTopic, PartitionProducer, Producer, ProducerConfig, Record,
    StartPosition, TopicPartition,
};

/// Asks again for a while: news takes a moment to reach every broker.
struct Patience(Instant);

impl Patience {
    fn new() -> Patience {
        Patience(Instant::now())
    }

    async fn wait(&self, for_what: &str) -> Result<()> {
        ensure!(self.0.elapsed() < Duration::from_secs(15), "{for_what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(())
    }
}

/// Topics, brokers, and the groups that have settings of their own.
pub async fn what_has_settings_is_listed(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "listed", 1).await?;
    let admin = Admin::new(client(bootstrap)).await?;
    let broker = admin.describe_cluster().await?.brokers[0].id;
    let group = ConfigResource::Group(fresh("listed-group"));
    let set = ConfigChange::Set(
        "consumer.heartbeat.interval.ms".to_owned(),
        "6000".to_owned(),
    );
    admin.alter_configs(&group, &[set], false).await?;
    let expected = [
        ConfigResource::Topic(topic),
        ConfigResource::Broker(broker),
        group.clone(),
    ];
    let patience = Patience::new();
    loop {
        let listed = admin.list_config_resources().await?;
        ensure!(listed.is_sorted(), "{listed:?}");
        if expected.iter().all(|resource| listed.contains(resource)) {
            break;
        }
        patience.wait("a topic, a broker or a group").await?;
    }
    let entries = admin.describe_configs(&group).await?;
    let interval = entries
        .iter()
        .find(|e| e.name == "consumer.heartbeat.interval.ms");
    let value = interval.and_then(|entry| entry.value.as_deref());
    ensure!(value == Some("6000"), "{entries:?}");
    Ok(())
}

/// The preferred leader leads a new topic already, which is told for each partition; partitions that
/// are not there are told too.
pub async fn leaders_are_elected_where_that_is_needed(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "elect", 1).await?;
    let admin = Admin::new(client(bootstrap)).await?;
    let place = TopicPartition::new(topic.as_str(), 0);
    let missing = TopicPartition::new(topic.as_str(), 7);
    let asked = [place.clone(), missing.clone()];
    let patience = Patience::new();
    loop {
        let outcomes = admin.elect_leaders(Election::Preferred, Some(&asked));
        let outcomes = outcomes.await?;
        let code = |place| match outcomes.get(place) {
            Some(Err(error)) => error.code(),
            _ => None,
        };
        let unknown = code(&missing);
        ensure!(
            unknown == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
            "{outcomes:?}"
        );
        if code(&place) == Some(ErrorCode::ELECTION_NOT_NEEDED) {
            break;
        }
        patience.wait("the preferred leader leads").await?;
    }
    let info = admin.describe_topic(&topic).await?;
    let partition = &info.partitions[0];
    ensure!(partition.leader == partition.replicas.first().copied());
    Ok(())
}

/// A partition moves from one broker to two others, where there are some, and is listed no more; what cannot be is told, also of
/// a broker to forget.
pub async fn partitions_move_to_other_brokers(bootstrap: &str) -> Result<()> {
    let admin = Admin::new(client(bootstrap)).await?;
    let brokers = admin.describe_cluster().await?.brokers;
    let ids: Vec<i32> = brokers.iter().map(|broker| broker.id).collect();
    let topic = fresh("moved");
    let new = NewTopic {
        name: topic.clone(),
        assignments: vec![vec![ids[0]]],
        ..NewTopic::default()
    };
    admin.create_topic(&new, false).await?;
    write(bootstrap, &topic, 1, 0..100).await?;
    let place = TopicPartition::new(topic.as_str(), 0);
    let places = [place.clone()];

    // On a cluster of one there is nowhere to go; what is refused is the same.
    let target: Vec<i32> = ids.iter().rev().take(2).copied().collect();
    let missing = TopicPartition::new(fresh("missing").as_str(), 0);
    let asked = [
        (place.clone(), Some(target.clone())),
        (missing.clone(), Some(target.clone())),
    ];
    let outcomes = admin.alter_reassignments(&asked.into()).await?;
    ensure!(matches!(outcomes.get(&place), Some(Ok(()))), "{outcomes:?}");
    let code = |outcome: Option<&Result<(), Error>>| outcome?.as_ref().err()?.code();
    let told = code(outcomes.get(&missing));
    ensure!(
        told == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        "{told:?}"
    );
    let patience = Patience::new();
    loop {
        let moving = admin.list_reassignments(Some(&places)).await?;
        for one in &moving {
            ensure!(one.partition == place && one.to() == target, "{one:?}");
        }
        let all = admin.list_reassignments(None).await?;
        let listed = all.iter().any(|one| one.partition == place);
        let replicas = admin.describe_topic(&topic).await?.partitions[0]
            .replicas
            .clone();
        if moving.is_empty() && !listed && replicas == target {
            break;
        }
        patience.wait("the end of the move").await?;
    }
    let config = ConsumerConfig::default().with_wait_max(Duration::from_millis(100));
    let mut consumer = Consumer::new(client(bootstrap), config).await?;
    let start = [(topic.as_str(), 0, StartPosition::Earliest)];
    consumer.assign(start).await?;
    for number in 0..100 {
        let record = consumer.next_record().await?;
        ensure!(record.offset == number, "{record:?}");
    }

    let cases = [
        (Some(vec![9_999]), ErrorCode::INVALID_REPLICA_ASSIGNMENT),
        (None, ErrorCode::NO_REASSIGNMENT_IN_PROGRESS),
    ];
    for (target, expected) in cases {
        let asked = [(place.clone(), target.clone())].into();
        let outcomes = admin.alter_reassignments(&asked).await?;
        let told = code(outcomes.get(&place));
        ensure!(told == Some(expected), "{target:?}: {outcomes:?}");
    }
    let unknown = admin.unregister_broker(9_999).await;
    let told = unknown.as_ref().err().and_then(Error::code);
    ensure!(
        told == Some(ErrorCode::BROKER_ID_NOT_REGISTERED),
        "{unknown:?}"
    );
    Ok(())
}

/// Members, static ones too, are out of the group at once, and are told so.
pub async fn members_are_taken_out_of_a_group(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "taken-out", 2).await?;
    write(bootstrap, &topic, 2, 0..2).await?;
    let admin = Admin::new(client(bootstrap)).await?;
    let mut config = GroupConfig::new(&topic);
    config.instance_id = Some("first".to_owned());
    let mut reader = member(bootstrap, config).await?;
    reader.subscribe([topic.as_str()]).await?;
    reader.next_record().await?;
    let members = admin.describe_group(&topic).await?.members;
    ensure!(members.len() == 1 && members[0].instance_id.as_deref() == Some("first"));
    // Nobody calls it any more, and a static member does not say goodbye: its session holds.
    drop(reader);
    let before = admin.describe_group(&topic).await?.members;
    ensure!(before.len() == 1, "a static member has left by itself");
    let taken = admin.remove_group_members(&topic, &members, "moved");
    taken.await?;
    let after = admin.describe_group(&topic).await?;
    ensure!(
        after.members.is_empty() && after.state == "Empty",
        "{after:?}"
    );
    let again = admin.remove_group_members(&topic, &members, "moved").await;
    let code = again.err().context("taken out twice")?.code();
    ensure!(code == Some(ErrorCode::UNKNOWN_MEMBER_ID), "{code:?}");
    Ok(())
}

async fn open_transaction(bootstrap: &str, topic: &str) -> Result<Producer> {
    let config = ProducerConfig::default().with_transactional_id(topic);
    Ok(Producer::new(client(bootstrap), config).await?)
}

/// A fenced producer's transaction is aborted and it can do nothing more; who comes next is given
/// the next epoch.
pub async fn a_producer_is_fenced_by_an_operator(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "fenced", 1).await?;
    let producer = open_transaction(bootstrap, &topic).await?;
    let transaction = producer.begin().await?;
    let written = transaction.send(Record::new(topic.as_str(), "v")).await?;
    producer.flush().await?;
    written.await?;
    let admin = Admin::new(client(bootstrap)).await?;
    let before = admin.describe_transaction(&topic).await?;
    ensure!(before.state == "Ongoing", "{before:?}");
    admin.fence_producer(&topic).await?;
    let after = admin.describe_transaction(&topic).await?;
    ensure!(after.state != "Ongoing", "{after:?}");
    ensure!(after.producer_epoch > before.producer_epoch, "{after:?}");
    let error = transaction.commit().await.err().context("it committed")?;
    ensure!(matches!(error, Error::Fenced { .. }), "{error}");
    Ok(())
}

/// The producer that has a transaction open in the partition.
async fn open_in(admin: &Admin, place: &TopicPartition) -> Result<Option<PartitionProducer>> {
    let producers = admin.describe_producers(place).await?;
    let mut open = producers
        .into_iter()
        .filter(|p| p.transaction_start.is_some());
    Ok(open.next())
}

/// What an operator aborts in a partition is gone there, and what came after it is seen.
pub async fn a_hanging_transaction_is_aborted(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "hanging", 1).await?;
    let place = TopicPartition::new(topic.as_str(), 0);
    let producer = open_transaction(bootstrap, &topic).await?;
    let transaction = producer.begin().await?;
    let hidden = Record::new(topic.as_str(), "hidden");
    let written = transaction.send(hidden).await?;
    producer.flush().await?;
    written.await?;
    write(bootstrap, &topic, 1, 5..6).await?;
    let admin = Admin::new(client(bootstrap)).await?;
    let hanging = open_in(&admin, &place)
        .await?
        .context("a transaction is open")?;
    ensure!(hanging.transaction_start == Some(0), "{hanging:?}");
    let config = ConsumerConfig::default()
        .with_isolation(Isolation::ReadCommitted)
        .with_wait_max(Duration::from_millis(100));
    let mut consumer = Consumer::new(client(bootstrap), config).await?;
    let start = [(topic.as_str(), 0, StartPosition::Earliest)];
    consumer.assign(start).await?;
    let early = tokio::time::timeout(Duration::from_millis(300), consumer.next_record()).await;
    ensure!(early.is_err(), "{early:?} is seen before the end");
    let aborted = admin.abort_hanging(&place, 0).await?;
    ensure!(aborted == hanging.producer_id, "{aborted}");
    let again = admin.abort_hanging(&place, 0).await;
    ensure!(matches!(again, Err(Error::Config { .. })), "{again:?}");
    ensure!(open_in(&admin, &place).await?.is_none(), "it is still open");
    let first = consumer.next_record().await?;
    ensure!(first.value.as_deref() == Some(b"5"), "{first:?}");
    Ok(())
}
