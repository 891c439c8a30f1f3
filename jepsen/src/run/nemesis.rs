//! Does what the schedule says, and undoes it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use tidelog_client::Admin;
use tokio::time::{Instant, sleep, timeout};

use super::Run;
use super::network::Network;
use super::process::Process;
use super::recorder::{Recorder, Span};
use super::schedule::{Fault, Step, Who};

/// A clean stop may take this long.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A narrow link: a few requests a second of the size the writers make.
const NARROW: &str = "tbf rate 400kbit burst 16kb latency 400ms";
const LOSSY: &str = "netem delay 40ms 30ms loss 5% duplicate 3% reorder 20%";

/// The brokers and the network between them.
pub struct Nemesis {
    pub run: Arc<Run>,
    pub recorder: Arc<Recorder>,
    /// Before the network, so that they end first.
    pub brokers: Vec<Process>,
    pub network: Network,
    pub binary: PathBuf,
    pub topic: String,
}

impl Nemesis {
    /// Starts every broker that does not run.
    ///
    /// # Errors
    /// When the binary cannot be started.
    pub fn start_all(&mut self) -> Result<()> {
        for broker in &mut self.brokers {
            broker.start(&self.binary)?;
        }
        Ok(())
    }

    /// Of the brokers' Kafka listeners.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let addresses = self.brokers.iter().map(|broker| broker.address.clone());
        addresses.collect()
    }

    async fn leader(&self) -> Option<i32> {
        let ask = async {
            let admin = Admin::new(self.run.client()).await.ok()?;
            let topic = admin.describe_topic(&self.topic).await.ok()?;
            topic.partition(0)?.leader
        };
        timeout(Duration::from_secs(2), ask).await.ok().flatten()
    }

    async fn resolve(&self, who: Who) -> Vec<i32> {
        let all = 1..=self.brokers.len() as i32;
        match who {
            Who::One(id) => vec![id],
            Who::Leader => vec![self.leader().await.unwrap_or(1)],
            Who::AllBut(spared) => all.filter(|id| *id != spared).collect(),
            Who::All => all.collect(),
        }
    }

    /// One step of the schedule, healed at its end.
    ///
    /// # Errors
    /// When the network cannot be changed, or a broker ended by itself.
    pub async fn step(&mut self, step: &Step) -> Result<()> {
        sleep(Duration::from_millis(step.quiet_ms)).await;
        for broker in &mut self.brokers {
            ensure!(
                broker.is_running(),
                "broker {} ended by itself, see its log",
                broker.id
            );
        }
        let mut spans = Vec::new();
        for fault in &step.faults {
            let began_ms = self.recorder.now_ms();
            let struck = self.strike(*fault).await?;
            println!(
                "{:>8.1} s  {fault}: brokers {struck:?}",
                began_ms as f64 / 1e3
            );
            spans.push(Span {
                fault: format!("{fault} {struck:?}"),
                began_ms,
                ended_ms: 0,
            });
        }
        sleep(Duration::from_millis(step.lasting_ms)).await;
        self.heal()?;
        let ended_ms = self.recorder.now_ms();
        println!("{:>8.1} s  healed", ended_ms as f64 / 1e3);
        for mut span in spans {
            span.ended_ms = ended_ms;
            self.recorder.observed().spans.push(span);
        }
        Ok(())
    }

    async fn strike(&mut self, fault: Fault) -> Result<Vec<i32>> {
        let who = match fault {
            Fault::Kill(who) | Fault::Pause(who) | Fault::Restart(who) => who,
            Fault::Slow(who) | Fault::Lossy(who) => who,
            Fault::Cut(cut) => return self.cut(cut).await,
        };
        let struck = self.resolve(who).await;
        for id in &struck {
            let broker = &mut self.brokers[*id as usize - 1];
            match fault {
                Fault::Kill(_) => broker.kill(),
                Fault::Pause(_) => broker.signal(Signal::STOP),
                Fault::Slow(_) => self.network.shape(*id, NARROW)?,
                Fault::Lossy(_) => self.network.shape(*id, LOSSY)?,
                Fault::Restart(_) => {
                    broker.signal(Signal::TERM);
                    let deadline = Instant::now() + STOP_LIMIT;
                    while broker.is_running() {
                        ensure!(Instant::now() < deadline, "broker {id} does not stop");
                        sleep(Duration::from_millis(20)).await;
                    }
                    broker.start(&self.binary)?;
                }
                Fault::Cut(_) => {}
            }
        }
        Ok(struck)
    }

    async fn cut(&mut self, cut: super::schedule::Cut) -> Result<Vec<i32>> {
        let leader = vec![self.leader().await.unwrap_or(1)];
        let chosen = |who| match who {
            Who::One(id) => vec![id],
            _ => leader.clone(),
        };
        for (from, to) in cut.ways(self.brokers.len() as i32, chosen) {
            self.network.cut(from, to)?;
        }
        Ok(leader)
    }

    /// Undoes everything.
    ///
    /// # Errors
    /// When a broker cannot be started.
    pub fn heal(&mut self) -> Result<()> {
        self.network.heal();
        for broker in &self.brokers {
            broker.signal(Signal::CONT);
        }
        self.start_all()
    }
}
