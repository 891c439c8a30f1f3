#!/usr/bin/env python3
"""Several times what a cluster can take: its memory, what producers are told, and how soon it is quick again.

Measures first what CLIENTS producers get through as fast as it goes. Then they offer FACTOR times as much for SECONDS,
whatever becomes of it: records that a client's buffer of 32 MiB has no room for count as refused. A probe writes 100
records of 200 bytes a second to a topic of its own before, meanwhile and after. The latency is back from the first
second on in which, and in all that follow, at least three, the probe's p99 is at most twice the highest before.

Prints a Markdown table, and keeps all as JSON, with the probe's latency and the memory over time.

  overload.py                              four times as much for five minutes on each system
  overload.py --seconds 5 --before 5 --after 8 --capacity-records 100000    to try it
"""
import pathlib
import sys
import time

from measure import load, options, processes, report

TOPIC, PROBE = "overload", "probe"
PARTITIONS = 6
ROWS = [
    report.Row("capacity", "as fast as it goes: MB/s", "{:.0f}", 1e-6),
    report.Row("offered", "offered: MB/s", "{:.0f}", 1e-6),
    report.Row("acknowledged", "– acknowledged: MB/s", "{:.0f}", 1e-6),
    report.Row("failed", "– records that producers got an error for", "{:.0f}"),
    report.Row("drained", "– until the producers' buffers were empty afterwards, s"),
    report.Row("memory.before", "memory of all brokers before, MiB", "{:.0f}"),
    report.Row("memory.highest", "– the most meanwhile, MiB", "{:.0f}"),
    report.Row("memory.after", "– at the end, MiB", "{:.0f}"),
    report.Row("probe.before", "probe, highest p99 of a second before: ms"),
    report.Row("probe.during", "– meanwhile: ms"),
    report.Row("probe.during_p50", "– median of the seconds' p50 meanwhile: ms"),
    report.Row("probe.after", "– in the last five seconds: ms"),
    report.Row("probe.failed", "– records that failed or were refused", "{:.0f}"),
    report.Row("back", "latency is back after, s", "{:.0f}"),
]
# Of the probe, at the end.
LAST_SECONDS = 5
# One good second proves nothing.
GOOD_SECONDS = 3


def parse():
    parser = options.parser(__doc__)
    parser.add_argument("--factor", type=options.number(float, 1), default=4, help="default 4")
    parser.add_argument("--seconds", type=options.number(int, 1), default=300, help="of overload; default 300")
    parser.add_argument("--before", type=options.number(int, 2), default=15, metavar="SECONDS",
                        help="of the probe alone before; default 15")
    parser.add_argument("--after", type=options.number(int, LAST_SECONDS), default=60, metavar="SECONDS",
                        help="of the probe alone after; default 60")
    parser.add_argument("--clients", type=options.number(int, 1), default=16, help="that offer records; default 16")
    parser.add_argument("--size", type=options.number(int, 8), default=1024, metavar="BYTES", help="default 1024")
    parser.add_argument("--capacity-records", type=options.number(int, 1000), default=2_000_000, metavar="RECORDS",
                        help="to measure what the cluster can take; default 2000000")
    parser.add_argument("--warm-up", type=options.number(float, 0), default=30, metavar="SECONDS",
                        help="of load before anything counts; default 30")
    parser.add_argument("--json", type=pathlib.Path, default=load.BUILT / "overload.json", metavar="FILE",
                        help="default target/bench/overload.json")
    return parser.parse_args()


def capacity(cluster, arguments):
    flags = {"topic": TOPIC, "size": arguments.size, "clients": arguments.clients}
    if arguments.warm_up:
        load.run("offer", cluster.bootstrap, rate=2000, seconds=arguments.warm_up, **flags)
    told = load.run("produce", cluster.bootstrap, records=arguments.capacity_records, **flags)
    return told["records_per_second"]


