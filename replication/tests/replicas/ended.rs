//! A replica whose Raft core has ended.

use super::room::{Member, leader, seeds, until, write};

/// Its broker lives on and answers its peers, so nobody suspects it.
#[cfg(debug_assertions)]
#[test]
fn the_others_go_on_without_a_leader_whose_core_has_ended() {
    let dir = tempfile::tempdir().expect("a folder");
    let seeds = seeds(3);
    let members: Vec<Member> = (1..=3)
        .map(|id| Member::start(dir.path(), id, &seeds))
        .collect();
    assert_eq!(write(&members), 0);
    let ended = leader(&members);
    ended.end_core();
    until("it says that it leads no more", || !ended.leads());
    assert_eq!(write(&members), 1);
    assert!(!ended.leads(), "another leads");
    for member in members {
        member.stop();
    }
}
