"""confluent-kafka (librdkafka) against a running cluster.

    interop.py all BOOTSTRAP RECORDS            the whole conversation
    interop.py verify BOOTSTRAP RECORDS TOPIC   only reads TOPIC and compares; used after another producer

Prints `pass CLIENT: CHECK` or `FAIL CLIENT: CHECK: WHY` a line.
"""
import json
import sys
import time
import traceback
import uuid

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition, TIMESTAMP_CREATE_TIME
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, OffsetSpec, ResourceType,
)

CLIENT = "confluent-kafka"
PARTITIONS = 6
COMPRESSIONS = ["none", "gzip", "snappy", "lz4", "zstd"]
failures = 0


def check(name, work):
    global failures
    try:
        work()
        print(f"pass {CLIENT}: {name}", flush=True)
    except Exception as error:  # every failure becomes a line, with its place
        failures += 1
        place = traceback.extract_tb(error.__traceback__)[-1]
        print(f"FAIL {CLIENT}: {name}: {type(error).__name__}: {error} ({place.name}:{place.lineno})", flush=True)


def expect(left, right, what):
    if left != right:
        raise AssertionError(f"{what}: {left!r}, expected {right!r}")


def until(condition, what, deadline_s=30):
    end = time.monotonic() + deadline_s
    while True:
        got = condition()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        time.sleep(0.05)


def load(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def by_partition(records):
    parts = [[] for _ in range(PARTITIONS)]
    for record in records:
        parts[record["partition"]].append(record)
    return parts


def encode(text):
    return None if text is None else text.encode()


def produce(bootstrap, topic, records, compression):
    """Produces with idempotence; returns the acknowledged offset of each record."""
    producer = Producer({
        "bootstrap.servers": bootstrap, "enable.idempotence": True, "acks": "all",
        "compression.type": compression, "linger.ms": 5, "batch.num.messages": 100,
    })
    offsets = [None] * len(records)
    errors = []

    def delivered(n):
        def callback(error, message):
            if error is not None:
                errors.append(str(error))
            else:
                offsets[n] = message.offset()
        return callback

    for n, r in enumerate(records):
        while True:
            try:
                producer.produce(
                    topic, key=encode(r["key"]), value=encode(r["value"]), partition=r["partition"],
                    headers=[(k, v.encode()) for k, v in r["headers"]], timestamp=r["timestamp"],
                    on_delivery=delivered(n))
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    expect(producer.flush(60), 0, "records still in flight after a flush")
    expect(errors[:3], [], "delivery errors")
    return offsets


def read_all(bootstrap, topic, starts, wanted):
    """Reads `wanted` records by assigned partitions, then makes sure nothing follows them."""
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": f"unused-{uuid.uuid4()}", "enable.auto.commit": False,
        "enable.partition.eof": True, "check.crcs": True, "auto.offset.reset": "error",
    })
    consumer.assign([TopicPartition(topic, p, start) for p, start in enumerate(starts)])
    parts = [[] for _ in starts]
    ended = set()
    end = time.monotonic() + 60
    while len(ended) < len(starts):
        if time.monotonic() > end:
            raise AssertionError(f"read {sum(map(len, parts))} of {wanted} records in 60 s, ended {sorted(ended)}")
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error():
            if message.error().code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
                continue
            raise AssertionError(str(message.error()))
        ended.discard(message.partition())
        parts[message.partition()].append(message)
    consumer.close()
    expect(sum(map(len, parts)), wanted, "records read")
    return parts


def compare(parts, expected, first_offsets):
    for p, (messages, records) in enumerate(zip(parts, expected)):
        expect(len(messages), len(records), f"records in partition {p}")
        for n, (message, r) in enumerate(zip(messages, records)):
            where = f"partition {p} record {n}"
            expect(message.offset(), first_offsets[p] + n, f"{where} offset")
            expect(message.key(), encode(r["key"]), f"{where} key")
            expect(message.value(), encode(r["value"]), f"{where} value")
            expect(message.headers() or [], [(k, v.encode()) for k, v in r["headers"]], f"{where} headers")
            expect(message.timestamp(), (TIMESTAMP_CREATE_TIME, r["timestamp"]), f"{where} timestamp")


def wait_all(futures, timeout_s=30):
    return {name: future.result(timeout_s) for name, future in futures.items()}


def create(admin, topic, config=None):
    wait_all(admin.create_topics([NewTopic(topic, PARTITIONS, 3, config=config or {})]))

    def complete():
        found = admin.list_topics(topic, timeout=10).topics[topic]
        return found if len(found.partitions) == PARTITIONS and all(
            p.leader >= 0 for p in found.partitions.values()) else None
    return until(complete, f"{topic} with a leader everywhere")


def verify(bootstrap, records, topic):
    expected = by_partition(records)
    compare(read_all(bootstrap, topic, [0] * PARTITIONS, len(records)), expected, [0] * PARTITIONS)


