#!/usr/bin/env python3
"""Three brokers become five, and the first two are emptied, beside producers: what they notice.

Starts the brokers itself ($TIDELOG_BIN, else target/release/tidelog) on 127.0.0.1 from BASE_PORT (23092) on, in a
temporary folder. GIB (1) is written to PARTITIONS (12) first; then RATE (5000) records of 1 KiB a second go on for
SECONDS (20) in each phase. RATE_LIMIT sets replication.throttled.rate. Prints a table.
"""
import json
import os
import pathlib
import subprocess
import tempfile
import time

REPO = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("TIDELOG_BIN", str(REPO / "target/release/tidelog"))
BASE = int(os.environ.get("BASE_PORT", 23092))
GIB = float(os.environ.get("GIB", 1))
PARTITIONS = os.environ.get("PARTITIONS", "12")
RATE = int(os.environ.get("RATE", 5000))
SECONDS = int(os.environ.get("SECONDS", 20))
TOPIC = "moves"
BOOTSTRAP = ",".join(f"127.0.0.1:{BASE + i}" for i in (2, 3, 4))


def start(folder, broker):
    seeds = ",".join(f"{i}@127.0.0.1:{BASE + 100 + i}" for i in (1, 2, 3))
    settings = {
        "broker.id": broker, "listeners": f"127.0.0.1:{BASE + broker}",
        "peer.listener": f"127.0.0.1:{BASE + 100 + broker}", "http.listener": f"127.0.0.1:{BASE + 200 + broker}",
        "data.dir": f"{folder}/{broker}", "seed.brokers": seeds, "default.replication.factor": 3,
    }
    if "RATE_LIMIT" in os.environ:
        settings["replication.throttled.rate"] = os.environ["RATE_LIMIT"]
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    log = open(f"{folder}/{broker}.log", "w")
    return subprocess.Popen([BINARY, "start", *words], stdout=log, stderr=log)


def tidelog(*words):
    out = subprocess.run([BINARY, *words, "--bootstrap", BOOTSTRAP], stdout=subprocess.PIPE, text=True, check=True)
    return out.stdout


def wait(what, done, limit=300):
    began = time.monotonic()
    while not done():
        if time.monotonic() - began > limit:
            raise SystemExit(f"{what}: not within {limit} s")
        time.sleep(0.2)
    return time.monotonic() - began


def holders():
    described = json.loads(tidelog("topic", "describe", TOPIC, "--output", "json"))
    counts = {}
    for partition in described["partitions"]:
        for broker in partition["replicas"]:
            counts[broker] = counts.get(broker, 0) + 1
    return counts


def load():
    words = ["bench", "--topic", TOPIC, "--rate", str(RATE), "--records", str(RATE * SECONDS), "--record-bytes", "1024",
             "--no-read", "--output", "json", "--bootstrap", BOOTSTRAP]
    return subprocess.Popen([BINARY, *words], stdout=subprocess.PIPE, text=True)


def row(name, running, took=None):
    out, _ = running.communicate()
    if running.returncode != 0:
        raise SystemExit(f"{name}: the load failed")
    told = json.loads(out.splitlines()[0])
    latency = told["write"]["latency_ms"]
    moved = "" if took is None else f"{took:.1f} s"
    print(f"| {name} | {moved} | {latency['p50']:.1f} ms | {latency['p99']:.1f} ms | {latency['max']:.0f} ms |", flush=True)


def main():
    with tempfile.TemporaryDirectory(prefix="tidelog-moves-") as folder:
        brokers = {i: start(folder, i) for i in (1, 2, 3)}
        try:
            time.sleep(3)
            tidelog("topic", "create", TOPIC, "--partitions", PARTITIONS, "--replication-factor", "3")
            records = str(int(GIB * 1024 * 1024))
            tidelog("bench", "--topic", TOPIC, "--records", records, "--record-bytes", "1024", "--no-read")
            print("| phase | moves took | p50 | p99 | longest |\n|---|---|---|---|---|")
            row("three brokers", load())
            running = load()
            time.sleep(2)
            brokers[4], brokers[5] = start(folder, 4), start(folder, 5)
            share = int(PARTITIONS) * 3 // 5
            took = wait("an even spread", lambda: len(h := holders()) == 5 and min(h.values()) >= share
                        and sum(h.values()) == int(PARTITIONS) * 3)
            row("two brokers join", running, took)
            running = load()
            time.sleep(2)
            began = time.monotonic()
            tidelog("broker", "decommission", "1", "--no-wait")
            tidelog("broker", "decommission", "2", "--wait", "300")
            tidelog("broker", "decommission", "1", "--wait", "300")
            row("brokers 1 and 2 are emptied", running, time.monotonic() - began)
            row("three new brokers", load())
        finally:
            for broker in brokers.values():
                broker.terminate()
            for broker in brokers.values():
                broker.wait()


main()
