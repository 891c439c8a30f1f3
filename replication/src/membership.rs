//! Moves a group's replicas to other brokers, one safe step after another.
//!
//! A replica that comes begins as a learner: it copies the log, and counts for nothing. Once all that come
//! have caught up, joint consensus makes them voters, and those that go leave (Raft, Ongaro's dissertation,
//! chapter 4). So a partition never has fewer replicas in sync than before. The leader takes the
//! steps; a new leader goes on where the last one was, because the log says how far it came.

use crate::detector;
use crate::group::{Group, node_of};
use crate::ids::BrokerId;
use crate::node::Node;
use crate::transport::network::broker_of;
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::impls::EmptyNode;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tidelog_storage::ids::GroupId;

/// How long a step may take until a majority has it; it is taken up again where it stopped.
const STEP_LIMIT: Duration = Duration::from_secs(5);

/// Who takes part in a group, as the newest membership in this replica's log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// One set of voters, or two while the configuration is joint.
    pub configs: Vec<BTreeSet<BrokerId>>,
    pub learners: BTreeSet<BrokerId>,
    /// A majority has this membership.
    pub committed: bool,
}

impl Members {
    pub fn is_voter(&self, broker: BrokerId) -> bool {
        self.configs.iter().any(|config| config.contains(&broker))
    }

    fn knows(&self, broker: BrokerId) -> bool {
        self.is_voter(broker) || self.learners.contains(&broker)
    }
}

/// What comes next on the way to other members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    AddLearners(BTreeSet<BrokerId>),
    /// Joint consensus, or its second half.
    ChangeVoters(BTreeSet<BrokerId>),
    /// The leader is among those that go.
    HandOver(BrokerId),
    RemoveLearners(BTreeSet<BrokerId>),
    /// Replicas that come have not caught up, or what was last done is not committed.
    Wait,
    Done,
}

/// Who is to take part in a group: voters in preference order, and learners beside them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    pub voters: Vec<BrokerId>,
    pub learners: BTreeSet<BrokerId>,
}

/// What can be counted on a replica for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Its broker is not there, or about to stop.
    Away,
    /// It lacks what the newest membership is in: it does not know whether it is a voter, and votes for nobody if it
    /// was none before.
    Uninformed,
    Informed,
    CaughtUp,
}

/// Decides, on the leader `me`.
///
/// What the next voters cannot decide without somebody who is away would stop the partition, and so could the death of
/// another voter where one does not know yet that it is one.
pub fn next_step(
    wanted: &Wanted,
    members: &Members,
    me: BrokerId,
    standing: impl Fn(BrokerId) -> Standing,
) -> Step {
    let is_ready = |broker: BrokerId| standing(broker) == Standing::CaughtUp;
    let change_voters = |next: BTreeSet<BrokerId>| {
        let uninformed = next.iter().any(|b| standing(*b) == Standing::Uninformed);
        let away = next.iter().filter(|b| standing(**b) == Standing::Away);
        if uninformed || away.count() * 2 >= next.len() {
            Step::Wait
        } else {
            Step::ChangeVoters(next)
        }
    };
    let [voters] = &members.configs[..] else {
        // The second half of a change that a leader began, whichever it was.
        let Some(newer) = members.configs.last() else {
            return Step::Wait;
        };
        if newer.contains(&me) {
            return change_voters(newer.clone());
        }
        // The leader may have died between the halves, and one that goes have been elected.
        let heir = newer.iter().copied().find(|b| is_ready(*b));
        return heir.map_or(Step::Wait, Step::HandOver);
    };
    let target: BTreeSet<BrokerId> = wanted.voters.iter().copied().collect();
    if target.is_empty() {
        return Step::Wait;
    }
    let all: BTreeSet<BrokerId> = target.union(&wanted.learners).copied().collect();
    let unknown: BTreeSet<BrokerId> = all.iter().copied().filter(|b| !members.knows(*b)).collect();
    if !unknown.is_empty() {
        return Step::AddLearners(unknown);
    }
    if !target.is_subset(voters) {
        if target.iter().any(|b| !voters.contains(b) && !is_ready(*b)) {
            return Step::Wait;
        }
        // A leader that goes stays a voter until it has handed over.
        let mut next = target;
        if voters.contains(&me) {
            next.insert(me);
        }
        return change_voters(next);
    }
    if target != *voters {
        if target.contains(&me) {
            return change_voters(target);
        }
        let heir = wanted.voters.iter().copied().find(|b| is_ready(*b));
        return heir.map_or(Step::Wait, Step::HandOver);
    }
    let extra: BTreeSet<BrokerId> = members.learners.difference(&all).copied().collect();
    if !extra.is_empty() {
        return Step::RemoveLearners(extra);
    }
    if members.committed {
        Step::Done
    } else {
        Step::Wait
    }
}

