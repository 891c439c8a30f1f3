"""Processes that a program started: what they use, and their end."""
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 30


def start(words, log):
    """The output goes to the file `log`."""
    with open(log, "a") as out:
        # In a session of its own, Ctrl-C reaches this program only, which then ends what it started.
        return subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                start_new_session=True)


def stop(processes):
    for process in processes:
        process.terminate()
    end = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def kill(processes):
    """As a failure of the machine's power would, for all at once."""
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def session(processes):
    """The processes, and what they started in turn, as far as it stayed in the session that `start` gave them."""
    leaders = {process.pid for process in processes}
    pids = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended meanwhile
        if int(fields[3]) in leaders and fields[0] != "Z":
            pids.append(int(path.name))
    return pids


def end_on_signals():
    """SIGTERM ends the program as Ctrl-C does, through its `with` and `finally`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def cpu_seconds(pids):
    ticks = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_SECOND


def resident_mib(pids):
    kib = 0
    for pid in pids:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        kib += next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)
    return kib / 1024


class MemoryWatch:
    """Looks at the memory of processes while the `with` lasts; `samples` are (seconds since 1970, MiB)."""

    def __init__(self, pids, every=0.5):
        self.pids, self.every = pids, every
        self.samples = []
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def watch(self):
        while not self.done.wait(self.every):
            try:
                self.samples.append((time.time(), resident_mib(self.pids)))
            except OSError:
                return

    def highest(self):
        return max((mib for _, mib in self.samples), default=resident_mib(self.pids))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
