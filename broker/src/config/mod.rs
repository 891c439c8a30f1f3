//! Settings of a broker: from built-in defaults, a TOML file, the environment and `--set`.

pub mod check;
pub mod group;
pub mod table;
pub mod topic;

pub use topic::{TopicConfig, broker_value};

use crate::metadata::image::{DECOMMISSION, MAINTENANCE};
use check::{broker_setting, check, nearest};
use std::collections::BTreeMap;
use std::path::Path;
use table::BROKER;
use tidelog_replication::{BrokerId, PeerAddress};

/// Where an effective value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Default,
    File(String),
    Environment(String),
    Set,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(path) => write!(f, "file {path}"),
            Source::Environment(name) => write!(f, "environment {name}"),
            Source::Set => f.write_str("--set"),
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("unknown setting \"{name}\" ({source_text}){}", hint(.nearest))]
    Unknown {
        name: String,
        source_text: String,
        nearest: Option<String>,
    },
    #[error("setting {name} = \"{value}\" ({source_text}): {reason}")]
    Invalid {
        name: String,
        value: String,
        source_text: String,
        reason: String,
    },
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    #[error("--set {0}: write it as NAME=VALUE")]
    Assignment(String),
}

fn hint(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map_or(String::new(), |n| format!("; did you mean \"{n}\"?"))
}

/// Effective settings of one broker.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    values: BTreeMap<&'static str, (String, Source)>,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        BrokerConfig {
            values: BROKER
                .iter()
                .map(|s| (s.name, (s.default.to_owned(), Source::Default)))
                .collect(),
        }
    }
}

impl BrokerConfig {
    /// Layers the sources: `--set` over the environment over the file over the defaults.
    ///
    /// # Errors
    /// The first unknown or unusable setting.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        set: &[String],
    ) -> Result<BrokerConfig, ConfigError> {
        let mut config = BrokerConfig::default();
        if let Some(path) = file {
            config.load_file(path)?;
        }
        for (variable, value) in environment {
            if let Some(name) = setting_of_variable(&variable) {
                config.put(name, &value, Source::Environment(variable.clone()))?;
            }
        }
        for assignment in set {
            let (name, value) = assignment
                .split_once('=')
                .ok_or_else(|| ConfigError::Assignment(assignment.clone()))?;
            config.put(name.trim(), value.trim(), Source::Set)?;
        }
        config.check_whole()?;
        Ok(config)
    }

    fn load_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let shown = path.display().to_string();
        let file_error = |reason: String| ConfigError::File {
            path: shown.clone(),
            reason,
        };
        let text = std::fs::read_to_string(path).map_err(|e| file_error(e.to_string()))?;
        let table: toml::Table = text
            .parse()
            .map_err(|e: toml::de::Error| file_error(e.message().to_owned()))?;
        let mut flat = Vec::new();
        flatten("", &toml::Value::Table(table), &mut flat);
        for (name, value) in flat {
            self.put(&name, &value, Source::File(shown.clone()))?;
        }
        Ok(())
    }

    /// Sets one value after checking it.
    pub fn put(&mut self, name: &str, value: &str, source: Source) -> Result<(), ConfigError> {
        let Some(setting) = broker_setting(name) else {
            return Err(ConfigError::Unknown {
                name: name.to_owned(),
                source_text: source.to_string(),
                nearest: nearest(name, BROKER.iter().map(|s| s.name)).map(str::to_owned),
            });
        };
        check(setting.kind, value).map_err(|reason| invalid(name, value, &source, reason))?;
        self.values.insert(setting.name, (value.to_owned(), source));
        Ok(())
    }

    fn check_whole(&self) -> Result<(), ConfigError> {
        let (seeds, source) = &self.values["seed.brokers"];
        parse_seeds(seeds).map_err(|reason| invalid("seed.brokers", seeds, source, reason))?;
        for name in ["listeners", "peer.listener", "http.listener"] {
            let (value, source) = &self.values[name];
            host_port(value)
                .ok_or_else(|| invalid(name, value, source, "must be HOST:PORT".to_owned()))?;
        }
        // From a file it would come back with every restart, and no command could end it.
        for (name, command) in [
            (MAINTENANCE, "tidelog broker maintenance N on"),
            (DECOMMISSION, "tidelog broker decommission N"),
        ] {
            if self.flag(name) {
                let (value, source) = &self.values[name];
                let reason = format!("is set while the broker runs: {command}");
                return Err(invalid(name, value, source, reason));
            }
        }
        group::check_bounds(self).map_err(|(name, reason)| {
            let (value, source) = &self.values[name];
            invalid(name, value, source, reason)
        })
    }

    /// The text of a setting of the table.
    pub fn text(&self, name: &str) -> &str {
        self.values.get(name).map_or("", |(value, _)| value)
    }

    /// Where a value comes from.
    pub fn source(&self, name: &str) -> &Source {
        self.values.get(name).map_or(&Source::Default, |(_, s)| s)
    }

    /// The number of a setting whose kind is a number; values are checked when they are set.
    pub fn int(&self, name: &str) -> i64 {
        self.text(name).trim().parse().unwrap_or(0)
    }

    pub fn flag(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    pub fn broker_id(&self) -> BrokerId {
        BrokerId(self.int("broker.id") as i32)
    }

    pub fn seeds(&self) -> Vec<PeerAddress> {
        parse_seeds(self.text("seed.brokers")).unwrap_or_default()
    }

    /// All settings in order: name, value, source.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &str, &Source)> {
        self.values.iter().map(|(n, (v, s))| (*n, v.as_str(), s))
    }
}

