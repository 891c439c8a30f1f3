//! One host a broker: network namespaces on a bridge, and cuts between any two hosts, one way each.
//!
//! A cut is a wrong neighbour entry: frames leave for a hardware address that nobody has, so they are
//! lost in silence, as in a switch that has failed. Nothing but `ip` is needed, neither iptables nor
//! nftables. The clients' host is this process's own namespace, at address 254.

use std::fmt::Write as _;
use std::process::{self, Command};

use anyhow::{Context, Result, bail, ensure};

/// A hardware address that no host has.
const NOBODY: &str = "02:00:00:00:00:fe";
/// What a lossy link does, where the kernel has the discipline for it.
const NETEM: &str = "netem delay 40ms 30ms loss 5% duplicate 3% reorder 20%";
/// Of what a lossy link is given: lost, given twice, and sent through a queue that is overtaken by the rest.
const LOST: f64 = 0.05;
const TWICE: f64 = 0.03;
const LATE: f64 = 0.10;
/// Of that queue; it holds eight frames.
const LATE_RATE: &str = "1mbit";
/// Of a whole link of these machines, in effect without a limit.
const WHOLE_RATE: &str = "10gbit quantum 60000";

/// One end of a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// Brokers count from 1.
    Broker(i32),
    Clients,
}

/// The namespaces of one run; all are removed when it is dropped.
pub struct Network {
    tag: String,
    subnet: String,
    brokers: i32,
}

