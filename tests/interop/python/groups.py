"""Consumer groups of three with each client library, while members and a coordinator come and go.

    groups.py BOOTSTRAP RECORDS DATA RESTARTED LIBRARY=COMMAND...

COMMAND is a member program (see member.py) that gets BOOTSTRAP GROUP TOPIC; of several, with ` | ` between
them, members take turns. DATA is the folder of the brokers, whose processes are killed and started again;
the new ones' ids are appended to RESTARTED. RECORDS is how many each group reads. Every record has to be seen, in order within its partition; what is
read again lies after the last commit that was acknowledged before.
"""
import collections
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time
import traceback
import uuid

from confluent_kafka import ConsumerGroupTopicPartitions, Producer
from confluent_kafka.admin import AdminClient, NewTopic

PARTITIONS = 6
DEADLINE_S = 90
bootstrap, records, data, restarted = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]), sys.argv[4]
libraries = [argument.split("=", 1) for argument in sys.argv[5:]]


class Member:
    """A running member program and what it has said."""

    def __init__(self, run, command):
        self.run = run
        self.errors = open(run.errors, "ab")
        self.process = subprocess.Popen(
            shlex.split(command) + [bootstrap, run.group, run.topic], stdout=subprocess.PIPE, stderr=self.errors,
            stdin=subprocess.DEVNULL, text=True)
        self.reads = 0
        self.reader = threading.Thread(target=self.listen, daemon=True)
        self.reader.start()

    def listen(self):
        me = self.process.pid
        for line in self.process.stdout:
            words = line.split()
            # The last line of a killed member may be cut.
            if not line.endswith("\n") or len(words) != {"R": 5, "C": 4}.get(words[0] if words else ""):
                continue
            kind, at, partition, *offsets = words[0], *map(int, words[1:])
            with self.run.lock:
                self.run.events.append((at, kind, me, partition, *offsets))
                if kind == "R":
                    self.reads += 1
                    self.run.seen[partition].update(range(*offsets))

    def leave(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self.reader.join(10)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.reader.join(10)


class Run:
    """One library's group."""

    def __init__(self, library, command):
        self.library, self.command = library, command
        self.topic = f"group-{library}-{uuid.uuid4().hex[:8]}"
        self.group = f"readers-{library}-{uuid.uuid4().hex[:8]}"
        self.errors = data.parent / f"groups-{library}.err"
        self.lock = threading.Lock()
        self.events = []
        self.seen = collections.defaultdict(set)
        self.members = []
        self.written = 0
        self.producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5})

    def add(self):
        commands = self.command.split(" | ")
        self.members.append(Member(self, commands[len(self.members) % len(commands)]))
        return self.members[-1]

    def count(self):
        with self.lock:
            return sum(map(len, self.seen.values()))

    def until(self, condition, what):
        end = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"not within {DEADLINE_S} s: {what}; {self.count()} of {self.written} seen")
            time.sleep(0.02)

    def produce(self, count):
        for n in range(self.written, self.written + count):
            while True:
                try:
                    self.producer.produce(self.topic, f"record {n}", partition=n % PARTITIONS)
                    break
                except BufferError:
                    self.producer.poll(0.1)
            self.producer.poll(0)
        self.written += count
        assert self.producer.flush(60) == 0, "not all records were written"

    def produce_until(self, condition, what):
        """Writes a little at a time, so that there is something to read whoever reads it."""

        def step():
            # On a busy machine a member may come so late that all would have been read: then a trickle.
            self.produce(max(PARTITIONS, min(records // 400, records - self.written)))
            time.sleep(0.05 if self.written < records else 0.2)
            return condition()

        self.until(step, what)

    def converse(self):
        admin = AdminClient({"bootstrap.servers": bootstrap})
        new = NewTopic(self.topic, num_partitions=PARTITIONS, replication_factor=3)
        for future in admin.create_topics([new]).values():
            future.result(30)
        self.produce(records // 4)
        first, second, third = self.add(), self.add(), self.add()
        self.produce_until(lambda: first.reads and second.reads and third.reads, "all three read")
        fourth = self.add()
        self.produce_until(lambda: fourth.reads, "the fourth member reads")
        first.leave()
        second.kill()
        fifth = self.add()
        self.produce_until(lambda: fifth.reads, "the fifth member reads")
        broker = coordinator(admin, self.group)
        command = kill_broker(broker)
        try:
            self.produce(max(PARTITIONS, records - self.written))
            self.until(lambda: self.count() >= self.written, "all records")
        finally:
            restart_broker(broker, command)
        for member in self.members[2:]:
            member.leave()
        self.judge()
        # A client of its own: librdkafka 2.16 crashes now and then when it asks the coordinator it
        # remembers, and that is not the coordinator any more.
        admin = AdminClient({"bootstrap.servers": bootstrap})
        done = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(self.group)])
        offsets = {p.partition: p.offset for p in done[self.group].result(30).topic_partitions}
        for partition in range(PARTITIONS):
            end, acknowledged = len(range(partition, self.written, PARTITIONS)), self.committed[partition]
            # A commit that was under way when the broker died may have failed, and nobody has read since.
            assert acknowledged <= offsets.get(partition, 0) <= end, \
                f"partition {partition}: {offsets} committed, {acknowledged} acknowledged, {end} written"

    def judge(self):
        events = sorted(self.events, key=lambda e: e[0])
        committed, seen, following = collections.defaultdict(int), collections.defaultdict(int), {}
        self.again = 0
        for at, kind, member, partition, *offsets in events:
            if kind == "C":
                committed[partition] = max(committed[partition], offsets[0])
                continue
            begin, end = offsets
            if following.get((member, partition)) != begin:
                assert begin >= committed[partition], \
                    f"partition {partition}: read again from {begin} on, {committed[partition]} was committed"
            assert begin <= seen[partition], f"partition {partition}: {begin} comes after {seen[partition]}"
            self.again += max(0, min(end, seen[partition]) - begin)
            seen[partition] = max(seen[partition], end)
            following[member, partition] = end
        self.committed = committed

    def end(self):
        for member in self.members:
            if member.process.poll() is None:
                member.kill()


def coordinator(admin, group):
    """Id of the broker that coordinates the group."""
    described = admin.describe_consumer_groups([group])[group].result(30)
    return described.coordinator.id


def kill_broker(broker):
    pid = int((data / str(broker) / "broker.pid").read_text())
    proc = pathlib.Path(f"/proc/{pid}")
    command = [part.decode() for part in (proc / "cmdline").read_bytes().split(b"\0")[:-1]]
    started = (os.readlink(proc / "exe"), command, os.readlink(proc / "cwd"))
    os.kill(pid, signal.SIGKILL)
    # The last of its threads gives its ports back.
    end = time.monotonic() + 30
    while threads(proc) > 1:
        assert time.monotonic() < end, f"broker {broker} does not end"
        time.sleep(0.02)
    return started


def threads(proc):
    try:
        return len(os.listdir(proc / "task"))
    except OSError:
        return 0


def restart_broker(broker, started):
    binary, command, cwd = started
    # It has to outlive this program.
    kept = [word for word in command[1:] if word != "--stop-with-parent"]
    log = open(data.parent / f"restarted-{broker}.log", "ab")
    again = subprocess.Popen(
        [binary, *kept], cwd=cwd, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    with open(restarted, "a", encoding="utf-8") as file:
        file.write(f"{again.pid}\n")
    # Back when it is one of the living again.
    admin = AdminClient({"bootstrap.servers": bootstrap})
    end = time.monotonic() + 60
    while broker not in admin.list_topics(timeout=10).brokers:
        assert time.monotonic() < end, f"broker {broker} does not come back"
        time.sleep(0.1)


def main():
    failures = 0
    for library, command in libraries:
        run = Run(library, command)
        began = time.monotonic()
        try:
            run.converse()
            took = time.monotonic() - began
            print(f"pass {library}: a group of three reads {run.written} records while members come, leave and die "
                  f"and its coordinator is killed ({run.again} read again, {took:.0f} s)", flush=True)
        except Exception as error:
            failures += 1
            traceback.print_exc()
            print(f"FAIL {library}: group: {type(error).__name__}: {error}", flush=True)
        finally:
            run.end()
    sys.exit(1 if failures else 0)


main()