fn invalid(name: &str, value: &str, source: &Source, reason: String) -> ConfigError {
    ConfigError::Invalid {
        name: name.to_owned(),
        value: value.to_owned(),
        source_text: source.to_string(),
        reason,
    }
}

/// `TIDELOG_BROKER_ID` stands for `broker.id`. Other variables with the prefix belong to other
/// programs, such as the command line's `TIDELOG_BOOTSTRAP`.
fn setting_of_variable(variable: &str) -> Option<&'static str> {
    let name = variable.strip_prefix("TIDELOG_")?.to_lowercase();
    BROKER
        .iter()
        .map(|s| s.name)
        .find(|n| n.replace('.', "_") == name)
}

/// Dotted names in a TOML file are nested tables; this makes them names again.
fn flatten(prefix: &str, value: &toml::Value, out: &mut Vec<(String, String)>) {
    match value {
        toml::Value::Table(table) => {
            for (key, inner) in table {
                let name = if prefix.is_empty() {
                    key.clone()
                } else {
                    format!("{prefix}.{key}")
                };
                flatten(&name, inner, out);
            }
        }
        toml::Value::String(text) => out.push((prefix.to_owned(), text.clone())),
        toml::Value::Array(items) => {
            let words: Vec<String> = items
                .iter()
                .map(|i| i.as_str().map_or_else(|| i.to_string(), str::to_owned))
                .collect();
            out.push((prefix.to_owned(), words.join(",")));
        }
        other => out.push((prefix.to_owned(), other.to_string())),
    }
}

/// Splits `HOST:PORT`; an IPv6 host is in brackets.
pub fn host_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then_some(())?;
    Some((host, port.parse().ok()?))
}

fn parse_seeds(text: &str) -> Result<Vec<PeerAddress>, String> {
    let mut seeds: Vec<PeerAddress> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let parsed = part.split_once('@').and_then(|(id, address)| {
            let id = id.parse().ok().filter(|id| *id >= 0)?;
            host_port(address)?;
            Some(PeerAddress {
                broker: BrokerId(id),
                address: address.to_owned(),
            })
        });
        let seed = parsed.ok_or_else(|| format!("\"{part}\" is not ID@HOST:PORT"))?;
        if seeds.iter().any(|s| s.broker == seed.broker) {
            return Err(format!("broker {} is named twice", seed.broker));
        }
        seeds.push(seed);
    }
    Ok(seeds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, env: &[(&str, &str)], set: &[&str]) -> Result<BrokerConfig, ConfigError> {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("broker.toml");
        std::fs::write(&path, file).expect("write");
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
        BrokerConfig::load(Some(&path), env, &set)
    }

    #[test]
    fn later_sources_win() {
        let config = load(
            "broker.id = 1\nnum.partitions = 3\nlisteners = \"127.0.0.1:1\"",
            &[("TIDELOG_NUM_PARTITIONS", "4"), ("TIDELOG_BROKER_ID", "5")],
            &["num.partitions=6"],
        )
        .expect("valid");
        assert_eq!(config.int("num.partitions"), 6);
        assert_eq!(config.source("num.partitions"), &Source::Set);
        assert_eq!(config.broker_id(), BrokerId(5));
        assert_eq!(config.text("listeners"), "127.0.0.1:1");
    }

    #[test]
    fn unknown_and_wrong_settings_are_named() {
        let error = load("num.partition = 3", &[], &[]).expect_err("unknown");
        assert!(
            error
                .to_string()
                .contains("did you mean \"num.partitions\""),
            "{error}"
        );
        let error = load("", &[], &["num.partitions=many"]).expect_err("wrong");
        assert!(error.to_string().contains("whole number"), "{error}");
        let error = load("", &[], &["unclean.leader.election.enable=true"]).expect_err("refused");
        assert!(error.to_string().contains("must be false"), "{error}");
        let error = load("broker.maintenance = true", &[], &[]).expect_err("refused");
        assert!(
            error.to_string().contains("while the broker runs"),
            "{error}"
        );
        let error = load("", &[], &["seed.brokers=1@h:1,1@h:2"]).expect_err("twice");
        assert!(error.to_string().contains("named twice"), "{error}");
    }
}
