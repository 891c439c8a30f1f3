"""Clusters on this machine, each broker a process: Tidelog, and Apache Kafka with and without fsync."""
import shutil
import subprocess
import sys
import time

from . import load, processes
from .maven import maven

# From a broker's client port to its others.
PEER_PORT, HTTP_PORT = 100, 200
START_SECONDS = 120


class Cluster:
    """Brokers 1 to `nodes` with empty folders. Leaving the `with` ends them and removes their data."""

    def __init__(self, options, nodes=3):
        self.options, self.nodes = options, nodes
        self.folder = options.work / self.name
        self.bootstrap = ",".join(f"127.0.0.1:{self.port(broker)}" for broker in self.brokers())
        self.processes = []
        self.started = None

    def brokers(self):
        return range(1, self.nodes + 1)

    def port(self, broker):
        return self.options.base_port + broker - 1

    @property
    def pids(self):
        return [process.pid for process in self.processes]

    def prepare(self):
        """What has to be done once before brokers start."""

    def command(self, broker):
        raise NotImplementedError

    def exec(self):
        """Starts the brokers without waiting for them."""
        self.started = time.time()
        self.processes = [self.exec_one(broker) for broker in self.brokers()]

    def exec_one(self, broker):
        return processes.start(self.command(broker), self.folder / f"{broker}.log")

    def wait(self):
        load.run("wait", self.bootstrap, nodes=self.nodes, limit=f"{START_SECONDS}s")

    def kill(self):
        processes.kill(self.processes)

    def cpu_seconds(self):
        return processes.cpu_seconds(self.pids)

    def resident_mib(self):
        return processes.resident_mib(self.pids)

    def __enter__(self):
        for broker in self.brokers():
            for port in (self.port(broker), self.port(broker) + PEER_PORT, self.port(broker) + HTTP_PORT):
                if processes.listens(port):
                    sys.exit(f"port {port} is taken; choose others with --base-port")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.prepare()
        return self

    def __exit__(self, failure, *_):
        processes.stop(self.processes)
        for broker in self.brokers():
            shutil.rmtree(self.folder / str(broker), ignore_errors=True)
        if failure:
            print(f"the brokers' logs are in {self.folder}", file=sys.stderr)


class Tidelog(Cluster):
    name = "tidelog"
    title = "Tidelog"

    def command(self, broker):
        port = self.port(broker)
        settings = {
            "broker.id": broker,
            "listeners": f"127.0.0.1:{port}",
            "peer.listener": f"127.0.0.1:{port + PEER_PORT}",
            "http.listener": f"127.0.0.1:{port + HTTP_PORT}",
            "data.dir": self.folder / str(broker),
            "seed.brokers": ",".join(f"{i}@127.0.0.1:{self.port(i) + PEER_PORT}" for i in self.brokers()),
            "default.replication.factor": self.nodes,
        }
        words = [self.options.tidelog, "start"]
        for setting in [f"{name}={value}" for name, value in settings.items()] + self.options.tidelog_set:
            words += ["--set", setting]
        return words

    @staticmethod
    def install(options):
        if not options.tidelog.exists():
            sys.exit(f"no {options.tidelog}: run `cargo build --release` first, or name the program with --tidelog")


class Kafka(Cluster):
    name = "kafka"
    title = "Kafka"
    properties = {}

    def prepare(self):
        format_folder = ["java", "-cp", classpath(self.options), "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID]
        for broker in self.brokers():
            path = self.properties_file(broker)
            path.write_text("".join(f"{name}={value}\n" for name, value in self.settings(broker).items()))
            subprocess.run([*format_folder, "-c", path], check=True, stdout=subprocess.DEVNULL)

    def properties_file(self, broker):
        return self.folder / f"{broker}.properties"

    def settings(self, broker):
        port = self.port(broker)
        majority = self.nodes // 2 + 1
        voters = ",".join(f"{i}@127.0.0.1:{self.port(i) + PEER_PORT}" for i in self.brokers())
        return {
            "process.roles": "broker,controller",
            "node.id": broker,
            "controller.quorum.voters": voters,
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{port + PEER_PORT}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": self.folder / str(broker),
            "default.replication.factor": self.nodes,
            "min.insync.replicas": majority,
            "offsets.topic.replication.factor": self.nodes,
            "transaction.state.log.replication.factor": self.nodes,
            "transaction.state.log.min.isr": majority,
            "group.initial.rebalance.delay.ms": 0,
            **self.properties,
        }

    def command(self, broker):
        heap = self.options.kafka_heap
        return ["java", "-server", f"-Xms{heap}", f"-Xmx{heap}", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
                "-cp", classpath(self.options), "kafka.Kafka", self.properties_file(broker)]

    @staticmethod
    def install(options):
        jars(options.kafka_version)


class KafkaFsync(Kafka):
    """Kafka that has a record on the disk before it acknowledges it, as Tidelog does."""

    name = "kafka-fsync"
    title = "Kafka, fsync"
    properties = {"log.flush.interval.messages": 1}


SYSTEMS = {system.name: system for system in (Tidelog, Kafka, KafkaFsync)}
# Any will do for a cluster that lives for minutes.
CLUSTER_ID = "dGlkZWxvZy1iZW5jaC0wMQ"


def classpath(options):
    return f"{jars(options.kafka_version)}/*"


def jars(version):
    return maven("kafka", (("org.apache.kafka", "kafka_2.13", version), ("org.slf4j", "slf4j-nop", "1.7.36")))
