#!/usr/bin/env python3
"""Other peers by their own bench tools: NATS JetStream, Redis Streams, RabbitMQ quorum queues and streams.

Installs what it needs (Go modules and Maven jars under target/bench, packages by apt-get), starts each peer on this
machine, one after the other, and writes records of 1 KiB and 100 B as fast as it goes, then about 1,000 of 200 B a
second. CPU and memory are those of the servers. A peer that cannot be had is named with the reason.

Prints a Markdown table with the median and the range, and keeps the samples as JSON.

  peers.py                                   all of them
  peers.py --peers nats,nats-always          some of them
  peers.py --scale 0.01 --samples 1 --latency-seconds 2    to try it
"""
import argparse
import pathlib
import subprocess
import sys

from measure import load, nats, options, peer, processes, rabbitmq, redis
from measure.report import Row, Samples, cell

PEERS = {name: module for module in (nats, redis, rabbitmq) for name in module.VARIANTS}
ROWS = [
    Row("p1k.bytes", "1 KiB: MB/s", "{:.0f}", 1e-6),
    Row("p1k.cpu_per_gb", "CPU s per GB", "{:.1f}"),
    Row("p100.records", "100 B: records/s", "{:,.0f}"),
    Row("p100.cpu_per_gb", "CPU s per GB", "{:.1f}"),
    Row("latency.p50", "1,000/s of 200 B: p50, ms", "{:.2f}"),
    Row("latency.p99", "p99, ms", "{:.2f}"),
    Row("latency.p999", "p99.9, ms", "{:.1f}"),
    Row("p1k.memory", "memory, MiB", "{:.0f}"),
]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=options.named(PEERS), default=list(PEERS), metavar="NAME,...",
                        help=f"of {', '.join(PEERS)}; default all")
    parser.add_argument("--samples", type=options.number(int, 1), default=3, help="rounds; default 3")
    parser.add_argument("--scale", type=options.number(float, 0.001, 100), default=1, metavar="FACTOR",
                        help="of 500,000 records of 1 KiB and 1,000,000 of 100 B; default 1")
    parser.add_argument("--latency-seconds", type=options.number(float, 1), default=10, metavar="SECONDS",
                        help="default 10")
    parser.add_argument("--base-port", type=options.number(int, 1024, 32000), default=27092, metavar="PORT",
                        help="of the first server; default 27092")
    parser.add_argument("--work", type=pathlib.Path, default=load.BUILT / "peers", metavar="DIR",
                        help="where servers have their data, removed afterwards; default target/bench/peers")
    parser.add_argument("--json", type=pathlib.Path, default=load.BUILT / "peers.json", metavar="FILE",
                        help="default target/bench/peers.json")
    arguments = parser.parse_args()
    arguments.work = arguments.work.absolute()
    arguments.loads = [("p1k", int(500_000 * arguments.scale), 1024), ("p100", int(1_000_000 * arguments.scale), 100)]
    return arguments


def table(samples, names):
    heads = ["Peer", "acknowledged when", *(row.title for row in ROWS)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name in names:
        title, durability, _ = PEERS[name].VARIANTS[name]
        cells = [cell(samples.of(name, row.key), row) for row in ROWS]
        lines.append(f"| {title} | {durability} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    arguments = parse()
    processes.end_on_signals()
    samples = Samples(arguments.json, vars(arguments))
    left = dict.fromkeys(arguments.peers)
    for number in range(1, arguments.samples + 1):
        for name in [name for name, reason in left.items() if reason is None]:
            options.say(f"round {number}: {PEERS[name].VARIANTS[name][0]}")
            try:
                for values in PEERS[name].run(name, arguments):
                    options.say(f"  {values}")
                    samples.add(name, values)
            except (peer.Missing, peer.ToolFailed, subprocess.SubprocessError, OSError) as reason:
                left[name] = reason
                options.say(f"  left out: {reason}")
    print(table(samples, [name for name, reason in left.items() if reason is None]))
    for name, reason in left.items():
        if reason is not None:
            print(f"\n{PEERS[name].VARIANTS[name][0]} was left out: {reason}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
