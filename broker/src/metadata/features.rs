//! Feature levels (KIP-584): what the whole cluster may use, raised only when every broker knows it.
//!
//! A broker says at its registration what it knows; the levels in use are in the metadata and change
//! by a committed command. A broker that does not know a level in use may not register. A level that
//! was never set is that of the builds from before levels were stored, so that an upgrade changes
//! nothing until somebody raises it.
//!
//! Levels are there from `metadata.version` 2 on ([`super::version`]). Raising that one from 1 is the one
//! change whose command says itself which brokers know it: what older builds do not keep, they would lose for
//! the others too when they send a snapshot.

use super::command::{FeatureRange, FeatureUpdate, Refusal, UpdateFeatures};
use super::image::MetadataImage;
use super::version::{FIRST, FIRST_WITH_FEATURES, METADATA_VERSION, NEWEST};
use std::collections::BTreeMap;
use tidelog_replication::BrokerId;

/// The next group protocol (KIP-848) at level 1.
pub const GROUP_VERSION: &str = "group.version";

/// A feature as this build knows it.
#[derive(Debug, Clone, Copy)]
pub struct Feature {
    pub name: &'static str,
    /// The levels this build knows, inclusive.
    pub min: i16,
    pub max: i16,
    /// In use where the metadata say nothing.
    pub unset: i16,
}

/// Every feature, by Kafka's names.
pub const FEATURES: &[Feature] = &[
    Feature {
        name: METADATA_VERSION,
        min: FIRST as i16,
        max: NEWEST as i16,
        unset: FIRST as i16,
    },
    Feature {
        name: GROUP_VERSION,
        min: 0,
        max: 1,
        unset: 1,
    },
    // 2: the epoch goes up with every transaction, partitions are added implicitly (KIP-890).
    Feature {
        name: "transaction.version",
        min: 0,
        max: 2,
        unset: 2,
    },
];

/// What this build knows, for its registration.
pub fn known() -> Vec<FeatureRange> {
    let range = |feature: &Feature| FeatureRange {
        name: feature.name.to_owned(),
        min: i32::from(feature.min),
        max: i32::from(feature.max),
    };
    FEATURES.iter().map(range).collect()
}

impl MetadataImage {
    /// The level in use; 0 is "off".
    pub fn feature_level(&self, name: &str) -> i16 {
        let unset = FEATURES.iter().find(|f| f.name == name);
        let set = self.features.get(name).copied();
        set.unwrap_or_else(|| unset.map_or(0, |f| f.unset))
    }
}

/// A broker's levels of each feature, inclusive.
pub type Known = BTreeMap<String, (i16, i16)>;

pub fn known_of(ranges: &[FeatureRange]) -> Known {
    let range = |r: &FeatureRange| (r.name.clone(), (r.min as i16, r.max as i16));
    ranges.iter().map(range).collect()
}

/// Why a broker that knows `known` may not have `level` of a feature in use.
fn unsupported(broker: BrokerId, known: Option<&Known>, name: &str, level: i16) -> Option<String> {
    let Some(known) = known.filter(|known| !known.is_empty()) else {
        return Some(format!(
            "Broker {broker} has not said which features its build knows."
        ));
    };
    match known.get(name) {
        Some((min, max)) if (*min..=*max).contains(&level) => None,
        Some((min, max)) => Some(format!(
            "Broker {broker} does not support this feature's level: it knows {min} to {max}."
        )),
        None => Some(format!("Broker {broker} does not know this feature.")),
    }
}

/// Notes what a broker that registers knows: all levels that were set must be known to it.
pub fn register(
    image: &mut MetadataImage,
    broker: BrokerId,
    known: Known,
) -> Result<(), (Refusal, String)> {
    if image.metadata_version() < FIRST_WITH_FEATURES {
        return Ok(());
    }
    // A build from before features ends for this refusal only.
    let refusal = if known.is_empty() {
        Refusal::DuplicateBroker
    } else {
        Refusal::UnsupportedFeature
    };
    for (name, level) in &image.features {
        if let Some(reason) = unsupported(broker, Some(&known), name, *level) {
            let message = format!(
                "{name} is at level {level} in this cluster. {reason} Start it with the build of the other \
                 brokers."
            );
            return Err((refusal, message));
        }
    }
    image.broker_features.insert(broker, known);
    Ok(())
}

