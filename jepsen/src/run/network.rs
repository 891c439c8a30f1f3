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
            let _ = run("tc", &format!("-n {name} qdisc del dev eth0 root"));
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

    /// Whether the kernel has the discipline that delays, loses, doubles and reorders.
    #[must_use]
    pub fn has_netem(&self) -> bool {
        let known = self.shape(1, "netem delay 1ms").is_ok();
        self.heal();
        known
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for id in 1..=self.brokers {
            // Sockets of killed brokers may hold the namespace for minutes; its link goes at once.
            let _ = ip(&format!("link del {}v{id}", self.tag));
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
    let done = Command::new(program).args(arguments.split(' ')).output();
    let done = done.with_context(|| format!("run {program}: install iproute2"))?;
    if !done.status.success() {
        let mut told = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        let _ = write!(told, " ({program} {arguments})");
        bail!(told);
    }
    Ok(())
}
