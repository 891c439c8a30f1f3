"""hanging.py known|hanging|read BOOTSTRAP TOPIC

known: commits one record. hanging: a batch of a transaction no coordinator knows, an hour old, and a
plain record behind it; prints the offset of the first. read: what a read_committed reader sees, a line each.
"""
import socket
import struct
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from kafka.record.default_records import DefaultRecordBatchBuilder

PRODUCER_ID = 987654
NOT_LEADER = 6
PRODUCE_VERSION = 7
WAIT_S = 30


def text(value):
    return struct.pack(">h", len(value)) + value.encode()


def request(topic):
    """A Produce request as a client of before transaction version 2 sends it."""
    batch = DefaultRecordBatchBuilder(
        magic=2, compression_type=0, is_transactional=1, producer_id=PRODUCER_ID, producer_epoch=0,
        base_sequence=0, batch_size=1 << 20)
    batch.append(0, timestamp=int((time.time() - 3600) * 1000), key=None, value=b"hanging", headers=[])
    records = bytes(batch.build())
    head = struct.pack(">hhi", 0, PRODUCE_VERSION, 1) + text("interop")
    body = text("hanging-" + topic) + struct.pack(">hii", -1, 10000, 1) + text(topic)
    return head + body + struct.pack(">iii", 1, 0, len(records)) + records


def receive(connection, size):
    got = b""
    while len(got) < size:
        more = connection.recv(size - len(got))
        if not more:
            sys.exit("closed instead of an answer")
        got += more
    return got


def produce(server, topic):
    host, port = server.rsplit(":", 1)
    with socket.create_connection((host, int(port)), WAIT_S) as connection:
        frame = request(topic)
        connection.sendall(struct.pack(">i", len(frame)) + frame)
        answer = receive(connection, struct.unpack(">i", receive(connection, 4))[0])
    # Correlation id, one topic with its name, one partition: index, error, base offset.
    return struct.unpack_from(">hq", answer, 4 + 4 + 2 + len(topic) + 4 + 4)


def plain(bootstrap, topic, value, transactional_id=None):
    config = {"bootstrap.servers": bootstrap, "linger.ms": 0}
    if transactional_id:
        config["transactional.id"] = transactional_id
    producer = Producer(config)
    if transactional_id:
        producer.init_transactions(WAIT_S)
        producer.begin_transaction()
    producer.produce(topic, partition=0, value=value)
    if transactional_id:
        producer.commit_transaction(WAIT_S)
    if producer.flush(WAIT_S):
        sys.exit("not acknowledged")


def hang(bootstrap, topic):
    metadata = Producer({"bootstrap.servers": bootstrap}).list_topics(topic, timeout=WAIT_S)
    error, offset = NOT_LEADER, -1
    for broker in metadata.brokers.values():
        if error == NOT_LEADER:
            error, offset = produce(f"{broker.host}:{broker.port}", topic)
    if error:
        sys.exit(f"refused: error {error}")
    plain(bootstrap, topic, "after")
    print(offset)


def read(bootstrap, topic):
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": "hanging", "isolation.level": "read_committed",
        "enable.partition.eof": True, "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        message = consumer.poll(1)
        if message is None:
            continue
        if message.error():
            break
        print(message.value().decode())
    consumer.close()


def main():
    what, bootstrap, topic = sys.argv[1:]
    if what == "known":
        plain(bootstrap, topic, "known", "known-" + topic)
    elif what == "hanging":
        hang(bootstrap, topic)
    else:
        read(bootstrap, topic)


main()
