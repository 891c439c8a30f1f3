//! What the Rust client promises, checked against any cluster that speaks the Kafka protocol: the
//! same checks run against Tidelog and against Apache Kafka.
//!
//! - [`admin`]: what an operator does beside topics.
//! - [`core`]: producing and consuming without a group.
//! - [`groups`]: consumer groups in both protocols.
//! - [`transactions`]: transactions and reading committed records.
//! - [`security`]: TLS and SASL.
//! - [`examples`]: the client's examples.
//! - [`ground`]: topics and records to check with.

pub mod admin;
pub mod core;
pub mod examples;
pub mod ground;
pub mod groups;
pub mod security;
pub mod transactions;

use anyhow::{Context, Result};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// No check takes as long on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

type Running = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// One promise.
pub struct Check {
    pub name: &'static str,
    /// What of the broker it needs: `core`, `groups`, `nextgen`, `transactions`,
    /// `security`.
    pub needs: &'static str,
    run: fn(String) -> Running,
}

impl Check {
    /// Checks it against the cluster at `bootstrap`.
    ///
    /// # Errors
    /// When it does not hold, or takes too long.
    pub async fn run(&self, bootstrap: &str) -> Result<()> {
        let run = (self.run)(bootstrap.to_owned());
        let ended = tokio::time::timeout(LIMIT, run).await;
        ended.with_context(|| format!("took more than {LIMIT:?}"))?
    }
}

macro_rules! checks {
    ($($needs:literal: $module:ident { $($name:ident),* $(,)? })*) => {
        /// All checks, in order.
        #[must_use]
        pub fn all() -> Vec<Check> {
            vec![$($(Check {
                name: stringify!($name),
                needs: $needs,
                run: |bootstrap| Box::pin(async move { $module::$name(&bootstrap).await }),
            },)*)*]
        }
    };
}

checks! {
    "core": core {
        records_come_back_as_they_were_sent,
        a_full_buffer_waits_and_close_loses_nothing,
        each_partitioner_chooses_as_it_says,
        acks_and_errors_are_told,
        an_offset_out_of_range_is_reset_or_told,
        topics_are_administered,
        a_topic_is_told_from_an_earlier_one_of_its_name,
        records_are_deleted_and_replicas_shown,
        lag_and_positions_follow_what_is_handed_out,
    }
    "groups": groups {
        a_group_reads_each_record_once,
        a_member_that_comes_takes_over_partitions,
        every_assignor_is_understood,
        offsets_are_committed_up_to_what_was_dealt_with,
        a_static_member_comes_back_without_a_rebalance,
        a_member_that_asks_no_more_loses_its_partitions,
        hooks_hear_of_partitions,
        a_paused_partition_waits,
        seeking_by_offset_and_time,
        a_new_topic_is_found,
        committed_offsets_are_deleted,
    }
    "transactions": transactions {
        a_transaction_is_seen_whole_or_not_at_all,
        an_empty_transaction_is_no_trouble,
        a_newer_producer_fences_the_older,
        reading_and_writing_is_exactly_once,
        an_open_transaction_hides_what_follows,
    }
    "groups": examples {
        example_produce_and_consume,
        example_group,
        example_outbox,
        example_request_reply,
        example_event_sourcing,
        example_retry_dlq,
        example_admin,
    }
    "transactions": examples {
        example_exactly_once,
        example_saga,
    }
    "core": admin {
        what_has_settings_is_listed,
        leaders_are_elected_where_that_is_needed,
        partitions_move_to_other_brokers,
    }
    "groups": admin {
        members_are_taken_out_of_a_group,
    }
    "transactions": admin {
        a_producer_is_fenced_by_an_operator,
        a_hanging_transaction_is_aborted,
    }
    "security": security {
        every_sasl_mechanism_is_taken,
        a_wrong_password_is_told_at_once,
        certificates_are_shown_and_checked,
    }
    "nextgen": groups {
        the_broker_assigns,
        the_broker_moves_partitions_to_who_comes,
    }
}

/// Runs the checks of these needs, four at a time, and prints a line for each. Returns how many
/// failed.
pub async fn run(bootstrap: &str, needs: &[&str], only: &[String]) -> usize {
    use futures_util::{StreamExt, stream};
    let wanted = all().into_iter().filter(|check| {
        let named = only.is_empty() || only.iter().any(|name| check.name.contains(name.as_str()));
        named && needs.contains(&check.needs)
    });
    let running = stream::iter(wanted).map(|check| async move {
        let began = std::time::Instant::now();
        let done = check.run(bootstrap).await;
        let seconds = began.elapsed().as_secs_f64();
        match &done {
            Ok(()) => println!("pass {} ({seconds:.1} s)", check.name),
            Err(error) => println!("FAIL {} ({seconds:.1} s): {error:#}", check.name),
        }
        usize::from(done.is_err())
    });
    running
        .buffer_unordered(4)
        .fold(0, |all, one| async move { all + one })
        .await
}
