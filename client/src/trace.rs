//! Traces from producers to consumers: the W3C `traceparent` in the headers of records.
//!
//! Whatever runs within [`TraceContext::scope`] sends its records as part of the trace, unless the
//! producer is set not to; the consumer gets the context back from the record and goes on in it.

use crate::record::{ConsumerRecord, Header, Record};
use bytes::Bytes;
use std::fmt;
use std::future::Future;
use std::str::FromStr;
use tracing::Instrument;

/// The header's name.
const TRACEPARENT: &str = "traceparent";

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// A place in a trace, as W3C Trace Context has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    sampled: bool,
}

impl TraceContext {
    /// A new trace.
    pub fn begin() -> TraceContext {
        TraceContext {
            trace_id: uuid::Uuid::new_v4().as_u128(),
            span_id: new_span_id(),
            sampled: true,
        }
    }

    /// The one that this code runs in, if any.
    pub fn current() -> Option<TraceContext> {
        CURRENT.try_with(|context| *context).ok()
    }

    /// The next step of the same trace.
    #[must_use]
    pub fn child(self) -> TraceContext {
        TraceContext {
            span_id: new_span_id(),
            ..self
        }
    }

    /// Runs `work` in this context and in a `tracing` span of this name.
    pub async fn scope<F: Future>(self, name: &str, work: F) -> F::Output {
        let span = tracing::info_span!(
            "trace",
            step = name,
            trace_id = format_args!("{:032x}", self.trace_id),
            span_id = format_args!("{:016x}", self.span_id),
        );
        CURRENT.scope(self, work.instrument(span)).await
    }

    /// The context that a record carries, if it does and makes sense.
    pub fn of(record: &ConsumerRecord) -> Option<TraceContext> {
        let mut headers = record.headers.iter();
        let header = headers.find(|header| header.key == TRACEPARENT)?;
        std::str::from_utf8(header.value.as_deref()?)
            .ok()?
            .parse()
            .ok()
    }

    /// Gives `record` the current context, unless there is none or it has one already.
    pub(crate) fn attach(record: &mut Record) {
        let Some(context) = TraceContext::current() else {
            return;
        };
        if record
            .headers
            .iter()
            .all(|header| header.key != TRACEPARENT)
        {
            record.headers.push(Header {
                key: TRACEPARENT.to_owned(),
                value: Some(Bytes::from(context.child().to_string())),
            });
        }
    }
}

fn new_span_id() -> u64 {
    // Not 0, which stands for none.
    (uuid::Uuid::new_v4().as_u128() >> 64) as u64 | 1
}

/// `00-<trace id>-<span id>-<flags>`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(
            f,
            "00-{:032x}-{:016x}-{flags:02x}",
            self.trace_id, self.span_id
        )
    }
}

/// Not a `traceparent`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent")]
pub struct NotATraceparent;

impl FromStr for TraceContext {
    type Err = NotATraceparent;

    fn from_str(text: &str) -> Result<TraceContext, NotATraceparent> {
        let mut parts = text.split('-');
        let mut hex = |length: usize| {
            let part = parts.next().filter(|part| part.len() == length)?;
            let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            let good = part.bytes().all(lower);
            good.then(|| u128::from_str_radix(part, 16).ok()).flatten()
        };
        let fields = (hex(2), hex(32), hex(16), hex(2));
        let (Some(version), Some(trace_id), Some(span_id), Some(flags)) = fields else {
            return Err(NotATraceparent);
        };
        // Later versions may have more fields; the first has not.
        let extra = parts.next().is_some();
        if version == 0xff || (version == 0 && extra) || trace_id == 0 || span_id == 0 {
            return Err(NotATraceparent);
        }
        Ok(TraceContext {
            trace_id,
            span_id: span_id as u64,
            sampled: flags & 1 == 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_and_written_as_the_standard_has_it() {
        let context: TraceContext = EXAMPLE.parse().unwrap();
        assert_eq!(context.to_string(), EXAMPLE);
        let later = EXAMPLE.replacen("00", "01", 1) + "-more";
        later.parse::<TraceContext>().unwrap();
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            wrong.parse::<TraceContext>().unwrap_err();
        }
    }

    #[tokio::test]
    async fn records_sent_within_a_scope_carry_its_trace() {
        let mut outside = Record::new("t", "v");
        TraceContext::attach(&mut outside);
        assert!(outside.headers.is_empty());
        let context = TraceContext::begin();
        let carried = context.scope("test", async {
            let mut record = Record::new("t", "v");
            TraceContext::attach(&mut record);
            TraceContext::attach(&mut record);
            record.headers
        });
        let carried = carried.await;
        assert_eq!(carried.len(), 1);
        let text = std::str::from_utf8(carried[0].value.as_deref().unwrap()).unwrap();
        let carried: TraceContext = text.parse().unwrap();
        assert_eq!(carried.trace_id, context.trace_id);
        assert_ne!(carried.span_id, context.span_id);
    }
}
