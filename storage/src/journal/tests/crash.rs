//! What a crash or a failing disk leaves: torn tails are cut, damage is reported.

use super::super::format::{BatchHead, FILE_HEADER};
use super::*;

/// One acknowledged batch.
struct Batch {
    start: usize,
    /// End of its last record; padding follows.
    end: usize,
}

/// A journal of one file with known batches.
struct Written {
    dir: TempDir,
    name: std::ffi::OsString,
    bytes: Vec<u8>,
    batches: Vec<Batch>,
    /// `states[n]`: what the first `n` batches amount to.
    states: Vec<Groups>,
}

impl Written {
    fn path(&self) -> PathBuf {
        self.dir.path().join(&self.name)
    }

    /// Batches whose records end at or before `cut`.
    fn whole_before(&self, cut: usize) -> usize {
        self.batches.iter().take_while(|b| b.end <= cut).count()
    }

    /// Recovers with `bytes` instead of what was written.
    fn recover_from(&self, bytes: &[u8]) -> Recovered {
        std::fs::write(self.path(), bytes).expect("written");
        recover(self.dir.path()).expect("the file is readable").0
    }
}

/// Every kind of record, bodies without zeros, each batch ending in an entry.
fn submissions() -> Vec<Vec<Record>> {
    let body = |len: usize| (0..len).map(|i| (i % 255) as u8 + 1).collect::<Vec<u8>>();
    let group = GroupId(1);
    vec![
        vec![vote(1, b"first"), entry(1, 0, body(50))],
        vec![
            vote(2, b"other"),
            entry(2, 0, body(10)),
            entry(1, 1, body(5000)),
        ],
        vec![
            Record::Committed {
                group,
                index: 1,
                term: 1,
            },
            entry(1, 2, body(1)),
        ],
        vec![
            Record::Truncate {
                group,
                after: Some(1),
            },
            entry(1, 2, body(300)),
        ],
        vec![Record::Remove { group: GroupId(2) }, entry(3, 0, body(20))],
        vec![
            Record::Checkpoint {
                group,
                vote: Some(Bytes::from_static(b"first")),
                applied: Some((1, 1)),
                state: Bytes::from_static(b"applied up to 1"),
            },
            entry(1, 2, body(300)),
        ],
        vec![entry(1, 3, body(9000))],
    ]
}

/// Writes each submission as a batch of its own into a file that holds what `before` left.
fn written() -> Written {
    let dir = scratch();
    let (journal, _) = open(dir.path());
    let mut at = BLOCK;
    let mut batches = Vec::new();
    let mut groups = Groups::new();
    let mut states = vec![groups.clone()];
    for records in submissions() {
        records.iter().for_each(|r| apply(&mut groups, r));
        states.push(groups.clone());
        let length = BATCH_HEADER + records.iter().map(record_bytes).sum::<usize>();
        batches.push(Batch {
            start: at,
            end: at + length,
        });
        at += blocks(length);
        write(&journal, records);
        assert_eq!(journal.metrics().bytes as usize, at - BLOCK);
    }
    journal.close();
    let (_, path) = list(dir.path()).expect("the folder").remove(0);
    Written {
        name: path.file_name().expect("a name").to_owned(),
        bytes: std::fs::read(&path).expect("read"),
        dir,
        batches,
        states,
    }
}

/// Positions worth trying: every byte of headers and records, and some of the padding.
fn positions(written: &Written) -> Vec<usize> {
    let end = written.batches.last().expect("a batch").end;
    let in_use = |at: &usize| {
        *at < 64
            || at.is_multiple_of(61)
            || written
                .batches
                .iter()
                .any(|b| (b.start..=b.end).contains(at))
    };
    (0..end + BLOCK).filter(in_use).collect()
}

#[test]
fn cut_at_every_byte_all_that_was_acknowledged_before_is_there() {
    let written = written();
    for cut in positions(&written) {
        let whole = written.whole_before(cut);
        let mut zeroed = written.bytes.clone();
        zeroed[cut..].fill(0);
        for bytes in [&written.bytes[..cut], &zeroed] {
            // A start repairs the tail; the next one must find the same.
            let first = written.recover_from(bytes);
            assert_eq!(first.damage, None, "cut at {cut}");
            assert_eq!(first.groups, written.states[whole], "cut at {cut}");
            let (second, _) = recover(written.dir.path()).expect("readable");
            assert_eq!(second.damage, None, "cut at {cut}, second start");
            assert_eq!(second.groups, written.states[whole], "cut at {cut}");
        }
    }
}

