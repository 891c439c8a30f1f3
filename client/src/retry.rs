//! Trying again: which pause comes next, when to give up, and which failures pass by themselves.
//!
//! [`RetryPolicy`] is the one place that says how often and how long; [`Error::is_transient`] is the
//! one table of what is worth another try.

use crate::config::ClientConfig;
use crate::error::{Error, Result};
use std::future::Future;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};

/// When to try again after a failure, and when to give up.
///
/// Pauses follow one of four strategies, are shortened at random by the jitter, so that clients that
/// failed together do not return together, and end with a number of tries or an amount of time,
/// whichever comes first. Without either limit it never gives up.
///
/// ```
/// use std::time::Duration;
/// use tidelog_client::RetryPolicy;
///
/// let policy = RetryPolicy::exponential(Duration::from_millis(50), Duration::from_secs(1))
///     .with_tries(10)
///     .with_time(Duration::from_secs(30));
/// assert!(policy.pauses().count() == 9, "ten tries have nine pauses between them");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    strategy: Strategy,
    jitter: f64,
    tries_max: Option<u32>,
    time_max: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Strategy {
    Fixed(Duration),
    Incremental {
        first: Duration,
        step: Duration,
        max: Duration,
    },
    Exponential {
        first: Duration,
        factor: f64,
        max: Duration,
    },
}

/// How much of a pause chance may take away unless told otherwise.
const DEFAULT_JITTER: f64 = 0.5;

impl RetryPolicy {
    fn new(strategy: Strategy, jitter: f64) -> RetryPolicy {
        RetryPolicy {
            strategy,
            jitter,
            tries_max: None,
            time_max: None,
        }
    }

    /// One try and no more.
    pub fn never() -> RetryPolicy {
        RetryPolicy::immediate().with_tries(1)
    }

    /// No pause between tries.
    pub fn immediate() -> RetryPolicy {
        RetryPolicy::new(Strategy::Fixed(Duration::ZERO), 0.0)
    }

    /// The same pause each time.
    pub fn fixed(pause: Duration) -> RetryPolicy {
        RetryPolicy::new(Strategy::Fixed(pause), DEFAULT_JITTER)
    }

    /// Pauses of `first`, `first + step`, `first + 2 * step` and so on, at most `max`.
    pub fn incremental(first: Duration, step: Duration, max: Duration) -> RetryPolicy {
        RetryPolicy::new(Strategy::Incremental { first, step, max }, DEFAULT_JITTER)
    }

    /// Pauses of `first`, twice that, four times that and so on, at most `max`.
    pub fn exponential(first: Duration, max: Duration) -> RetryPolicy {
        let factor = 2.0;
        RetryPolicy::new(Strategy::Exponential { first, factor, max }, DEFAULT_JITTER)
    }

    /// The factor between one pause of an exponential policy and the next; at least 1. Other
    /// strategies have none.
    #[must_use]
    pub fn with_factor(mut self, by: f64) -> RetryPolicy {
        if let Strategy::Exponential { factor, .. } = &mut self.strategy {
            *factor = by.max(1.0);
        }
        self
    }

    /// The part of each pause, from 0 to 1, that chance may take away.
    #[must_use]
    pub fn with_jitter(mut self, part: f64) -> RetryPolicy {
        self.jitter = part.clamp(0.0, 1.0);
        self
    }

    /// At most so many tries, the first included; at least 1.
    #[must_use]
    pub fn with_tries(mut self, tries: u32) -> RetryPolicy {
        self.tries_max = Some(tries.max(1));
        self
    }

    /// No try is begun later than this after the first, and [`RetryPolicy::run`] cuts the last off.
    #[must_use]
    pub fn with_time(mut self, time: Duration) -> RetryPolicy {
        self.time_max = Some(time);
        self
    }

    /// The limit in time, if there is one.
    pub fn time(&self) -> Option<Duration> {
        self.time_max
    }

    /// The pauses between tries, in order. The iterator ends with the limit in tries; who uses it
    /// looks after the limit in time.
    pub fn pauses(&self) -> Pauses {
        Pauses {
            policy: self.clone(),
            failures: 0,
            random: random_seed(),
        }
    }

    /// Calls `attempt` until it succeeds, fails with what will not pass, or a limit is reached.
    ///
    /// # Errors
    /// The last error when it is not transient or was the last try's; [`Error::Timeout`] when the
    /// time is over, also in the middle of a try.
    pub async fn run<T, F: Future<Output = Result<T>>>(
        &self,
        what: &str,
        attempt: impl FnMut() -> F,
    ) -> Result<T> {
        self.run_if(what, Error::is_transient, attempt).await
    }

