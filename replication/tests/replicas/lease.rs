//! What leaders count on: for a moment after a follower's answer there is no other leader.

use super::room::{Member, seeds, until};
use std::time::{Duration, Instant};

/// A leader may have had an answer just before the process that gave it ended.
#[test]
fn a_replica_that_is_started_again_votes_for_nobody_at_first() {
    let dir = tempfile::tempdir().expect("a folder");
    let seeds = seeds(2);
    let again = |id: i32| Member::start(dir.path(), id, &seeds);
    let members = [again(1), again(2)];
    until("the preferred one leads", || members[0].leads());
    for member in members {
        member.crash();
    }
    let first = again(1);
    let began = Instant::now();
    let members = [first, again(2)];
    until("one leads again", || members.iter().any(Member::leads));
    let took = began.elapsed();
    assert!(took > Duration::from_millis(250), "after {took:?}");
    for member in members {
        member.stop();
    }
}
