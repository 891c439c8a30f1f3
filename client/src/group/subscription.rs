//! How members of a classic group tell each other what they want and get: Kafka's
//! `ConsumerProtocolSubscription` and `ConsumerProtocolAssignment`, each after its version.

use super::assign::{Assignor, MemberView};
use crate::topic_partition::TopicPartition;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition as AssignedTopic;
use kafka_protocol::messages::consumer_protocol_subscription::TopicPartition as OwnedTopic;
use kafka_protocol::messages::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use std::collections::{BTreeMap, BTreeSet};

const SUBSCRIPTION_VERSION: i16 = 3;
/// The first version has all that is used here, and every client reads it.
const ASSIGNMENT_VERSION: i16 = 0;

type Topics = Vec<(TopicName, Vec<i32>)>;

fn by_topic<'a>(places: impl IntoIterator<Item = &'a TopicPartition>) -> Topics {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for place in places {
        topics
            .entry(&place.topic)
            .or_default()
            .push(place.partition);
    }
    let named = topics.into_iter().map(|(name, partitions)| {
        let name = TopicName(StrBytes::from_string(name.to_owned()));
        (name, partitions)
    });
    named.collect()
}

/// What this member wants, as one assignor's metadata in JoinGroup. `owned` is what it keeps while
/// it joins, `last` what it had before it gave everything back.
pub(super) fn encode_subscription(
    assignor: Assignor,
    topics: &[String],
    owned: &BTreeSet<TopicPartition>,
    last: &BTreeSet<TopicPartition>,
    generation: i32,
) -> Bytes {
    let names = topics.iter().cloned().map(StrBytes::from_string);
    let owned = by_topic(owned).into_iter().map(|(topic, partitions)| {
        OwnedTopic::default()
            .with_topic(topic)
            .with_partitions(partitions)
    });
    let subscription = ConsumerProtocolSubscription::default()
        .with_topics(names.collect())
        .with_user_data(user_data(assignor, last, generation))
        .with_owned_partitions(owned.collect())
        .with_generation_id(generation);
    encode(&subscription, SUBSCRIPTION_VERSION)
}

/// What Kafka's `StickyAssignor` writes: topics with partitions, then the generation; the
/// cooperative one writes the generation alone.
fn user_data(
    assignor: Assignor,
    last: &BTreeSet<TopicPartition>,
    generation: i32,
) -> Option<Bytes> {
    let mut out = BytesMut::new();
    match assignor {
        Assignor::Range | Assignor::RoundRobin => return None,
        Assignor::CooperativeSticky => {}
        Assignor::Sticky => {
            if last.is_empty() {
                return None;
            }
            let topics = by_topic(last);
            out.put_i32(topics.len() as i32);
            for (topic, partitions) in topics {
                out.put_i16(topic.0.len() as i16);
                out.put_slice(topic.0.as_bytes());
                out.put_i32(partitions.len() as i32);
                for partition in partitions {
                    out.put_i32(partition);
                }
            }
        }
    }
    out.put_i32(generation);
    Some(out.freeze())
}

/// A member as its metadata describes it. None when that makes no sense.
pub(super) fn decode_member(
    member_id: &str,
    instance_id: Option<&str>,
    assignor: Assignor,
    mut metadata: Bytes,
) -> Option<MemberView> {
    let version = metadata.try_get_i16().ok().filter(|&v| v >= 0)?;
    let version = version.min(SUBSCRIPTION_VERSION);
    let subscription = ConsumerProtocolSubscription::decode(&mut metadata, version).ok()?;
    let mut owned: BTreeSet<TopicPartition> = BTreeSet::new();
    for topic in &subscription.owned_partitions {
        let name: &str = &topic.topic.0;
        let places = topic.partitions.iter();
        owned.extend(places.map(|&p| TopicPartition::new(name, p)));
    }
    let mut generation = (version >= 2).then_some(subscription.generation_id);
    if let Some(data) = subscription.user_data.filter(|data| !data.is_empty())
        && let Some((places, told)) = read_user_data(assignor, data)
    {
        owned.extend(places);
        generation = generation.filter(|&g| g >= 0).or(told);
    }
    Some(MemberView {
        member_id: member_id.to_owned(),
        instance_id: instance_id.map(str::to_owned),
        topics: subscription
            .topics
            .iter()
            .map(ToString::to_string)
            .collect(),
        owned,
        generation: generation.unwrap_or(-1),
    })
}

