//! Accepts Kafka clients.

use super::connection;
use crate::broker::Broker;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How long clients of a broker that has just started wait for it to learn what it missed. As long as there is no
/// majority it cannot, and is of more use with what it knows.
const CATCH_UP_MAX: Duration = Duration::from_secs(5);
const CATCH_UP_AGAIN: Duration = Duration::from_millis(20);

/// What a broker knows when it starts may be old: topics that are gone, with replicas that have not heard of it either
/// and elect a leader. As a broker of Kafka does, it serves nobody before it has caught up with the controller.
async fn catch_up(broker: &Broker) {
    let caught_up = async {
        while let Err(error) = broker.node.catch_up_with_metadata(CATCH_UP_MAX).await {
            tracing::debug!("clients wait: {error}");
            tokio::time::sleep(CATCH_UP_AGAIN).await;
        }
    };
    if tokio::time::timeout(CATCH_UP_MAX, caught_up).await.is_err() {
        tracing::warn!(
            "the controller could not be asked within {CATCH_UP_MAX:?}; clients are served with the metadata of before"
        );
    }
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = catch_up(&broker) => {}
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
