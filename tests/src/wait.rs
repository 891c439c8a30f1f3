//! Waiting for a condition with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Tries `attempt` until it gives `Some`; the last error or emptiness is told when time is up.
///
/// # Errors
/// When nothing came within `limit`.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut attempt: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let began = Instant::now();
    let mut last_error = None;
    loop {
        match tokio::time::timeout(limit, attempt()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => last_error = Some(error),
            Err(_) => last_error = Some(anyhow::anyhow!("the attempt itself did not end")),
        }
        if began.elapsed() >= limit {
            match last_error {
                Some(error) => bail!("not within {limit:?}: {what}; last error: {error:#}"),
                None => bail!("not within {limit:?}: {what}"),
            }
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}
