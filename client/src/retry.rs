//! Trying again: which pause comes next, and when to give up.

use crate::config::ClientConfig;
use crate::error::{Error, Result};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Pauses that double up to a bound, each shortened by up to a half at random, so that clients that
/// failed together do not return together.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
    random: u64,
}

impl Backoff {
    pub(crate) fn new(config: &ClientConfig) -> Backoff {
        Backoff {
            first: config.backoff,
            max: config.backoff_max,
            next: config.backoff,
            random: random_seed(),
        }
    }

    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.max);
        let fraction = next_random(&mut self.random) as u32;
        pause - (pause / 2).mul_f64(f64::from(fraction) / f64::from(u32::MAX))
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// One call with its deadline: the loop around an attempt asks it after each failure.
#[derive(Debug)]
pub(crate) struct Retry {
    what: &'static str,
    started: Instant,
    deadline: Instant,
    unknown_topic_deadline: Instant,
    backoff: Backoff,
}

impl Retry {
    pub(crate) fn new(what: &'static str, config: &ClientConfig) -> Retry {
        let started = Instant::now();
        Retry {
            what,
            started,
            deadline: started + config.call_timeout,
            unknown_topic_deadline: started + config.unknown_topic_timeout,
            backoff: Backoff::new(config),
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Waits until the next attempt.
    ///
    /// # Errors
    /// `error` itself when it is not transient, [`Error::Timeout`] when the deadline comes first.
    pub(crate) async fn pause(&mut self, error: Error) -> Result<()> {
        let unknown_topic = match &error {
            Error::UnknownTopic { .. } => true,
            Error::Broker { code, .. } => code.is_unknown_topic(),
            _ => false,
        };
        let until = Instant::now() + self.backoff.next();
        if unknown_topic {
            if until > self.unknown_topic_deadline {
                return Err(error);
            }
        } else if !error.is_transient() {
            return Err(error);
        }
        if until > self.deadline {
            return Err(Error::Timeout {
                what: self.what.to_owned(),
                waited_ms: self.started.elapsed().as_millis() as u64,
                last: error.to_string(),
            });
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
mod tests {
    use super::*;

    fn hasty() -> ClientConfig {
        ClientConfig {
            call_timeout: Duration::from_millis(120),
            unknown_topic_timeout: Duration::from_millis(60),
            backoff: Duration::from_millis(2),
            backoff_max: Duration::from_millis(8),
            ..ClientConfig::new("x:1")
        }
    }

    #[test]
    fn pauses_double_up_to_the_bound_and_keep_at_least_half() {
        let config = ClientConfig::new("x:1");
        let mut backoff = Backoff::new(&config);
        let mut full = config.backoff;
        for _ in 0..10 {
            let pause = backoff.next();
            assert!(pause <= full && pause >= full / 2, "{pause:?} of {full:?}");
            full = (full * 2).min(config.backoff_max);
        }
        backoff.reset();
        assert!(backoff.next() <= config.backoff);
    }

    #[tokio::test]
    async fn a_lasting_error_is_returned_and_a_passing_one_ends_at_the_deadline() {
        let config = hasty();
        let mut retry = Retry::new("test", &config);
        let lasting = Error::broker("t", crate::ErrorCode::TOPIC_ALREADY_EXISTS);
        assert!(matches!(
            retry.pause(lasting).await,
            Err(Error::Broker { .. })
        ));

        let started = Instant::now();
        let error = loop {
            let passing = Error::NoLeader {
                topic: "t".into(),
                partition: 0,
            };
            if let Err(error) = retry.pause(passing).await {
                break error;
            }
        };
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        assert!(started.elapsed() >= config.call_timeout - config.backoff_max);
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
        assert!(started.elapsed() >= config.unknown_topic_timeout - config.backoff_max);
        assert!(started.elapsed() < config.call_timeout);
    }
}
