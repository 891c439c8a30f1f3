"""The cases of compare.py. A scene is what is measured on one fresh cluster; it yields the values of its rows."""
import dataclasses
import shutil
import sys
import time
import typing

from . import load
from .report import Row

PARTITIONS = 6
MANY = 1000
RECOVERY_PARTITIONS = 12
IDLE_SECONDS = 10
MB, GB = 1e-6, 1e-9


@dataclasses.dataclass(frozen=True)
class Scene:
    cases: tuple
    play: typing.Callable


def loaded(cluster, case, mode, **flags):
    """Runs the load: what it told, and what the brokers spent on it."""
    before = cluster.cpu_seconds()
    told = load.run(mode, cluster.bootstrap, **flags)
    spent = cluster.cpu_seconds() - before
    return told, {f"{case}.cpu": spent, f"{case}.memory": cluster.resident_mib()}


def transfer(cluster, case, mode, records, size, **flags):
    """Produces or consumes as fast as it goes."""
    told, values = loaded(cluster, case, mode, records=records, size=size, **flags)
    values[f"{case}.records"] = told["records_per_second"]
    values[f"{case}.bytes"] = told["bytes_per_second"]
    values[f"{case}.cpu_per_gb"] = values[f"{case}.cpu"] / (records * size * GB)
    values[f"{case}.load_cpu_per_gb"] = told["client_cpu_seconds"] / (records * size * GB)
    if told.get("failed"):
        sys.exit(f"{case}: {told['failed']} records were not acknowledged")
    return values


def create(cluster, topic, partitions):
    return load.run("create", cluster.bootstrap, topic=topic, partitions=partitions, rf=cluster.nodes)


def warm_up(cluster, options):
    """A JVM compiles what runs often: it has to, before it is judged."""
    create(cluster, "warm-up", PARTITIONS)
    load.run("produce", cluster.bootstrap, topic="warm-up", records=records(options, 200_000))
    load.run("offer", cluster.bootstrap, topic="warm-up", rate=2000, seconds=options.warm_up + 0.1, size=200, read=True)


def records(options, count):
    return max(100, int(count * options.scale))


def idle(cluster, options, case):
    time.sleep(options.settle)
    before = cluster.cpu_seconds()
    time.sleep(IDLE_SECONDS)
    spent = cluster.cpu_seconds() - before
    return {f"{case}.cpu_percent": spent / IDLE_SECONDS * 100, f"{case}.memory": cluster.resident_mib()}


def idle_many(cluster, options):
    create(cluster, "idle", MANY)
    return idle(cluster, options, "idle_many")


def produce1k(cluster, options):
    create(cluster, "produce1k", PARTITIONS)
    return transfer(cluster, "produce1k", "produce", records(options, 1_000_000), 1024, topic="produce1k")


def consume(cluster, options):
    """What `produce1k` wrote, or the same again when that is not measured."""
    if "produce1k" not in options.cases:
        produce1k(cluster, options)
    return transfer(cluster, "consume", "consume", records(options, 1_000_000), 1024, topic="produce1k")


def produce100(cluster, options):
    create(cluster, "produce100", PARTITIONS)
    return transfer(cluster, "produce100", "produce", records(options, 4_000_000), 100, topic="produce100")


def latency(cluster, options):
    create(cluster, "latency", 1)
    told, _ = loaded(cluster, "latency", "offer", topic="latency", rate=1000, seconds=max(1, 10 * options.scale), size=200,
                     linger="0s", read=True)
    if told["errors"] or told["refused"]:
        sys.exit(f"latency: not all records were acknowledged: {told}")
    return {f"latency.{name}": told["ack_ms"][name] for name in ("p50", "p99", "p999")} | {
        f"latency.read_{name}": told["read_ms"][name] for name in ("p50", "p99", "p999")}


def many_new(cluster, options):
    before = cluster.cpu_seconds()
    created = create(cluster, "many", MANY)
    values = transfer(cluster, "many_new", "produce", records(options, 500_000), 200, topic="many", linger="20ms")
    return values | {"many_new.create": created["seconds"], "many_new.cpu": cluster.cpu_seconds() - before}


def many_written(cluster, options):
    if "many_new" not in options.cases:
        many_new(cluster, options)
    return transfer(cluster, "many_written", "produce", records(options, 500_000), 1024, topic="many", linger="20ms")


def idle_written(cluster, options):
    if not {"many_new", "many_written"} & set(options.cases):
        many_new(cluster, options)
    return idle(cluster, options, "idle_written")


LOADED = {"produce1k": produce1k, "produce100": produce100, "latency": latency, "consume": consume,
          "many_new": many_new, "many_written": many_written, "idle_written": idle_written}


def play_loaded(system, options, chosen):
    with system(options) as cluster:
        cluster.exec()
        cluster.wait()
        warm_up(cluster, options)
        for case in chosen:
            yield LOADED[case](cluster, options)


def play_idle(system, options, chosen):
    with system(options) as cluster:
        cluster.exec()
        cluster.wait()
        if "idle_empty" in chosen:
            yield idle(cluster, options, "idle_empty")
        if "idle_many" in chosen:
            yield idle_many(cluster, options)


