//! `tidelog bench`: loads that measure a cluster. `records` writes and reads records, `transactions` commits
//! transactions; `topic` is what they write to, `latencies` how they sum up.

mod latencies;
mod records;
mod topic;
mod transactions;

use crate::output::Target;
use anyhow::Result;
use clap::{Args, Subcommand};
use records::Records;
use transactions::Transactions;

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  tidelog bench --records 1000000 --record-bytes 1024\n  \
                  tidelog bench --rate 5000 --records 50000 --compression zstd --output json\n  \
                  tidelog bench transactions --producers 8 --size 100"
)]
pub struct Bench {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    records: Records,
    #[command(subcommand)]
    load: Option<Load>,
}

#[derive(Debug, Subcommand)]
enum Load {
    /// Commit transactions one after another, by several producers at once
    #[command(
        after_help = "Example:\n  tidelog bench transactions --producers 8 --size 100 --seconds 10"
    )]
    Transactions(Transactions),
}

impl Bench {
    pub fn run(self) -> Result<()> {
        self.target.administer(async |admin, _| match self.load {
            Some(Load::Transactions(load)) => load.run(&self.target, admin).await,
            None => self.records.run(&self.target, admin).await,
        })
    }
}

/// Bytes that do not compress to nothing: half of them are noise.
fn value(bytes: u32, noise: &mut u64) -> Vec<u8> {
    let mut value = vec![b'x'; bytes as usize];
    for word in value.chunks_exact_mut(16) {
        *noise ^= *noise << 13;
        *noise ^= *noise >> 7;
        *noise ^= *noise << 17;
        word[..8].copy_from_slice(&noise.to_le_bytes());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_length_and_differ() {
        let mut noise = 1;
        assert_ne!(value(100, &mut noise), value(100, &mut noise));
        assert_eq!(value(7, &mut noise), b"xxxxxxx");
    }
}
