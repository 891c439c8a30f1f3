//! SASL: proving a name to the broker, at the beginning of each connection.

use super::scram::Scram;
use crate::connection::Connection;
use crate::error::{Error, Result};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use kafka_protocol::messages::{SaslAuthenticateRequest, SaslHandshakeRequest};
use kafka_protocol::protocol::StrBytes;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

type FetchToken = dyn Fn() -> BoxFuture<'static, Result<String>> + Send + Sync;

/// Who the client is, and how it proves that.
#[derive(Clone)]
#[non_exhaustive]
pub enum Sasl {
    /// Name and password as they are: only over encrypted connections.
    Plain {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// Proves that it knows the password without telling it (RFC 5802).
    Scram {
        /// The hash the broker has the password in.
        hash: ScramHash,
        /// The name.
        user: String,
        /// The password. Not normalised: letters beyond ASCII must be as the broker has them.
        password: String,
    },
    /// A bearer token (RFC 7628), asked for at each new connection: only over encrypted ones.
    OAuthBearer {
        /// Gets a token.
        token: Arc<FetchToken>,
    },
}

/// The hash of a SCRAM mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScramHash {
    /// SCRAM-SHA-256.
    Sha256,
    /// SCRAM-SHA-512.
    Sha512,
}

impl Sasl {
    /// [`Sasl::Plain`].
    pub fn plain(user: impl Into<String>, password: impl Into<String>) -> Sasl {
        Sasl::Plain {
            user: user.into(),
            password: password.into(),
        }
    }

    /// [`Sasl::Scram`].
    pub fn scram(hash: ScramHash, user: impl Into<String>, password: impl Into<String>) -> Sasl {
        Sasl::Scram {
            hash,
            user: user.into(),
            password: password.into(),
        }
    }

    /// [`Sasl::OAuthBearer`], calling `token` for each new connection.
    pub fn oauth_bearer<F>(token: impl Fn() -> F + Send + Sync + 'static) -> Sasl
    where
        F: Future<Output = Result<String>> + Send + 'static,
    {
        Sasl::OAuthBearer {
            token: Arc::new(move || Box::pin(token())),
        }
    }

    fn mechanism(&self) -> &'static str {
        match self {
            Sasl::Plain { .. } => "PLAIN",
            Sasl::Scram { hash, .. } => match hash {
                ScramHash::Sha256 => "SCRAM-SHA-256",
                ScramHash::Sha512 => "SCRAM-SHA-512",
            },
            Sasl::OAuthBearer { .. } => "OAUTHBEARER",
        }
    }
}

/// Without what must stay secret.
impl fmt::Debug for Sasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.mechanism())?;
        match self {
            Sasl::Plain { user, .. } | Sasl::Scram { user, .. } => write!(f, " as {user:?}"),
            Sasl::OAuthBearer { .. } => Ok(()),
        }
    }
}

/// Proves the name on a new connection; returns how long that holds, if the broker limits it.
pub(crate) async fn authenticate(
    connection: &Connection,
    sasl: &Sasl,
    limit: Duration,
) -> Result<Option<Duration>> {
    let talk = Talk { connection, limit };
    talk.shake_hands(sasl.mechanism()).await?;
    match sasl {
        Sasl::Plain { user, password } => {
            let (_, lifetime) = talk.say(format!("\0{user}\0{password}")).await?;
            Ok(lifetime)
        }
        Sasl::Scram {
            hash,
            user,
            password,
        } => talk.scram(*hash, user, password).await,
        Sasl::OAuthBearer { token } => {
            let token = token().await?;
            let first = format!("n,,\u{1}auth=Bearer {token}\u{1}\u{1}");
            match talk.say(first).await? {
                (answer, lifetime) if answer.is_empty() => Ok(lifetime),
                // The reason; the broker waits for this sign before it refuses.
                (reason, _) => match talk.say("\u{1}".to_owned()).await {
                    Err(error) => Err(error),
                    Ok(_) => Err(talk.refused(String::from_utf8_lossy(&reason).into_owned())),
                },
            }
        }
    }
}

struct Talk<'a> {
    connection: &'a Connection,
    limit: Duration,
}

impl Talk<'_> {
    fn refused(&self, reason: String) -> Error {
        Error::Authentication {
            address: self.connection.address().clone(),
            reason,
        }
    }

    async fn shake_hands(&self, mechanism: &'static str) -> Result<()> {
        let request =
            SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
        let version = self.connection.version::<SaslHandshakeRequest>(i16::MAX)?;
        let response = self.connection.send(version, &request, self.limit).await?;
        if response.error_code == 0 {
            return Ok(());
        }
        let known: Vec<_> = response.mechanisms.iter().map(|m| m.as_str()).collect();
        let reason = format!("the broker takes {}, not {mechanism}", known.join(", "));
        Err(self.refused(reason))
    }

    /// One message and its answer.
    async fn say(&self, message: String) -> Result<(Bytes, Option<Duration>)> {
        let request = SaslAuthenticateRequest::default().with_auth_bytes(message.into());
        let version = self
            .connection
            .version::<SaslAuthenticateRequest>(i16::MAX)?;
        let response = self.connection.send(version, &request, self.limit).await?;
        if response.error_code != 0 {
            let reason = response.error_message.map(|message| message.to_string());
            return Err(self.refused(reason.unwrap_or_else(|| "refused".to_owned())));
        }
        let lifetime = u64::try_from(response.session_lifetime_ms).unwrap_or(0);
        let lifetime = (lifetime > 0).then(|| Duration::from_millis(lifetime));
        Ok((response.auth_bytes, lifetime))
    }

    async fn scram(&self, hash: ScramHash, user: &str, password: &str) -> Result<Option<Duration>> {
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        let (scram, first) = Scram::begin(hash, user, password, &nonce);
        let (answer, _) = self.say(first).await?;
        let text = |bytes: Bytes| {
            let text = String::from_utf8(bytes.into());
            text.map_err(|_| self.refused("the broker's message is no text".to_owned()))
        };
        let server_first = text(answer)?;
        let proving = tokio::task::spawn_blocking(move || scram.prove(&server_first));
        let proven = proving.await.map_err(|_| Error::Closed)?;
        let (proven, last) = proven.map_err(|reason| self.refused(reason))?;
        let (answer, lifetime) = self.say(last).await?;
        proven
            .check(&text(answer)?)
            .map_err(|reason| self.refused(reason))?;
        Ok(lifetime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let shown = [
            Sasl::plain("ann", "secret"),
            Sasl::scram(ScramHash::Sha512, "ann", "secret"),
            Sasl::oauth_bearer(async || Ok("secret".to_owned())),
        ]
        .map(|sasl| format!("{sasl:?}"));
        let expected = [
            "PLAIN as \"ann\"",
            "SCRAM-SHA-512 as \"ann\"",
            "OAUTHBEARER",
        ];
        assert_eq!(shown, expected);
    }
}
