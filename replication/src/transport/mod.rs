//! Messages of all groups between two brokers: one gRPC stream each way, and beside it a plain
//! connection ([`bulk`]) for what carries batches.
//!
//! [`Peer`] is the outgoing side to one broker: queues, requests waiting for replies, and the task
//! that keeps the connections. [`server`] is the incoming side, [`refusals`] notices that this broker
//! is not welcome. [`network`] is openraft's view. The rest of the crate knows only [`Transport`] and
//! [`Handler`], so the wire could be another one.

mod bulk;
pub mod network;
mod outbox;
mod peer;
mod refusals;
pub mod server;

pub use peer::{Peer, RequestError};
use refusals::Refusals;

use crate::host::Host;
use crate::ids::BrokerId;
use crate::throttle::Throttle;
use parking_lot::RwLock;
use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tidelog_proto::peer::refused::Kind;
use tidelog_proto::peer::{self as wire, message::Body};
use tokio::sync::watch;
use tokio::time::Instant;

/// Version of the peer protocol this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;
/// Largest envelope: many small messages, or one large record batch.
const ENVELOPE_BYTES: usize = 1024 * 1024;
const WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Larger than any record batch that `message.max.bytes` can allow.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// A reply that may come later.
pub type ReplyFuture = Pin<Box<dyn Future<Output = Option<Body>> + Send>>;

/// What a message leads to.
pub enum Handled {
    /// No reply, or the reply at once.
    Now(Option<Body>),
    /// The reply when the future resolves.
    Later(ReplyFuture),
}

/// Receives what peers send and what becomes of them.
pub trait Handler: Send + Sync + 'static {
    /// Called in the order the peer sent; must not wait.
    fn handle(&self, from: BrokerId, group: u64, body: Body) -> Handled;
    /// A stream to the peer is up: it can be written to.
    fn connected(&self, peer: BrokerId);
    /// The peer is suspected dead: silent for too long, or it refuses connections.
    fn suspected(&self, peer: BrokerId);
}

/// Who this broker is, as it introduces itself.
#[derive(Debug, Clone)]
pub struct Identity {
    pub broker: BrokerId,
    pub incarnation: u128,
    pub seeds: String,
    /// `HOST:PORT` at which the others reach it.
    pub address: String,
    /// Newest `metadata.version` its build knows.
    pub metadata_version: u32,
}

/// Why a hello is not accepted.
#[derive(Debug)]
pub struct HelloRefused {
    pub kind: Kind,
    pub reason: String,
}

/// Timing of connections and of the failure detector.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    pub heartbeat: Duration,
    pub suspicion: Duration,
}

/// All peers of this broker.
pub struct Transport {
    pub identity: Identity,
    pub timing: Timing,
    pub host: Host,
    started: Instant,
    peers: RwLock<HashMap<BrokerId, Arc<Peer>>>,
    expected: RwLock<HashMap<BrokerId, u128>>,
    /// Brokers that were unregistered.
    unregistered: RwLock<BTreeSet<BrokerId>>,
    /// The cluster this broker's data belong to; empty until it has joined one.
    cluster: RwLock<String>,
    elsewhere: AtomicBool,
    /// The `metadata.version` in use.
    required_version: AtomicU32,
    refusals: Refusals,
    /// Holds back what learners copy.
    pub throttle: Throttle,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
}

/// Whether `ID@HOST:PORT,...` names a broker.
fn is_named(id: BrokerId, seeds: &str) -> bool {
    let named = seeds.split(',').filter_map(|seed| seed.split_once('@'));
    named.into_iter().any(|(named, _)| named == id.to_string())
}

/// Newest `metadata.version` that a peer's build knows; the first ones did not say.
pub(crate) fn known_version(hello: &wire::Hello) -> u32 {
    hello.metadata_version.max(1)
}