#[test]
fn writing_goes_on_after_a_cut_and_survives_further_starts() {
    let written = written();
    for cut in positions(&written).into_iter().step_by(97) {
        std::fs::write(written.path(), &written.bytes[..cut]).expect("written");
        let dir = copy_dir(written.dir.path());
        let mut expected = written.states[written.whole_before(cut)].clone();
        for start in 0..3_u8 {
            let (journal, recovered) = open(dir.path());
            assert_eq!(recovered.damage, None, "cut at {cut}, start {start}");
            assert_eq!(recovered.groups, expected, "cut at {cut}, start {start}");
            let record = vote(9, &[start]);
            apply(&mut expected, &record);
            write(&journal, vec![record]);
            journal.close();
        }
    }
}

/// The last batch was under way: any of its blocks may be on the disk, the others hold what the
/// recycled file held before.
#[test]
fn any_blocks_of_an_unfinished_batch_are_a_torn_tail() {
    let written = written();
    let last = written.batches.last().expect("a batch");
    let all = written.batches.len();
    let blocks = (last.end - last.start).div_ceil(BLOCK);
    assert!(blocks >= 3);
    for old in [
        vec![0; written.bytes.len()],
        blocks_of_batches(&written, 77, 1 << 40, &[vote(1, b"older")]),
    ] {
        for present in 0..1_usize << blocks {
            let mut bytes = old.clone();
            bytes[..last.start].copy_from_slice(&written.bytes[..last.start]);
            for block in (0..blocks).filter(|b| present & 1 << b != 0) {
                let at = last.start + block * BLOCK;
                bytes[at..at + BLOCK].copy_from_slice(&written.bytes[at..at + BLOCK]);
            }
            let whole = if present + 1 == 1 << blocks {
                all
            } else {
                all - 1
            };
            let recovered = written.recover_from(&bytes);
            assert_eq!(recovered.damage, None, "blocks {present:b}");
            assert_eq!(
                recovered.groups, written.states[whole],
                "blocks {present:b}"
            );
        }
    }
}

/// Records are chosen by clients. What a recycled file still holds of them must not become part of
/// the journal, even if it was made to look like batches of the file it will be.
#[test]
fn records_that_look_like_batches_are_neither_replayed_nor_damage() {
    let written = written();
    let end = blocks(written.batches.last().expect("a batch").end);
    let last = last_head(&written);
    let next = last.batch + 1;
    let remove = [Record::Remove { group: GroupId(1) }];
    let recover_with = |key: u64, batch: u64, first: usize| {
        // `batch` is the number of the one in block `first`.
        let batch_of_block_0 = batch - (first / BLOCK) as u64;
        let forged = blocks_of_batches(&written, key, batch_of_block_0, &remove);
        let mut bytes = written.bytes.clone();
        bytes[first..].copy_from_slice(&forged[first..]);
        written.recover_from(&bytes)
    };
    for key in [0, 1, 2, u64::MAX] {
        for (batch, first) in [(next, end), (next, end + BLOCK), (1 << 40, end)] {
            let recovered = recover_with(key, batch, first);
            assert_eq!(recovered.damage, None, "key {key}, batch {batch}");
            assert_eq!(Some(&recovered.groups), written.states.last(), "key {key}");
        }
    }
    // They would work if the key could be known.
    assert_eq!(
        recover_with(last.key, next, end).groups.get(&GroupId(1)),
        None
    );
}

fn last_head(written: &Written) -> BatchHead {
    let start = written.batches.last().expect("a batch").start;
    BatchHead::parse(&written.bytes[start..]).expect("a head")
}

/// Valid batches, one in each block.
fn blocks_of_batches(written: &Written, key: u64, first_batch: u64, records: &[Record]) -> Vec<u8> {
    let payload = super::super::record_bytes_of(records);
    let mut bytes = vec![0; written.bytes.len()];
    for (i, block) in bytes.chunks_exact_mut(BLOCK).enumerate() {
        let head = BatchHead {
            key,
            batch: first_batch + i as u64,
            payload_bytes: payload.len() as u64,
            records: 1,
            crc: crc32fast::hash(&payload),
        };
        head.write(&mut block[..BATCH_HEADER]);
        block[BATCH_HEADER..BATCH_HEADER + payload.len()].copy_from_slice(&payload);
    }
    bytes
}

