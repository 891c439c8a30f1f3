//! Where the replicas of new partitions go.

use super::image::MetadataImage;
use tidelog_replication::BrokerId;

/// Replica sets for `count` new partitions: leaders (the first of each set) go round the brokers
/// from where the cluster has the fewest, and racks alternate, as in Kafka's rack-aware assignment. Brokers that
/// are decommissioned get none.
///
/// # Errors
/// When there are fewer brokers than replicas asked for.
pub fn place(
    image: &MetadataImage,
    count: usize,
    replication_factor: usize,
) -> Result<Vec<Vec<BrokerId>>, String> {
    let brokers = alternate_racks(image);
    if replication_factor == 0 || replication_factor > brokers.len() {
        return Err(format!(
            "Unable to replicate the partition {replication_factor} time(s): there are {} brokers that stay.",
            brokers.len()
        ));
    }
    let n = brokers.len();
    let mut load = vec![0_usize; n];
    for partition in image.topics.values().flat_map(|t| &t.partitions) {
        let leader = partition.replicas.first();
        if let Some(at) = brokers.iter().position(|b| Some(b) == leader) {
            load[at] += 1;
        }
    }
    let start = (0..n).min_by_key(|i| load[*i]).unwrap_or(0);
    Ok((0..count)
        .map(|partition| {
            let first = (start + partition) % n;
            // The followers' distance shifts with every round, so that one broker's followers are
            // spread over all the others.
            let shift = if n > 1 { partition / n % (n - 1) } else { 0 };
            (0..replication_factor)
                .map(|replica| match replica {
                    0 => brokers[first],
                    r => brokers[(first + 1 + (shift + r - 1) % (n - 1)) % n],
                })
                .collect()
        })
        .collect())
}

/// Brokers ordered so that neighbours are in different racks where possible.
fn alternate_racks(image: &MetadataImage) -> Vec<BrokerId> {
    let mut racks: std::collections::BTreeMap<Option<&str>, Vec<BrokerId>> = Default::default();
    let leaving = image.leaving();
    for broker in image.brokers.values().filter(|b| !leaving.contains(&b.id)) {
        racks
            .entry(broker.rack.as_deref())
            .or_default()
            .push(broker.id);
    }
    let longest = racks.values().map(Vec::len).max().unwrap_or(0);
    (0..longest)
        .flat_map(|i| racks.values().filter_map(move |r| r.get(i).copied()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::image::BrokerMeta;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn image(racks: &[Option<&str>]) -> MetadataImage {
        let mut image = MetadataImage::default();
        for (i, rack) in racks.iter().enumerate() {
            let id = BrokerId(i as i32 + 1);
            image.brokers.insert(
                id,
                BrokerMeta {
                    id,
                    host: "h".to_owned(),
                    port: 1,
                    rack: rack.map(str::to_owned),
                    peer_address: "h:2".to_owned(),
                    incarnation: uuid::Uuid::nil(),
                },
            );
        }
        image
    }

    proptest! {
        #[test]
        fn replicas_are_distinct_and_leaders_even(brokers in 1_usize..8, count in 1_usize..60, rf in 1_usize..8) {
            let image = image(&vec![None; brokers]);
            match place(&image, count, rf) {
                Err(_) => prop_assert!(rf > brokers),
                Ok(sets) => {
                    prop_assert!(rf <= brokers);
                    let mut leaders: BTreeMap<BrokerId, usize> = BTreeMap::new();
                    for set in &sets {
                        let mut distinct = set.clone();
                        distinct.sort_unstable();
                        distinct.dedup();
                        prop_assert_eq!(distinct.len(), rf);
                        *leaders.entry(set[0]).or_default() += 1;
                    }
                    let most = leaders.values().max().copied().unwrap_or(0);
                    let least = if leaders.len() < brokers { 0 } else { leaders.values().min().copied().unwrap_or(0) };
                    prop_assert!(most - least <= 1);
                }
            }
        }
    }

    #[test]
    fn racks_alternate() {
        let image = image(&[Some("a"), Some("a"), Some("b"), Some("b")]);
        for set in place(&image, 4, 2).expect("enough brokers") {
            let rack = |b: &BrokerId| image.brokers[b].rack.clone();
            assert_ne!(rack(&set[0]), rack(&set[1]));
        }
    }
}
