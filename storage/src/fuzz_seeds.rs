//! The seeds in `fuzz/corpus/`: what the fuzzer starts from. After a change of a format make them
//! anew: `cargo test -p tidelog-storage write_seeds -- --ignored`.

use crate::batch::samples::{Sample, compress_xerial};
use crate::batch::{HEADER_BYTES, for_each_record, validate_produced};
use crate::compression::Compression;
use crate::ids::GroupId;
use crate::journal::{
    EntryRecord, Journal, JournalConfig, Record, read_journal_bytes, record_bytes_of,
};
use crate::test_disk::scratch;
use bytes::Bytes;
use std::path::{Path, PathBuf};

type Seeds = Vec<(&'static str, Vec<u8>)>;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target)
}

/// One record of each kind, in an order that makes sense.
fn records() -> Vec<Record> {
    let group = GroupId(1);
    let entry = |index| Record::Entry {
        group,
        entry: EntryRecord {
            index,
            term: 2,
            kind: 1,
            body: Bytes::from_static(b"body"),
        },
    };
    vec![
        Record::Vote {
            group,
            vote: Bytes::from_static(b"vote"),
        },
        entry(0),
        entry(1),
        Record::Truncate {
            group,
            after: Some(0),
        },
        entry(1),
        Record::Committed {
            group,
            index: 1,
            term: 2,
        },
        Record::Checkpoint {
            group,
            vote: Some(Bytes::from_static(b"vote")),
            applied: Some((1, 2)),
            state: Bytes::from_static(b"state"),
        },
        Record::Remove { group: GroupId(9) },
        entry(2),
    ]
}

/// Records alone, and a whole file of two batches.
fn journal_seeds() -> Seeds {
    let dir = scratch();
    let config = JournalConfig {
        dir: dir.path().to_owned(),
        direct_io: false,
        file_bytes: 64 * 1024,
        ..JournalConfig::default()
    };
    let (journal, _) = Journal::open(config).expect("the journal opens");
    for part in records().chunks(5) {
        journal.submit(part.to_vec(), None);
        assert!(journal.sync_barrier());
    }
    journal.close();
    let path = dir.path().join(format!("{:020}.journal", 1));
    let mut file = std::fs::read(path).expect("the file");
    // The last record ends in a letter; zeros are what was never written.
    while file.last() == Some(&0) {
        file.pop();
    }
    vec![("records", record_bytes_of(&records())), ("file", file)]
}

fn batch_seeds() -> Seeds {
    let sample = || Sample::of(3, 12, 1_000);
    let built = |codec| sample().compressed(codec).build().to_vec();
    let plain = built(Compression::None);
    let xerial = sample()
        .compressed(Compression::Snappy)
        .build_with_body(&compress_xerial(&plain[HEADER_BYTES..], 20));
    vec![
        ("plain", plain.clone()),
        ("idempotent", sample().by_producer(7, 1, 5).build().to_vec()),
        ("gzip", built(Compression::Gzip)),
        ("snappy", built(Compression::Snappy)),
        ("snappy-xerial", xerial.to_vec()),
        ("lz4", built(Compression::Lz4)),
        ("zstd", built(Compression::Zstd)),
    ]
}

#[test]
#[ignore = "writes fuzz/corpus"]
fn write_seeds() {
    for (target, seeds) in [
        ("journal_reader", journal_seeds()),
        ("record_batch", batch_seeds()),
    ] {
        std::fs::create_dir_all(corpus(target)).expect("the folder");
        for (name, bytes) in seeds {
            std::fs::write(corpus(target).join(name), bytes).expect("written");
        }
    }
}

/// A seed that no longer reaches what it was made for is of no use.
#[test]
fn seeds_are_of_the_present_formats() {
    for (name, _) in batch_seeds() {
        let bytes = std::fs::read(corpus("record_batch").join(name)).expect("the seed");
        validate_produced(&bytes, 1 << 20).expect(name);
        let mut count = 0;
        for_each_record(&bytes, |_| {
            count += 1;
            true
        })
        .expect(name);
        assert_eq!(count, 3, "{name}");
    }
    let records = std::fs::read(corpus("journal_reader").join("records")).expect("the seed");
    assert_eq!(records, record_bytes_of(&self::records()));
    let file = std::fs::read(corpus("journal_reader").join("file")).expect("the seed");
    let recovered = read_journal_bytes(&file);
    assert_eq!(recovered.damage, None);
    assert_eq!(recovered.groups[&GroupId(1)].entries.len(), 1);
}
