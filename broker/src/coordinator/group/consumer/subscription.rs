//! What a group is subscribed to: topics by name, patterns, and how a change of them is noticed.

use super::group::ConsumerGroup;
use super::records::{Change, GroupMetadata, ResolvedRegex};
use crate::coordinator::Turn;
use crate::coordinator::topic::is_internal;
use crate::metadata::MetadataImage;
use crate::metadata::changes::Refused;
use kafka_protocol::error::ResponseError;
use regex::{Regex, RegexBuilder};
use std::collections::BTreeSet;

/// Bound of a compiled pattern.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// Compiles a pattern of RE2's syntax (RE2/J in Kafka). Matching takes time linear in the name.
///
/// # Errors
/// `INVALID_REGULAR_EXPRESSION`.
pub fn compile(pattern: &str) -> Result<Regex, Refused> {
    let invalid = |e: &dyn std::fmt::Display| {
        // The parser's messages show the pattern over several lines; the last one says what is wrong.
        let text = e.to_string();
        let reason = text.lines().last().unwrap_or_default().trim().to_owned();
        Refused::new(
            ResponseError::InvalidRegularExpression,
            format!(
                "SubscribedTopicRegex `{pattern}` is not a valid regular expression: {reason}."
            ),
        )
    };
    let pattern = unquote(pattern);
    // By itself first, so that it cannot reach out of the group it is put into.
    regex_syntax_check(&pattern).map_err(|e| invalid(&e))?;
    // As in Kafka the whole name has to match.
    RegexBuilder::new(&format!("^(?:{pattern})$"))
        .size_limit(REGEX_BYTES_MAX)
        .build()
        .map_err(|e| invalid(&e))
}

fn regex_syntax_check(pattern: &str) -> Result<(), regex::Error> {
    RegexBuilder::new(pattern)
        .size_limit(REGEX_BYTES_MAX)
        .build()
        .map(drop)
}

/// RE2's `\Q...\E`, which our engine does not know.
fn unquote(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let rest = chars.as_str();
        let Some(quoted) = rest.strip_prefix('Q') else {
            out.push(c);
            out.extend(chars.next());
            continue;
        };
        let (literal, after) = quoted.split_once("\\E").unwrap_or((quoted, ""));
        out.push_str(&regex::escape(literal));
        chars = after.chars();
    }
    out
}

/// The topics whose names match. Internal topics never do: reading one's own commits has no end.
pub fn resolve(regex: &Regex, turn: &Turn) -> ResolvedRegex {
    ResolvedRegex {
        topics: turn
            .image
            .topics
            .keys()
            .filter(|name| !is_internal(name) && regex.is_match(name))
            .cloned()
            .collect(),
        version: turn.image.applied_index as i64,
        timestamp_ms: turn.now_ms,
    }
}

/// Changes whenever one of the topics appears, goes, is made anew or grows; 0 when none exists.
///
/// Kafka mixes the partitions' racks in as well; our assignors do not look at racks, so a rebalance for
/// their sake would change nothing.
pub fn metadata_hash<'a>(
    topics: impl IntoIterator<Item = &'a String>,
    image: &MetadataImage,
) -> i64 {
    let topics: BTreeSet<&String> = topics.into_iter().collect();
    let mut hash: u64 = 0;
    for topic in topics.into_iter().filter_map(|t| image.topic(t)) {
        // FNV-1a, over the topic's id, name and size.
        let count = (topic.partitions.len() as u64).to_be_bytes();
        let bytes = topic.id.as_bytes().iter().chain(topic.name.as_bytes());
        for byte in bytes.chain(&count) {
            let seed = if hash == 0 {
                0xcbf2_9ce4_8422_2325
            } else {
                hash
            };
            hash = (seed ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash as i64
}

impl ConsumerGroup {
    /// Resolves every pattern in use, and forgets those nobody uses any more. Known ones are resolved
    /// again only when the metadata has changed.
    pub(super) fn update_patterns(&mut self, turn: &Turn, changes: &mut Vec<Change>) {
        let used: BTreeSet<String> = self
            .members
            .values()
            .filter_map(|m| m.metadata.pattern())
            .map(str::to_owned)
            .collect();
        let unused: Vec<String> = self
            .regexes
            .keys()
            .filter(|r| !used.contains(*r))
            .cloned()
            .collect();
        for regex in unused {
            self.change(changes, Change::Regex(regex, None));
        }
        let metadata_changed = self.checked_index != Some(turn.image.applied_index);
        for pattern in used {
            let known = self.regexes.get(&pattern);
            if known.is_some() && !metadata_changed {
                continue;
            }
            // It was compiled when its member came; only a lower bound of a newer build refuses it.
            let Ok(compiled) = compile(&pattern) else {
                continue;
            };
            let resolved = resolve(&compiled, turn);
            if known.is_none_or(|k| k.topics != resolved.topics) {
                self.change(changes, Change::Regex(pattern, Some(resolved)));
            }
        }
    }

    /// Raises the group epoch if `needed`, or if the topics subscribed to have changed.
    pub(super) fn update_epoch(&mut self, turn: &Turn, needed: bool, changes: &mut Vec<Change>) {
        let metadata_changed = self.checked_index != Some(turn.image.applied_index);
        self.checked_index = Some(turn.image.applied_index);
        if !needed && !metadata_changed {
            return;
        }
        let topics: BTreeSet<&String> = self
            .members
            .values()
            .flat_map(|m| self.topics_of(m))
            .collect();
        let metadata_hash = metadata_hash(topics, &turn.image);
        if needed || metadata_hash != self.metadata_hash {
            let epoch = self.epoch + 1;
            self.change(
                changes,
                Change::Group(Some(GroupMetadata {
                    epoch,
                    metadata_hash,
                })),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_name_has_to_match() {
        assert!(compile("a.*").unwrap().is_match("abc"));
        assert!(!compile("b").unwrap().is_match("abc"));
        assert!(compile("a|b").unwrap().is_match("b"));
        assert!(!compile("a|b").unwrap().is_match("bc"));
        assert!(compile(r"\Qa.b\E\d+").unwrap().is_match("a.b12"));
        assert!(!compile(r"\Qa.b\E\d+").unwrap().is_match("axb12"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for pattern in ["(", "a)|(b", "[", "(?=x)", "x{1000}{1000}{1000}"] {
            let refused = compile(pattern).unwrap_err();
            assert_eq!(
                refused.error,
                ResponseError::InvalidRegularExpression,
                "{pattern}"
            );
        }
    }
}
