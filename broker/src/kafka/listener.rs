//! Accepts Kafka clients.

use super::connection;
use crate::broker::Broker;
use std::sync::Arc;
use std::time::Duration;
use tidelog_replication::host::Listener;
use tokio::sync::watch;

/// How long clients of a broker that has just started wait for it to learn what it missed. As long as there is no
/// majority it cannot, and is of more use with what it knows.
const START_WAIT: Duration = Duration::from_secs(5);

/// Serves until `stop`.
pub async fn serve(listener: Listener, broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    // What a broker knows when it starts may be old: topics that are gone, with replicas that have not heard of it
    // either and elect a leader. As a broker of Kafka does, it serves nobody before it knows better.
    tokio::select! {
        known = broker.knows_the_metadata(START_WAIT) => if !known {
            tracing::warn!(
                "no majority of brokers answered within {START_WAIT:?}; clients are served with the metadata of before"
            );
        },
        _ = stop.wait_for(|s| *s) => return,
    }
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|s| *s) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(admitted) = broker.limits.admit(peer.ip()) else {
                    tracing::warn!("refused a connection from {peer}: too many connections");
                    continue;
                };
                let broker = broker.clone();
                let stop = stop.clone();
                tokio::spawn(async move {
                    connection::serve(stream, peer, broker, stop).await;
                    drop(admitted);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: trying again at once would only burn the core.
                tracing::warn!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
