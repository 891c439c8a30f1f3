//! A classic group as plain data.

use super::super::records::{StoredGroup, StoredMember};
use crate::coordinator::Token;
use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Protocol type of consumers, whose subscriptions the broker can read.
const CONSUMER: &str = "consumer";

/// Where a group is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No members; offsets may be left.
    Empty,
    /// Members are asked to join again.
    PreparingRebalance,
    /// All have joined; the leader's assignment is awaited.
    CompletingRebalance,
    Stable,
}

impl State {
    /// As Kafka's tools show it.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: String,
    /// Set for static members (KIP-345).
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    /// Name and metadata of each protocol (assignor), the preferred one first.
    pub protocols: Vec<(String, Bytes)>,
    pub assignment: Bytes,
    /// Its parked JoinGroup.
    pub joining: Option<Token>,
    /// Its parked SyncGroup.
    pub syncing: Option<Token>,
    /// Has not been told its member id yet, so it cannot send heartbeats.
    pub is_new: bool,
}

impl Member {
    /// Metadata for a protocol; empty when it has none.
    pub fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| name == protocol);
        found.map_or(Bytes::new(), |(_, metadata)| metadata.clone())
    }

    /// Whether it is known to be alive without a heartbeat: its request is parked here.
    pub fn is_waiting(&self) -> bool {
        !self.is_new && (self.joining.is_some() || self.syncing.is_some())
    }
}

/// A classic group. A *simple* group, made by commits alone, has no protocol type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassicGroup {
    pub id: String,
    pub state: State,
    /// The rebalance under way is the first since the group was empty.
    pub from_empty: bool,
    /// When it came into its state, in milliseconds since 1970.
    pub state_ms: Option<i64>,
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    pub generation: i32,
    pub leader: Option<String>,
    pub members: BTreeMap<String, Member>,
    /// Member id by instance id.
    pub static_members: HashMap<String, String>,
    /// Ids given out for the second JoinGroup (KIP-394).
    pub pending_join: BTreeSet<String>,
    /// Members that have joined this generation and not synced yet.
    pub pending_sync: BTreeSet<String>,
    /// Topics of all members, where the broker can read their subscriptions.
    pub subscribed: Option<BTreeSet<String>>,
    /// A member has come while the initial rebalance waits for more.
    pub new_member_added: bool,
    /// What is left of the initial rebalance's delay, after the part that runs now.
    pub initial_delay_left_ms: i64,
    /// A record of it is in the log, which a tombstone has to remove.
    pub stored: bool,
}

impl ClassicGroup {
    pub fn new(id: &str, now_ms: i64) -> ClassicGroup {
        ClassicGroup {
            id: id.to_owned(),
            state: State::Empty,
            from_empty: false,
            state_ms: Some(now_ms),
            protocol_type: None,
            protocol: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            static_members: HashMap::new(),
            pending_join: BTreeSet::new(),
            pending_sync: BTreeSet::new(),
            subscribed: None,
            new_member_added: false,
            initial_delay_left_ms: 0,
            stored: false,
        }
    }

    /// As it was when its record was written.
    pub fn from_stored(id: &str, stored: StoredGroup) -> ClassicGroup {
        let mut group = ClassicGroup::new(id, 0);
        let protocol = stored.protocol.clone().unwrap_or_default();
        for member in stored.members {
            if let Some(instance) = &member.instance_id {
                let known = member.member_id.clone();
                group.static_members.insert(instance.clone(), known);
            }
            group.members.insert(
                member.member_id.clone(),
                Member {
                    id: member.member_id,
                    instance_id: member.instance_id,
                    client_id: member.client_id,
                    client_host: member.client_host,
                    rebalance_timeout_ms: member.rebalance_timeout_ms,
                    session_timeout_ms: member.session_timeout_ms,
                    protocols: vec![(protocol.clone(), member.subscription)],
                    assignment: member.assignment,
                    joining: None,
                    syncing: None,
                    is_new: false,
                },
            );
        }
        group.state = if group.members.is_empty() {
            State::Empty
        } else {
            State::Stable
        };
        group.state_ms = stored.state_ms;
        group.protocol_type = Some(stored.protocol_type).filter(|t| !t.is_empty());
        group.protocol = stored.protocol;
        group.generation = stored.generation;
        group.leader = stored.leader;
        group.stored = true;
        group.subscribed = group.compute_subscribed();
        group
    }

    /// The record of its present generation, with the members' assignments.
    pub fn to_stored(&self) -> StoredGroup {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let members = self.members.values().map(|member| StoredMember {
            member_id: member.id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            subscription: member.metadata(protocol),
            assignment: member.assignment.clone(),
        });
        StoredGroup {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_ms: self.state_ms,
            members: members.collect(),
        }
    }

    pub fn enter(&mut self, state: State, now_ms: i64) {
        self.state = state;
        self.state_ms = Some(now_ms);
    }

    pub fn is_leader(&self, member: &str) -> bool {
        self.leader.as_deref() == Some(member)
    }

    pub fn add(&mut self, member: Member, protocol_type: &str) {
        if let Some(instance) = &member.instance_id {
            self.static_members
                .insert(instance.clone(), member.id.clone());
        }
        if self.members.is_empty() {
            self.protocol_type = Some(protocol_type.to_owned());
        }
        if self.leader.is_none() {
            self.leader = Some(member.id.clone());
        }
        self.pending_join.remove(&member.id);
        self.members.insert(member.id.clone(), member);
    }

