//! Versions served, for quick look-up.

use super::dispatch::served;
use kafka_protocol::messages::ApiKey;
use std::ops::RangeInclusive;
use std::sync::OnceLock;

/// The versions of `api` that are served; `None` when it is not served at all.
pub fn range(api: ApiKey) -> Option<RangeInclusive<i16>> {
    static TABLE: OnceLock<Vec<Option<(i16, i16)>>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let served = served();
        let last = served.last().map_or(0, |(api, ..)| *api as usize);
        let mut table = vec![None; last + 1];
        for (api, min, max) in served {
            table[api as usize] = Some((min, max));
        }
        table
    });
    let (min, max) = (*table.get(api as usize)?)?;
    Some(min..=max)
}
