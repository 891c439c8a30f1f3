//! Nodes that end without a word and come back with what their journals hold.

use super::room::{Member, leader, seeds, until, write};

fn start(dir: &tempfile::TempDir, seeds: &[tidelog_replication::PeerAddress]) -> Vec<Member> {
    (1..=3)
        .map(|id| Member::start(dir.path(), id, seeds))
        .collect()
}

/// Nothing is written after the crash: what the others have committed must come all the same.
#[test]
fn a_follower_that_comes_back_applies_what_is_committed_without_a_write() {
    let dir = tempfile::tempdir().expect("a folder");
    let seeds = seeds(3);
    let mut members = start(&dir, &seeds);
    for offset in 0..20 {
        assert_eq!(write(&members), offset);
    }
    until("everyone has all", || members.iter().all(|m| m.end() == 20));
    leader(&members);
    let at = members.iter().position(|m| !m.leads()).expect("a follower");
    members.remove(at).crash();
    let back = Member::start(dir.path(), at as i32 + 1, &seeds);
    until("it has all again", || back.end() == 20);
    members.push(back);
    assert_eq!(write(&members), 20);
    for member in members {
        member.stop();
    }
}

#[test]
fn all_at_once_lose_nothing_and_write_nothing_twice() {
    let dir = tempfile::tempdir().expect("a folder");
    let seeds = seeds(3);
    let mut next = 0;
    for _ in 0..3 {
        let members = start(&dir, &seeds);
        for _ in 0..10 {
            assert_eq!(write(&members), next);
            next += 1;
        }
        for member in members {
            member.crash();
        }
    }
    let members = start(&dir, &seeds);
    until("everyone has all", || {
        members.iter().all(|m| m.end() == next)
    });
    for member in members {
        member.stop();
    }
    // After a clean stop there is a checkpoint; what follows it must not be applied twice either.
    let members = start(&dir, &seeds);
    assert_eq!(write(&members), next);
    until("everyone has all", || {
        members.iter().all(|m| m.end() == next + 1)
    });
    for member in members {
        member.stop();
    }
}

/// What was copied before the stop must not be applied once more from another replica's log.
#[test]
fn a_copy_that_a_stop_interrupts_is_not_written_twice() {
    const LARGE: usize = 140 << 10;
    let dir = tempfile::tempdir().expect("a folder");
    let seeds = seeds(3);
    let mut members: Vec<Option<Member>> = start(&dir, &seeds).into_iter().map(Some).collect();
    let again = |at: usize| Some(Member::start(dir.path(), at as i32 + 1, &seeds));
    let live = |members: &[Option<Member>], of: &[usize]| of.iter().all(|i| members[*i].is_some());
    assert!(live(&members, &[0, 1, 2]));
    // Leadership goes to the preferred replica, which is the first.
    until("the first leads", || {
        members[0].as_ref().is_some_and(Member::leads)
    });
    let first = |members: &[Option<Member>], bytes: usize| {
        let mut offset = None;
        until("a write", || {
            offset = members[0].as_ref().and_then(|m| m.write(bytes));
            offset.is_some()
        });
        offset
    };
    for offset in 0..20 {
        assert_eq!(first(&members, 9), Some(offset));
    }
    if let Some(third) = members[2].take() {
        until("the third has all", || third.end() == 20);
        third.crash();
    }
    for offset in 20..170 {
        assert_eq!(first(&members, LARGE), Some(offset));
    }
    let idle = std::time::Instant::now();
    until("the logs are purged", || idle.elapsed().as_secs() >= 12);
    let third = again(2).expect("started");
    until("the copy is under way", || third.end() > 25);
    println!("stopping at {}", third.end());
    third.stop();
    // The second comes back with its whole log, as its journal has it, and leads.
    if let Some(second) = members[1].take() {
        second.crash();
    }
    members[1] = again(1);
    if let Some(second) = &members[1] {
        until("the second has all", || second.end() == 170);
    }
    if let Some(gone) = members[0].take() {
        gone.crash();
    }
    members[2] = again(2);
    println!("third back at {}", members[2].as_ref().unwrap().end());
    let rest: Vec<Member> = members.into_iter().flatten().collect();
    assert_eq!(write(&rest), 170);
    until("both have all", || rest.iter().all(|m| m.end() >= 171));
    for member in &rest {
        assert_eq!(member.end(), 171);
    }
    for member in rest {
        member.stop();
    }
}