    /// Removes a member, or an id that was given out.
    pub fn remove(&mut self, id: &str) -> Option<Member> {
        let removed = self.members.remove(id);
        if let Some(instance) = removed.as_ref().and_then(|m| m.instance_id.as_ref())
            && self.static_members.get(instance).is_some_and(|m| m == id)
        {
            self.static_members.remove(instance);
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
        self.pending_join.remove(id);
        self.pending_sync.remove(id);
        removed
    }

    pub fn joining_count(&self) -> usize {
        self.members
            .values()
            .filter(|m| m.joining.is_some())
            .count()
    }

    pub fn all_have_joined(&self) -> bool {
        self.pending_join.is_empty() && self.members.values().all(|m| m.joining.is_some())
    }

    /// When the leader has not joined again, another member that has becomes leader. False: nobody
    /// has joined.
    pub fn elect_joined_leader(&mut self) -> bool {
        let Some(leader) = self.leader.as_ref().and_then(|l| self.members.get(l)) else {
            return false;
        };
        if leader.joining.is_some() {
            return true;
        }
        let joined = self.members.values().find(|m| m.joining.is_some());
        match joined {
            Some(member) => {
                self.leader = Some(member.id.clone());
                true
            }
            None => false,
        }
    }

    /// The longest time any member wants to be waited for.
    pub fn rebalance_timeout_ms(&self) -> i64 {
        let timeouts = self.members.values().map(|m| m.rebalance_timeout_ms);
        i64::from(timeouts.max().unwrap_or(0).max(0))
    }

    /// Whether a member with these protocols could be in the group: one of them all others have too.
    pub fn supports(&self, protocol_type: &str, protocols: &[(String, Bytes)]) -> bool {
        if self.state == State::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|(name, _)| self.all_have(name))
    }

    fn all_have(&self, protocol: &str) -> bool {
        let has = |m: &Member| m.protocols.iter().any(|(name, _)| name == protocol);
        self.members.values().all(has)
    }

    /// The protocol most members prefer among those that all have.
    pub fn select_protocol(&self) -> Option<String> {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let names = member.protocols.iter().map(|(name, _)| name.as_str());
            if let Some(choice) = names.into_iter().find(|name| self.all_have(name)) {
                *votes.entry(choice).or_default() += 1;
            }
        }
        votes
            .into_iter()
            .max_by_key(|(_, count)| *count)
            .map(|(name, _)| name.to_owned())
    }

    /// Begins the next generation with the members there are.
    pub fn next_generation(&mut self, now_ms: i64) {
        self.generation = self.generation.wrapping_add(1).max(1);
        self.pending_sync.clear();
        if self.members.is_empty() {
            self.protocol = None;
            self.enter(State::Empty, now_ms);
        } else {
            self.protocol = self.select_protocol();
            self.enter(State::CompletingRebalance, now_ms);
        }
        self.from_empty = false;
        self.subscribed = self.compute_subscribed();
    }

    pub fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER)
    }

    fn compute_subscribed(&self) -> Option<BTreeSet<String>> {
        if !self.uses_consumer_protocol() {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = self.protocol.as_deref()?;
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            topics.extend(subscription_topics(&member.metadata(protocol))?);
        }
        Some(topics)
    }

    /// Whether offsets of the topic may be in use; unknown subscriptions count as such.
    pub fn is_subscribed(&self, topic: &str) -> bool {
        match &self.subscribed {
            Some(topics) => topics.contains(topic),
            None => self.uses_consumer_protocol(),
        }
    }

    /// Whether the member exists and is who it says it is.
    pub fn check_member(&self, id: &str, instance_id: Option<&str>) -> Result<(), ResponseError> {
        if let Some(instance) = instance_id {
            match self.static_members.get(instance) {
                None => return Err(ResponseError::UnknownMemberId),
                Some(known) if known != id => return Err(ResponseError::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(id) {
            Ok(())
        } else {
            Err(ResponseError::UnknownMemberId)
        }
    }

    /// Whether a member may commit offsets now; `transactional` for TxnOffsetCommit.
    pub fn check_commit(
        &self,
        member: &str,
        instance_id: Option<&str>,
        generation: i32,
        transactional: bool,
    ) -> Result<(), ResponseError> {
        if generation < 0 && self.state == State::Empty {
            // An admin client, or a consumer that assigns its partitions itself.
            return Ok(());
        }
        if generation >= 0 || !member.is_empty() || instance_id.is_some() {
            self.check_member(member, instance_id)?;
            if generation != self.generation {
                return Err(ResponseError::IllegalGeneration);
            }
        } else if !transactional && self.state != State::Empty {
            return Err(ResponseError::UnknownMemberId);
        }
        if !transactional && self.state == State::CompletingRebalance {
            return Err(ResponseError::RebalanceInProgress);
        }
        Ok(())
    }
}

/// Topics of a consumer's subscription (`ConsumerProtocolSubscription`, whose version 0 is the prefix
/// of all); `None` when it is none.
fn subscription_topics(metadata: &[u8]) -> Option<Vec<String>> {
    let mut reader = crate::coordinator::Reader::new(metadata);
    reader.i16().ok().filter(|version| *version >= 0)?;
    reader.array_of(false, |r| r.string(false)).ok()
}