impl Network {
    /// One namespace a broker, joined by a bridge on which this process has an address as well.
    ///
    /// # Errors
    /// Without root or `ip`, with what is missing.
    pub fn create(brokers: i32) -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "network namespaces need root: run as root, or in a container with CAP_NET_ADMIN and CAP_SYS_ADMIN"
        );
        remove_stale()?;
        let pid = process::id();
        let network = Self {
            tag: format!("jx{pid:x}"),
            subnet: format!("10.{}.{}", 128 + (pid >> 8) % 100, pid % 256),
            brokers,
        };
        network.build().context("build the network")?;
        Ok(network)
    }

    fn build(&self) -> Result<()> {
        let tag = &self.tag;
        ip(&format!("link add {tag} type bridge"))?;
        ip(&format!(
            "addr add {}/24 dev {tag}",
            self.address(Host::Clients)
        ))?;
        ip(&format!("link set {tag} up"))?;
        for id in 1..=self.brokers {
            let name = self.namespace(id);
            ip(&format!("netns add {name}"))?;
            ip(&format!(
                "link add {tag}v{id} type veth peer name eth0 netns {name}"
            ))?;
            ip(&format!("link set {tag}v{id} master {tag} up"))?;
            let address = self.address(Host::Broker(id));
            ip(&format!("-n {name} addr add {address}/24 dev eth0"))?;
            ip(&format!("-n {name} link set eth0 up"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        Ok(())
    }

    /// The namespace of a broker, as `ip netns` knows it.
    #[must_use]
    pub fn namespace(&self, id: i32) -> String {
        format!("{}b{id}", self.tag)
    }

    /// Where a host is reached.
    #[must_use]
    pub fn address(&self, host: Host) -> String {
        match host {
            Host::Broker(id) => format!("{}.{id}", self.subnet),
            Host::Clients => format!("{}.254", self.subnet),
        }
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = Host> + use<> {
        (1..=self.brokers).map(Host::Broker).chain([Host::Clients])
    }

    /// How to say `ip` where a host is, and what its interface is called.
    fn at(&self, host: Host) -> (String, &str) {
        match host {
            Host::Broker(id) => (format!("-n {} ", self.namespace(id)), "eth0"),
            Host::Clients => (String::new(), &self.tag),
        }
    }

    /// From now on nothing that `from` sends reaches `to`.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn cut(&self, from: Host, to: Host) -> Result<()> {
        let (at, device) = self.at(from);
        let address = self.address(to);
        ip(&format!(
            "{at}neigh replace {address} lladdr {NOBODY} nud permanent dev {device}"
        ))
    }

    /// Undoes every cut and every slow link.
    ///
    pub fn heal(&self) {
        for from in self.hosts() {
            let (at, device) = self.at(from);
            for to in self.hosts().filter(|to| *to != from) {
                let address = self.address(to);
                // Fails where there is no entry; one that was learnt is learnt again.
                let _ = ip(&format!("{at}neigh del {address} dev {device}"));
            }
        }
        for id in 1..=self.brokers {
            let name = self.namespace(id);
            // Fails where there was none.
            if run("tc", &format!("-n {name} qdisc del dev eth0 root")).is_ok() {
                let _ = ip(&format!("-n {name} link set eth0 gso_max_segs 65535"));
            }
        }
    }

    /// Shapes what a broker sends: `how` is a queueing discipline as `tc` knows it.
    ///
    /// # Errors
    /// When the kernel has no such discipline.
    pub fn shape(&self, id: i32, how: &str) -> Result<()> {
        let name = self.namespace(id);
        run(
            "tc",
            &format!("-n {name} qdisc replace dev eth0 root {how}"),
        )
    }

    /// Has a part of what a broker sends lost, doubled, and overtaken by the rest.
    ///
    /// # Errors
    /// When the kernel has neither `netem` nor the disciplines and classifiers that can be put together to the same.
    pub fn make_lossy(&self, id: i32) -> Result<()> {
        if self.shape(id, NETEM).is_ok() {
            return Ok(());
        }
        let (tag, name) = (&self.tag, self.namespace(id));
        // What is doubled goes to the bridge by a way of its own, on which nothing comes back.
        if ip(&format!("-n {name} link show eth1")).is_err() {
            let way = format!("{tag}w{id}");
            ip(&format!(
                "link add {way} type veth peer name eth1 netns {name}"
            ))?;
            ip(&format!("link set {way} master {tag} up"))?;
            ip(&format!(
                "link set {way} type bridge_slave learning off flood off"
            ))?;
            ip(&format!("-n {name} link set eth1 up arp off"))?;
        }
        // Frame by frame, not what will be cut into frames later.
        ip(&format!("-n {name} link set eth0 gso_max_segs 1"))?;
        // Whatever there was; an htb is not replaced by another one. Fails where there was nothing.
        let _ = run("tc", &format!("-n {name} qdisc del dev eth0 root"));
        self.shape(id, "handle 1: htb default 10")?;
        let tc = |what: &str| run("tc", &format!("-n {name} {what}"));
        let class = |class: &str, rate: &str| {
            tc(&format!(
                "class add dev eth0 parent 1: classid 1:{class} htb rate {rate}"
            ))
        };
        class("10", WHOLE_RATE)?;
        class("20", LATE_RATE)?;
        class("30", WHOLE_RATE)?;
        tc("qdisc add dev eth0 parent 1:20 pfifo limit 8")?;
        tc("qdisc add dev eth0 parent 1:30 blackhole")?;
        let filter = |priority: u32, share: f64, to: &str| {
            let chance = by_chance(share);
            let mut command = Command::new("tc");
            command.args(["-n", &name]);
            command.args("filter add dev eth0 parent 1: protocol all prio".split(' '));
            command.args([&priority.to_string(), "bpf", "bytecode", &chance]);
            done(command.args(to.split(' ')))
        };
        filter(1, LOST, "flowid 1:30")?;
        filter(2, TWICE, "flowid 1:10 action mirred egress mirror dev eth1")?;
        filter(3, LATE, "flowid 1:20")
    }

    /// Whether links can be made lossy.
    ///
    /// # Errors
    /// What the kernel lacks.
    pub fn check_lossy(&self) -> Result<()> {
        let made = self.make_lossy(1);
        self.heal();
        made
    }
}

/// A classic BPF program, as `tc` takes it, that matches a share of all frames.
fn by_chance(share: f64) -> String {
    /// Where the kernel's random number is read (`SKF_AD_OFF + SKF_AD_RANDOM`).
    const RANDOM: u32 = -0x1000_i32 as u32 + 56;
    const LOAD: u32 = 0x20;
    const AT_LEAST: u32 = 0x35;
    const RETURN: u32 = 0x06;
    let limit = (share * f64::from(u32::MAX)) as u32;
    format!(
        "4,{LOAD} 0 0 {RANDOM},{AT_LEAST} 1 0 {limit},{RETURN} 0 0 {},{RETURN} 0 0 0",
        u32::MAX
    )
}

impl Drop for Network {
    fn drop(&mut self) {
        for id in 1..=self.brokers {
            // Sockets of killed brokers may hold the namespace for minutes; its link goes at once.
            let _ = ip(&format!("link del {}v{id}", self.tag));
            let _ = ip(&format!("link del {}w{id}", self.tag));
            let _ = ip(&format!("netns del {}", self.namespace(id)));
        }
        let _ = ip(&format!("link del {}", self.tag));
    }
}

/// Removes what a run left that was killed.
fn remove_stale() -> Result<()> {
    let listed = Command::new("ip").args(["netns", "list"]).output();
    let listed = listed.context("run ip: install iproute2")?;
    let mut tags = Vec::new();
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let Some((tag, _)) = name
            .rsplit_once('b')
            .filter(|(tag, _)| tag.starts_with("jx"))
        else {
            continue;
        };
        let alive = u32::from_str_radix(&tag[2..], 16)
            .is_ok_and(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists());
        if !alive {
            let _ = ip(&format!("netns del {name}"));
            tags.push(tag.to_owned());
        }
    }
    tags.dedup();
    for tag in tags {
        let _ = ip(&format!("link del {tag}"));
    }
    Ok(())
}

fn ip(arguments: &str) -> Result<()> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &str) -> Result<()> {
    done(Command::new(program).args(arguments.split(' ')))
}

