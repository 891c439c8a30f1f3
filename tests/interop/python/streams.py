"""Around a Kafka Streams application that counts the records of each key:

streams.py fill BOOTSTRAP INPUT OUTPUT N: creates both topics and writes N records of 100 keys.
streams.py await BOOTSTRAP OUTPUT N: waits until about N counts are committed.
streams.py verify BOOTSTRAP OUTPUT N: every key has the counts 1, 2, 3 ... once each and in order.
"""
import sys
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

PARTITIONS = 4
KEYS = 100
LIMIT_S = 240
# Slower than that is a failure.
RECORDS_A_SECOND = 1000


def fill(bootstrap, source, output, count):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    made = admin.create_topics(
        [NewTopic(topic, PARTITIONS, 3) for topic in (source, output)])
    for topic in made.values():
        topic.result(30)
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 20})
    for i in range(count):
        while True:
            try:
                producer.produce(source, key=f"k{i % KEYS}", value=str(i))
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(60):
        sys.exit("not acknowledged")


def counts(bootstrap, topic, wanted):
    """What a read_committed reader sees, until it is `wanted` counts or the time is up."""
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": topic + "-reader", "isolation.level": "read_committed",
        "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(PARTITIONS)])
    deadline = time.monotonic() + LIMIT_S + wanted / RECORDS_A_SECOND
    seen = {}
    total = 0
    quiet = 0
    # Also reads on for a while: there must not be more than wanted.
    while time.monotonic() < deadline and (total < wanted or quiet < 3):
        messages = consumer.consume(10000, 1)
        quiet = 0 if messages else quiet + 1
        for message in messages:
            if message.error():
                continue
            seen.setdefault(message.key().decode(), []).append(int(message.value()))
            total += 1
        yield seen, total
    consumer.close()


def main():
    what, bootstrap, topic = sys.argv[1:4]
    wanted = int(sys.argv[-1])
    if what == "fill":
        fill(bootstrap, topic, sys.argv[4], wanted)
        return
    seen, total = {}, 0
    for seen, total in counts(bootstrap, topic, wanted):
        if what == "await" and total >= wanted:
            print(total)
            return
    if what == "await":
        sys.exit(f"only {total} of {wanted} counts in time")
    each = list(range(1, wanted // KEYS + 1))
    wrong = {key: len(values) for key, values in seen.items() if values != each}
    if total != wanted or len(seen) != KEYS or wrong:
        sys.exit(f"{total} counts of {len(seen)} keys, expected {wanted} of {KEYS}; wrong: {wrong}")
    print(f"{total} counts, each once and in order")


main()
