//! One broker: what every request handler can reach.

use crate::config::BrokerConfig;
use crate::metadata::MetadataImage;
use crate::metrics::Metrics;
use arc_swap::ArcSwap;
use std::sync::Arc;
use tidelog_replication::{BrokerId, Node};

/// Shared by all connections and background tasks of one broker.
pub struct Broker {
    pub id: BrokerId,
    pub cluster_id: String,
    pub config: Arc<BrokerConfig>,
    pub node: Arc<Node>,
    /// The newest applied metadata; replaced as a whole by the metadata state machine.
    pub metadata: Arc<ArcSwap<MetadataImage>>,
    pub metrics: Arc<Metrics>,
}