def overload(cluster, arguments, records_per_second):
    """What the load told, what the probe told, and the memory over time."""
    # The buffers are emptied after the overload, while the probe goes on.
    probe_seconds = arguments.before + arguments.seconds + arguments.after
    with processes.MemoryWatch(cluster.pids) as memory, \
            load.Background("offer", cluster.bootstrap, topic=PROBE, rate=100, seconds=probe_seconds, size=200,
                            linger="0s", windows=True, limit="2h") as probe:
        time.sleep(arguments.before)
        told = load.run("offer", cluster.bootstrap, topic=TOPIC, rate=records_per_second * arguments.factor,
                        seconds=arguments.seconds, size=arguments.size, clients=arguments.clients, windows=True,
                        limit="2h")
        return told, probe.result(), memory.samples


def seconds_until_back(windows, ended, limit_ms):
    """From `ended`, an index into the windows of a second; None when it never is."""
    back, following = None, windows[ended:]
    for number, window in enumerate(following):
        good = window["failed"] == 0 and window["acked"] and window["ack_ms"]["p99"] <= limit_ms
        if not good:
            back = None
        elif back is None:
            back = number
    return back if back is not None and len(following) - back >= GOOD_SECONDS else None


def highest_p99(windows):
    return max((window["ack_ms"]["p99"] for window in windows), default=0)


def values_of(arguments, records_per_second, told, probe, memory):
    # A window more or less at the end may be a fraction of a second.
    windows = probe["windows"][:arguments.before + arguments.seconds + arguments.after]
    began, ended = (int(told[name] - probe["began"]) for name in ("began", "ended"))
    # The first second has the connecting and the metadata.
    before, during, after = windows[1:began], windows[began:ended + 1], windows[-LAST_SECONDS:]
    medians = sorted(window["ack_ms"]["p50"] for window in during)
    lasted = told["ended"] - told["began"]
    values = {
        "capacity": records_per_second * arguments.size,
        "offered": told["offered"] * arguments.size / lasted,
        "acknowledged": told["acked"] * arguments.size / (lasted + told["drained_seconds"]),
        "failed": sum(told["errors"].values()),
        "drained": told["drained_seconds"],
        "memory.before": max((mib for at, mib in memory if at < told["began"]), default=0),
        "memory.highest": max((mib for _, mib in memory), default=0),
        "memory.after": memory[-1][1] if memory else 0,
        "probe.before": highest_p99(before),
        "probe.during": highest_p99(during),
        "probe.during_p50": medians[len(medians) // 2] if medians else 0,
        "probe.after": highest_p99(after),
        "probe.failed": probe["refused"] + sum(probe["errors"].values()),
    }
    back = seconds_until_back(windows, ended + 1, 2 * values["probe.before"])
    return values if back is None else values | {"back": back + 1}


def measured(system, arguments):
    with system(arguments) as cluster:
        cluster.exec()
        cluster.wait()
        for topic, partitions in ((TOPIC, PARTITIONS), (PROBE, 1)):
            load.run("create", cluster.bootstrap, topic=topic, partitions=partitions, rf=cluster.nodes)
        records_per_second = capacity(cluster, arguments)
        told, probe, memory = overload(cluster, arguments, records_per_second)
    series = {"load": told, "probe": probe, "memory_mib": memory}
    return values_of(arguments, records_per_second, told, probe, memory), series


def main():
    arguments = parse()
    processes.end_on_signals()
    options.install(arguments)
    systems = options.systems(arguments)
    samples = report.Samples(arguments.json, vars(arguments))
    for system in systems:
        options.say(system.title)
        values, series = measured(system, arguments)
        options.say(f"  {values}, errors {series['load']['errors']}")
        samples.add(system.name, values)
        report.write_json(arguments.json.with_suffix(f".{system.name}.json"), series)
    print(report.table(ROWS, samples, [(system.name, system.title) for system in systems]))
    for system in systems:
        if not samples.of(system.name, "back"):
            print(f"\n{system.title}: the latency was not back within {arguments.after} s.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
