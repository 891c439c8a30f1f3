//! Any bytes as a produced record batch: no panic, and what is accepted keeps its promises.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidelog_storage::batch::{
    HEADER_BYTES, LENGTH_PREFIX_BYTES, batch_crc, for_each_record, validate_produced,
};

const MAX_BYTES: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    look(data);
    if data.len() >= HEADER_BYTES {
        // Length, magic and checksum as they should be, so that the rest is reached.
        let mut batch = data.to_vec();
        let length = (batch.len() - LENGTH_PREFIX_BYTES) as i32;
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[16] = 2;
        let crc = batch_crc(&batch);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        look(&batch);
    }
});

fn look(bytes: &[u8]) {
    let header = validate_produced(bytes, MAX_BYTES);
    let mut count = 0;
    let walked = for_each_record(bytes, |_| {
        count += 1;
        true
    });
    if let Ok(header) = header {
        assert_eq!(header.size_in_bytes(), bytes.len());
        assert_eq!(header.last_offset_delta, header.record_count - 1);
        assert!(count <= header.record_count);
        assert!(walked.is_err() || count == header.record_count);
    }
}
