//! The client's examples, run as its users run them.

use super::ground::{create, fresh, topic, write};
use anyhow::{Result, anyhow, ensure};
use std::error::Error;

macro_rules! example {
    ($name:ident, $path:literal) => {
        #[expect(dead_code, reason = "its main is not called")]
        #[path = $path]
        mod $name;
    };
}

example!(produce_example, "../../../client/examples/produce.rs");
example!(consume_example, "../../../client/examples/consume.rs");
example!(group_example, "../../../client/examples/group.rs");
example!(
    exactly_once_example,
    "../../../client/examples/exactly_once.rs"
);
example!(outbox_example, "../../../client/examples/outbox.rs");
example!(saga_example, "../../../client/examples/saga.rs");
example!(
    request_reply_example,
    "../../../client/examples/request_reply.rs"
);
example!(
    event_sourcing_example,
    "../../../client/examples/event_sourcing.rs"
);
example!(retry_dlq_example, "../../../client/examples/retry_dlq.rs");
example!(admin_example, "../../../client/examples/admin.rs");

/// Runs one to its end on a thread of its own: examples return errors that stay on their thread.
async fn run<T: Send + 'static>(
    example: impl AsyncFnOnce() -> Result<T, Box<dyn Error>> + Send + 'static,
) -> Result<T> {
    let runtime = tokio::runtime::Handle::current();
    let running = tokio::task::spawn_blocking(move || {
        let ended = runtime.block_on(example());
        ended.map_err(|error| anyhow!("{error}"))
    });
    running.await?
}

pub async fn example_produce_and_consume(bootstrap: &str) -> Result<()> {
    let (at, topic) = (bootstrap.to_owned(), topic(bootstrap, "example", 3).await?);
    let (written, mut read) = run(async move || {
        let written = produce_example::run(&at, &topic, 200).await?;
        Ok((written, consume_example::run(&at, &topic).await?))
    })
    .await?;
    read.sort_by_key(|value| value.parse::<u32>().unwrap_or(u32::MAX));
    let expected: Vec<_> = (0..200).map(|n: u32| n.to_string()).collect();
    ensure!(written == 200 && read == expected, "{written}, {read:?}");
    Ok(())
}

pub async fn example_group(bootstrap: &str) -> Result<()> {
    let (at, topic) = (
        bootstrap.to_owned(),
        topic(bootstrap, "example-group", 2).await?,
    );
    write(bootstrap, &topic, 2, 0..20).await?;
    let mut read = run(async move || {
        let first = group_example::run(&at, &topic, &topic, 12).await?;
        let second = group_example::run(&at, &topic, &topic, 8).await?;
        Ok([first, second].concat())
    })
    .await?;
    read.sort_by_key(|value| value.parse::<u32>().unwrap_or(u32::MAX));
    let expected: Vec<_> = (0..20).map(|n: u32| n.to_string()).collect();
    ensure!(read == expected, "{read:?}");
    Ok(())
}

pub async fn example_exactly_once(bootstrap: &str) -> Result<()> {
    let at = bootstrap.to_owned();
    let input = topic(bootstrap, "example-once", 2).await?;
    let output = topic(bootstrap, "example-doubles", 2).await?;
    write(bootstrap, &input, 2, 0..40).await?;
    let mut read = run(async move || {
        exactly_once_example::run(&at, &input, &output, 40).await?;
        consume_example::run(&at, &output).await
    })
    .await?;
    read.sort_by_key(|value| value.parse::<u32>().unwrap_or(u32::MAX));
    let expected: Vec<_> = (0..40).map(|n: u32| (2 * n).to_string()).collect();
    ensure!(read == expected, "{read:?}");
    Ok(())
}

pub async fn example_outbox(bootstrap: &str) -> Result<()> {
    let (at, topic) = (
        bootstrap.to_owned(),
        topic(bootstrap, "example-outbox", 1).await?,
    );
    let seen = run(async move || outbox_example::run(&at, &topic).await).await?;
    ensure!(seen == ["created", "paid", "shipped"], "{seen:?}");
    Ok(())
}

pub async fn example_saga(bootstrap: &str) -> Result<()> {
    let (at, topic) = (
        bootstrap.to_owned(),
        topic(bootstrap, "example-saga", 2).await?,
    );
    let [plain, rare] = run(async move || saga_example::run(&at, &topic).await).await?;
    ensure!(plain == ["ordered", "paid", "reserved"], "{plain:?}");
    ensure!(
        rare == ["ordered", "paid", "out-of-stock", "refunded"],
        "{rare:?}"
    );
    Ok(())
}

pub async fn example_request_reply(bootstrap: &str) -> Result<()> {
    let at = bootstrap.to_owned();
    let requests = topic(bootstrap, "example-requests", 2).await?;
    let replies = topic(bootstrap, "example-replies", 1).await?;
    let answers = run(async move || request_reply_example::run(&at, &requests, &replies).await);
    let answers = answers.await?;
    ensure!(answers == ["TIDE", "LOG", "EBB"], "{answers:?}");
    Ok(())
}

pub async fn example_event_sourcing(bootstrap: &str) -> Result<()> {
    let (at, topic) = (bootstrap.to_owned(), fresh("example-accounts"));
    let accounts = run(async move || event_sourcing_example::run(&at, &topic).await).await?;
    ensure!(
        accounts.balances["ann"] == 155 && accounts.balances["bob"] == -55,
        "{accounts:?}"
    );
    ensure!(accounts.replayed == 1, "{accounts:?}");
    Ok(())
}

pub async fn example_retry_dlq(bootstrap: &str) -> Result<()> {
    let (at, topic) = (
        bootstrap.to_owned(),
        topic(bootstrap, "example-tasks", 1).await?,
    );
    create(bootstrap, &format!("{topic}.retry.1"), 1).await?;
    create(bootstrap, &format!("{topic}.dlq"), 1).await?;
    let name = topic.clone();
    let (tries, letter) = run(async move || retry_dlq_example::run(&at, &topic).await).await?;
    let tries: Vec<_> = tries.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    ensure!(
        tries == [("fourth", 4), ("good", 1), ("never", 6), ("second", 2)],
        "{tries:?}"
    );
    ensure!(
        letter["dlq.topic"] == name && letter["dlq.offset"] == "3",
        "{letter:?}"
    );
    ensure!(
        letter["dlq.reason"] == "never failed at try 6",
        "{letter:?}"
    );
    Ok(())
}

pub async fn example_admin(bootstrap: &str) -> Result<()> {
    let (at, topic) = (bootstrap.to_owned(), fresh("example-admin"));
    let (partitions, retention) = run(async move || admin_example::run(&at, &topic).await).await?;
    ensure!(
        partitions == 4 && retention.as_deref() == Some("3600000"),
        "{retention:?}"
    );
    Ok(())
}
