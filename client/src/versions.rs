//! Which version of each API to speak with one broker.

use kafka_protocol::messages::ApiVersionsResponse;
use kafka_protocol::protocol::{Request, VersionRange};
use std::collections::HashMap;

/// What one broker said it speaks.
#[derive(Debug, Clone, Default)]
pub(crate) struct ApiVersions {
    ranges: HashMap<i16, VersionRange>,
    features: HashMap<String, i16>,
}

impl ApiVersions {
    pub(crate) fn new(response: &ApiVersionsResponse) -> ApiVersions {
        let ranges = response
            .api_keys
            .iter()
            .map(|api| {
                let range = VersionRange {
                    min: api.min_version,
                    max: api.max_version,
                };
                (api.api_key, range)
            })
            .collect();
        let features = response.finalized_features.iter();
        let features = features.map(|f| (f.name.to_string(), f.max_version_level));
        ApiVersions {
            ranges,
            features: features.collect(),
        }
    }

    /// Every API with its lowest and highest version, by key.
    pub(crate) fn ranges(&self) -> Vec<(i16, VersionRange)> {
        let mut ranges: Vec<_> = self
            .ranges
            .iter()
            .map(|(key, range)| (*key, *range))
            .collect();
        ranges.sort_by_key(|(key, _)| *key);
        ranges
    }

    /// The finalized level of a feature.
    pub(crate) fn feature(&self, name: &str) -> Option<i16> {
        self.features.get(name).copied()
    }

    /// The highest version both sides speak, at most `max`; None when there is none.
    pub(crate) fn negotiate<R: Request>(&self, max: i16) -> Option<i16> {
        let shared = self.ranges.get(&R::KEY)?.intersect(&VersionRange {
            min: R::VERSIONS.min,
            max: R::VERSIONS.max.min(max),
        });
        (!shared.is_empty()).then_some(shared.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::api_versions_response::ApiVersion;
    use kafka_protocol::messages::{FetchRequest, MetadataRequest, ProduceRequest};
    use kafka_protocol::protocol::Message;

    fn broker(ranges: &[(i16, i16, i16)]) -> ApiVersions {
        let keys = ranges.iter().map(|&(key, min, max)| {
            ApiVersion::default()
                .with_api_key(key)
                .with_min_version(min)
                .with_max_version(max)
        });
        ApiVersions::new(&ApiVersionsResponse::default().with_api_keys(keys.collect()))
    }

    #[test]
    fn the_highest_shared_version_is_taken() {
        let ours = ProduceRequest::VERSIONS;
        let versions = broker(&[(0, 0, 9), (1, 0, 500)]);
        assert_eq!(versions.negotiate::<ProduceRequest>(i16::MAX), Some(9));
        assert_eq!(versions.negotiate::<ProduceRequest>(7), Some(7));
        assert_eq!(
            versions.negotiate::<FetchRequest>(i16::MAX),
            Some(FetchRequest::VERSIONS.max)
        );
        let newer = broker(&[(0, ours.max + 1, ours.max + 2)]);
        assert_eq!(newer.negotiate::<ProduceRequest>(i16::MAX), None);
        let older = broker(&[(0, 0, ours.min - 1)]);
        assert_eq!(older.negotiate::<ProduceRequest>(i16::MAX), None);
    }

    #[test]
    fn an_api_the_broker_does_not_list_is_not_spoken() {
        assert_eq!(broker(&[(0, 3, 9)]).negotiate::<MetadataRequest>(9), None);
    }
}
