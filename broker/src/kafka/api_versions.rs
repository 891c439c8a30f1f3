//! ApiVersions (KIP-35, KIP-511): what this broker serves.

use super::dispatch::served;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiVersionsResponse;
use kafka_protocol::messages::api_versions_response::ApiVersion;

pub fn response(error_code: i16) -> ApiVersionsResponse {
    let keys = served()
        .into_iter()
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

/// The answer to a version that is not served.
pub fn unsupported() -> ApiVersionsResponse {
    response(ResponseError::UnsupportedVersion.code())
}
