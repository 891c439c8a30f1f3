//! What consumers put into the classic protocol's opaque fields
//! (`clients/src/main/resources/common/message/ConsumerProtocol*.json`): a version and then the fixed
//! form of that version or, from a newer client, of one that begins like the last we know.

use crate::coordinator::group::consumer::partitions::Partitions;
use crate::coordinator::{Malformed, Reader, Writer};
use crate::metadata::MetadataImage;
use bytes::Bytes;
use std::collections::BTreeSet;

/// Partitions of topics by name.
pub type ByName = Vec<(String, Vec<i32>)>;

/// What a consumer says when it joins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscription {
    pub topics: BTreeSet<String>,
    pub owned: ByName,
    pub rack_id: Option<String>,
}

impl Subscription {
    /// # Errors
    /// When the bytes are not a consumer's subscription.
    pub fn decode(bytes: &[u8]) -> Result<Subscription, Malformed> {
        let mut r = Reader::new(bytes);
        let version = r.i16()?;
        if version < 0 {
            return Err(Malformed("a negative version"));
        }
        let mut subscription = Subscription {
            topics: r
                .array_of(false, |r| r.string(false))?
                .into_iter()
                .collect(),
            ..Subscription::default()
        };
        let _user_data = r.nullable_array_of(false, Reader::i8)?;
        if version >= 1 {
            subscription.owned = by_name(&mut r)?;
        }
        if version >= 2 {
            let _generation = r.i32()?;
        }
        if version >= 3 {
            subscription.rack_id = r.nullable_string(false)?.filter(|rack| !rack.is_empty());
        }
        Ok(subscription)
    }

    /// What it holds, of the topics that exist.
    pub fn owned_partitions(&self, image: &MetadataImage) -> Partitions {
        by_id(&self.owned, image)
    }
}

/// Version of embedded bytes; 0 when there is none.
pub fn version(bytes: &[u8]) -> i16 {
    Reader::new(bytes).i16().unwrap_or(0)
}

/// # Errors
/// When the bytes are not a consumer's assignment.
pub fn decode_assignment(bytes: &[u8], image: &MetadataImage) -> Result<Partitions, Malformed> {
    if bytes.is_empty() {
        // Its assignment has not been made yet.
        return Ok(Partitions::new());
    }
    let mut r = Reader::new(bytes);
    let _version = r.i16()?;
    Ok(by_id(&by_name(&mut r)?, image))
}

/// An assignment without user data.
pub fn encode_assignment(version: i16, partitions: &Partitions, image: &MetadataImage) -> Bytes {
    let mut w = Writer::versioned(version);
    let topics: Vec<_> = partitions
        .iter()
        .filter_map(|(id, partitions)| Some((&image.topic_by_id(*id)?.name, partitions)))
        .collect();
    w.array_of(false, topics, |w, (name, partitions)| {
        w.string(false, name);
        w.array_of(false, partitions, |w, p| {
            w.i32(*p);
        });
    });
    // No user data.
    w.i32(-1);
    w.finish()
}

fn by_name(r: &mut Reader<'_>) -> Result<ByName, Malformed> {
    r.array_of(false, |r| {
        Ok((r.string(false)?, r.array_of(false, Reader::i32)?))
    })
}

fn by_id(topics: &ByName, image: &MetadataImage) -> Partitions {
    let mut all = Partitions::new();
    for (name, partitions) in topics {
        if let Some(topic) = image.topic(name)
            && !partitions.is_empty()
        {
            all.entry(topic.id).or_default().extend(partitions);
        }
    }
    all
}
