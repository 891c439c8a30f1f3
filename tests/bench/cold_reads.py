#!/usr/bin/env python3
"""A consumer far behind beside live producers: how fast it reads, and what that does to the producers.

Writes GB to a topic, lets the page cache forget it (posix_fadvise after a sync; mapped pages stay), and then offers
RATE records a second of 1 KiB in three phases: alone, beside a consumer that reads the topic from its start, and
alone again. Prints a Markdown table, and keeps all as JSON.

  cold_reads.py               10 GB on each system
  cold_reads.py --gb 0.2 --seconds 5    to try it
"""
import os
import pathlib
import sys
import time

from measure import load, options, processes, report

TOPIC = "cold"
PARTITIONS = 6
RECORD_BYTES = 1024
# Producers run for so long before the consumer starts.
HEAD_START_SECONDS = 2
GB = 1e9
ROWS = [
    report.Row("alone.p99", "producers alone: p99, ms", "{:.2f}"),
    report.Row("beside.p99", "– beside the cold reader: p99, ms", "{:.2f}"),
    report.Row("after.p99", "– alone again: p99, ms", "{:.2f}"),
    report.Row("p99_ratio", "– beside the reader / the mean of both times alone", "{:.2f}"),
    report.Row("alone.p50", "producers alone: p50, ms", "{:.2f}"),
    report.Row("beside.p50", "– beside the cold reader: p50, ms", "{:.2f}"),
    report.Row("read", "cold reader: MB/s", "{:.0f}", 1e-6),
    report.Row("read_cpu_per_gb", "– CPU of all brokers meanwhile, s per GB read", "{:.2f}"),
]


def parse():
    parser = options.parser(__doc__)
    parser.add_argument("--gb", type=options.number(float, 0.01), default=10, help="that the consumer is behind; default 10")
    parser.add_argument("--rate", type=options.number(float, 1), default=5000, metavar="RECORDS",
                        help="of 1 KiB that producers write a second; default 5000")
    parser.add_argument("--seconds", type=options.number(float, 1), default=30,
                        help="of each phase without the consumer; default 30")
    parser.add_argument("--samples", type=options.number(int, 1), default=3, help="rounds; default 3")
    parser.add_argument("--json", type=pathlib.Path, default=load.BUILT / "cold_reads.json", metavar="FILE",
                        help="default target/bench/cold_reads.json")
    return parser.parse_args()


def forget_cached(folder):
    """Takes what is on the disk out of the page cache."""
    os.sync()
    for path in folder.rglob("*"):
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError:
            continue  # a folder, or removed meanwhile
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def producers(arguments):
    return {"topic": TOPIC, "rate": arguments.rate, "size": RECORD_BYTES, "linger": "1ms", "clients": 2}


def complete(name, told):
    if told["errors"] or told["refused"]:
        options.say(f"  {name}: not all was acknowledged: refused {told['refused']}, {told['errors']}")
    return told["ack_ms"]


def alone(cluster, arguments, name):
    return complete(name, load.run("offer", cluster.bootstrap, seconds=arguments.seconds, **producers(arguments)))


def beside_reader(cluster, arguments, records):
    with load.Background("offer", cluster.bootstrap, seconds=3600, limit="2h", **producers(arguments)) as offer:
        time.sleep(HEAD_START_SECONDS)
        before = cluster.cpu_seconds()
        read = load.run("consume", cluster.bootstrap, topic=TOPIC, records=records, limit="1h")
        spent = cluster.cpu_seconds() - before
        return complete("beside", offer.finish()), read, spent


def sample(system, arguments):
    records = int(arguments.gb * GB / RECORD_BYTES)
    with system(arguments) as cluster:
        cluster.exec()
        cluster.wait()
        load.run("create", cluster.bootstrap, topic=TOPIC, partitions=PARTITIONS, rf=cluster.nodes)
        load.run("produce", cluster.bootstrap, topic=TOPIC, records=records, size=RECORD_BYTES, limit="1h")
        first = alone(cluster, arguments, "alone")
        forget_cached(cluster.folder)
        beside, read, spent = beside_reader(cluster, arguments, records)
        after = alone(cluster, arguments, "alone again")
    return {
        **{f"alone.{name}": value for name, value in first.items()},
        **{f"beside.{name}": value for name, value in beside.items()},
        **{f"after.{name}": value for name, value in after.items()},
        "p99_ratio": 2 * beside["p99"] / (first["p99"] + after["p99"]),
        "read": read["bytes_per_second"],
        "read_cpu_per_gb": spent / arguments.gb,
    }


def main():
    arguments = parse()
    processes.end_on_signals()
    options.install(arguments)
    systems = options.systems(arguments)
    samples = report.Samples(arguments.json, vars(arguments))
    for number in range(1, arguments.samples + 1):
        for system in systems:
            options.say(f"round {number}: {system.title}")
            values = sample(system, arguments)
            options.say(f"  {values}")
            samples.add(system.name, values)
    print(report.table(ROWS, samples, [(system.name, system.title) for system in systems]))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