impl Group {
    /// Who takes part, as far as this replica's log tells.
    pub fn members(&self) -> Members {
        let (membership, committed) = {
            let metrics = self.server.borrow_watched();
            (
                metrics.membership_config.clone(),
                metrics.committed_membership_config.clone(),
            )
        };
        let newest = membership.membership();
        Members {
            configs: newest
                .get_joint_config()
                .iter()
                .map(|config| config.iter().copied().map(broker_of).collect())
                .collect(),
            learners: newest.learner_ids().map(broker_of).collect(),
            committed: membership.log_id() == committed.log_id(),
        }
    }

    /// The index of the newest membership in this replica's log.
    fn named_in(&self) -> Option<u64> {
        let membership = self.server.borrow_watched().membership_config.clone();
        membership.log_id().as_ref().map(|id| id.index)
    }

    /// Whether this replica counts in elections and majorities, as far as its log tells.
    pub fn is_voter(&self, broker: BrokerId) -> bool {
        let membership = self.server.borrow_watched().membership_config.clone();
        membership.voter_ids().any(|id| id == node_of(broker))
    }

    #[cfg(debug_assertions)]
    pub(crate) async fn begin_change(&self, voters: &[BrokerId]) {
        self.take(&Step::ChangeVoters(voters.iter().copied().collect()))
            .await;
    }

    async fn take(&self, step: &Step) {
        let nodes = |brokers: &BTreeSet<BrokerId>| -> BTreeSet<u64> {
            brokers.iter().map(|b| node_of(*b)).collect()
        };
        let change = match step {
            Step::AddLearners(new) => {
                let new: BTreeMap<u64, EmptyNode> = nodes(new)
                    .into_iter()
                    .map(|id| (id, EmptyNode {}))
                    .collect();
                ChangeMembers::AddNodes(new)
            }
            Step::ChangeVoters(voters) => ChangeMembers::ReplaceAllVoters(nodes(voters)),
            Step::RemoveLearners(gone) => ChangeMembers::RemoveNodes(nodes(gone)),
            Step::HandOver(_) | Step::Wait | Step::Done => return,
        };
        self.prove_majority().await;
        let changed = self.raft.change_membership(change, false);
        match tokio::time::timeout(STEP_LIMIT, changed).await {
            Ok(Ok(_)) => tracing::info!(group = self.id.0, "members: {step:?}"),
            Ok(Err(error)) => tracing::debug!(group = self.id.0, "{step:?}: {error}"),
            Err(_) => tracing::debug!(group = self.id.0, "{step:?}: no majority in time"),
        }
    }
}

impl Node {
    /// Takes the next step to move a group that this broker leads to `wanted`; true when it is there. Call
    /// it again, here or on the next leader, until it is.
    pub async fn move_replicas(&self, group: GroupId, wanted: &Wanted) -> bool {
        let shared = self.shared();
        let Some(group) = shared.group(group) else {
            return false;
        };
        let me = self.broker();
        if !group.is_ready_leader() || shared.handed.lock().contains_key(&group.id) {
            return false;
        }
        let (_, epoch) = group.leader();
        // Rounds of catching up (dissertation, 4.2.1): who had the end of the log that there was at the last
        // look needs no longer for the rest.
        let round = group.begin_round();
        let named = group.named_in();
        let standing = |broker: BrokerId| {
            let has = |index: Option<u64>| index.is_some_and(|i| detector::has(&group, broker, i));
            if broker == me {
                Standing::CaughtUp
            } else if !shared.transport.is_staying(broker) {
                Standing::Away
            } else if !has(named) {
                Standing::Uninformed
            } else if !has(round) {
                Standing::Informed
            } else {
                Standing::CaughtUp
            }
        };
        match next_step(wanted, &group.members(), me, standing) {
            Step::Done => return true,
            Step::Wait => {}
            Step::HandOver(heir) => detector::hand_to(shared, &group, epoch, heir).await,
            step => group.take(&step).await,
        }
        false
    }

