//! Which clients a run has, and their end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use tidelog_client::{ClientConfig, Producer, ProducerConfig};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::churn::Churner;
use super::readers::Reader;
use super::recorder::{Recorder, Timed};
use super::transfers::{self, Bank};
use super::writers::Writer;
use super::{APPENDED, MANY, Options, Run, TRANSACTED, TRANSFERRED, topics};
use crate::history::{Kind, Op, ProcessId};

/// After the last healing nobody may wait longer than this for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(40);

/// Clients of the topic with many partitions.
const MANY_WRITERS: i32 = 4;

/// What every client of a run has.
#[derive(Clone)]
pub struct Client {
    pub run: Arc<Run>,
    pub recorder: Arc<Recorder>,
    pub stop: Arc<AtomicBool>,
    pub process: ProcessId,
    pub topic: String,
    /// Of the topic.
    pub partitions: i32,
    /// Of a member of a group.
    pub group: Option<String>,
}

impl Client {
    pub(super) fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn config(&self) -> ClientConfig {
        self.run.client()
    }

    pub(super) fn event(&self, kind: Kind, op: Op) {
        self.recorder.event(self.process, kind, op);
    }

    pub(super) fn timed(&self, f: &'static str, began_ms: u64, kind: Kind, records: usize) {
        self.recorder.timed(Timed {
            process: self.process,
            f,
            kind,
            partition: None,
            began_ms,
            ended_ms: 0,
            records,
        });
    }

    /// A producer that is made anew until a broker answers.
    pub(super) async fn producer(&self, config: ProducerConfig) -> Option<Producer> {
        while self.goes_on() {
            match Producer::new(self.config(), config.clone()).await {
                Ok(producer) => return Some(producer),
                Err(error) => self.recorder.error(&error),
            }
            sleep(Duration::from_millis(200)).await;
        }
        None
    }
}

/// The clients of a run.
pub struct Clients {
    writers: JoinSet<()>,
    readers: JoinSet<Result<()>>,
    stop_writers: Arc<AtomicBool>,
    stop_readers: Arc<AtomicBool>,
    run: Arc<Run>,
    recorder: Arc<Recorder>,
    next_process: ProcessId,
}

impl Clients {
    /// Starts all clients of the workloads asked for.
    #[must_use]
    pub fn start(options: &Options, run: &Arc<Run>, recorder: &Arc<Recorder>) -> Self {
        let mut clients = Self {
            writers: JoinSet::new(),
            readers: JoinSet::new(),
            stop_writers: Arc::default(),
            stop_readers: Arc::default(),
            run: Arc::clone(run),
            recorder: Arc::clone(recorder),
            next_process: 0,
        };
        for (topic, partitions) in topics(options) {
            clients.write(topic, partitions);
            match topic {
                TRANSFERRED => {
                    let reader = clients.reader(topic, partitions);
                    clients.readers.spawn(transfers::follow(reader));
                }
                _ => {
                    let reader = clients.reader(topic, partitions);
                    clients.readers.spawn(Reader(reader).follow());
                }
            }
            let grouped =
                options.workloads.contains("group") && [APPENDED, TRANSACTED].contains(&topic);
            if grouped {
                clients.group(topic, partitions);
            }
        }
        if options.workloads.contains("churn") {
            for name in ["churn-a", "churn-b"] {
                let churner = Churner(clients.writer(name, 2));
                clients.writers.spawn(churner.churn());
            }
        }
        clients
    }

    fn client(&mut self, stop: Arc<AtomicBool>, topic: &str, partitions: i32) -> Client {
        self.next_process += 1;
        Client {
            run: Arc::clone(&self.run),
            recorder: Arc::clone(&self.recorder),
            stop,
            process: self.next_process,
            topic: topic.to_owned(),
            partitions,
            group: None,
        }
    }

    fn writer(&mut self, topic: &str, partitions: i32) -> Client {
        self.client(Arc::clone(&self.stop_writers), topic, partitions)
    }

    fn reader(&mut self, topic: &str, partitions: i32) -> Client {
        self.client(Arc::clone(&self.stop_readers), topic, partitions)
    }

    fn write(&mut self, topic: &str, partitions: i32) {
        match topic {
            APPENDED => {
                for partition in 0..partitions {
                    let writer = Writer(self.writer(topic, partitions));
                    self.writers.spawn(writer.append(partition));
                }
            }
            TRANSACTED => {
                for _ in 0..3 {
                    let writer = Writer(self.writer(topic, partitions));
                    self.writers.spawn(writer.transact());
                }
            }
            TRANSFERRED => {
                for bank in Bank::all(partitions) {
                    let writer = self.writer(topic, partitions);
                    self.writers.spawn(transfers::transfer(writer, bank));
                }
            }
            MANY => {
                for part in 0..MANY_WRITERS {
                    let writer = Writer(self.writer(topic, partitions));
                    self.writers.spawn(writer.scatter(part, MANY_WRITERS));
                }
            }
            _ => {}
        }
    }

    /// Two members in each protocol, of which one commits by itself, and one who asks what is committed.
    fn group(&mut self, topic: &str, partitions: i32) {
        for (protocol, next) in [("classic", false), ("next", true)] {
            let group = format!("{protocol}-{topic}");
            for automatic in [true, false] {
                let (reader, group) = (Reader(self.reader(topic, partitions)), group.clone());
                self.readers
                    .spawn(async move { reader.join(&group, next, automatic).await });
            }
            let observer = Reader(self.reader(topic, partitions));
            self.readers
                .spawn(async move { observer.observe(&group).await });
        }
    }

    /// Stops the clients; what they could not do.
    pub async fn end(mut self) -> Vec<String> {
        let mut failures = Vec::new();
        self.stop_writers.store(true, Ordering::Relaxed);
        let all = async {
            let mut panicked = Vec::new();
            while let Some(ended) = self.writers.join_next().await {
                panicked.extend(ended.err().map(|error| format!("a writer: {error}")));
            }
            panicked
        };
        let ended = timeout(ANSWER_LIMIT, all).await;
        if let Ok(panicked) = ended {
            failures.extend(panicked);
        } else {
            failures.push(format!(
                "{} writers were not answered within {ANSWER_LIMIT:?} of the last healing",
                self.writers.len()
            ));
            self.writers.shutdown().await;
        }
        // Readers may be behind.
        sleep(Duration::from_secs(2)).await;
        self.stop_readers.store(true, Ordering::Relaxed);
        let ended = timeout(ANSWER_LIMIT, async {
            let mut told = BTreeMap::new();
            while let Some(ended) = self.readers.join_next().await {
                match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => *told.entry(format!("a reader: {error:#}")).or_insert(0) += 1,
                    Err(error) => *told.entry(format!("a reader: {error}")).or_insert(0) += 1,
                }
            }
            told.into_keys().collect::<Vec<_>>()
        });
        match ended.await {
            Ok(told) => failures.extend(told),
            Err(_) => failures.push(format!("readers did not end within {ANSWER_LIMIT:?}")),
        }
        failures
    }
}