/// Sets levels, all or none, by Kafka's rules (`FeatureControlManager.updateFeatures`).
pub fn update(
    image: &mut MetadataImage,
    command: &UpdateFeatures,
) -> Result<(), (Refusal, String)> {
    check(image, command)?;
    if command.validate_only {
        return Ok(());
    }
    for change in &command.updates {
        image
            .features
            .insert(change.name.clone(), change.level as i16);
    }
    image.features_epoch += 1;
    Ok(())
}

/// Why levels cannot be set, if they cannot.
pub fn check(image: &MetadataImage, command: &UpdateFeatures) -> Result<(), (Refusal, String)> {
    for change in &command.updates {
        check_one(image, change, &command.asked).map_err(|reason| {
            let (level, name) = (change.level, &change.name);
            let message = format!("Invalid update version {level} for feature {name}. {reason}");
            (Refusal::InvalidFeatureLevel, message)
        })?;
    }
    Ok(())
}

fn check_one(image: &MetadataImage, change: &FeatureUpdate, asked: &[i32]) -> Result<(), String> {
    let level = i16::try_from(change.level).unwrap_or(-1);
    if level < 0 {
        return Err("A feature version cannot be less than 0.".to_owned());
    }
    let of_metadata = change.name == METADATA_VERSION;
    if image.metadata_version() < FIRST_WITH_FEATURES {
        let next = FIRST_WITH_FEATURES;
        if !of_metadata || change.level != next as i32 {
            return Err(format!(
                "First {METADATA_VERSION} has to be at level {next}."
            ));
        }
        return match image.brokers.keys().find(|id| !asked.contains(&id.0)) {
            None => Ok(()),
            Some(broker) => Err(format!(
                "Broker {broker} does not run, or its build does not know this level: start it with one that \
                 does, or unregister it."
            )),
        };
    }
    for broker in image.brokers.keys() {
        let known = image.broker_features.get(broker);
        if let Some(reason) = unsupported(*broker, known, &change.name, level) {
            return Err(reason);
        }
    }
    if of_metadata && level < image.feature_level(METADATA_VERSION) {
        return Err("The metadata cannot be downgraded.".to_owned());
    }
    let present = image.feature_level(&change.name);
    if level < present && !change.downgrade {
        return Err(
            "Can't downgrade the version of this feature without setting the upgrade type to either \
             safe or unsafe downgrade."
                .to_owned(),
        );
    }
    if level > present && change.downgrade {
        return Err("Can't downgrade to a newer version.".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::command::{Command, Envelope, RegisterBroker, Snapshot};
    use crate::metadata::machine::apply;

    fn register_at(
        image: &mut MetadataImage,
        id: i32,
        features: Vec<FeatureRange>,
        version: u32,
    ) -> Refusal {
        let command = Command::RegisterBroker(RegisterBroker {
            id,
            incarnation: vec![id as u8; 16],
            cluster_id: "c".to_owned(),
            features,
            ..RegisterBroker::default()
        });
        let command = Some(command);
        apply(image, Envelope { version, command }).refusal()
    }

    fn register(image: &mut MetadataImage, id: i32, features: Vec<FeatureRange>) -> Refusal {
        register_at(image, id, features, NEWEST)
    }

    fn set_asking(image: &mut MetadataImage, name: &str, level: i32, asked: Vec<i32>) -> Refusal {
        let command = Command::UpdateFeatures(UpdateFeatures {
            updates: vec![FeatureUpdate {
                name: name.to_owned(),
                level,
                downgrade: false,
            }],
            validate_only: false,
            asked,
        });
        apply(image, Envelope::of(command)).refusal()
    }

    fn set(image: &mut MetadataImage, name: &str, level: i32, downgrade: bool) -> Refusal {
        let command = Command::UpdateFeatures(UpdateFeatures {
            updates: vec![FeatureUpdate {
                name: name.to_owned(),
                level,
                downgrade,
            }],
            validate_only: false,
            asked: Vec::new(),
        });
        apply(image, Envelope::of(command)).refusal()
    }

    fn range(name: &str, min: i32, max: i32) -> FeatureRange {
        FeatureRange {
            name: name.to_owned(),
            min,
            max,
        }
    }

    /// What this build knows, and a feature beside it.
    fn with(name: &str, min: i32, max: i32) -> Vec<FeatureRange> {
        let mut all = known();
        all.push(range(name, min, max));
        all
    }

    #[test]
    fn a_level_is_raised_only_when_every_registered_broker_knows_it() {
        let mut image = MetadataImage::default();
        let refused = Refusal::InvalidFeatureLevel;
        assert_eq!(register(&mut image, 1, known()), Refusal::None);
        assert_eq!(register(&mut image, 2, known()), Refusal::None);
        assert_eq!(register(&mut image, 1, with("new", 0, 2)), Refusal::None);
        assert_eq!(set(&mut image, "new", 1, false), refused);
        assert_eq!(register(&mut image, 2, with("new", 0, 1)), Refusal::None);
        assert_eq!(set(&mut image, "new", 2, false), refused);
        assert_eq!(set(&mut image, "other", 1, false), refused);
        assert_eq!(image.features_epoch, 0);
        assert_eq!(set(&mut image, "new", 1, false), Refusal::None);
        assert_eq!((image.feature_level("new"), image.features_epoch), (1, 1));
        // Who does not know what is in use does not come in.
        let unknown = Refusal::UnsupportedFeature;
        assert_eq!(register(&mut image, 3, with("new", 0, 0)), unknown);
        assert_eq!(register(&mut image, 3, known()), unknown);
        assert_eq!(register(&mut image, 3, with("new", 1, 9)), Refusal::None);
        assert_eq!(set(&mut image, "new", 0, true), refused);
    }

    #[test]
    fn levels_go_down_only_when_asked_to_and_are_in_snapshots() {
        let mut image = MetadataImage::default();
        register(&mut image, 1, known());
        assert_eq!(image.feature_level(GROUP_VERSION), 1);
        let refused = Refusal::InvalidFeatureLevel;
        assert_eq!(set(&mut image, GROUP_VERSION, 0, false), refused);
        assert_eq!(set(&mut image, GROUP_VERSION, -1, true), refused);
        assert_eq!(set(&mut image, GROUP_VERSION, 0, true), Refusal::None);
        assert_eq!(set(&mut image, GROUP_VERSION, 1, true), refused);
        assert_eq!(image.feature_level(GROUP_VERSION), 0);
        assert_eq!(Snapshot::of(&image).image(), image);
        assert_eq!(set(&mut image, GROUP_VERSION, 1, false), Refusal::None);
        assert_eq!(image.feature_level(GROUP_VERSION), 1);
        // What newer builds write, older ones cannot read.
        assert_eq!(set(&mut image, METADATA_VERSION, 1, true), refused);
    }

    #[test]
    fn an_older_cluster_is_as_it_was_until_its_metadata_version_is_raised() {
        let mut image = MetadataImage::default();
        let refused = Refusal::InvalidFeatureLevel;
        // One of a build from before there were features.
        assert_eq!(register_at(&mut image, 1, Vec::new(), 1), Refusal::None);
        assert_eq!(register_at(&mut image, 2, known(), 1), Refusal::None);
        assert_eq!(image.feature_level(GROUP_VERSION), 1);
        assert_eq!(image.metadata_version(), 1);
        // Nothing that the old build would not keep, or lose for the others in its snapshots.
        assert!(image.broker_features.is_empty());
        assert_eq!(
            set_asking(&mut image, GROUP_VERSION, 0, vec![1, 2]),
            refused
        );
        assert_eq!(
            set_asking(&mut image, METADATA_VERSION, 2, vec![2]),
            refused
        );
        assert_eq!(
            set_asking(&mut image, METADATA_VERSION, NEWEST as i32 + 1, vec![1, 2]),
            refused
        );
        assert_eq!(image.metadata_version(), 1);
        let raised = set_asking(&mut image, METADATA_VERSION, 2, vec![1, 2]);
        assert_eq!((raised, image.metadata_version()), (Refusal::None, 2));

        // A level is not raised by who has not said yet what it knows.
        assert_eq!(set(&mut image, GROUP_VERSION, 0, true), refused);
        register(&mut image, 1, known());
        assert_eq!(set(&mut image, GROUP_VERSION, 0, true), refused);
        register(&mut image, 2, known());
        assert_eq!(set(&mut image, GROUP_VERSION, 0, true), Refusal::None);

        // The old build knows this refusal, and ends.
        let old = register_at(&mut image, 3, Vec::new(), 1);
        assert_eq!(old, Refusal::DuplicateBroker);
        let mut older = known();
        older[0].max = 1;
        let older = register_at(&mut image, 3, older, 1);
        assert_eq!(older, Refusal::UnsupportedFeature);
        assert!(!image.brokers.contains_key(&BrokerId(3)));
    }
}
