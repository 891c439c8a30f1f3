//! Profiles: clusters by name, in a file, so that a command says `--profile prod` instead of addresses
//! and passwords.
//!
//! The file is `$TIDELOG_PROFILES`, else `tidelog/profiles.toml` under `$XDG_CONFIG_HOME` or
//! `~/.config`:
//!
//! ```toml
//! default = "local"
//!
//! [profiles.local]
//! bootstrap = "127.0.0.1:9092"
//!
//! [profiles.prod]
//! bootstrap = "kafka-1:9093,kafka-2:9093"
//! tls = { authorities = "/etc/tidelog/ca.pem" }
//! sasl = { mechanism = "SCRAM-SHA-512", user = "ann", password_file = "/etc/tidelog/ann" }
//! ```

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tidelog_client::{ClientConfig, Sasl, ScramHash, TlsConfig};

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profiles {
    /// Taken when a command names neither a profile nor addresses.
    default: Option<String>,
    #[serde(default)]
    profiles: BTreeMap<String, Profile>,
}

/// One cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub bootstrap: Option<String>,
    tls: Option<Tls>,
    sasl: Option<SaslProfile>,
}

/// Files in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    /// Who may sign the brokers' certificates.
    authorities: PathBuf,
    /// What is shown to brokers that ask for a certificate.
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct SaslProfile {
    mechanism: Mechanism,
    user: String,
    password: Option<String>,
    /// Its first line is the password.
    password_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Mechanism {
    #[serde(rename = "PLAIN")]
    Plain,
    #[serde(rename = "SCRAM-SHA-256")]
    Scram256,
    #[serde(rename = "SCRAM-SHA-512")]
    Scram512,
}

/// Where the file is.
fn place() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(file) = var("TIDELOG_PROFILES") {
        return Some(file.into());
    }
    let config = var("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| Some(PathBuf::from(var("HOME")?).join(".config")));
    Some(config?.join("tidelog/profiles.toml"))
}

/// The profile of that name, or the default one; none when there is no name and no default.
///
/// # Errors
/// When the file cannot be read, or has no such profile.
pub fn load(name: Option<&str>) -> Result<Option<Profile>> {
    let Some(file) = place() else {
        return match name {
            None => Ok(None),
            Some(name) => bail!("no profile {name:?}: set HOME or TIDELOG_PROFILES"),
        };
    };
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => match name {
            None => return Ok(None),
            Some(name) => bail!(
                "no profile {name:?}: {} does not exist; write [profiles.{name}] with bootstrap = \
                 \"HOST:PORT\" to it",
                file.display()
            ),
        },
        Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
    };
    let profiles = Profiles::parse(&text).with_context(|| format!("read {}", file.display()))?;
    profiles
        .find(name)
        .with_context(|| format!("{}", file.display()))
}

impl Profiles {
    fn parse(text: &str) -> Result<Profiles> {
        Ok(toml::from_str(text)?)
    }

    fn find(&self, name: Option<&str>) -> Result<Option<Profile>> {
        let Some(name) = name.or(self.default.as_deref()) else {
            return Ok(None);
        };
        if let Some(profile) = self.profiles.get(name) {
            return Ok(Some(profile.clone()));
        }
        let known: Vec<&str> = self.profiles.keys().map(String::as_str).collect();
        bail!("no profile {name:?}; there are: {}", known.join(", "))
    }
}

impl Profile {
    /// Adds what the profile says of TLS and SASL.
    ///
    /// # Errors
    /// When files cannot be read or used.
    pub fn secure(&self, mut client: ClientConfig) -> Result<ClientConfig> {
        if let Some(tls) = &self.tls {
            client = client.with_tls(tls.load()?);
        }
        if let Some(sasl) = &self.sasl {
            client = client.with_sasl(sasl.load()?);
        }
        Ok(client)
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("read {}", file.display()))
}

impl Tls {
    fn load(&self) -> Result<TlsConfig> {
        let authorities = read(&self.authorities)?;
        Ok(match (&self.certificate, &self.key) {
            (None, None) => TlsConfig::trusting(&authorities)?,
            (Some(certificate), Some(key)) => {
                TlsConfig::with_identity(&authorities, &read(certificate)?, &read(key)?)?
            }
            _ => bail!("tls: certificate and key go together; give both or neither"),
        })
    }
}

impl SaslProfile {
    fn load(&self) -> Result<Sasl> {
        let password = match (&self.password, &self.password_file) {
            (Some(password), None) => password.clone(),
            (None, Some(file)) => {
                let text = String::from_utf8(read(file)?).context("the password file")?;
                text.lines().next().unwrap_or_default().to_owned()
            }
            _ => bail!("sasl: give either password or password_file"),
        };
        let user = self.user.as_str();
        Ok(match self.mechanism {
            Mechanism::Plain => Sasl::plain(user, password),
            Mechanism::Scram256 => Sasl::scram(ScramHash::Sha256, user, password),
            Mechanism::Scram512 => Sasl::scram(ScramHash::Sha512, user, password),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        default = "local"
        [profiles.local]
        bootstrap = "127.0.0.1:9092"
        [profiles.prod]
        bootstrap = "a:9093,b:9093"
        sasl = { mechanism = "SCRAM-SHA-512", user = "ann", password = "secret" }
    "#;

    #[test]
    fn a_profile_is_found_by_name_or_as_the_default() {
        let profiles = Profiles::parse(TEXT).unwrap();
        let bootstrap = |name| profiles.find(name).unwrap().unwrap().bootstrap.unwrap();
        assert_eq!(bootstrap(None), "127.0.0.1:9092");
        assert_eq!(bootstrap(Some("prod")), "a:9093,b:9093");
        let said = profiles.find(Some("prd")).unwrap_err().to_string();
        assert!(said.contains("local, prod"), "{said}");
        assert_eq!(Profiles::default().find(None).unwrap(), None);
    }

    #[test]
    fn what_is_misspelled_is_refused() {
        Profiles::parse("[profiles.a]\nbootstrapp = \"x:1\"").unwrap_err();
        Profiles::parse("[profiles.a]\nsasl = { mechanism = \"MD5\", user = \"u\" }").unwrap_err();
    }

    #[test]
    fn a_password_comes_from_one_place() {
        let profiles = Profiles::parse(TEXT).unwrap();
        let mut prod = profiles.find(Some("prod")).unwrap().unwrap();
        let client = prod.secure(ClientConfig::new("a:1")).unwrap();
        assert!(client.sasl.is_some());
        if let Some(sasl) = &mut prod.sasl {
            sasl.password = None;
        }
        prod.secure(ClientConfig::new("a:1")).unwrap_err();
    }
}
