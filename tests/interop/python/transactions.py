"""Transactions of confluent-kafka (librdkafka) against a running cluster: transactions.py BOOTSTRAP.

Prints `pass CLIENT: CHECK` or `FAIL CLIENT: CHECK: WHY` a line.
"""
import sys
import time
import uuid

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

import interop
from interop import check, expect

PARTITIONS = 3
WAIT_S = 60


class Transactions:
    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.prefix = f"rdkafka-txn-{uuid.uuid4().hex[:8]}"
        self.admin = AdminClient({"bootstrap.servers": bootstrap})

    def create(self, topic):
        self.admin.create_topics([NewTopic(topic, PARTITIONS, 3)])[topic].result()

    def producer(self, transactional_id, timeout_ms=60000):
        producer = Producer({
            "bootstrap.servers": self.bootstrap, "transactional.id": transactional_id,
            "transaction.timeout.ms": timeout_ms, "linger.ms": 1,
        })
        producer.init_transactions(30)
        return producer

    def consumer(self, group, isolation):
        return Consumer({
            "bootstrap.servers": self.bootstrap, "group.id": group, "isolation.level": isolation,
            "enable.auto.commit": False, "auto.offset.reset": "earliest", "session.timeout.ms": 10000,
        })

    def visibility(self):
        topic = self.prefix + "-visibility"
        self.create(topic)
        producer = self.producer(topic)
        committed, everything = [], []
        for round_ in range(10):
            producer.begin_transaction()
            for i in range(20):
                value = f"{round_:02}-{i:02}"
                producer.produce(topic, partition=i % PARTITIONS, value=value)
                everything.append(value)
            if round_ % 3 == 1:
                producer.flush(30)
                producer.abort_transaction(30)
            else:
                producer.commit_transaction(30)
                committed += everything[-20:]
        producer.begin_transaction()
        for partition in range(PARTITIONS):
            producer.produce(topic, partition=partition, value=f"last-{partition}")
        producer.commit_transaction(30)
        last = [f"last-{p}" for p in range(PARTITIONS)]
        expect(self.first(topic, "read_committed", len(committed) + PARTITIONS), sorted(committed + last), "read_committed")
        expect(self.first(topic, "read_uncommitted", len(everything) + PARTITIONS), sorted(everything + last), "read_uncommitted")

    def first(self, topic, isolation, count):
        """As many records as are expected, and none in the second after."""
        values = []
        consumer = self.consumer("reader", isolation)
        consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
        deadline = time.monotonic() + WAIT_S
        quiet = None
        while time.monotonic() < (quiet or deadline):
            message = consumer.poll(0.1)
            if message is None:
                continue
            if message.error():
                raise KafkaException(message.error())
            values.append(message.value().decode())
            if len(values) == count:
                quiet = time.monotonic() + 1
        consumer.close()
        return sorted(values)

    def consume_transform_produce(self):
        source, sink = self.prefix + "-input", self.prefix + "-output"
        self.create(source)
        self.create(sink)
        count = 2000
        feeder = self.producer(source)
        feeder.begin_transaction()
        for i in range(count):
            feeder.produce(source, partition=i % PARTITIONS, value=str(i))
        feeder.commit_transaction(30)
        consumer = self.consumer(self.prefix + "-group", "read_committed")
        consumer.subscribe([source])
        producer = self.producer(sink)
        done, round_ = 0, 0
        deadline = time.monotonic() + WAIT_S
        while done < count:
            if time.monotonic() > deadline:
                raise AssertionError(f"only {done} records")
            messages = [m for m in consumer.consume(100, 0.2) if not m.error()]
            if not messages:
                continue
            producer.begin_transaction()
            for message in messages:
                producer.produce(sink, partition=message.partition(), value=f"<{message.value().decode()}>")
            positions = consumer.position(consumer.assignment())
            positions = [p for p in positions if p.offset >= 0]
            producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata(), 30)
            round_ += 1
            if round_ % 4 == 2:
                producer.abort_transaction(30)
                # What was read does not count: begin again where the group stands.
                for p in consumer.committed(consumer.assignment(), timeout=30):
                    consumer.seek(TopicPartition(p.topic, p.partition, max(p.offset, 0)))
            else:
                producer.commit_transaction(30)
                done += len(messages)
        consumer.close()
        got = self.first(sink, "read_committed", count)
        expect(got, sorted(f"<{i}>" for i in range(count)), "values")

    def fencing(self):
        topic = self.prefix + "-fencing"
        self.create(topic)
        zombie = self.producer(topic)
        zombie.begin_transaction()
        zombie.produce(topic, partition=0, value="of the zombie")
        zombie.flush(30)
        heir = self.producer(topic)
        heir.begin_transaction()
        heir.produce(topic, partition=0, value="of the heir")
        try:
            zombie.commit_transaction(30)
            raise AssertionError("the zombie has committed")
        except KafkaException as error:
            expect(error.args[0].fatal(), True, f"fatal ({error})")
        heir.commit_transaction(30)
        expect(self.first(topic, "read_committed", 1), ["of the heir"], "read_committed")


def main():
    transactions = Transactions(sys.argv[1])
    check("transactions: commit and abort, as read_committed and read_uncommitted see them", transactions.visibility)
    check("transactions: consume, transform, produce 2000 records: each once", transactions.consume_transform_produce)
    check("transactions: a second producer of the same transactional id fences the first", transactions.fencing)
    sys.exit(1 if interop.failures else 0)


main()