fn read_user_data(
    assignor: Assignor,
    mut data: Bytes,
) -> Option<(Vec<TopicPartition>, Option<i32>)> {
    let mut places = Vec::new();
    if assignor == Assignor::Sticky {
        for _ in 0..data.try_get_i32().ok()? {
            let length = usize::try_from(data.try_get_i16().ok()?).ok()?;
            if length > data.len() {
                return None;
            }
            let name = data.split_to(length);
            let name = std::str::from_utf8(&name).ok()?;
            for _ in 0..data.try_get_i32().ok()? {
                places.push(TopicPartition::new(name, data.try_get_i32().ok()?));
            }
        }
    }
    let told = match assignor {
        Assignor::Range | Assignor::RoundRobin => None,
        // The oldest version of the sticky one tells no generation.
        Assignor::Sticky | Assignor::CooperativeSticky => data.try_get_i32().ok(),
    };
    Some((places, told))
}

/// What one member gets, for SyncGroup.
pub(super) fn encode_assignment<'a>(places: impl IntoIterator<Item = &'a TopicPartition>) -> Bytes {
    let topics = by_topic(places).into_iter().map(|(topic, partitions)| {
        AssignedTopic::default()
            .with_topic(topic)
            .with_partitions(partitions)
    });
    let assignment = ConsumerProtocolAssignment::default()
        .with_assigned_partitions(topics.collect())
        .with_user_data(None);
    encode(&assignment, ASSIGNMENT_VERSION)
}

/// The partitions of an assignment; nothing at all means none.
pub(crate) fn decode_assignment(mut bytes: Bytes) -> Option<BTreeSet<TopicPartition>> {
    if bytes.is_empty() {
        return Some(BTreeSet::new());
    }
    let version = bytes.try_get_i16().ok().filter(|&v| v >= 0)?;
    let assignment = ConsumerProtocolAssignment::decode(&mut bytes, version.min(3)).ok()?;
    let mut places = BTreeSet::new();
    for topic in assignment.assigned_partitions {
        let name: &str = &topic.topic.0;
        let assigned = topic.partitions.iter();
        places.extend(assigned.map(|&p| TopicPartition::new(name, p)));
    }
    Some(places)
}

fn encode<M: Encodable>(message: &M, version: i16) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(version);
    // Lists and strings of a subscription are far from what a length can say.
    let encoded = message.encode(&mut out, version);
    debug_assert!(encoded.is_ok(), "{encoded:?}");
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str) -> BTreeSet<TopicPartition> {
        let places = text.split_whitespace().map(|place| {
            let (topic, partition) = place.split_once('-').unwrap();
            TopicPartition::new(topic, partition.parse().unwrap())
        });
        places.collect()
    }

    #[test]
    fn a_subscription_comes_back_as_it_was() {
        let topics = ["a".to_owned(), "b".to_owned()];
        let (owned, last) = (places("a-0 a-3 b-1"), places("a-0 b-1"));
        for assignor in Assignor::ALL {
            let bytes = encode_subscription(assignor, &topics, &owned, &last, 7);
            let member = decode_member("m", Some("i"), assignor, bytes.clone()).unwrap();
            assert_eq!(member.topics, BTreeSet::from(topics.clone()));
            assert_eq!((member.owned, member.generation), (owned.clone(), 7));
            assert_eq!(member.instance_id.as_deref(), Some("i"));
            for cut in 0..bytes.len() {
                let _ = decode_member("m", None, assignor, bytes.slice(..cut));
            }
        }
    }

    /// Bytes as Kafka's `StickyAssignor` and first version of `ConsumerProtocol` write them.
    #[test]
    fn what_an_eager_sticky_member_had_is_in_its_user_data() {
        let data = b"\0\0\0\x01\0\x01t\0\0\0\x02\0\0\0\0\0\0\0\x02\0\0\0\x05";
        let mut metadata = b"\0\0\0\0\0\x01\0\x01t\0\0\0".to_vec();
        metadata.push(data.len() as u8);
        metadata.extend_from_slice(data);
        let member = decode_member("m", None, Assignor::Sticky, metadata.into()).unwrap();
        assert_eq!((member.owned, member.generation), (places("t-0 t-2"), 5));
        let ours = user_data(Assignor::Sticky, &places("t-0 t-2"), 5);
        assert_eq!(ours.as_deref(), Some(&data[..]));
    }

    #[test]
    fn an_assignment_is_in_the_bytes_that_every_client_reads() {
        let bytes = encode_assignment(&places("t-1 t-0"));
        let expected = b"\0\0\0\0\0\x01\0\x01t\0\0\0\x02\0\0\0\0\0\0\0\x01\xff\xff\xff\xff";
        assert_eq!(&bytes[..], &expected[..]);
        assert_eq!(decode_assignment(bytes), Some(places("t-0 t-1")));
        assert_eq!(decode_assignment(Bytes::new()), Some(places("")));
        assert_eq!(decode_assignment(Bytes::from_static(b"\0\0\0")), None);
    }
}
