//! Who leads which group, in the whole cluster: leaders tell all brokers of themselves.

use crate::ids::BrokerId;
use crate::node::LeaderInfo;
use crate::transport::Transport;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use tidelog_proto::peer::{self as wire, message::Body};
use tidelog_storage::ids::GroupId;
use tokio::sync::watch;

/// The newest known leader of each group.
pub struct LeaderTable {
    broker: BrokerId,
    transport: Weak<Transport>,
    leaders: RwLock<HashMap<GroupId, LeaderInfo>>,
    /// What each peer says it leads, and in which epoch, since it last connected.
    claims: RwLock<HashMap<BrokerId, HashMap<GroupId, i32>>>,
    changes: AtomicU64,
    /// Counts up at every change, so that tasks can wait for one.
    version: watch::Sender<u64>,
}

impl LeaderTable {
    pub fn new(broker: BrokerId, transport: &Arc<Transport>) -> Arc<LeaderTable> {
        Arc::new(LeaderTable {
            broker,
            transport: Arc::downgrade(transport),
            leaders: RwLock::default(),
            claims: RwLock::default(),
            changes: AtomicU64::new(0),
            version: watch::Sender::new(0),
        })
    }

    pub fn get(&self, group: GroupId) -> Option<LeaderInfo> {
        self.leaders.read().get(&group).copied()
    }

    /// A local replica saw its leader change. When it is this broker, the others are told.
    pub fn observed(&self, group: GroupId, leader: Option<LeaderInfo>) {
        let Some(leader) = leader else {
            // Somebody may have to be elected.
            self.version.send_modify(|v| *v += 1);
            return;
        };
        if self.learn(group, leader) && leader.leader == self.broker {
            self.changes.fetch_add(1, Ordering::Relaxed);
            let news = Body::Leaders(wire::Leaders {
                leaders: vec![to_wire(group, leader)],
                whole: false,
            });
            if let Some(transport) = self.transport.upgrade() {
                for peer in transport.peers() {
                    peer.send(0, news.clone());
                }
            }
        }
    }

    /// The replica of this broker leads no more, and does not follow either: the others are told what
    /// this broker still leads, and elect another.
    pub fn resigned(&self, group: GroupId) {
        {
            let mut leaders = self.leaders.write();
            if leaders
                .get(&group)
                .is_none_or(|known| known.leader != self.broker)
            {
                return;
            }
            leaders.remove(&group);
        }
        self.version.send_modify(|v| *v += 1);
        if let Some(transport) = self.transport.upgrade() {
            for peer in transport.peers() {
                peer.send(0, self.own());
            }
        }
    }

    /// Whether `peer` still is the leader it was in `epoch`. A leader that was restarted follows,
    /// and while nobody knows that, nobody stands for election: it may have lost entries that were
    /// only on its way to its disk, and then cannot win one itself. True until the peer has spoken.
    pub fn still_leads(&self, peer: BrokerId, group: GroupId, epoch: i32) -> bool {
        self.claims
            .read()
            .get(&peer)
            .is_none_or(|claimed| claimed.get(&group).is_some_and(|e| *e >= epoch))
    }

    /// News from a peer.
    pub fn received(&self, from: BrokerId, news: &wire::Leaders) {
        {
            let mut claims = self.claims.write();
            if news.whole {
                claims.insert(from, HashMap::with_capacity(news.leaders.len()));
            }
            // Before the whole list nothing is known of what else it leads.
            if let Some(claimed) = claims.get_mut(&from) {
                let own = news.leaders.iter().filter(|l| l.leader == from.0);
                claimed.extend(own.map(|l| (GroupId(l.group), l.epoch)));
            }
        }
        for leader in &news.leaders {
            self.learn(
                GroupId(leader.group),
                LeaderInfo {
                    leader: BrokerId(leader.leader),
                    epoch: leader.epoch,
                },
            );
        }
    }

    fn learn(&self, group: GroupId, leader: LeaderInfo) -> bool {
        let mut leaders = self.leaders.write();
        // One leader an epoch: an equal or older epoch is no news.
        if leaders
            .get(&group)
            .is_some_and(|known| known.epoch >= leader.epoch)
        {
            return false;
        }
        leaders.insert(group, leader);
        drop(leaders);
        self.version.send_modify(|v| *v += 1);
        true
    }

    pub fn forget(&self, group: GroupId) {
        self.leaders.write().remove(&group);
        for claimed in self.claims.write().values_mut() {
            claimed.remove(&group);
        }
    }

    /// All that this broker leads, for a peer that has just connected.
    pub fn own(&self) -> Body {
        let leaders = self.leaders.read();
        Body::Leaders(wire::Leaders {
            leaders: leaders
                .iter()
                .filter(|(_, info)| info.leader == self.broker)
                .map(|(group, info)| to_wire(*group, *info))
                .collect(),
            whole: true,
        })
    }

    /// Leaderships this broker has gained.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Changes whenever any leader does.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

fn to_wire(group: GroupId, leader: LeaderInfo) -> wire::Leader {
    wire::Leader {
        group: group.0,
        leader: leader.leader.0,
        epoch: leader.epoch,
    }
}
