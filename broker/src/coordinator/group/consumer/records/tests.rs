use super::*;
use crate::coordinator::group::consumer::member::{ClassicMember, MemberState};
use crate::coordinator::group::consumer::partitions::Held;
use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

fn text() -> impl Strategy<Value = String> {
    "[a-zß]{0,12}"
}

fn arb_partitions() -> impl Strategy<Value = Partitions> {
    let set = prop::collection::btree_set(any::<i32>(), 0..5);
    let topic = any::<u128>().prop_map(Uuid::from_u128);
    prop::collection::btree_map(topic, set, 0..4)
}

fn arb_held() -> impl Strategy<Value = Held> {
    let set = prop::collection::btree_map(any::<i32>(), any::<i32>(), 0..5);
    let topic = any::<u128>().prop_map(Uuid::from_u128);
    prop::collection::btree_map(topic, set, 0..4)
}

fn arb_member() -> impl Strategy<Value = MemberMetadata> {
    let optional = || prop::option::of(text());
    let protocols = prop::collection::vec(
        (
            text(),
            prop::collection::vec(any::<u8>(), 0..9).prop_map(Bytes::from),
        ),
        0..3,
    );
    let classic = prop::option::of((any::<i32>(), protocols));
    (
        (optional(), optional(), text(), text()),
        prop::collection::btree_set(text(), 0..4),
        (optional(), any::<i32>(), optional(), classic),
    )
        .prop_map(
            |((instance_id, rack_id, client_id, client_host), topics, rest)| {
                let (regex, rebalance_timeout_ms, assignor, classic) = rest;
                MemberMetadata {
                    instance_id,
                    rack_id,
                    client_id,
                    client_host,
                    topics,
                    regex,
                    rebalance_timeout_ms,
                    assignor,
                    classic: classic.map(|(session_timeout_ms, protocols)| ClassicMember {
                        session_timeout_ms,
                        protocols,
                    }),
                }
            },
        )
}

fn arb_change() -> impl Strategy<Value = Change> {
    let current = (any::<i32>(), any::<i32>(), 0i8..3, arb_held(), arb_held()).prop_map(
        |(epoch, previous_epoch, state, assigned, revoking)| CurrentAssignment {
            epoch,
            previous_epoch,
            state: MemberState::of(state),
            assigned,
            revoking,
        },
    );
    let group = (any::<i32>(), any::<i64>()).prop_map(|(epoch, metadata_hash)| GroupMetadata {
        epoch,
        metadata_hash,
    });
    let regex = (
        prop::collection::btree_set(text(), 0..4),
        any::<i64>(),
        any::<i64>(),
    )
        .prop_map(|(topics, version, timestamp_ms)| ResolvedRegex {
            topics,
            version,
            timestamp_ms,
        });
    prop_oneof![
        prop::option::of(group).prop_map(Change::Group),
        (text(), prop::option::of(arb_member())).prop_map(|(id, v)| Change::Member(id, v)),
        prop::option::of(any::<i32>()).prop_map(Change::Target),
        (text(), prop::option::of(arb_partitions()))
            .prop_map(|(id, v)| Change::TargetMember(id, v)),
        (text(), prop::option::of(current)).prop_map(|(id, v)| Change::Current(id, v)),
        (text(), prop::option::of(regex)).prop_map(|(id, v)| Change::Regex(id, v)),
    ]
}

proptest! {
    #[test]
    fn records_come_back(group in text(), change in arb_change()) {
        let record = change.encode(&group);
        let read = decode(&record.key, record.value.as_deref());
        prop_assert_eq!(read, Ok(Some(GroupRecord { group, change })));
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        kind in 0i16..20, key in prop::collection::vec(any::<u8>(), 0..40),
        value in prop::collection::vec(any::<u8>(), 0..80)
    ) {
        let key = [kind.to_be_bytes().to_vec(), key].concat();
        let value = [vec![0, 0], value].concat();
        let _ = decode(&key, Some(&value));
    }
}

/// Bytes made by hand from Kafka's message definitions.
#[test]
fn bytes_are_kafkas() {
    let record = Change::Group(Some(GroupMetadata {
        epoch: 7,
        metadata_hash: 0,
    }))
    .encode("g");
    assert_eq!(record.key.as_ref(), [0, 3, 0, 1, b'g']);
    assert_eq!(
        record.value.as_deref(),
        Some([0, 0, 0, 0, 0, 7, 0].as_slice())
    );

    let topic = Uuid::from_u128(5);
    let current = CurrentAssignment {
        epoch: 3,
        previous_epoch: 2,
        state: MemberState::UnreleasedPartitions,
        assigned: [(topic, [(9, 3)].into())].into(),
        revoking: Held::new(),
    };
    let record = Change::Current("m".to_owned(), Some(current)).encode("g");
    assert_eq!(record.key.as_ref(), [0, 8, 0, 1, b'g', 0, 1, b'm']);
    let mut expected = vec![0, 0, 0, 0, 0, 3, 0, 0, 0, 2, 2, 2];
    expected.extend_from_slice(topic.as_bytes());
    // One partition, 9; one tag, 0, of five bytes: an array with 3. No partition to revoke, no tag.
    expected.extend_from_slice(&[2, 0, 0, 0, 9, 1, 0, 5, 2, 0, 0, 0, 3, 1, 0]);
    assert_eq!(record.value.as_deref(), Some(expected.as_slice()));

    // As Kafka 4.0 wrote it, without epochs: those of the member.
    let mut old = vec![0, 0, 0, 0, 0, 3, 0, 0, 0, 2, 0, 2];
    old.extend_from_slice(topic.as_bytes());
    old.extend_from_slice(&[2, 0, 0, 0, 9, 0, 1, 0]);
    let read = decode(&record.key, Some(&old)).unwrap().unwrap();
    let Change::Current(_, Some(read)) = read.change else {
        panic!("{read:?}");
    };
    assert_eq!(read.assigned, [(topic, [(9, 3)].into())].into());
}
