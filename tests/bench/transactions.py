#!/usr/bin/env python3
"""Transactions of 100 records on several clusters in turn: A B A B.

transactions.py NAME=BOOTSTRAP=PID,PID,... ...: one word a cluster, with the pids of its brokers.

The load is `tidelog bench transactions` ($TIDELOG_BIN, else target/release/tidelog), the same for all. SAMPLES (3),
BENCH_SECONDS (10), WARM_UP (5) and PRODUCERS ("1 8") change it. Prints a line a sample, and a table with the median
and the range of each. CPU is that of all brokers.
"""
import json
import os
import pathlib
import statistics
import subprocess
import sys

REPO = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("TIDELOG_BIN", REPO / "target/release/tidelog")
SAMPLES = int(os.environ.get("SAMPLES", 3))
SECONDS = os.environ.get("BENCH_SECONDS", "10")
WARM_UP = os.environ.get("WARM_UP", "5")
PRODUCERS = os.environ.get("PRODUCERS", "1 8").split()
ROWS = [
    ("transactions/s", "transactions_per_second", "{:.0f}"),
    ("records/s", "records_per_second", "{:.0f}"),
    ("commit p50, ms", "commit_p50", "{:.1f}"),
    ("commit p99, ms", "commit_p99", "{:.1f}"),
    ("transaction p50, ms", "transaction_p50", "{:.1f}"),
    ("CPU of all brokers, ms a transaction", "cpu_ms", "{:.2f}"),
]


def cpu_seconds(pids):
    ticks = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def sample(bootstrap, pids, producers):
    before = cpu_seconds(pids)
    out = subprocess.run(
        [BINARY, "bench", "transactions", "--bootstrap", bootstrap, "--output", "json", "--size", "100",
         "--producers", producers, "--seconds", SECONDS, "--warm-up", WARM_UP], check=True, stdout=subprocess.PIPE)
    told = json.loads(out.stdout)
    spent = cpu_seconds(pids) - before
    # The load before the time that counts costs as much a second.
    share = told["seconds"] / (told["seconds"] + float(WARM_UP))
    return {
        "transactions_per_second": told["transactions_per_second"],
        "records_per_second": told["records_per_second"],
        "commit_p50": told["commit_ms"]["p50"],
        "commit_p99": told["commit_ms"]["p99"],
        "transaction_p50": told["transaction_ms"]["p50"],
        "cpu_ms": spent * share * 1000 / told["transactions"],
    }


def main():
    clusters = [word.split("=") for word in sys.argv[1:]]
    if not clusters or any(len(cluster) != 3 for cluster in clusters):
        sys.exit(__doc__)
    for producers in PRODUCERS:
        found = {name: [] for name, _, _ in clusters}
        for _ in range(SAMPLES):
            for name, bootstrap, pids in clusters:
                one = sample(bootstrap, pids.split(","), producers)
                found[name].append(one)
                print(name, producers, json.dumps(one), flush=True)
        print(f"\n| {producers} producers | " + " | ".join(found) + " |\n|" + "---|" * (len(found) + 1))
        for title, field, form in ROWS:
            cells = []
            for samples in found.values():
                values = sorted(one[field] for one in samples)
                shown = [form.format(v) for v in (statistics.median(values), values[0], values[-1])]
                cells.append(f"{shown[0]} [{shown[1]}–{shown[2]}]")
            print(f"| {title} | " + " | ".join(cells) + " |")
        print(flush=True)


main()