def offsets_of(admin, topic, specs):
    futures = admin.list_offsets({TopicPartition(topic, p): spec for p, spec in specs.items()})
    return {tp.partition: future.result(30).offset for tp, future in futures.items()}


def whole(bootstrap, path):
    records = load(path)
    expected = by_partition(records)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    topic = f"py-{uuid.uuid4().hex[:8]}"

    def creating():
        found = create(admin, topic, {"retention.ms": "86400000"})
        for partition in found.partitions.values():
            expect(len(partition.replicas), 3, f"replicas of partition {partition.id}")
        expect(len({p.leader for p in found.partitions.values()}), 3, "brokers leading a partition")

    check("create a topic of 6 partitions, 3 replicas, leaders on every broker", creating)

    def round_trip(compression):
        name = f"{topic}-{compression}"
        create(admin, name)
        offsets = produce(bootstrap, name, records, compression)
        for p in range(PARTITIONS):
            got = [o for o, r in zip(offsets, records) if r["partition"] == p]
            expect(got, list(range(len(got))), f"acknowledged offsets of partition {p}")
        verify(bootstrap, records, name)

    for compression in COMPRESSIONS:
        check(f"produce (idempotent, {compression}) and read back {len(records)} records", lambda: round_trip(compression))

    timed = f"{topic}-none"

    def timestamps():
        every = range(PARTITIONS)
        expect(offsets_of(admin, timed, {p: OffsetSpec.earliest() for p in every}), {p: 0 for p in every}, "earliest")
        expect(offsets_of(admin, timed, {p: OffsetSpec.latest() for p in every}),
               {p: len(expected[p]) for p in every}, "latest")
        for pick in (0, 6, 13, len(expected[0]) // 2):
            wanted, specs = {}, {}
            for p in every:
                at = expected[p][pick]["timestamp"]
                specs[p] = OffsetSpec.for_timestamp(at)
                wanted[p] = next(n for n, r in enumerate(expected[p]) if r["timestamp"] >= at)
            expect(offsets_of(admin, timed, specs), wanted, f"first offset at the time of record {pick}")
        late = max(r["timestamp"] for r in records) + 1
        expect(offsets_of(admin, timed, {0: OffsetSpec.for_timestamp(late)}), {0: -1}, "offset after the last time")

    check("ListOffsets: earliest, latest and by timestamp", timestamps)

    def configs():
        resource = ConfigResource(ResourceType.TOPIC, topic)
        described = wait_all(admin.describe_configs([resource]))[resource]
        expect(described["retention.ms"].value, "86400000", "retention.ms")
        expect(described["retention.ms"].is_default, False, "retention.ms is_default")
        expect(described["cleanup.policy"].value, "delete", "cleanup.policy")
        change = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[
            ConfigEntry("retention.ms", "3600000", incremental_operation=AlterConfigOpType.SET)])
        wait_all(admin.incremental_alter_configs([change]))
        until(lambda: wait_all(admin.describe_configs([resource]))[resource]["retention.ms"].value == "3600000",
              "retention.ms 3600000 after the change")

    check("describe and alter configs", configs)

    def grow():
        wait_all(admin.create_partitions([NewPartitions(topic, 8)]))
        until(lambda: len([p for p in admin.list_topics(topic, timeout=10).topics[topic].partitions.values()
                           if p.leader >= 0]) == 8, "8 partitions with leaders")

    check("create partitions: 6 to 8", grow)

    def cut():
        before = {TopicPartition(timed, p): 10 for p in range(PARTITIONS)}
        futures = admin.delete_records([TopicPartition(timed, tp.partition, offset) for tp, offset in before.items()])
        for tp, future in futures.items():
            expect(future.result(30).low_watermark, 10, f"low watermark of {tp.partition}")
        expect(offsets_of(admin, timed, {p: OffsetSpec.earliest() for p in range(PARTITIONS)}),
               {p: 10 for p in range(PARTITIONS)}, "earliest after the cut")
        parts = read_all(bootstrap, timed, [10] * PARTITIONS, len(records) - 10 * PARTITIONS)
        compare(parts, [part[10:] for part in expected], [10] * PARTITIONS)

    check("delete records below offset 10", cut)

    def drop():
        names = [topic] + [f"{topic}-{c}" for c in COMPRESSIONS]
        wait_all(admin.delete_topics(names))
        until(lambda: not set(names) & set(admin.list_topics(timeout=10).topics), "topics gone from the metadata")

    check("delete topics", drop)


if __name__ == "__main__":
    command, bootstrap, path = sys.argv[1:4]
    if command == "verify":
        CLIENT = sys.argv[5] if len(sys.argv) > 5 else CLIENT
        check(f"read back what was produced to {sys.argv[4]}", lambda: verify(bootstrap, load(path), sys.argv[4]))
    else:
        whole(bootstrap, path)
    sys.exit(1 if failures else 0)
