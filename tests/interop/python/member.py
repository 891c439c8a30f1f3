"""A member of a consumer group: member.py LIBRARY BOOTSTRAP GROUP TOPIC. SIGTERM makes it leave.

Prints `R TIME PARTITION FIRST NEXT` for records it has read and `C TIME PARTITION NEXT` once a commit
is acknowledged, TIME in microseconds of the wall clock: what groups.py judges.
"""
import signal
import sys
import time

library, bootstrap, group, topic = sys.argv[1:]
stopping = False


def stop(*_):
    global stopping
    stopping = True


signal.signal(signal.SIGTERM, stop)


def say(kind, *numbers):
    print(kind, time.time_ns() // 1000, *numbers, flush=True)


def read(offsets):
    """offsets: (partition, offset) of one poll; the next offset of each partition."""
    runs = {}
    for partition, offset in offsets:
        first, following = runs.get(partition, (offset, offset))
        if offset != following:
            say("R", partition, first, following)
            first = offset
        runs[partition] = (first, offset + 1)
    for partition, (first, following) in runs.items():
        say("R", partition, first, following)
    return {partition: following for partition, (_, following) in runs.items()}


def confluent(protocol="classic"):
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    settings = {
        "bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False,
        "auto.offset.reset": "earliest", "group.protocol": protocol,
    }
    if protocol == "classic":
        settings |= {
            "session.timeout.ms": 6000, "heartbeat.interval.ms": 500,
            "partition.assignment.strategy": "cooperative-sticky",
        }
    consumer = Consumer(settings)
    consumer.subscribe([topic])
    while not stopping:
        messages = [m for m in consumer.consume(500, 0.2) if m.error() is None]
        following = read((m.partition(), m.offset()) for m in messages)
        if not following:
            continue
        try:
            done = consumer.commit(
                offsets=[TopicPartition(topic, p, n) for p, n in following.items()], asynchronous=False)
            for one in done:
                if one.error is None:
                    say("C", one.partition, one.offset)
        except KafkaException:
            pass  # a rebalance: whoever has the partition now reads these again
    consumer.close()


def kafka_python():
    from kafka import KafkaConsumer, TopicPartition
    from kafka.errors import KafkaError
    from kafka.structs import OffsetAndMetadata

    consumer = KafkaConsumer(
        topic, bootstrap_servers=bootstrap.split(","), group_id=group, enable_auto_commit=False,
        auto_offset_reset="earliest", session_timeout_ms=6000, heartbeat_interval_ms=500,
        max_poll_records=500)
    while not stopping:
        polled = consumer.poll(timeout_ms=200)
        following = read((r.partition, r.offset) for records in polled.values() for r in records)
        if not following:
            continue
        try:
            consumer.commit({TopicPartition(topic, p): OffsetAndMetadata(n, "", -1) for p, n in following.items()})
            for partition, offset in following.items():
                say("C", partition, offset)
        except KafkaError:
            pass
    consumer.close(autocommit=False)


{"confluent": confluent, "confluent-next": lambda: confluent("consumer"), "kafka-python": kafka_python}[library]()
