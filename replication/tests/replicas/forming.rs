//! A group whose preferred leader is away when it is made.

use super::room::{Member, leader, rebuilds, seeds, until, vote_only, write};
use tidelog_replication::Role;

#[test]
fn a_group_is_formed_without_its_preferred_leader() {
    let dir = tempfile::tempdir().expect("a folder");
    let seeds = seeds(3);
    let mut members: Vec<Member> = [2, 3]
        .into_iter()
        .map(|id| Member::start(dir.path(), id, &seeds))
        .collect();
    assert_eq!(write(&members), 0);
    // The one that was away comes, would form the group itself, and joins it instead.
    members.push(Member::start(dir.path(), 1, &seeds));
    until("the late one follows", || {
        let late = members[2].replica.role();
        let epochs = (leader(&members).replica.role(), late);
        match epochs {
            (
                Role::Leader { epoch, .. },
                Role::Follower {
                    leader,
                    epoch: known,
                },
            ) => leader.is_some() && known == epoch,
            // It is the preferred one: leadership has come to it.
            (_, Role::Leader { ready, .. }) => ready,
            (Role::Follower { .. }, _) => false,
        }
    });
    assert_eq!(write(&members), 1);
    until("everyone has both", || members.iter().all(|m| m.end() == 2));
    for member in members {
        member.stop();
    }
}

/// A move changed the order of preference while the replicas were being opened: each knows of another one to form
/// the group. Found by `tidelog-jepsen run --minutes 30`, seeds 205, 207 and 208.
#[test]
fn a_group_whose_order_changed_while_it_was_made_is_formed() {
    let dir = tempfile::tempdir().expect("a folder");
    let seeds = seeds(3);
    let before = [3, 1, 2];
    let now = [1, 2, 3];
    let members: Vec<Member> = [(1, before), (2, before), (3, now)]
        .into_iter()
        .map(|(id, order)| Member::start_with(dir.path(), id, &seeds, &order))
        .collect();
    members.iter().for_each(|m| m.set_replicas(&now));
    assert_eq!(write(&members), 0);
    until("everyone has it", || members.iter().all(|m| m.end() == 1));
    for member in members {
        member.stop();
    }
}

/// The first of the founders cannot form the group, as its journal was damaged meanwhile, after the others had
/// voted for it and before they heard anything else. Found by jepsen, seed 208.
#[test]
fn a_group_whose_first_founder_lost_its_journal_is_formed() {
    let dir = tempfile::tempdir().expect("a folder");
    let seeds = seeds(3);
    for id in [2, 3] {
        vote_only(dir.path(), id);
    }
    rebuilds(dir.path(), 1);
    let members: Vec<Member> = [1, 2, 3]
        .into_iter()
        .map(|id| Member::start(dir.path(), id, &seeds))
        .collect();
    assert_eq!(write(&members), 0);
    until("everyone has it", || members.iter().all(|m| m.end() == 1));
    for member in members {
        member.stop();
    }
}

/// The first of the founders lives and does not open its replica.
#[test]
fn a_group_whose_first_founder_does_not_come_is_formed() {
    let dir = tempfile::tempdir().expect("a folder");
    let seeds = seeds(3);
    let first = Member::start_elsewhere(dir.path(), 1, &seeds);
    let members: Vec<Member> = [2, 3]
        .into_iter()
        .map(|id| Member::start(dir.path(), id, &seeds))
        .collect();
    assert_eq!(write(&members), 0);
    for member in members.into_iter().chain([first]) {
        member.stop();
    }
}
