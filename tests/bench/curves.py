#!/usr/bin/env python3
"""What records cost as there are more partitions, and as they get larger, on Tidelog and on Apache Kafka in turn.

For each number of partitions fresh brokers get a topic of RF 3: how long until all have a leader, what idle brokers
take, producing to all of them, and, with --failover, how long after a broker's death every partition acknowledges
again. For each size of records: producing to six partitions. CPU and memory are those of all brokers.

Keeps all as JSON; plot.py makes pictures of it.

  curves.py                                        10, 100 and 1,000 partitions; 100 B to 1 MiB
  curves.py --partitions 10000 --failover --sizes ''    10,000 partitions alone
  curves.py --partitions 10,50 --sizes 100,1024 --records 20000 --gb 0.02 --settle 1 --warm-up 1    to try it
"""
import pathlib
import sys
import time

from measure import load, options, processes, report

IDLE_SECONDS = 10
SIZED_PARTITIONS = 6
# More would take minutes with small records.
MOST_RECORDS = 5_000_000
PARTITION_RECORD_BYTES = 1024


def parse():
    parser = options.parser(__doc__)
    parser.add_argument("--partitions", type=options.numbers(int, 1), default="10,100,1000", metavar="N,...", help="default 10,100,1000")
    parser.add_argument("--sizes", type=options.numbers(int, 1), default="100,1024,10240,102400,1048576", metavar="BYTES,...",
                        help="default 100,1024,10240,102400,1048576")
    parser.add_argument("--records", type=options.number(int, 1), default=1_000_000,
                        help="of 1 KiB, to each number of partitions; default 1000000")
    parser.add_argument("--gb", type=options.number(float, 0.001), default=1, help="of each size; default 1")
    parser.add_argument("--samples", type=options.number(int, 1), default=3, help="rounds; default 3")
    parser.add_argument("--settle", type=options.number(float, 0), default=30, metavar="SECONDS",
                        help="before idle brokers are looked at; default 30")
    parser.add_argument("--warm-up", type=options.number(float, 0), default=30, metavar="SECONDS",
                        help="of load before anything counts; default 30")
    parser.add_argument("--failover", action="store_true", help="kill a broker after the load on partitions")
    parser.add_argument("--json", type=pathlib.Path, default=load.BUILT / "curves.json", metavar="FILE",
                        help="default target/bench/curves.json")
    return parser.parse_args()


def started(cluster, arguments):
    cluster.exec()
    cluster.wait()
    load.run("create", cluster.bootstrap, topic="warm-up", partitions=SIZED_PARTITIONS, rf=cluster.nodes)
    if arguments.warm_up:
        load.run("offer", cluster.bootstrap, topic="warm-up", rate=2000, seconds=arguments.warm_up, size=200)


def produce(cluster, records, size, **flags):
    before = cluster.cpu_seconds()
    told = load.run("produce", cluster.bootstrap, records=records, size=size, limit="1h", **flags)
    spent = cluster.cpu_seconds() - before
    return {"records": told["records_per_second"], "bytes": told["bytes_per_second"], "failed": told["failed"],
            "cpu_per_gb": spent / (records * size / 1e9)}


def with_partitions(system, arguments, count):
    with system(arguments) as cluster:
        started(cluster, arguments)
        created = load.run("create", cluster.bootstrap, topic="curve", partitions=count, rf=cluster.nodes)
        time.sleep(arguments.settle)
        before = cluster.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        point = {"create": created["seconds"], "idle_memory": cluster.resident_mib(),
                 "idle_cpu_percent": (cluster.cpu_seconds() - before) / IDLE_SECONDS * 100}
        point |= produce(cluster, arguments.records, PARTITION_RECORD_BYTES, topic="curve", linger="20ms")
        point["memory"] = cluster.resident_mib()
        if arguments.failover:
            point["failover"] = failover(cluster, count)
    return point


def failover(cluster, partitions):
    """From the death of the last broker, which led a third, until every partition acknowledges a record."""
    victim = cluster.processes.pop()
    left = ",".join(cluster.bootstrap.split(",")[:-1])
    died = time.time()
    processes.kill([victim])
    told = load.run("first", left, topic="curve", partitions=partitions, size=200)
    return told["all"] - died


def with_sizes(system, arguments):
    with system(arguments) as cluster:
        started(cluster, arguments)
        for size in arguments.sizes:
            topic = f"size-{size}"
            # The record's own fields and the batch around it come on top.
            room = size + 4096
            load.run("create", cluster.bootstrap, topic=topic, partitions=SIZED_PARTITIONS, rf=cluster.nodes,
                     config=f"max.message.bytes={max(1 << 20, room)}")
            records = max(1, min(int(arguments.gb * 1e9 / size), MOST_RECORDS))
            yield size, produce(cluster, records, size, topic=topic, batch=max(128 << 10, room))


def main():
    arguments = parse()
    processes.end_on_signals()
    options.install(arguments)
    samples = report.Samples(arguments.json, vars(arguments))

    def keep(system, curve, at, point):
        options.say(f"{system.title}: {curve} {at}: {point}")
        samples.add(system.name, {f"{curve}/{at}/{name}": value for name, value in point.items()})

    for _ in range(arguments.samples):
        for count in arguments.partitions:
            for system in options.systems(arguments):
                keep(system, "partitions", count, with_partitions(system, arguments, count))
        for system in options.systems(arguments) if arguments.sizes else []:
            for size, point in with_sizes(system, arguments):
                keep(system, "size", size, point)
    print(f"kept in {arguments.json}; plot.py {arguments.json} docs/plots makes pictures of it")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
