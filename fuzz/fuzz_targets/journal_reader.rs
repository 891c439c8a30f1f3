//! Any bytes as a journal file: no panic, and without damage what comes back is contiguous.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::Once;
use tidelog_storage::journal::{Recovered, read_journal_bytes};

const BLOCK: usize = 4096;
const KEY: u64 = 5;
static CHECKED: Once = Once::new();

fuzz_target!(|data: &[u8]| {
    CHECKED.call_once(check_wrapping);
    check(&read_journal_bytes(data));
    // Checksums keep random bytes away from the records: hand them over within valid ones.
    check(&read_journal_bytes(&file_with(data)));
});

fn check(recovered: &Recovered) {
    if recovered.damage.is_some() {
        return;
    }
    for (id, group) in &recovered.groups {
        let first = group.applied.map_or(0, |(index, _)| index.wrapping_add(1));
        for (i, entry) in group.entries.iter().enumerate() {
            assert_eq!(entry.index, first.wrapping_add(i as u64), "group {id:?}");
        }
    }
}

/// A file with one batch, whose records are `payload`.
fn file_with(payload: &[u8]) -> Vec<u8> {
    let mut file = b"TIDEJRN1".to_vec();
    file.extend_from_slice(&1_u64.to_le_bytes());
    file.extend_from_slice(&KEY.to_le_bytes());
    file.extend_from_slice(&crc32fast::hash(&file).to_le_bytes());
    file.resize(BLOCK, 0);
    file.extend_from_slice(&0x5444_4C42_u32.to_le_bytes());
    file.extend_from_slice(&KEY.to_le_bytes());
    file.extend_from_slice(&1_u64.to_le_bytes());
    file.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    file.extend_from_slice(&1_u32.to_le_bytes());
    file.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    let head = crc32fast::hash(&file[BLOCK..]);
    file.extend_from_slice(&head.to_le_bytes());
    file.extend_from_slice(payload);
    file.resize(file.len().next_multiple_of(BLOCK), 0);
    file
}

/// The wrapping must keep up with the format, or nothing behind the checksums is tried any more.
fn check_wrapping() {
    let mut vote = vec![2];
    vote.extend_from_slice(&7_u64.to_le_bytes());
    vote.extend_from_slice(&2_u32.to_le_bytes());
    vote.extend_from_slice(b"me");
    let recovered = read_journal_bytes(&file_with(&vote));
    assert_eq!(recovered.damage, None);
    assert!(
        recovered
            .groups
            .values()
            .any(|g| g.vote.as_deref() == Some(&b"me"[..]))
    );
}
