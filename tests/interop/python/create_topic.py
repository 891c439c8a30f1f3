"""create_topic.py BOOTSTRAP TOPIC [CONFIG=VALUE ...]: one partition on three brokers, waits for its leader."""
import sys
import time

from confluent_kafka.admin import AdminClient, NewTopic

bootstrap, topic = sys.argv[1:3]
admin = AdminClient({"bootstrap.servers": bootstrap})
config = dict(pair.split("=", 1) for pair in sys.argv[3:])
admin.create_topics([NewTopic(topic, 1, 3, config=config)])[topic].result(30)
deadline = time.monotonic() + 30
while not [p for p in admin.list_topics(topic, timeout=10).topics[topic].partitions.values() if p.leader >= 0]:
    if time.monotonic() > deadline:
        sys.exit(f"{topic} has no leader after 30 s")
    time.sleep(0.05)