impl Transport {
    pub fn new(host: Host, identity: Identity, timing: Timing) -> Arc<Transport> {
        Arc::new(Transport {
            refusals: Refusals::new(&identity),
            identity,
            cluster: RwLock::default(),
            elsewhere: AtomicBool::new(false),
            required_version: AtomicU32::new(0),
            timing,
            host,
            started: Instant::now(),
            throttle: Throttle::default(),
            peers: RwLock::default(),
            expected: RwLock::default(),
            unregistered: RwLock::default(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
        })
    }

    /// Starts keeping a connection to `address`, or moves it there.
    pub fn set_peer(self: &Arc<Self>, id: BrokerId, address: &str, handler: &Arc<dyn Handler>) {
        if id == self.identity.broker {
            return;
        }
        let mut peers = self.peers.write();
        match peers.get(&id) {
            Some(peer) => peer.set_address(address),
            None => {
                let peer = Peer::start(id, address, self, handler);
                peers.insert(id, peer);
            }
        }
    }

    pub fn peer(&self, id: BrokerId) -> Option<Arc<Peer>> {
        self.peers.read().get(&id).cloned()
    }

    pub fn peers(&self) -> Vec<Arc<Peer>> {
        self.peers.read().values().cloned().collect()
    }

    /// From now on only this incarnation of `id` is spoken to.
    pub fn expect_incarnation(&self, id: BrokerId, incarnation: u128) {
        self.expected.write().insert(id, incarnation);
    }

    /// From now on these are not spoken to.
    pub fn refuse(&self, unregistered: &BTreeSet<BrokerId>) {
        if *self.unregistered.read() != *unregistered {
            self.unregistered.write().clone_from(unregistered);
        }
    }

    /// From now on brokers whose builds do not know this `metadata.version` are not spoken to.
    pub fn require_metadata_version(&self, version: u32) {
        self.required_version.fetch_max(version, Ordering::AcqRel);
    }

    /// Names the cluster this broker's data belong to.
    pub fn set_cluster(&self, cluster: &str) {
        cluster.clone_into(&mut self.cluster.write());
    }

    /// Whether this broker has not joined a cluster yet.
    pub fn belongs_to_none(&self) -> bool {
        self.cluster.read().is_empty()
    }

    /// Set once so many others refuse this broker that it is the one that is wrong.
    pub fn unwelcome(&self) -> watch::Receiver<Option<String>> {
        self.refusals.verdict()
    }

    pub(crate) fn hello(&self) -> wire::Hello {
        wire::Hello {
            broker: self.identity.broker.0,
            incarnation: self.identity.incarnation.to_be_bytes().to_vec().into(),
            seeds: self.identity.seeds.clone(),
            version: PROTOCOL_VERSION,
            cluster: self.cluster.read().clone(),
            address: self.identity.address.clone(),
            metadata_version: self.identity.metadata_version,
        }
    }

    /// Why a hello cannot be accepted, if it cannot.
    pub(crate) fn check_hello(&self, hello: &wire::Hello) -> Result<BrokerId, HelloRefused> {
        let id = BrokerId(hello.broker);
        let other = |reason: String| HelloRefused {
            kind: Kind::Other,
            reason,
        };
        if hello.version != PROTOCOL_VERSION {
            return Err(other(format!(
                "broker {id} speaks peer protocol {}, this broker {PROTOCOL_VERSION}",
                hello.version
            )));
        }
        if id == self.identity.broker {
            let reason = format!("two brokers are configured with broker.id = {id}");
            return Err(other(reason));
        }
        let cluster = self.cluster.read();
        if !hello.cluster.is_empty() && !cluster.is_empty() && hello.cluster != *cluster {
            return Err(HelloRefused {
                kind: Kind::OtherCluster,
                reason: format!(
                    "the data of broker {id} belong to cluster {}, those of broker {} to cluster {cluster}",
                    hello.cluster, self.identity.broker
                ),
            });
        }
        // The lists must agree, or a cluster might be formed twice. A broker that is not in its own list
        // forms nothing: it joins, and so it may have another.
        let (ours, theirs) = (&self.identity.seeds, &hello.seeds);
        let settled = !is_named(id, theirs) || !is_named(self.identity.broker, ours);
        if !settled && !theirs.is_empty() && !ours.is_empty() && theirs != ours {
            return Err(other(format!(
                "seed.brokers differ: broker {id} has \"{theirs}\", broker {} has \"{ours}\"; a \
                 broker that is to join a cluster is not named in its own list",
                self.identity.broker
            )));
        }
        if self.unregistered.read().contains(&id) {
            return Err(HelloRefused {
                kind: Kind::Unregistered,
                reason: format!("broker {id} was unregistered"),
            });
        }
        let (known, required) = (
            known_version(hello),
            self.required_version.load(Ordering::Acquire),
        );
        if known < required {
            return Err(HelloRefused {
                kind: Kind::TooOld,
                reason: format!(
                    "broker {id} runs a build that knows metadata.version {known} at most, and the \
                     cluster is at {required}: start it with the build of the other brokers"
                ),
            });
        }
        let expected = self.expected.read().get(&id).copied();
        if let Some(expected) = expected
            && hello.incarnation[..] != expected.to_be_bytes()
        {
            return Err(HelloRefused {
                kind: Kind::LostData,
                reason: format!(
                    "broker {id} has lost its data folder since it registered; it may not come \
                     back under the same id"
                ),
            });
        }
        if cluster.is_empty() && !hello.cluster.is_empty() {
            self.elsewhere.store(true, Ordering::Release);
        }
        self.refusals.welcomed(id);
        if let Some(peer) = self.peer(id) {
            peer.set_known_metadata_version(known_version(hello));
        }
        Ok(id)
    }

    /// Whether another broker belonged to a cluster already while this one did not: there is nothing to be
    /// formed any more.
    pub fn cluster_exists(&self) -> bool {
        self.elsewhere.load(Ordering::Acquire)
    }

    /// The next moment for something that is done every `period`. All that is due at the same moments wakes the process
    /// once: of a broker at rest that is most of what it costs.
    pub(crate) fn next_beat(&self, period: Duration) -> Instant {
        let periods = self.started.elapsed().as_nanos() / period.as_nanos().max(1);
        let next = (periods + 1) * period.as_nanos();
        self.started + Duration::from_nanos(next as u64)
    }

    /// When this transport was made, as the first of what a broker starts.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Milliseconds since this transport was made.
    pub(crate) fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Notes that something came from `id`.
    pub(crate) fn heard(&self, id: BrokerId) {
        if let Some(peer) = self.peers.read().get(&id) {
            peer.heard(self.now_ms());
        }
    }

    /// Starts the silence of a living peer anew.
    pub(crate) fn heard_if_alive(&self, id: BrokerId) {
        if self.is_alive(id) {
            self.heard(id);
        }
    }

    /// Peers heard of within the suspicion time.
    pub fn is_alive(&self, id: BrokerId) -> bool {
        id == self.identity.broker || self.peers.read().get(&id).is_some_and(|p| p.is_alive())
    }

    /// Alive, and not about to stop.
    pub fn is_staying(&self, id: BrokerId) -> bool {
        self.is_alive(id) && !self.peers.read().get(&id).is_some_and(|p| p.is_stopping())
    }

    pub(crate) fn count_in(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_out(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Ends all connections.
    pub fn close(&self) {
        for peer in self.peers() {
            peer.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transport(broker: i32, metadata_version: u32) -> Arc<Transport> {
        let identity = Identity {
            broker: BrokerId(broker),
            incarnation: broker as u128,
            seeds: "1@a:1,2@b:1".to_owned(),
            address: String::new(),
            metadata_version,
        };
        let timing = Timing {
            heartbeat: Duration::from_millis(100),
            suspicion: Duration::from_millis(500),
        };
        Transport::new(Host::System, identity, timing)
    }

    #[test]
    fn builds_that_do_not_know_the_version_in_use_are_refused() {
        let here = transport(1, 3);
        let older = transport(2, 2).hello();
        // From before hellos had it.
        let oldest = wire::Hello {
            metadata_version: 0,
            ..older.clone()
        };
        for version in 0..=1 {
            here.require_metadata_version(version);
            for hello in [&older, &oldest] {
                assert!(here.check_hello(hello).is_ok(), "{version}");
            }
        }
        here.require_metadata_version(2);
        assert!(here.check_hello(&older).is_ok());
        let refused = here.check_hello(&oldest).expect_err("too old");
        assert_eq!(refused.kind, Kind::TooOld);
        here.require_metadata_version(3);
        // It never goes down.
        here.require_metadata_version(1);
        let refused = here.check_hello(&older).expect_err("too old");
        assert_eq!(refused.kind, Kind::TooOld);
        assert!(
            refused.reason.contains("metadata.version 2 at most"),
            "{}",
            refused.reason
        );
    }

    #[test]
    fn another_version_of_the_protocol_is_refused() {
        let here = transport(1, 1);
        let hello = wire::Hello {
            version: PROTOCOL_VERSION + 1,
            ..transport(2, 1).hello()
        };
        let refused = here.check_hello(&hello).expect_err("not known");
        assert!(
            refused.reason.contains("peer protocol"),
            "{}",
            refused.reason
        );
    }
}
