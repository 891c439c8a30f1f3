"""Redis Streams: one server with an append-only file, its own `redis-benchmark` with XADD.

Replicas follow asynchronously, and `redis-benchmark` cannot send WAIT after each command: one server is measured.
"""
import csv

from . import peer

CLIENTS = 50
PIPELINE = 16
VARIANTS = {
    "redis": ("Redis Streams, one server, appendfsync everysec", "in memory; synced every second", "everysec"),
    "redis-always": ("Redis Streams, one server, appendfsync always", "on the one disk", "always"),
}


def run(name, options):
    server = peer.need("redis-server", "redis-server")
    peer.need("redis-benchmark", "redis-tools")
    port = options.base_port
    with peer.Servers(options.work / name) as servers:
        servers.start([server, "--port", port, "--bind", "127.0.0.1", "--dir", servers.folder, "--save", "",
                       "--appendonly", "yes", "--appendfsync", VARIANTS[name][2]], "redis.log")
        servers.await_ports([port])
        for key, records, size in options.loads:
            yield peer.produce(servers, key, records, size, lambda: add(port, records, size, CLIENTS, PIPELINE)["rps"])
            # The stream lies in memory.
            peer.tool(["redis-cli", "-p", port, "DEL", "bench"])
        # Without a rate: a client that waits for each answer.
        told = add(port, int(options.latency_seconds * 1000), 200, 1, 1)
        yield peer.latency((told["p50_latency_ms"], told["p99_latency_ms"]))


def add(port, records, size, clients, pipeline):
    told = peer.tool(["redis-benchmark", "-p", port, "-n", records, "-c", clients, "-P", pipeline, "--csv",
                      "--precision", "3", "-x", "XADD", "bench", "*", "value"], input="x" * size)
    lines = [line for line in told.splitlines() if line.startswith('"')]
    head, values = list(csv.reader(lines))[-2:]
    return {name: float(value) for name, value in zip(head[1:], values[1:])}
