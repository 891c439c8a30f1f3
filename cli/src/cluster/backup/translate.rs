//! Offsets of a restored log.
//!
//! A restored log starts at 0 and has no gaps. Where the log that was backed up did as well, every offset
//! names the same record as before. Otherwise (old records were deleted, compacted, or belonged to
//! transactions, whose markers take offsets too) a committed offset becomes that of the same next record.

use std::collections::BTreeMap;

/// Translates offsets of one partition while its records go by.
pub struct Translation {
    /// Not translated yet, the least last.
    waiting: Vec<i64>,
    translated: BTreeMap<i64, i64>,
    records: i64,
}

impl Translation {
    /// `wanted`: the offsets to translate, in any order.
    pub fn new(wanted: impl IntoIterator<Item = i64>) -> Translation {
        let mut waiting: Vec<i64> = wanted.into_iter().collect();
        waiting.sort_unstable_by(|a, b| b.cmp(a));
        waiting.dedup();
        Translation {
            waiting,
            translated: BTreeMap::new(),
            records: 0,
        }
    }

    /// The next record had `offset`.
    pub fn record(&mut self, offset: i64) {
        while let Some(wanted) = self.waiting.pop_if(|wanted| *wanted <= offset) {
            self.translated.insert(wanted, self.records);
        }
        self.records += 1;
    }

    /// Old offset to new; what lies behind the last record is the new log's end.
    pub fn finish(mut self) -> BTreeMap<i64, i64> {
        for wanted in self.waiting {
            self.translated.insert(wanted, self.records);
        }
        self.translated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(records: &[i64], wanted: &[i64]) -> Vec<i64> {
        let mut translation = Translation::new(wanted.iter().copied());
        for offset in records {
            translation.record(*offset);
        }
        let found = translation.finish();
        wanted.iter().map(|offset| found[offset]).collect()
    }

    #[test]
    fn offsets_of_a_whole_log_stay() {
        assert_eq!(translated(&[0, 1, 2, 3], &[0, 2, 4]), [0, 2, 4]);
        assert_eq!(translated(&[], &[0]), [0]);
    }

    #[test]
    fn other_offsets_name_the_same_next_record() {
        let records = [100, 101, 105, 106];
        let wanted = [106, 3, 100, 102, 105, 107, 110];
        assert_eq!(translated(&records, &wanted), [3, 0, 0, 2, 2, 4, 4]);
    }
}
