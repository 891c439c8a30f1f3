//! A group whose members change.

use super::room::{Member, seeds, until, write};

/// The next voters are in the leader's log and not in the newcomers', whose votes it needs after a crash. Found by the
/// simulation of brokers, seed 2115.
#[cfg(debug_assertions)]
#[test]
fn newcomers_who_do_not_know_that_they_vote_let_a_leader_be_elected() {
    let dir = tempfile::tempdir().expect("a folder");
    let seeds = seeds(3);
    let first = Member::start_with(dir.path(), 1, &seeds, &[1]);
    let newcomers = || [2, 3].map(|id| Member::start_later(dir.path(), id, &seeds));
    until("the first leads", || first.leads());
    first.set_replicas(&[1, 2, 3]);
    let come = newcomers();
    first.move_to(&[1], &[2, 3]);
    assert_eq!(first.write(9), Some(0));
    until("both have it", || come.iter().all(|m| m.end() == 1));
    for member in come {
        member.crash();
    }
    first.begin_change(&[1, 2, 3]);
    first.crash();
    let [second, third] = newcomers();
    let first = Member::start_with(dir.path(), 1, &seeds, &[1]);
    first.set_replicas(&[1, 2, 3]);
    let members = [first, second, third];
    assert_eq!(write(&members), 1);
    until("all have both", || members.iter().all(|m| m.end() == 2));
    for member in members {
        member.stop();
    }
}