def play_single(system, options, chosen):
    with system(options, nodes=1) as cluster:
        flags = {"topic": "first", "partitions": 1, "rf": 1, "size": 200, "create": True}
        with load.Background("first", cluster.bootstrap, **flags) as first:
            cluster.exec()
            acknowledged = first.result()["first"] - cluster.started
        if "start" in chosen:
            yield {"start.first": acknowledged}
        if "produce_single" in chosen:
            warm_up(cluster, options)
            create(cluster, "single", PARTITIONS)
            yield transfer(cluster, "produce_single", "produce", records(options, 1_000_000), 1024, topic="single")


def play_recovery(system, options, chosen):
    size = 1024
    written = int(options.recovery_gb / GB) // size
    with system(options) as cluster:
        free = shutil.disk_usage(cluster.folder).free
        needed = options.recovery_gb * cluster.nodes * 1.15 / GB
        if free < needed:
            sys.exit(f"recovery: {needed * GB:.0f} GB are needed in {options.work}, {free * GB:.0f} GB are free; "
                     "choose another folder with --work or less with --recovery-gb")
        cluster.exec()
        cluster.wait()
        create(cluster, "recovery", RECOVERY_PARTITIONS)
        load.run("produce", cluster.bootstrap, topic="recovery", records=written, size=size, limit="1h")
        cluster.kill()
        flags = {"topic": "recovery", "partitions": RECOVERY_PARTITIONS, "size": 200, "limit": "30m"}
        with load.Background("first", cluster.bootstrap, **flags) as first:
            cluster.exec()
            told = first.result()
        yield {"recovery.first": told["first"] - cluster.started, "recovery.all": told["all"] - cluster.started}


SCENES = [
    Scene(("idle_empty", "idle_many"), play_idle),
    Scene(tuple(LOADED), play_loaded),
    Scene(("start", "produce_single"), play_single),
    Scene(("recovery",), play_recovery),
]


def names():
    return [case for scene in SCENES for case in scene.cases]


ROWS = [
    Row("produce1k.bytes", "produce 1 KiB, 6 partitions, RF 3: MB/s", "{:.0f}", MB),
    Row("produce1k.cpu_per_gb", "– CPU of all brokers, s per GB", "{:.1f}"),
    Row("produce1k.load_cpu_per_gb", "– CPU of the load program, s per GB", "{:.1f}"),
    Row("produce1k.memory", "– memory of all brokers afterwards, MiB", "{:.0f}"),
    Row("produce100.records", "produce 100 B, 6 partitions, RF 3: million records/s", "{:.2f}", 1e-6),
    Row("produce100.cpu_per_gb", "– CPU of all brokers, s per GB", "{:.1f}"),
    Row("produce100.load_cpu_per_gb", "– CPU of the load program, s per GB", "{:.1f}"),
    Row("latency.p50", "1,000 records/s of 200 B, RF 3, acknowledged: p50, ms", "{:.2f}"),
    Row("latency.p99", "– p99, ms", "{:.2f}"),
    Row("latency.p999", "– p99.9, ms", "{:.1f}"),
    Row("latency.read_p50", "– seen by a consumer: p50, ms", "{:.2f}"),
    Row("latency.read_p99", "– p99, ms", "{:.2f}"),
    Row("many_new.records", "200 B to 1,000 partitions just created, RF 3: records/s", "{:,.0f}"),
    Row("many_new.cpu", "– CPU of all brokers, creation and 500,000 records, s", "{:.1f}"),
    Row("many_new.create", "– until all 1,000 have a leader, s", "{:.2f}"),
    Row("many_written.records", "1 KiB to 1,000 partitions written before, RF 3: records/s", "{:,.0f}"),
    Row("many_written.cpu_per_gb", "– CPU of all brokers, s per GB", "{:.1f}"),
    Row("many_written.load_cpu_per_gb", "– CPU of the load program, s per GB", "{:.1f}"),
    Row("consume.bytes", "consume 1 KiB from the cache: MB/s", "{:.0f}", MB),
    Row("consume.cpu_per_gb", "– CPU of all brokers, s per GB", "{:.2f}"),
    Row("consume.load_cpu_per_gb", "– CPU of the load program, s per GB", "{:.2f}"),
    Row("idle_empty.memory", "three idle brokers without topics: memory, MiB", "{:.0f}"),
    Row("idle_empty.cpu_percent", "– CPU, % of a core", "{:.1f}"),
    Row("idle_many.memory", "three idle brokers, 1,000 partitions RF 3: memory, MiB", "{:.0f}"),
    Row("idle_many.cpu_percent", "– CPU, % of a core", "{:.1f}"),
    Row("idle_written.memory", "the same after they were written to: memory, MiB", "{:.0f}"),
    Row("idle_written.cpu_percent", "– CPU, % of a core", "{:.1f}"),
    Row("produce_single.bytes", "produce 1 KiB, RF 1: MB/s", "{:.0f}", MB),
    Row("produce_single.cpu_per_gb", "– CPU of the broker, s per GB", "{:.1f}"),
    Row("produce_single.load_cpu_per_gb", "– CPU of the load program, s per GB", "{:.1f}"),
    Row("start.first", "one broker, from exec to the first acknowledged record, s", "{:.2f}"),
    Row("recovery.first", "kill -9 of all three, from exec to the first acknowledged record, s", "{:.2f}"),
    Row("recovery.all", "– until every partition acknowledges one, s", "{:.2f}"),
]
