//! UpdateFeatures (versions 0 to 2): sets the levels of features for the whole cluster, all or none.

use super::{RequestContext, text};
use crate::metadata::changes::{Refused, propose};
use crate::metadata::command::{Command, FeatureUpdate, UpdateFeatures};
use crate::metadata::features;
use crate::metadata::version::FIRST_WITH_FEATURES;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::update_features_response::UpdatableFeatureResult;
use kafka_protocol::messages::{UpdateFeaturesRequest, UpdateFeaturesResponse};
use tidelog_replication::BrokerId;

/// First version with an upgrade type; the one before has a flag instead.
const FIRST_WITH_TYPE: i16 = 1;
/// First version without a result for each feature.
const FIRST_WITHOUT_RESULTS: i16 = 2;
/// Kafka's `FeatureUpdate.UpgradeType`. A downgrade loses nothing here, so that both are the same.
const UPGRADE: i8 = 1;
const SAFE_DOWNGRADE: i8 = 2;
const UNSAFE_DOWNGRADE: i8 = 3;

pub async fn handle(
    context: &RequestContext,
    request: UpdateFeaturesRequest,
    version: i16,
) -> UpdateFeaturesResponse {
    let done = apply(context, &request, version).await;
    let response = UpdateFeaturesResponse::default();
    match done {
        Err(refused) => response
            .with_error_code(refused.error.code())
            .with_error_message(Some(text(refused.message))),
        Ok(()) if version < FIRST_WITHOUT_RESULTS => {
            let results = request.feature_updates.into_iter().map(|update| {
                let result = UpdatableFeatureResult::default().with_feature(update.feature);
                result.with_error_message(None)
            });
            let response = response.with_error_message(None);
            response.with_results(results.collect())
        }
        Ok(()) => response.with_error_message(None),
    }
}

async fn apply(
    context: &RequestContext,
    request: &UpdateFeaturesRequest,
    version: i16,
) -> Result<(), Refused> {
    if request.feature_updates.is_empty() {
        return Err(Refused::new(
            ResponseError::InvalidRequest,
            "Can not provide empty FeatureUpdates in the request.",
        ));
    }
    let updates = request.feature_updates.iter();
    let updates = updates.map(|update| {
        Ok(FeatureUpdate {
            name: update.feature.to_string(),
            level: i32::from(update.max_version_level),
            downgrade: is_downgrade(update, version)?,
        })
    });
    let mut command = UpdateFeatures {
        updates: updates.collect::<Result<_, Refused>>()?,
        validate_only: request.validate_only,
        asked: Vec::new(),
    };
    let broker = &context.broker;
    let image = broker.metadata.load_full();
    let knows = |id: &BrokerId| {
        let known = broker.node.known_metadata_version(*id);
        known.is_some_and(|known| known >= FIRST_WITH_FEATURES)
    };
    let asked = image.brokers.keys().filter(|id| knows(id));
    command.asked = asked.map(|id| id.0).collect();
    // Checked when it is applied as well; but brokers that do not know the command cannot even take it.
    features::check(&image, &command)
        .map_err(|(_, message)| Refused::new(ResponseError::InvalidUpdateVersion, message))?;
    propose(&context.broker, Command::UpdateFeatures(command))
        .await
        .map(|_| ())
}

fn is_downgrade(update: &FeatureUpdateKey, version: i16) -> Result<bool, Refused> {
    if version < FIRST_WITH_TYPE {
        return Ok(update.allow_downgrade);
    }
    match update.upgrade_type {
        UPGRADE => Ok(false),
        SAFE_DOWNGRADE | UNSAFE_DOWNGRADE => Ok(true),
        _ => Err(Refused::new(
            ResponseError::InvalidUpdateVersion,
            format!(
                "Invalid update version {} for feature {}. The controller does not support the given \
                 upgrade type.",
                update.max_version_level,
                update.feature.as_str()
            ),
        )),
    }
}
