//! ApiVersions (KIP-35, KIP-511): what this broker serves.

use super::dispatch::served;
use crate::metadata::MetadataImage;
use crate::metadata::features::FEATURES;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::api_versions_response::{
    ApiVersion, FinalizedFeatureKey, SupportedFeatureKey,
};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse};
use kafka_protocol::protocol::StrBytes;

/// First version in which the client says what it is.
const FIRST_WITH_CLIENT: i16 = 3;
/// First version whose clients understand features that may be at level 0, which is "off".
const FIRST_WITH_LEVEL_ZERO: i16 = 4;

/// Answers a request in a version that is served.
pub fn answer(
    request: &ApiVersionsRequest,
    version: i16,
    image: &MetadataImage,
) -> ApiVersionsResponse {
    let named = |text: &str| {
        // KIP-511: letters, digits, dots and dashes, neither of the two at the ends.
        let inner = |c: u8| c.is_ascii_alphanumeric() || c == b'.' || c == b'-';
        let ends = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|c| inner(*c))
    };
    let valid = version < FIRST_WITH_CLIENT
        || (named(&request.client_software_name) && named(&request.client_software_version));
    if valid {
        with_features(response(0, None), version, image)
    } else {
        ApiVersionsResponse::default()
            .with_error_code(ResponseError::InvalidRequest.code())
            .with_finalized_features_epoch(-1)
    }
}

/// What this build knows of each feature (KIP-584), and the levels in use in the cluster.
fn with_features(
    response: ApiVersionsResponse,
    version: i16,
    image: &MetadataImage,
) -> ApiVersionsResponse {
    if version < FIRST_WITH_CLIENT {
        return response;
    }
    let min = i16::from(version < FIRST_WITH_LEVEL_ZERO);
    let text = StrBytes::from_static_str;
    let supported = FEATURES.iter().map(|feature| {
        SupportedFeatureKey::default()
            .with_name(text(feature.name))
            .with_min_version(feature.min.max(min))
            .with_max_version(feature.max)
    });
    let used = FEATURES.iter().filter_map(|feature| {
        let level = image.feature_level(feature.name);
        (level > 0).then(|| {
            FinalizedFeatureKey::default()
                .with_name(text(feature.name))
                .with_min_version_level(level)
                .with_max_version_level(level)
        })
    });
    response
        .with_supported_features(supported.collect())
        .with_finalized_features(used.collect())
        .with_finalized_features_epoch(image.features_epoch)
}

fn response(error_code: i16, only: Option<ApiKey>) -> ApiVersionsResponse {
    let keys = served()
        .into_iter()
        .filter(|(api, ..)| only.is_none_or(|only| only == *api))
        .map(|(api, min, max)| {
            ApiVersion::default()
                .with_api_key(api as i16)
                .with_min_version(min)
                .with_max_version(max)
        })
        .collect();
    ApiVersionsResponse::default()
        .with_error_code(error_code)
        .with_api_keys(keys)
        .with_finalized_features_epoch(-1)
}

/// The answer to a version that is not served: the versions of this API alone, as in Kafka.
pub fn unsupported() -> ApiVersionsResponse {
    response(
        ResponseError::UnsupportedVersion.code(),
        Some(ApiKey::ApiVersions),
    )
}
