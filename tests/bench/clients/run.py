#!/usr/bin/env python3
"""What clients cost: CPU and allocations a record of tidelog-client, librdkafka, krafka and franz-go.

run.py [BOOTSTRAP]: without addresses it starts three brokers of its own. Every client does the same in a process
of its own: it writes records to six partitions (idempotent, acks=all, linger 5 ms, batches of 128 KiB, not
compressed, one value for all records, each record's delivery awaited), or reads them, checksums verified.

CPU is the user and system time of the whole process. Clients run in turn, A B C A B C, ROUNDS (5) times; then once
more with and without half of the records, counting allocations: the difference leaves out what a start costs.
RECORDS ("1024:300000 100:3000000": bytes and number) and CLIENTS change it. $TIDELOG_BIN, else target/release/tidelog, is the
broker and makes the topics. Prints a line a run, and a table of medians and ranges.
"""
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parents[2]
BINARY = os.environ.get("TIDELOG_BIN", str(REPO / "target/release/tidelog"))
BUILT = REPO / "target/bench-clients"
ROUNDS = int(os.environ.get("ROUNDS", 5))
LOADS = [tuple(map(int, load.split(":"))) for load in os.environ.get("RECORDS", "1024:300000 100:3000000").split()]
CLIENTS = os.environ.get("CLIENTS", "tidelog librdkafka krafka franz-go").split()
PARTITIONS = "6"
# Of one run; a client that needs longer has stopped.
LIMIT_S = 60


def build():
    subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=HERE / "rust", check=True,
                   env=os.environ | {"CARGO_TARGET_DIR": str(BUILT)})
    subprocess.run(["go", "build", "-o", str(BUILT / "release/franz-go"), "."], cwd=HERE / "go", check=True)
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(BUILT / "allocations.so"), str(HERE / "allocations.c")],
                   check=True)


def run(client, what, bootstrap, topic, records, size, env=None):
    """Seconds of CPU."""
    program = subprocess.Popen([BUILT / "release" / client, what, bootstrap, topic, str(records), str(size)],
                               env=os.environ | (env or {}))
    late = threading.Timer(LIMIT_S, program.kill)
    late.start()
    _, status, used = os.wait4(program.pid, 0)
    late.cancel()
    program.returncode = os.waitstatus_to_exitcode(status)
    if program.returncode != 0:
        sys.exit(f"{client} {what} ended with {program.returncode}")
    return used.ru_utime + used.ru_stime


def allocations(client, *args):
    """How many, and how many bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/allocations"
        env = {"ALLOCATIONS_FILE": path}
        if client != "franz-go":
            env["LD_PRELOAD"] = str(BUILT / "allocations.so")
        run(client, *args, env=env)
        return [int(number) for number in pathlib.Path(path).read_text().split()]


class Topics:
    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.count = 0

    def command(self, *words):
        subprocess.run([BINARY, "topic", *words, "--bootstrap", self.bootstrap], check=True, stdout=subprocess.DEVNULL)

    def make(self):
        self.count += 1
        name = f"clients-{os.getpid()}-{self.count}"
        self.command("create", name, "--partitions", PARTITIONS)
        return name

    def remove(self, name):
        self.command("delete", name)


def measure(bootstrap):
    topics = Topics(bootstrap)
    cpu, allocated = {}, {}
    for size, records in LOADS:
        full = topics.make()
        run(CLIENTS[0], "produce", bootstrap, full, records, size)
        for turn in range(ROUNDS):
            for client in CLIENTS:
                topic = topics.make()
                for what, of in [("produce", topic), ("consume", full)]:
                    began = time.monotonic()
                    spent = run(client, what, bootstrap, of, records, size) / records * 1e6
                    cpu.setdefault((size, what, client), []).append(spent)
                    print(f"{size} bytes  {what}  {client:<12} {spent:.3f} us CPU a record  "
                          f"{time.monotonic() - began:.1f} s", flush=True)
                topics.remove(topic)
        for client in CLIENTS:
            found = {"produce": [], "consume": []}
            for part in (records // 2, records):
                topic = topics.make()
                for what, of_each in found.items():
                    of_each.append(allocations(client, what, bootstrap, topic, part, size))
                topics.remove(topic)
            for what, (half, whole) in found.items():
                left = records - records // 2
                allocated[size, what, client] = [(w - h) / left for w, h in zip(whole, half)]
        topics.remove(full)
    return cpu, allocated


def print_table(cpu, allocated):
    print("\n| | bytes | client | CPU a record, µs: median (range) | allocations a record | bytes allocated a record |")
    print("|---|---|---|---|---|---|")
    for (size, what, client), spent in sorted(cpu.items(), key=lambda row: (row[0][1] != "produce", -row[0][0])):
        count, taken = allocated[size, what, client]
        print(f"| {what} | {size} | {client} | {statistics.median(spent):.2f} ({min(spent):.2f}–{max(spent):.2f}) "
              f"| {count:.3f} | {taken:.0f} |")


def main():
    build()
    if len(sys.argv) > 1:
        return print_table(*measure(sys.argv[1]))
    with tempfile.TemporaryDirectory(prefix="tidelog-clients-") as folder:
        brokers = subprocess.Popen([BINARY, "dev", "--brokers", "3", "--base-port", "24092", "--data", folder],
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            ready = brokers.stdout.readline().split()
            if ready[:2] != ["ready:", "bootstrap"]:
                sys.exit(f"the brokers do not start: {ready}")
            print_table(*measure(ready[2]))
        finally:
            brokers.terminate()
            brokers.wait()


if __name__ == "__main__":
    main()
