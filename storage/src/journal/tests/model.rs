//! Any sequence of records, any batches, any restarts: what comes back is what went in.

use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Entries {
        group: u64,
        count: u64,
        bytes: usize,
    },
    Vote {
        group: u64,
        vote: u8,
    },
    /// Keeps this part of 256 of the entries.
    Truncate {
        group: u64,
        keep: u8,
    },
    /// Covers this part of 256 of the entries.
    Checkpoint {
        group: u64,
        covered: u8,
        state: u8,
    },
    Committed {
        group: u64,
        at: u8,
    },
    Remove {
        group: u64,
    },
    /// Hands what was collected to the journal.
    Submit,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let group = 0..4_u64;
    prop_oneof![
        8 => (group.clone(), 1..6_u64, 0..3000_usize)
            .prop_map(|(group, count, bytes)| Step::Entries { group, count, bytes }),
        2 => (group.clone(), any::<u8>()).prop_map(|(group, vote)| Step::Vote { group, vote }),
        2 => (group.clone(), any::<u8>()).prop_map(|(group, keep)| Step::Truncate { group, keep }),
        2 => (group.clone(), any::<u8>(), any::<u8>())
            .prop_map(|(group, covered, state)| Step::Checkpoint { group, covered, state }),
        2 => (group.clone(), any::<u8>()).prop_map(|(group, at)| Step::Committed { group, at }),
        1 => group.prop_map(|group| Step::Remove { group }),
        8 => Just(Step::Submit),
        1 => Just(Step::Reopen),
    ]
}

fn part(of: usize, share: u8) -> usize {
    of * usize::from(share) / 255
}

/// The records a Raft log could write for `step`, given the state so far.
fn records_of(step: &Step, groups: &Groups) -> Vec<Record> {
    let known = |group: &u64| groups.get(&GroupId(*group)).cloned().unwrap_or_default();
    match step {
        Step::Entries {
            group,
            count,
            bytes,
        } => {
            let state = known(group);
            let last = state.entries.last().map(|e| e.index);
            let next = last.or(state.applied.map(|a| a.0)).map_or(0, |i| i + 1);
            (next..next + count)
                .map(|index| entry(*group, index, vec![index as u8; *bytes]))
                .collect()
        }
        Step::Vote { group, vote: v } => vec![vote(*group, &[*v])],
        Step::Truncate { group, keep } => {
            let state = known(group);
            let kept = part(state.entries.len(), *keep);
            let last_kept = kept.checked_sub(1).map(|i| state.entries[i].index);
            vec![Record::Truncate {
                group: GroupId(*group),
                after: last_kept.or(state.applied.map(|a| a.0)),
            }]
        }
        Step::Checkpoint {
            group,
            covered,
            state,
        } => {
            let known = known(group);
            let covered = part(known.entries.len(), *covered);
            checkpoint_of(GroupId(*group), &known, covered, &[*state; 40])
        }
        Step::Committed { group, at } => {
            let state = known(group);
            let at = part(state.entries.len(), *at);
            at.checked_sub(1)
                .map(|i| Record::Committed {
                    group: GroupId(*group),
                    index: state.entries[i].index,
                    term: state.entries[i].term,
                })
                .into_iter()
                .collect()
        }
        Step::Remove { group } => vec![Record::Remove {
            group: GroupId(*group),
        }],
        Step::Submit | Step::Reopen => Vec::new(),
    }
}

fn check(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let dir = scratch();
    let (mut journal, recovered) = open(dir.path());
    prop_assert_eq!(recovered.groups.len(), 0);
    let mut groups = Groups::new();
    let mut collected = Vec::new();
    for step in steps {
        let records = records_of(&step, &groups);
        for record in &records {
            apply(&mut groups, record);
        }
        collected.extend(records);
        match step {
            Step::Submit => journal.submit(std::mem::take(&mut collected), None),
            Step::Reopen => {
                journal.submit(std::mem::take(&mut collected), None);
                journal.close();
                let (next, recovered) = open(dir.path());
                prop_assert_eq!(recovered.damage, None);
                prop_assert_eq!(&recovered.groups, &groups);
                journal = next;
            }
            _ => {}
        }
    }
    journal.submit(collected, None);
    journal.close();
    let (recovered, _) = recover(dir.path()).expect("the files are readable");
    prop_assert_eq!(recovered.damage, None);
    prop_assert_eq!(&recovered.groups, &groups);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_comes_back(steps in prop::collection::vec(step(), 1..120)) {
        check(steps)?;
    }
}
