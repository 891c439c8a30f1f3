//! This broker's registration in the metadata: who it is, where clients and other brokers reach it, and
//! which features its build knows.

use crate::broker::Broker;
use crate::metadata::changes::{Refused, propose_as};
use crate::metadata::command::{Command, Envelope, RegisterBroker, Reply};
use crate::metadata::features;
use crate::metadata::version::{FIRST, FIRST_WITH_FEATURES, NEWEST};
use kafka_protocol::error::ResponseError;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use uuid::Uuid;

const RETRY: Duration = Duration::from_millis(50);

/// What the broker registers with. `host` and `port` are for clients.
pub fn of(broker: &Broker, (host, port): (String, u16), peer_address: String) -> RegisterBroker {
    let rack = Some(broker.config.text("broker.rack").to_owned()).filter(|r| !r.is_empty());
    RegisterBroker {
        id: broker.id.0,
        host,
        port: u32::from(port),
        rack,
        peer_address,
        incarnation: broker.data_dir.incarnation.as_bytes().to_vec(),
        cluster_id: Uuid::new_v4().simple().to_string()[..22].to_owned(),
        features: features::known(),
    }
}

/// Registers, trying until the cluster is formed, and again when the metadata begin to say what brokers know.
pub async fn keep(
    broker: Arc<Broker>,
    registration: RegisterBroker,
    mut changed: watch::Receiver<u64>,
    fail: watch::Sender<Option<String>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut registered = false;
    loop {
        changed.borrow_and_update();
        if registered && is_known(&broker, &registration) {
            tokio::select! {
                result = changed.changed() => if result.is_err() { return },
                _ = stop.wait_for(|s| *s) => return,
            }
            continue;
        }
        let envelope = Envelope {
            version: version(&broker),
            command: Some(Command::RegisterBroker(registration.clone())),
        };
        match propose_as(&broker, envelope).await {
            Ok(reply) => match joined(&broker, &reply) {
                Ok(()) => registered = true,
                Err(reason) => {
                    let _ = fail.send(Some(reason));
                    return;
                }
            },
            Err(Refused {
                // Of another folder, or of a build that is too old for what the cluster uses.
                error:
                    ResponseError::DuplicateBrokerRegistration | ResponseError::UnsupportedVersion,
                message,
            }) => {
                let _ = fail.send(Some(message));
                return;
            }
            Err(refused) => {
                tracing::debug!("not registered yet: {}", refused.message);
                tokio::select! {
                    () = tokio::time::sleep(RETRY) => {}
                    _ = stop.wait_for(|s| *s) => return,
                }
            }
        }
    }
}

/// Whether the metadata have what this broker's build knows, if they have such things at all.
fn is_known(broker: &Broker, registration: &RegisterBroker) -> bool {
    let image = broker.metadata.load();
    image.metadata_version() < FIRST_WITH_FEATURES
        || !image.brokers.contains_key(&broker.id)
        || image.broker_features.get(&broker.id)
            == Some(&features::known_of(&registration.features))
}

/// Version of the command: the first registration of all gives the new cluster its `metadata.version`.
fn version(broker: &Broker) -> u32 {
    let seeds = broker.config.seeds();
    let founds = seeds.is_empty() || seeds.iter().any(|seed| seed.broker == broker.id);
    let is_new = broker.data_dir.cluster_id().is_empty()
        && broker.metadata.load().cluster_id.is_empty()
        && !broker.node.cluster_exists();
    if !founds || !is_new {
        return FIRST;
    }
    let known = seeds
        .iter()
        .filter_map(|seed| broker.node.known_metadata_version(seed.broker));
    known.min().unwrap_or(NEWEST).min(NEWEST)
}

fn joined(broker: &Broker, reply: &Reply) -> Result<(), String> {
    broker
        .data_dir
        .join_cluster(&reply.cluster_id)
        .map_err(|e| e.to_string())?;
    broker.node.set_cluster(&reply.cluster_id);
    if !broker.registered.send_replace(true) {
        tracing::info!(
            "registered as broker {} of cluster {}",
            broker.id,
            reply.cluster_id
        );
    }
    Ok(())
}
