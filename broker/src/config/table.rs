//! Every setting, once: name, kind, default and meaning. Look-ups and validation (`check`), `tidelog config
//! show`, DescribeConfigs and `docs/settings.md` all come from this table.

mod broker;
mod group;
mod topic;

pub use broker::{BROKER, COARSER};
pub use group::GROUP;
pub use topic::TOPIC;

/// What values a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Bool,
    /// Inclusive bounds.
    Int(i64, i64),
    /// From 0 to 1.
    Double,
    /// A number above 0, with or without a fraction.
    Number,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Any of these words, comma-separated.
    Words(&'static [&'static str]),
}

/// Where a setting is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In the broker's file only; a change needs a restart.
    Static,
    /// Also at run time, for one broker or all.
    Dynamic,
}

/// A broker setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub scope: Scope,
    pub doc: &'static str,
}

/// A setting of a topic or a group, and the broker setting its default comes from, if there is one.
#[derive(Debug, Clone, Copy)]
pub struct TopicSetting {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub broker: Option<&'static str>,
    pub doc: &'static str,
}

const I32: Kind = Kind::Int(i32::MIN as i64, i32::MAX as i64);
const COUNT: Kind = Kind::Int(1, i32::MAX as i64);
const POSITIVE: Kind = Kind::Int(1, i64::MAX);
const NOT_NEGATIVE: Kind = Kind::Int(0, i64::MAX);
const OR_NONE: Kind = Kind::Int(-1, i64::MAX);
const CODECS: Kind = Kind::Word(&["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]);
const TIMESTAMPS: Kind = Kind::Word(&["CreateTime", "LogAppendTime"]);
const CLEANUP: Kind = Kind::Words(&["delete", "compact"]);

const fn topic(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    broker: &'static str,
    doc: &'static str,
) -> TopicSetting {
    TopicSetting {
        name,
        kind,
        default,
        broker: if broker.is_empty() {
            None
        } else {
            Some(broker)
        },
        doc,
    }
}