    /// [`RetryPolicy::run`] with another opinion on which failures are worth another try.
    ///
    /// # Errors
    /// As [`RetryPolicy::run`].
    pub async fn run_if<T, F: Future<Output = Result<T>>>(
        &self,
        what: &str,
        mut again: impl FnMut(&Error) -> bool,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T> {
        let started = Instant::now();
        let deadline = self.time_max.and_then(|time| started.checked_add(time));
        let mut pauses = self.pauses();
        let mut last = None;
        loop {
            let tried = match deadline {
                Some(deadline) => match timeout_at(deadline, attempt()).await {
                    Ok(tried) => tried,
                    Err(_) => return Err(timed_out(what, started, last.as_ref())),
                },
                None => attempt().await,
            };
            let error = match tried {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let Some(pause) = pauses.next().filter(|_| again(&error)) else {
                return Err(error);
            };
            let until = Instant::now() + pause;
            if deadline.is_some_and(|deadline| until > deadline) {
                return Err(timed_out(what, started, Some(&error)));
            }
            tracing::debug!("{what}: trying again after {error}");
            last = Some(error);
            sleep_until(until).await;
        }
    }
}

fn timed_out(what: &str, started: Instant, last: Option<&Error>) -> Error {
    Error::Timeout {
        what: what.to_owned(),
        waited_ms: started.elapsed().as_millis() as u64,
        last: last.map_or_else(|| "no answer".to_owned(), ToString::to_string),
    }
}

/// The pauses of a [`RetryPolicy`], one for each failure.
#[derive(Debug, Clone)]
pub struct Pauses {
    policy: RetryPolicy,
    failures: u32,
    random: u64,
}

impl Pauses {
    /// Begins anew, as after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    fn full(&self) -> Duration {
        match self.policy.strategy {
            Strategy::Fixed(pause) => pause,
            Strategy::Incremental { first, step, max } => {
                let grown = step.checked_mul(self.failures);
                let sum = grown.and_then(|grown| first.checked_add(grown));
                sum.map_or(max, |sum| sum.min(max))
            }
            Strategy::Exponential { first, factor, max } => {
                let seconds = first.as_secs_f64() * factor.powi(self.failures.min(1_000) as i32);
                let pause = Duration::try_from_secs_f64(seconds);
                pause.map_or(max, |pause| pause.min(max))
            }
        }
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if let Some(tries) = self.policy.tries_max
            && self.failures + 1 >= tries
        {
            return None;
        }
        let full = self.full();
        self.failures = self.failures.saturating_add(1);
        let chance = next_random(&mut self.random) as f64 / f64::from(u32::MAX);
        Some(full.mul_f64(1.0 - self.policy.jitter * chance.min(1.0)))
    }
}

/// Pauses for what goes on until it is stopped: the limits of the client's policy do not end it.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    pauses: Pauses,
}

impl Backoff {
    pub(crate) fn new(config: &ClientConfig) -> Backoff {
        let endless = RetryPolicy {
            tries_max: None,
            time_max: None,
            ..config.retry.clone()
        };
        Backoff {
            pauses: endless.pauses(),
        }
    }

    pub(crate) fn next(&mut self) -> Duration {
        self.pauses.next().unwrap_or_default()
    }

    pub(crate) fn reset(&mut self) {
        self.pauses.reset();
    }
}

/// One call with its deadline: the loop around an attempt asks it after each failure.
#[derive(Debug)]
pub(crate) struct Retry {
    what: &'static str,
    started: Instant,
    deadline: Instant,
    unknown_topic_deadline: Instant,
    pauses: Pauses,
}

impl Retry {
    /// The call has the client's call timeout, or less where the policy says so.
    pub(crate) fn new(what: &'static str, config: &ClientConfig) -> Retry {
        let started = Instant::now();
        let time = config.retry.time_max.unwrap_or(config.call_timeout);
        Retry {
            what,
            started,
            deadline: started + time.min(config.call_timeout),
            unknown_topic_deadline: started + config.unknown_topic_timeout,
            pauses: config.retry.pauses(),
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Waits until the next attempt.
    ///
    /// # Errors
    /// `error` itself when it is not transient or the tries are used up, [`Error::Timeout`] when
    /// the deadline comes first.
    pub(crate) async fn pause(&mut self, error: Error) -> Result<()> {
        let Some(pause) = self.pauses.next() else {
            return Err(error);
        };
        let until = Instant::now() + pause;
        if error.is_unknown_topic() {
            if until > self.unknown_topic_deadline {
                return Err(error);
            }
        } else if !error.is_transient() {
            return Err(error);
        }
        if until > self.deadline {
            return Err(timed_out(self.what, self.started, Some(&error)));
        }
        tracing::debug!("{}: trying again after {error}", self.what);
        sleep_until(until).await;
        Ok(())
    }
}

/// A seed from the standard library's per-process random keys: jitter needs no better source.
pub(crate) fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() | 1
}

/// xorshift64*: the state must not be 0.
pub(crate) fn next_random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;
