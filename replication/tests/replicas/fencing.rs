//! Batches that may take effect in one place only.

use super::room::{Member, leader, seeds, until, write};
use bytes::Bytes;
use tidelog_replication::{ProposeError, Role};
use tidelog_storage::batch::BatchBuilder;

fn batch(offset: i64, epoch: i32) -> Bytes {
    let mut builder = BatchBuilder::new(offset, epoch, 1, None);
    builder.push(b"key", Some(b"value"));
    builder.finish()
}

#[test]
fn a_fenced_batch_waits_for_no_other_place() {
    let dir = tempfile::tempdir().expect("a folder");
    let seeds = seeds(3);
    let members: Vec<Member> = (1..=3)
        .map(|id| Member::start(dir.path(), id, &seeds))
        .collect();
    assert_eq!(write(&members), 0);
    let leading = leader(&members);
    let Role::Leader { epoch, .. } = leading.replica.role() else {
        panic!("it leads");
    };
    // Many under way at once: each begins where the one before it ends.
    let proposals: Vec<_> = (1..20).map(|offset| batch(offset, epoch)).collect();
    let written = leading.propose_fenced(proposals);
    assert!(written.iter().all(Result::is_ok), "{written:?}");
    // One that is too late takes those behind it along, and the log stays as it is.
    let late = [batch(5, epoch), batch(21, epoch), batch(20, epoch - 1)];
    for refused in leading.propose_fenced(late.to_vec()) {
        assert!(
            matches!(refused, Err(ProposeError::NotLeader { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(write(&members), 20);
    until("everyone has all", || members.iter().all(|m| m.end() == 21));
    assert!(leading.confirm_leader(epoch) && !leading.confirm_leader(epoch + 1));
    for member in &members {
        assert!(member.leads() || !member.confirm_leader(epoch));
    }
    for member in members {
        member.stop();
    }
}
