#!/usr/bin/env python3
"""Tidelog beside Apache Kafka, in turn and in one sitting: the table of docs/benchmarks.md.

In each round every system gets fresh brokers, one system after the other, so that a slow quarter of an hour of the
machine falls on all of them. The load is one franz-go client (tests/bench/load), idempotent with acks=all. CPU and
memory are those of all brokers together, from /proc.

Prints a Markdown table with the median and the range of all rounds, and keeps the samples as JSON.

  compare.py                                     all cases; one to two hours
  compare.py --cases produce1k,latency           some of them
  compare.py --systems tidelog,kafka,kafka-fsync also beside Kafka that syncs before it acknowledges
  compare.py --scale 0.01 --samples 1 --warm-up 2 --settle 2 --recovery-gb 0.1    to try the program
"""
import pathlib
import sys

from measure import cases, load, options, processes
from measure.report import Samples, table


def parse():
    parser = options.parser(__doc__)
    parser.add_argument("--cases", type=options.named(cases.names()), default=cases.names(), metavar="NAME,...",
                        help=f"of {', '.join(cases.names())}; default all")
    parser.add_argument("--samples", type=options.number(int, 1), default=3, help="rounds; default 3")
    parser.add_argument("--scale", type=options.number(float, 0.0001, 100), default=1, metavar="FACTOR",
                        help="of how many records are written and read; default 1")
    parser.add_argument("--warm-up", type=options.number(float, 0), default=30, metavar="SECONDS",
                        help="of load before anything counts, which a JVM needs; default 30")
    parser.add_argument("--settle", type=options.number(float, 0), default=30, metavar="SECONDS",
                        help="before idle brokers are looked at; default 30")
    parser.add_argument("--recovery-gb", type=options.number(float, 0.001), default=20, metavar="GB",
                        help="on the disk of each broker when all are killed; default 20")
    parser.add_argument("--json", type=pathlib.Path, default=load.BUILT / "compare.json", metavar="FILE",
                        help="default target/bench/compare.json")
    return parser.parse_args()


def main():
    arguments = parse()
    processes.end_on_signals()
    options.install(arguments)
    systems = options.systems(arguments)
    samples = Samples(arguments.json, vars(arguments))
    for number in range(1, arguments.samples + 1):
        for system in systems:
            for scene in cases.SCENES:
                chosen = [case for case in scene.cases if case in arguments.cases]
                if not chosen:
                    continue
                options.say(f"round {number}: {system.title}: {', '.join(chosen)}")
                for values in scene.play(system, arguments, chosen):
                    options.say(f"  {values}")
                    samples.add(system.name, values)
    print(table(cases.ROWS, samples, [(system.name, system.title) for system in systems]))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