#[test]
fn a_flipped_bit_with_batches_after_it_is_damage_at_its_batch() {
    let written = written();
    let (last, before) = written.batches.split_last().expect("batches");
    for batch in before {
        for at in batch.start..batch.end {
            let mut bytes = written.bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            let damage = written.recover_from(&bytes).damage.expect("damage");
            assert_eq!(damage.position, batch.start as u64, "flip at {at}");
            assert_eq!(damage.file, written.path(), "flip at {at}");
            assert!(damage.to_string().contains("at byte"), "{damage}");
        }
    }
    // In the file's own header, of which these bytes are in use.
    for at in 0..FILE_HEADER {
        let mut bytes = written.bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        let damage = written.recover_from(&bytes).damage.expect("damage");
        assert_eq!((damage.position, damage.file), (0, written.path()));
    }
    // The documented limit: in the last batch it looks like a torn tail.
    for at in last.start..last.end {
        let mut bytes = written.bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        let recovered = written.recover_from(&bytes);
        assert_eq!(recovered.damage, None, "flip at {at}");
        assert_eq!(recovered.groups, written.states[before.len()]);
    }
}

#[test]
fn a_flipped_bit_in_the_last_batch_of_an_earlier_file_is_damage() {
    let dir = scratch();
    let (journal, _) = open(dir.path());
    write(&journal, vec![vote(1, b"alone in its file")]);
    journal.close();
    let (journal, _) = open(dir.path());
    write(&journal, vec![vote(2, b"in the next file")]);
    journal.close();
    let (_, path) = list(dir.path()).expect("the folder").remove(0);
    let good = std::fs::read(&path).expect("read");
    let end = BATCH_HEADER + record_bytes(&vote(1, b"alone in its file"));
    for at in (0..FILE_HEADER).chain(BLOCK..BLOCK + end) {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            std::fs::write(&path, &bytes).expect("written");
            let (recovered, _) = recover(dir.path()).expect("readable");
            let damage = recovered.damage.expect("damage");
            assert_eq!(damage.file, path, "flip at {at}");
            assert_eq!(damage.position as usize, at / BLOCK * BLOCK, "flip at {at}");
        }
    }
}

#[test]
fn damage_is_reported_at_every_start_until_the_files_are_gone() {
    let written = written();
    let mut bytes = written.bytes.clone();
    bytes[written.batches[1].start + 100] ^= 4;
    std::fs::write(written.path(), &bytes).expect("written");
    for _ in 0..3 {
        let (journal, recovered) = open(written.dir.path());
        let damage = recovered.damage.expect("damage");
        assert_eq!(damage.position, written.batches[1].start as u64);
        write(&journal, vec![vote(5, b"goes on")]);
        journal.close();
    }
}

/// Nothing of it is taken for damage, which would be set aside, or cut.
#[test]
fn what_a_newer_build_wrote_is_refused_and_left_alone() {
    let written = written();
    let path = written.dir.path().join(&written.name);
    let mut other_file = written.bytes.clone();
    other_file[7] = b'2';
    let crc = crc32fast::hash(&other_file[..24]);
    other_file[24..28].copy_from_slice(&crc.to_le_bytes());

    let mut other_record = written.bytes.clone();
    let first = &written.batches[0];
    other_record[first.start + BATCH_HEADER] = 7;
    let payload = crc32fast::hash(&other_record[first.start + BATCH_HEADER..first.end]);
    let head = first.start..first.start + BATCH_HEADER;
    other_record[head.start + 32..head.start + 36].copy_from_slice(&payload.to_le_bytes());
    let crc = crc32fast::hash(&other_record[head.start..head.start + 36]);
    other_record[head.start + 36..head.end].copy_from_slice(&crc.to_le_bytes());

    for (bytes, what) in [
        (other_file, "journal version 2"),
        (other_record, "record kind 7"),
    ] {
        std::fs::write(&path, &bytes).expect("written");
        for _ in 0..2 {
            let refused = Journal::open(config(written.dir.path())).map(|_| ());
            let message = refused.expect_err("not known").to_string();
            assert!(
                message.contains(&format!("{what} is not known")),
                "{message}"
            );
            assert_eq!(std::fs::read(&path).expect("there"), bytes);
        }
        let refused = super::super::inspect::read_file(&path)
            .map(|_| ())
            .expect_err("not known");
        assert!(refused.to_string().contains(what), "{refused}");
    }
}
