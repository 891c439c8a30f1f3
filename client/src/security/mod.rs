//! Encrypted connections and who a client says it is.
//!
//! `sasl` proves a name to the broker, `scram` is the mechanism that does so without telling the
//! password, `tls` encrypts.

mod sasl;
mod scram;
#[cfg(feature = "tls")]
mod tls;

pub use sasl::{Sasl, ScramHash};
#[cfg(feature = "tls")]
pub use tls::TlsConfig;

pub(crate) use sasl::authenticate;
