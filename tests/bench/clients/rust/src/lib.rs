//! The load that every client is given: `PROGRAM produce|consume BOOTSTRAP TOPIC RECORDS RECORD_BYTES`.

/// Of every topic; record `n` goes to partition `n % PARTITIONS`.
pub const PARTITIONS: i32 = 6;
pub const LINGER_MS: u64 = 5;
pub const BATCH_BYTES: usize = 128 << 10;
/// What a producer may hold.
pub const BUFFER_BYTES: usize = 32 << 20;
/// What a consumer asks for of one partition at once.
pub const PARTITION_FETCH_BYTES: i32 = 1 << 20;

#[derive(Debug)]
pub struct Load {
    pub produce: bool,
    pub bootstrap: String,
    pub topic: String,
    pub records: u64,
    pub record_bytes: usize,
}

impl Load {
    /// # Panics
    /// When the command line is another.
    pub fn from_args() -> Load {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let [what, bootstrap, topic, records, record_bytes] = &args[..] else {
            panic!("produce|consume BOOTSTRAP TOPIC RECORDS RECORD_BYTES");
        };
        Load {
            produce: match what.as_str() {
                "produce" => true,
                "consume" => false,
                other => panic!("{other}?"),
            },
            bootstrap: bootstrap.clone(),
            topic: topic.clone(),
            records: records.parse().expect("a number of records"),
            record_bytes: record_bytes.parse().expect("a number of bytes"),
        }
    }

    /// The value of every record: not compressed by anybody, so one is as good as many.
    pub fn value(&self) -> Vec<u8> {
        vec![b'x'; self.record_bytes]
    }

    /// # Panics
    /// When something else came back than was written.
    pub fn check(&self, records: u64, bytes: u64) {
        assert_eq!(records, self.records, "records");
        assert_eq!(bytes, self.records * self.record_bytes as u64, "bytes");
    }
}
