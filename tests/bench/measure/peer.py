"""What the programs of other makers have in common: servers in a folder, and a bench tool whose words are read."""
import os
import re
import shutil
import signal
import subprocess
import time

from . import processes

START_SECONDS = 90


class Missing(Exception):
    """A peer that cannot be had here, and why."""


class ToolFailed(Exception):
    """A bench tool that ended with an error, or said what is not understood."""


def need(program, *packages):
    """The program; the packages of Debian and Ubuntu are installed when it is not there."""
    if not shutil.which(program):
        if not shutil.which("apt-get"):
            raise Missing(f"{program} is not installed (packages of Debian: {' '.join(packages)})")
        # At run level 1 the packages start no service.
        command = ["env", "RUNLEVEL=1", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq",
                   "--no-install-recommends", *packages]
        subprocess.run(["apt-get", "update", "-qq"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise Missing(f"apt-get install {' '.join(packages)}: {done.stderr.strip()[-300:]}")
    return shutil.which(program)


class Servers:
    """Servers with their data in `folder`. Leaving the `with` ends them and removes the data."""

    def __init__(self, folder):
        self.folder = folder
        self.processes = []

    def start(self, words, log):
        self.processes.append(processes.start(words, self.folder / log))

    @property
    def pids(self):
        """Some servers are started by a script that stays."""
        return processes.session(self.processes)

    def cpu_seconds(self):
        return processes.cpu_seconds(self.pids)

    def resident_mib(self):
        return processes.resident_mib(self.pids)

    def await_ports(self, ports):
        await_true(lambda: all(processes.listens(port) for port in ports), f"servers on the ports {ports}")

    def __enter__(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        return self

    def __exit__(self, *_):
        started = self.pids
        processes.stop(self.processes)
        for pid in set(started) & set(self.pids):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


def await_true(done, what):
    end = time.monotonic() + START_SECONDS
    while not done():
        if time.monotonic() > end:
            raise ToolFailed(f"{what}: not within {START_SECONDS} s")
        time.sleep(0.2)


def tool(words, limit=600, **more):
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=limit, **more)
    if done.returncode != 0:
        raise ToolFailed(f"{words[0]} ended with {done.returncode}: {done.stdout.strip()[-500:]}")
    return done.stdout


def find(pattern, text):
    """The numbers that the groups of the last match hold."""
    matches = re.findall(pattern, text)
    if not matches:
        raise ToolFailed(f"no {pattern!r} in: {text.strip()[-500:]}")
    groups = matches[-1] if isinstance(matches[-1], tuple) else (matches[-1],)
    return [float(group.replace(",", "")) for group in groups]


def produce(servers, key, records, size, run):
    """`run` gives records a second; what the servers spent meanwhile is added."""
    before = servers.cpu_seconds()
    rate = run()
    spent = servers.cpu_seconds() - before
    return {f"{key}.records": rate, f"{key}.bytes": rate * size, f"{key}.cpu_per_gb": spent / (records * size / 1e9),
            f"{key}.memory": servers.resident_mib()}


def latency(found, names=("p50", "p99", "p999"), scale=1.0):
    return {f"latency.{name}": value * scale for name, value in zip(names, found)}