fn done(command: &mut Command) -> Result<()> {
    let ended = command.output().with_context(|| {
        let program = command.get_program().to_string_lossy();
        format!("run {program}: install iproute2")
    })?;
    if !ended.status.success() {
        let mut told = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
        let _ = write!(told, " ({command:?})");
        bail!(told);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    use std::collections::BTreeSet;
    use std::fs::File;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    const SENT: u32 = 3_000;

    /// What comes of `sent` numbered datagrams from broker 1, in the order in which it comes.
    fn datagrams(network: &Network, sent: u32) -> Vec<u32> {
        let address = network.address(Host::Clients);
        let here = UdpSocket::bind((address.as_str(), 0)).expect("a socket");
        here.set_read_timeout(Some(Duration::from_secs(1)))
            .expect("a limit");
        let to = here.local_addr().expect("an address");
        let namespace = format!("/run/netns/{}", network.namespace(1));
        let sender = std::thread::spawn(move || {
            let there = File::open(namespace).expect("the namespace");
            move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("in the namespace");
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            for number in 0..sent {
                let mut datagram = [0; 1_000];
                datagram[..4].copy_from_slice(&number.to_be_bytes());
                socket.send_to(&datagram, to).expect("sent");
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let mut come = Vec::new();
        let mut datagram = [0; 1_000];
        loop {
            match here.recv(&mut datagram) {
                Ok(_) => come.push(u32::from_be_bytes([
                    datagram[0],
                    datagram[1],
                    datagram[2],
                    datagram[3],
                ])),
                // On a busy machine the sender may have to wait.
                Err(_) if !sender.is_finished() => {}
                Err(_) => break,
            }
        }
        sender.join().expect("all sent");
        come
    }

    #[test]
    fn a_lossy_link_loses_doubles_and_reorders_and_can_be_healed() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: network namespaces need root");
            return;
        }
        let network = match Network::create(1) {
            Ok(network) => network,
            Err(error) => {
                eprintln!("skipped: {error:#}");
                return;
            }
        };
        if let Err(error) = network.check_lossy() {
            eprintln!("skipped: {error:#}");
            return;
        }
        // The broker has to ask whose the address is, and asks again after a second when that is lost.
        assert_eq!(datagrams(&network, 1), [0]);
        network
            .shape(1, "tbf rate 400kbit burst 16kb latency 400ms")
            .expect("slow");
        for _ in 0..2 {
            network.make_lossy(1).expect("lossy");
        }
        let come = datagrams(&network, SENT);
        let different: BTreeSet<u32> = come.iter().copied().collect();
        let lost = SENT - different.len() as u32;
        assert!((30..600).contains(&lost), "{lost} lost");
        assert!(come.len() > different.len(), "none came twice");
        assert!(come.windows(2).any(|two| two[0] > two[1]), "all in order");
        network.heal();
        assert_eq!(datagrams(&network, SENT), (0..SENT).collect::<Vec<_>>());
    }
}
