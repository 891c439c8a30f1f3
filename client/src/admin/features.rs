//! Features of the cluster: which levels brokers know, and which are in use (KIP-584).

use super::{Admin, text};
use crate::error::{Error, Result};
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::{ApiVersionsRequest, UpdateFeaturesRequest};
use std::collections::BTreeMap;

const UPGRADE: i8 = 1;
const SAFE_DOWNGRADE: i8 = 2;

/// One feature.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Feature {
    /// As Kafka names it: `group.version`, say.
    pub name: String,
    /// The levels that the broker asked knows, inclusive.
    pub min: i16,
    /// Highest level the broker knows.
    pub max: i16,
    /// In use in the whole cluster; 0 is "off".
    pub level: i16,
}

impl Admin {
    /// The features by name, and the epoch of their levels: it grows with every change.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn describe_features(&self) -> Result<(Vec<Feature>, i64)> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(text("tidelog-client"))
            .with_client_software_version(text(env!("CARGO_PKG_VERSION")));
        let what = "describe the features";
        let mut retry = self.cluster.retry(what);
        let response = loop {
            let attempt = async {
                let connection = self.cluster.any().await?;
                let deadline = retry.deadline();
                let response = self.cluster.send(&connection, &request, deadline).await?;
                Error::check(what, response.error_code, None)?;
                Ok(response)
            };
            match attempt.await {
                Ok(response) => break response,
                Err(error) => retry.pause(error).await?,
            }
        };
        let mut features: BTreeMap<String, Feature> = BTreeMap::new();
        for known in response.supported_features {
            let feature = Feature {
                name: known.name.to_string(),
                min: known.min_version,
                max: known.max_version,
                level: 0,
            };
            features.insert(feature.name.clone(), feature);
        }
        for used in response.finalized_features {
            let feature = features.entry(used.name.to_string()).or_default();
            feature.name = used.name.to_string();
            feature.level = used.max_version_level;
        }
        let features = features.into_values().collect();
        Ok((features, response.finalized_features_epoch))
    }

    /// Sets the level of a feature for the whole cluster; with `downgrade` to a lower one.
    ///
    /// # Errors
    /// What the cluster says against it, such as a broker that does not know the level.
    pub async fn update_feature(
        &self,
        name: &str,
        level: i16,
        downgrade: bool,
        validate_only: bool,
    ) -> Result<()> {
        let update = FeatureUpdateKey::default()
            .with_feature(text(name))
            .with_max_version_level(level)
            .with_upgrade_type(if downgrade { SAFE_DOWNGRADE } else { UPGRADE });
        let request = UpdateFeaturesRequest::default()
            .with_timeout_ms(self.broker_timeout_ms())
            .with_feature_updates(vec![update])
            .with_validate_only(validate_only);
        self.ask_controller("update the feature", &request, |_, response| {
            let what = format!("set feature {name:?} to level {level}");
            let message = response.error_message.as_deref();
            Error::check(&what, response.error_code, message)?;
            for result in response.results {
                Error::check(&what, result.error_code, result.error_message.as_deref())?;
            }
            Ok(())
        })
        .await
    }
}
