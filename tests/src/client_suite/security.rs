//! Encryption and authentication: TLS with SASL at the port after the one given, TLS with client
//! certificates at the one after that; certificates in the folder `TIDELOG_TEST_CERTIFICATES`.

use super::ground::{client, fresh};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidelog_client::{
    Admin, ClientConfig, Consumer, ConsumerConfig, Error, NewTopic, Producer, ProducerConfig,
    Record, Sasl, ScramHash, StartPosition, TlsConfig,
};

fn folder() -> Result<PathBuf> {
    let folder = std::env::var_os("TIDELOG_TEST_CERTIFICATES");
    Ok(folder
        .context("TIDELOG_TEST_CERTIFICATES is not set")?
        .into())
}

/// The client of the listener `after` ports further on.
fn listener(bootstrap: &str, after: u16) -> Result<ClientConfig> {
    let (host, port) = bootstrap.rsplit_once(':').context("no port")?;
    let port: u16 = port.parse()?;
    Ok(client(&format!("{host}:{}", port + after)))
}

fn trusting() -> Result<TlsConfig> {
    let authority = std::fs::read(folder()?.join("ca.pem"))?;
    Ok(TlsConfig::trusting(&authority)?)
}

async fn write_and_read(config: ClientConfig) -> Result<()> {
    let topic = fresh("secure");
    let admin = Admin::new(config.clone()).await?;
    let new = NewTopic {
        name: topic.clone(),
        partitions: Some(1),
        ..NewTopic::default()
    };
    admin.create_topic(&new, false).await?;
    let producer = Producer::new(config.clone(), ProducerConfig::default()).await?;
    // More than one TLS record.
    let value = "v".repeat(100_000);
    for _ in 0..20 {
        producer
            .send(Record::new(topic.as_str(), value.clone()))
            .await?;
    }
    producer.close().await?;
    let mut consumer = Consumer::new(config, ConsumerConfig::default()).await?;
    consumer
        .assign([(topic.as_str(), 0, StartPosition::Earliest)])
        .await?;
    for _ in 0..20 {
        let record = consumer.next_record().await?;
        ensure!(record.value.as_deref() == Some(value.as_bytes()));
    }
    Ok(())
}

/// A token that only a broker without a key takes.
fn unsigned_token(user: &str) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let claims = format!(r#"{{"sub":"{user}","iat":{now},"exp":{}}}"#, now + 300);
    let [head, claims] = [r#"{"alg":"none"}"#, &claims].map(|part| base64_url(part.as_bytes()));
    format!("{head}.{claims}.")
}

fn base64_url(bytes: &[u8]) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .chain([&0, &0])
            .take(3)
            .fold(0u32, |w, b| w << 8 | u32::from(*b));
        for i in 0..=chunk.len() {
            out.push(char::from(SIGNS[(word >> (18 - 6 * i)) as usize & 63]));
        }
    }
    out
}

/// Every mechanism, over TLS.
pub async fn every_sasl_mechanism_is_taken(bootstrap: &str) -> Result<()> {
    for sasl in [
        Sasl::plain("ann", "secret"),
        Sasl::scram(ScramHash::Sha256, "ann", "secret"),
        Sasl::scram(ScramHash::Sha512, "ann", "secret"),
        Sasl::oauth_bearer(async || Ok(unsigned_token("ann"))),
    ] {
        let config = listener(bootstrap, 1)?
            .with_tls(trusting()?)
            .with_sasl(sasl.clone());
        write_and_read(config)
            .await
            .with_context(|| format!("{sasl:?}"))?;
    }
    Ok(())
}

/// At once, and not as something that may pass.
pub async fn a_wrong_password_is_told_at_once(bootstrap: &str) -> Result<()> {
    let began = std::time::Instant::now();
    for sasl in [
        Sasl::plain("ann", "wrong"),
        Sasl::scram(ScramHash::Sha256, "ann", "wrong"),
        Sasl::scram(ScramHash::Sha512, "nobody", "secret"),
        Sasl::oauth_bearer(async || Ok("nonsense".to_owned())),
    ] {
        let config = listener(bootstrap, 1)?
            .with_tls(trusting()?)
            .with_sasl(sasl.clone());
        let error = Admin::new(config).await.err().context("it was let in")?;
        ensure!(
            matches!(error, Error::Authentication { .. }),
            "{sasl:?}: {error}"
        );
    }
    ensure!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    Ok(())
}

/// With a certificate that the broker asks for; and a broker that nobody vouches for is not
/// trusted.
pub async fn certificates_are_shown_and_checked(bootstrap: &str) -> Result<()> {
    let folder = folder()?;
    let read = |name: &str| std::fs::read(folder.join(name));
    let (authority, chain, key) = (read("ca.pem")?, read("broker.crt")?, read("broker.key")?);
    let identity = TlsConfig::with_identity(&authority, &chain, &key)?;
    write_and_read(listener(bootstrap, 2)?.with_tls(identity)).await?;
    let distrusting = TlsConfig::trusting(&chain)?;
    let error = Admin::new(listener(bootstrap, 1)?.with_tls(distrusting)).await;
    let error = error.err().context("it was trusted")?;
    ensure!(matches!(error, Error::Authentication { .. }), "{error}");
    Ok(())
}
