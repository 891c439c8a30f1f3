//! `metadata.version`: which commands, snapshots and files the brokers of a cluster may write.
//!
//! | Version | From it on |
//! |---|---|
//! | 1 | all that the builds from before there were versions write |
//! | 2 | feature levels, and what each broker knows of them; replicas are spread over brokers that join |
//! | 3 | topics whose producers begin at sequence 0 |
//!
//! The version in use is a feature level like any other ([`super::features`]): a new cluster begins at the
//! newest version that its builds know, an older one stays at its own until an operator raises it, which is
//! refused until every registered broker knows it. It never goes down. Below a version nothing of it is
//! written, so that the builds from before can be started again; from it on they are refused, by their own
//! data folder (`broker.json` has the version), by their peers, and at their registration.
//!
//! So a broker never meets what it does not know. If it does all the same, it stops: a command that some
//! brokers skip and others apply would make two clusters of one.
//!
//! A new command, a new field that changes what a command does, a new field of the snapshot or a new kind of
//! journal entry gets the next version: raise [`NEWEST`], say so above, and name it in [`Command::version`].

use super::command::{Command, Envelope, Refusal, Reply};
use super::features;
use super::image::MetadataImage;
use super::machine::refused;
use prost::Message as _;

/// The feature's name, which is Kafka's. The levels are our own.
pub const METADATA_VERSION: &str = "metadata.version";
/// Of clusters from before there were versions.
pub const FIRST: u32 = 1;
/// Newest that this build knows.
pub const NEWEST: u32 = 3;
/// First with feature levels in the metadata.
pub const FIRST_WITH_FEATURES: u32 = 2;
/// First with the wish to spread replicas.
pub const FIRST_WITH_SPREADING: u32 = 2;
/// First with topics whose producers begin at sequence 0.
pub const FIRST_WITH_FIRST_SEQUENCES: u32 = 3;

impl MetadataImage {
    /// The `metadata.version` in use.
    pub fn metadata_version(&self) -> u32 {
        self.feature_level(METADATA_VERSION)
            .max(1)
            .unsigned_abs()
            .into()
    }
}

impl Command {
    /// The first `metadata.version` with this command.
    pub fn version(&self) -> u32 {
        match self {
            Command::RegisterBroker(_)
            | Command::CreateTopic(_)
            | Command::DeleteTopic(_)
            | Command::CreatePartitions(_)
            | Command::AlterConfigs(_)
            | Command::AllocateProducerIds(_)
            | Command::AlterGroupConfigs(_)
            | Command::AlterReassignments(_)
            | Command::FinishReassignment(_)
            | Command::ReplicaRemoved(_)
            | Command::UnregisterBroker(_) => FIRST,
            Command::UpdateFeatures(_) => FIRST_WITH_FEATURES,
            Command::FinishSpread(_) => FIRST_WITH_SPREADING,
        }
    }
}

/// Whether a command may be used in a cluster at the version of `image`.
///
/// # Errors
/// What is missing, and how it is got.
pub fn check(image: &MetadataImage, command: &Command) -> Result<(), String> {
    let (needed, present) = (command.version(), image.metadata_version());
    // The command that raises the version has checks of its own.
    if needed <= present || matches!(command, Command::UpdateFeatures(_)) {
        return Ok(());
    }
    Err(format!(
        "this needs metadata.version {needed}, and the cluster is at {present}: once every broker runs a build \
         that knows it, raise it with `tidelog cluster feature set metadata.version {needed}`"
    ))
}

/// What this build makes of a committed command.
pub enum Read {
    Command(Envelope),
    /// Nobody applies it.
    Refused(Reply),
    /// Others may apply it: this broker cannot go on.
    Unknown(String),
}

/// Reads a command from an entry of the metadata group; `versioned` as it was proposed.
pub fn read(bytes: &[u8], versioned: bool) -> Read {
    let envelope = Envelope::decode(bytes);
    if !versioned {
        // The builds of the first version skip what they do not know. Where they may be, all do.
        let known = envelope.ok().filter(|envelope| {
            let command = envelope.command.as_ref();
            envelope.version == FIRST && command.is_some_and(|c| c.version() == FIRST)
        });
        return known.map_or_else(
            || {
                Read::Refused(refused(
                    Refusal::UnsupportedVersion,
                    "unknown metadata command",
                ))
            },
            Read::Command,
        );
    }
    match envelope {
        Ok(envelope) if envelope.version > NEWEST => Read::Unknown(too_new(envelope.version)),
        Ok(envelope) if envelope.command.is_some() => Read::Command(envelope),
        Ok(_) => Read::Unknown(
            "a command in the metadata is not known to this build: start this broker with the build of \
             the other brokers"
                .to_owned(),
        ),
        Err(error) => Read::Unknown(format!("a command in the metadata cannot be read: {error}")),
    }
}

/// What a broker says that meets a version it does not know.
pub fn too_new(version: u32) -> String {
    format!(
        "the cluster's metadata.version is {version}, and this build knows {FIRST} to {NEWEST}: start this \
         broker with the build of the other brokers"
    )
}

/// The levels a new cluster begins with: the newest that its first broker knows, as far as `version` allows.
pub(super) fn begin(image: &mut MetadataImage, version: u32, known: &features::Known) {
    if version < FIRST_WITH_FEATURES {
        return;
    }
    image.features = known
        .iter()
        .map(|(name, (_, max))| (name.clone(), *max))
        .collect();
    let version = i16::try_from(version).unwrap_or(i16::MAX);
    image.features.insert(METADATA_VERSION.to_owned(), version);
}
