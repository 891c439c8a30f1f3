//! Settings of a broker.
/// Effective settings.
pub struct BrokerConfig {}