    /// Who takes part in a group, when this broker has a replica of it.
    pub fn members(&self, group: GroupId) -> Option<Members> {
        self.shared().group(group).map(|group| group.members())
    }

    /// Whether exactly `brokers` vote, and nobody learns, in a group of which this broker has a replica.
    pub fn consists_of(&self, group: GroupId, brokers: &[BrokerId]) -> bool {
        let Some(group) = self.shared().group(group) else {
            return true;
        };
        let members = group.members();
        let [voters] = &members.configs[..] else {
            return false;
        };
        let same = voters.len() == brokers.len() && brokers.iter().all(|b| voters.contains(b));
        same && members.learners.is_empty()
    }

    /// The replicas of a group, in preference order, as this broker was last told.
    pub fn replicas(&self, group: GroupId) -> Vec<BrokerId> {
        let group = self.shared().group(group);
        group.map_or_else(Vec::new, |group| group.replicas().to_vec())
    }

    /// Tells a replica of this broker which replicas the metadata name now.
    pub fn set_replicas(&self, group: GroupId, replicas: &[BrokerId]) {
        if let Some(group) = self.shared().group(group) {
            group.set_replicas(replicas);
        }
    }

    /// Entries of the group's log that each of its members has not yet acknowledged, on its leader.
    pub fn lag(&self, group: GroupId) -> Option<BTreeMap<BrokerId, u64>> {
        let group = self.shared().group(group)?;
        let last = group.last_index();
        let matched = group.matched()?;
        Some(
            matched
                .into_iter()
                .map(|(broker, index)| (broker, last.saturating_sub(index)))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(ids: &[i32]) -> BTreeSet<BrokerId> {
        ids.iter().copied().map(BrokerId).collect()
    }

    fn wanted(voters: &[i32], learners: &[i32]) -> Wanted {
        Wanted {
            voters: voters.iter().copied().map(BrokerId).collect(),
            learners: set(learners),
        }
    }

    fn members(voters: &[i32], learners: &[i32]) -> Members {
        Members {
            configs: vec![set(voters)],
            learners: set(learners),
            committed: true,
        }
    }

    fn of(ready: bool) -> impl Fn(BrokerId) -> Standing {
        move |_| {
            if ready {
                Standing::CaughtUp
            } else {
                Standing::Informed
            }
        }
    }

    /// Found by the simulation of brokers, seed 2115.
    #[test]
    fn voters_change_only_when_the_next_ones_know_and_can_decide() {
        let me = BrokerId(2);
        let but_for = |other: i32, standing: Standing| {
            move |broker: BrokerId| {
                if broker == BrokerId(other) {
                    standing
                } else {
                    Standing::CaughtUp
                }
            }
        };
        let to = |voters: &[i32]| Step::ChangeVoters(set(voters));
        let two = wanted(&[2, 3], &[]);
        let three = members(&[2, 3, 4], &[]);
        let away = but_for(3, Standing::Away);
        assert_eq!(next_step(&two, &three, me, away), Step::Wait);
        let uninformed = but_for(3, Standing::Uninformed);
        assert_eq!(next_step(&two, &three, me, uninformed), Step::Wait);
        let behind = but_for(3, Standing::Informed);
        assert_eq!(next_step(&two, &three, me, behind), to(&[2, 3]));
        // One of three away stops nobody.
        let four = members(&[1, 2, 3, 4], &[]);
        let three = wanted(&[2, 3, 4], &[]);
        assert_eq!(next_step(&three, &four, me, away), to(&[2, 3, 4]));
        // The second half of a change, too, waits for a newcomer that lives.
        let joint = Members {
            configs: vec![set(&[1, 2, 4]), set(&[2, 3, 4])],
            learners: set(&[]),
            committed: true,
        };
        assert_eq!(next_step(&three, &joint, me, uninformed), Step::Wait);
        assert_eq!(next_step(&three, &joint, me, away), to(&[2, 3, 4]));
    }

    #[test]
    fn a_replica_learns_before_it_votes_and_the_leader_goes_last() {
        let to = wanted(&[4, 2, 3], &[]);
        let me = BrokerId(1);
        let step = |members: &Members, ready: bool| next_step(&to, members, me, of(ready));
        assert_eq!(
            step(&members(&[1, 2, 3], &[]), true),
            Step::AddLearners(set(&[4]))
        );
        assert_eq!(step(&members(&[1, 2, 3], &[4]), false), Step::Wait);
        assert_eq!(
            step(&members(&[1, 2, 3], &[4]), true),
            Step::ChangeVoters(set(&[1, 2, 3, 4]))
        );
        let joint = Members {
            configs: vec![set(&[1, 2, 3]), set(&[1, 2, 3, 4])],
            learners: set(&[]),
            committed: false,
        };
        assert_eq!(step(&joint, false), Step::ChangeVoters(set(&[1, 2, 3, 4])));
        // A leader that the second half would leave outside hands over first.
        let halfway = Members {
            configs: vec![set(&[1, 2, 3, 4]), set(&[2, 3, 4])],
            ..joint
        };
        assert_eq!(step(&halfway, true), Step::HandOver(BrokerId(2)));
        assert_eq!(step(&halfway, false), Step::Wait);
        let all = members(&[1, 2, 3, 4], &[]);
        assert_eq!(step(&all, true), Step::HandOver(BrokerId(4)));
        let on_the_heir = next_step(&to, &all, BrokerId(4), of(true));
        assert_eq!(on_the_heir, Step::ChangeVoters(set(&[2, 3, 4])));
        assert_eq!(step(&members(&[2, 3, 4], &[]), true), Step::Done);
        // Cancelled before it voted.
        let back = next_step(
            &wanted(&[1, 2, 3], &[]),
            &members(&[1, 2, 3], &[4]),
            me,
            of(true),
        );
        assert_eq!(back, Step::RemoveLearners(set(&[4])));
        let mut unsure = members(&[2, 3, 4], &[]);
        unsure.committed = false;
        assert_eq!(step(&unsure, true), Step::Wait);
    }

    fn apply(members: &mut Members, step: &Step, leader: &mut BrokerId) {
        match step {
            Step::AddLearners(new) => members.learners.extend(new),
            Step::RemoveLearners(gone) => members.learners.retain(|b| !gone.contains(b)),
            Step::HandOver(heir) => *leader = *heir,
            Step::ChangeVoters(to) => {
                let last = members.configs.pop().unwrap_or_default();
                members.configs = if last == *to {
                    vec![last]
                } else {
                    vec![last, to.clone()]
                };
                members.learners.retain(|b| !to.contains(b));
            }
            Step::Wait | Step::Done => {}
        }
    }

    proptest! {
        /// Whoever leads in between, the group gets there, and the leader is always a voter.
        #[test]
        fn every_move_ends(
            from in proptest::collection::btree_set(1..7_i32, 1..5),
            to in proptest::collection::btree_set(1..7_i32, 1..5),
            learners in proptest::collection::btree_set(1..7_i32, 0..3),
            leaders in proptest::collection::vec(0..6_usize, 40),
        ) {
            let to: Vec<i32> = to.into_iter().collect();
            let from: Vec<i32> = from.into_iter().collect();
            let extra: Vec<i32> = learners.into_iter().filter(|l| !to.contains(l)).collect();
            let wanted = wanted(&to, &extra);
            let mut members = members(&from, &[]);
            let mut leader = BrokerId(from[0]);
            let mut done = false;
            for (round, other) in leaders.iter().enumerate() {
                let step = next_step(&wanted, &members, leader, of(true));
                if step == Step::Done { done = true; break; }
                apply(&mut members, &step, &mut leader);
                prop_assert!(members.is_voter(leader), "{step:?} left {leader:?} outside");
                if round < 8 {
                    // The leader dies and another voter takes over.
                    let voters: Vec<BrokerId> = members.configs.iter().flatten().copied().collect();
                    leader = voters[other % voters.len()];
                }
            }
            prop_assert!(done);
            prop_assert_eq!(&members.configs, &vec![set(&to)]);
            prop_assert_eq!(&members.learners, &wanted.learners);
        }
    }
}
