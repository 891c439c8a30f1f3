//! Looking at the journal from outside finds what a start finds, and changes nothing.

use super::super::inspect::{files, read_file, state};
use super::*;

#[test]
fn a_look_finds_what_a_start_finds_and_changes_nothing() {
    let dir = scratch();
    let (journal, _) = open(dir.path());
    for index in 0..5 {
        write(&journal, vec![vote(1, b"v"), entry(1, index, vec![7; 100])]);
    }
    journal.close();
    drop(journal);
    let copy = copy_dir(dir.path());
    let file = files(copy.path()).expect("a folder").remove(0);
    let looked = read_file(&file).expect("a journal file");
    let records: usize = looked.batches.iter().map(|b| b.records.len()).sum();
    assert!(records >= 10, "{records}");
    // Half of the last batch is lost.
    let last = looked.batches.last().expect("a batch");
    let mut bytes = std::fs::read(&file).expect("read");
    bytes[last.position as usize + 60] ^= 1;
    std::fs::write(&file, &bytes).expect("written");

    let seen = state(copy.path()).expect("readable");
    assert_eq!(seen.recovered.damage, None);
    assert_eq!(seen.unfinished.len(), 1);
    assert_eq!(seen.unfinished[0].position, last.position);
    assert_eq!(std::fs::read(&file).expect("read"), bytes, "it was changed");
    let (recovered, _) = recover(copy.path()).expect("readable");
    assert_eq!(recovered.groups, seen.recovered.groups);
    assert_ne!(
        std::fs::read(&file).expect("read"),
        bytes,
        "nothing was cut"
    );
}
