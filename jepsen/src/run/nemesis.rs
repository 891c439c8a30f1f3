//! Does what the schedule says, and undoes it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tidelog_client::Admin;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Run;
use super::damage;
use super::disk::Disk;
use super::members::Members;
use super::network::Network;
use super::peer::Peer;
use super::process::Process;
use super::random::Random;
use super::recorder::{Recorder, Span};
use super::schedule::{Fault, Step, Who};

/// A broker whose disk fails must have ended by then.
const END_LIMIT: Duration = Duration::from_secs(10);

/// A narrow link: a few requests a second of the size the writers make.
const NARROW: &str = "tbf rate 400kbit burst 16kb latency 400ms";

/// The brokers and the network between them.
pub struct Nemesis {
    pub run: Arc<Run>,
    pub recorder: Arc<Recorder>,
    /// Before the network, so that they end first.
    pub brokers: Vec<Process>,
    pub network: Network,
    pub peer: Peer,
    pub topic: String,
    pub members: Members,
    /// Brokers whose disk is off.
    pub off: BTreeSet<i32>,
    /// What a fault should have led to, and did not.
    pub failures: Vec<String>,
}

impl Nemesis {
    /// Starts every broker that does not run.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start_all(&mut self) -> Result<()> {
        for broker in &mut self.brokers {
            broker.start(&self.peer)?;
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
                broker.away || broker.is_running(),
                "broker {} ended by itself, see its log",
                broker.id
            );
        }
        let mut spans = Vec::new();
        let mut slow = Vec::new();
        for fault in &step.faults {
            let began_ms = self.recorder.now_ms();
            let struck = self.strike(*fault).await?;
            println!(
                "{:>8.1} s  {fault}: brokers {struck:?}",
                began_ms as f64 / 1e3
            );
            if matches!(fault, Fault::DiskSlow(_)) {
                slow.clone_from(&struck);
            }
            spans.push(Span {
                fault: format!("{fault} {struck:?}"),
                began_ms,
                ended_ms: 0,
            });
        }
        let deadline = Instant::now() + Duration::from_millis(step.lasting_ms);
        while !slow.is_empty() && Instant::now() < deadline {
            self.hesitate(&slow).await?;
        }
        sleep_until(deadline).await;
        if let [Fault::DiskError(_)] = step.faults[..] {
            self.expect_end().await;
        }
        self.heal().await?;
        let ended_ms = self.recorder.now_ms();
        println!("{:>8.1} s  healed", ended_ms as f64 / 1e3);
        for mut span in spans {
            span.ended_ms = ended_ms;
            self.recorder.observed().spans.push(span);
        }
        self.until_they_listen().await;
        Ok(())
    }

    async fn until_they_listen(&self) {
        let deadline = Instant::now() + self.peer.start_limit();
        for address in self.addresses() {
            while Instant::now() < deadline && TcpStream::connect(&address).await.is_err() {
                sleep(Duration::from_millis(200)).await;
            }
        }
    }

    async fn strike(&mut self, fault: Fault) -> Result<Vec<i32>> {
        let who = match fault {
            Fault::Cut(cut) => return self.cut(cut).await,
            Fault::Kill(who) | Fault::Pause(who) | Fault::Restart(who) => who,
            Fault::Slow(who) | Fault::Lossy(who) | Fault::PowerLoss(who) => who,
            Fault::DiskError(who) | Fault::DiskFull(who) | Fault::DiskStall(who) => who,
            Fault::DiskSlow(who) | Fault::Damage(who) | Fault::Clock(who, _) => who,
            Fault::Join => {
                for broker in &mut self.brokers {
                    broker.away = false;
                }
                self.start_all()?;
                return Ok(vec![self.brokers.len() as i32]);
            }
            Fault::Move(seed) => {
                let here = self.brokers.iter().filter(|broker| !broker.away);
                let here: Vec<i32> = here.map(|broker| broker.id).collect();
                self.members.move_some(&self.run, seed, &here).await;
                return Ok(Vec::new());
            }
            Fault::Drain(id) => {
                self.members.drain(&self.run, id).await;
                return Ok(vec![id]);
            }
            Fault::Maintenance(id) => {
                self.members.maintain(&self.run, id).await;
                return Ok(vec![id]);
            }
        };
        let struck = self.resolve(who).await;
        // The power of all goes in one moment.
        if let Fault::PowerLoss(_) | Fault::DiskError(_) = fault {
            for id in &struck {
                self.broker(*id).disk_off()?;
                self.off.insert(*id);
            }
        }
        for id in &struck {
            match fault {
                Fault::Kill(_) | Fault::PowerLoss(_) => self.broker(*id).kill(),
                Fault::Pause(_) => self.broker(*id).signal(Signal::STOP),
                Fault::Slow(_) => self.network.shape(*id, NARROW)?,
                Fault::Lossy(_) => self.network.make_lossy(*id)?,
                Fault::Restart(_) => self.restart(*id).await?,
                Fault::DiskFull(_) if !self.off.contains(id) => self.disk(*id)?.fill()?,
                Fault::DiskStall(_) if !self.off.contains(id) => self.disk(*id)?.freeze()?,
                Fault::Damage(_) => self.damage(*id)?,
                Fault::Clock(_, seconds) => self.broker(*id).set_clock(seconds)?,
                _ => {}
            }
        }
        Ok(struck)
    }

    fn broker(&mut self, id: i32) -> &mut Process {
        &mut self.brokers[id as usize - 1]
    }

    fn disk(&mut self, id: i32) -> Result<&mut Disk> {
        let disk = self.broker(id).disk.as_mut();
        disk.context("the broker has no disk of its own")
    }

    async fn restart(&mut self, id: i32) -> Result<()> {
        if self.off.contains(&id) {
            return Ok(());
        }
        let peer = self.peer.clone();
        let broker = self.broker(id);
        // A paused one would not hear it, and one that waits for its disk cannot stop.
        broker.signal(Signal::CONT);
        if let Some(disk) = &mut broker.disk {
            disk.thaw();
        }
        broker.signal(Signal::TERM);
        let deadline = Instant::now() + peer.stop_limit();
        while broker.is_running() {
            ensure!(Instant::now() < deadline, "broker {id} does not stop");
            sleep(Duration::from_millis(20)).await;
        }
        broker.start(&peer)
    }

    fn damage(&mut self, id: i32) -> Result<()> {
        // One that has not joined yet has nothing.
        if self.off.contains(&id) || self.broker(id).away {
            return Ok(());
        }
        let peer = self.peer.clone();
        let seed = self.recorder.now_ms();
        let broker = self.broker(id);
        broker.kill();
        for line in damage::damage(&broker.data_dir, &mut Random::new(seed))? {
            println!("            {line}");
        }
        broker.start(&peer)
    }

    /// Stops the disks of these brokers for a moment, and lets them go on for a shorter one.
    async fn hesitate(&mut self, slow: &[i32]) -> Result<()> {
        let on: Vec<i32> = slow
            .iter()
            .copied()
            .filter(|id| !self.off.contains(id))
            .collect();
        for id in &on {
            self.disk(*id)?.freeze()?;
        }
        sleep(Duration::from_millis(150)).await;
        for id in &on {
            self.disk(*id)?.thaw();
        }
        sleep(Duration::from_millis(50)).await;
        Ok(())
    }

    /// A broker whose disk fails must not go on.
    async fn expect_end(&mut self) {
        let deadline = Instant::now() + END_LIMIT;
        for id in self.off.clone() {
            // One that is paused as well could not.
            self.broker(id).signal(Signal::CONT);
            while self.broker(id).is_running() {
                if Instant::now() > deadline {
                    self.failures
                        .push(format!("broker {id} goes on although its disk fails"));
                    break;
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
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

    /// Waits until replicas have stopped moving, at the end.
    pub async fn settle(&mut self) {
        self.members.undo(&self.run).await;
        if let Err(error) = self.members.settle(&self.run).await {
            self.failures.push(format!("moves of replicas: {error:#}"));
        }
    }

    /// Undoes everything; replicas that move go on.
    ///
    /// # Errors
    /// When a broker cannot be started.
    pub async fn heal(&mut self) -> Result<()> {
        self.network.heal();
        for id in std::mem::take(&mut self.off) {
            self.broker(id).disk_on()?;
        }
        for broker in &mut self.brokers {
            if let Some(disk) = &mut broker.disk {
                disk.thaw();
                disk.empty();
            }
            broker.set_clock(0)?;
            broker.signal(Signal::CONT);
        }
        self.start_all()?;
        self.members.undo(&self.run).await;
        Ok(())
    }
}
