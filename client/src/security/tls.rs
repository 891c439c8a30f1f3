//! TLS with rustls: the broker shows a certificate for its host name, signed by a known authority.

use crate::error::{Error, Result};
use std::fmt;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Whom to trust, and optionally a certificate to show to brokers.
#[derive(Clone)]
pub struct TlsConfig {
    config: Arc<ClientConfig>,
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConfig")
    }
}

fn bad(reason: impl fmt::Display) -> Error {
    Error::Config {
        setting: "tls",
        reason: reason.to_string(),
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let read: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.map_err(|e| bad(format!("cannot read a certificate: {e}")))?;
    if read.is_empty() {
        return Err(bad("the PEM text has no certificate in it"));
    }
    Ok(read)
}

fn roots(pem: &[u8]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(bad)?;
    }
    Ok(roots)
}

impl TlsConfig {
    /// Trusts brokers with certificates signed by one of these authorities, given as PEM text.
    ///
    /// # Errors
    /// [`Error::Config`] when there is no usable certificate in it.
    pub fn trusting(authorities_pem: &[u8]) -> Result<TlsConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(bad)?
            .with_root_certificates(roots(authorities_pem)?);
        Ok(TlsConfig {
            config: Arc::new(builder.with_no_client_auth()),
        })
    }

    /// As [`TlsConfig::trusting`], and shows this certificate chain to brokers that ask for one.
    ///
    /// # Errors
    /// [`Error::Config`] when certificates or key cannot be used.
    pub fn with_identity(
        authorities_pem: &[u8],
        chain_pem: &[u8],
        key_pem: &[u8],
    ) -> Result<TlsConfig> {
        let key = PrivateKeyDer::from_pem_slice(key_pem);
        let key = key.map_err(|e| bad(format!("cannot read the key: {e}")))?;
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(bad)?
            .with_root_certificates(roots(authorities_pem)?);
        let config = builder.with_client_auth_cert(certificates(chain_pem)?, key);
        Ok(TlsConfig {
            config: Arc::new(config.map_err(bad)?),
        })
    }

    /// Encrypts a connection to `address` (`host:port`).
    pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        address: &str,
        stream: S,
    ) -> std::io::Result<TlsStream<S>> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        let connector = TlsConnector::from(self.config.clone());
        connector.connect(name, stream).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_without_a_certificate_is_refused() {
        for pem in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n"] {
            let error = TlsConfig::trusting(pem.as_bytes()).unwrap_err();
            assert!(
                matches!(error, Error::Config { setting: "tls", .. }),
                "{error}"
            );
        }
    }
}
