use super::*;
use crate::ErrorCode;
use std::cell::Cell;

const MS: Duration = Duration::from_millis(1);

fn hasty() -> ClientConfig {
    ClientConfig {
        call_timeout: 120 * MS,
        unknown_topic_timeout: 60 * MS,
        retry: RetryPolicy::exponential(2 * MS, 8 * MS),
        ..ClientConfig::new("x:1")
    }
}

fn lasting() -> Error {
    Error::broker("t", ErrorCode::TOPIC_ALREADY_EXISTS)
}

fn passing() -> Error {
    Error::NoLeader {
        topic: "t".into(),
        partition: 0,
    }
}

fn first(policy: RetryPolicy, count: usize) -> Vec<u128> {
    let pauses = policy.with_jitter(0.0).pauses().take(count);
    pauses.map(|pause| pause.as_millis()).collect()
}

#[test]
fn each_strategy_has_its_pauses() {
    assert_eq!(first(RetryPolicy::immediate(), 3), [0, 0, 0]);
    assert_eq!(first(RetryPolicy::fixed(5 * MS), 3), [5, 5, 5]);
    let incremental = RetryPolicy::incremental(5 * MS, 3 * MS, 12 * MS);
    assert_eq!(first(incremental, 5), [5, 8, 11, 12, 12]);
    let exponential = RetryPolicy::exponential(5 * MS, 30 * MS);
    assert_eq!(first(exponential.clone(), 5), [5, 10, 20, 30, 30]);
    assert_eq!(first(exponential.with_factor(3.0), 3), [5, 15, 30]);
    assert_eq!(first(RetryPolicy::never(), 3), [0; 0]);
    assert_eq!(first(RetryPolicy::fixed(MS).with_tries(3), 9), [1, 1]);
}

#[test]
fn growing_without_end_stays_at_the_bound() {
    let day = Duration::from_secs(86_400);
    let mut pauses = RetryPolicy::exponential(MS, day).with_jitter(0.0).pauses();
    assert_eq!(pauses.nth(5_000), Some(day));
    let mut pauses = RetryPolicy::incremental(MS, Duration::MAX / 2, day).pauses();
    assert!(pauses.nth(5_000).unwrap() <= day);
    pauses.reset();
    assert!(pauses.next().unwrap() <= MS);
}

#[test]
fn chance_takes_no_more_than_the_jitter() {
    let policy = RetryPolicy::fixed(100 * MS).with_jitter(0.3);
    let pauses: Vec<_> = policy.pauses().take(200).collect();
    assert!(pauses.iter().all(|p| (70 * MS..=100 * MS).contains(p)));
    assert!(pauses.iter().min() < pauses.iter().max());
}

#[tokio::test]
async fn a_call_is_tried_until_it_succeeds_or_cannot() {
    let tries = Cell::new(0);
    let attempt = |error: Error, good_at: i32| {
        tries.set(tries.get() + 1);
        let done = tries.get() >= good_at;
        async move { if done { Ok(()) } else { Err(error) } }
    };
    let policy = RetryPolicy::fixed(MS).with_tries(5);
    policy.run("t", || attempt(passing(), 3)).await.unwrap();
    assert_eq!(tries.replace(0), 3);
    let error = policy.run("t", || attempt(passing(), 9)).await.unwrap_err();
    assert!(matches!(error, Error::NoLeader { .. }), "{error}");
    assert_eq!(tries.replace(0), 5);
    let error = policy.run("t", || attempt(lasting(), 9)).await.unwrap_err();
    assert!(matches!(error, Error::Broker { .. }), "{error}");
    assert_eq!(tries.replace(0), 1);
}

#[tokio::test]
async fn no_call_outlives_its_time() {
    let policy = RetryPolicy::immediate().with_time(30 * MS);
    let started = Instant::now();
    let hanging = policy.run("hang", std::future::pending::<Result<()>>);
    let error = hanging.await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    let pausing = RetryPolicy::fixed(Duration::from_secs(60)).with_time(30 * MS);
    let failing = pausing.run("fail", async || Err::<(), _>(passing()));
    let error = failing.await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_lasting_error_is_returned_and_a_passing_one_ends_at_the_deadline() {
    let config = hasty();
    let mut retry = Retry::new("test", &config);
    assert!(matches!(
        retry.pause(lasting()).await,
        Err(Error::Broker { .. })
    ));

    let started = Instant::now();
    let error = loop {
        if let Err(error) = retry.pause(passing()).await {
            break error;
        }
    };
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(started.elapsed() >= config.call_timeout - 8 * MS);
}

#[tokio::test]
async fn an_unknown_topic_is_looked_for_only_a_while() {
    let config = hasty();
    let mut retry = Retry::new("test", &config);
    let started = Instant::now();
    let error = loop {
        let unknown = Error::UnknownTopic { topic: "t".into() };
        if let Err(error) = retry.pause(unknown).await {
            break error;
        }
    };
    assert!(matches!(error, Error::UnknownTopic { .. }));
    assert!(started.elapsed() >= config.unknown_topic_timeout - 8 * MS);
    assert!(started.elapsed() < config.call_timeout);
}
