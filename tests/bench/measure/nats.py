"""NATS JetStream: three servers, a stream with three replicas, its own `nats bench`."""
import os
import shutil
import subprocess

from . import load, peer

MODULES = {
    "nats-server": "github.com/nats-io/nats-server/v2@latest",
    "nats": "github.com/nats-io/natscli/nats@latest",
}
# What `nats bench` lets a stream have is 1 GB.
STREAM = ["--create", "--replicas", "3", "--storage", "file", "--maxbytes", "20GB", "--purge"]
SUBJECT = "bench.test"
NUMBER = r"([\d,.]+)"
CONFIG = """server_name: bench{number}
listen: 127.0.0.1:{port}
jetstream {{ store_dir: "{folder}/{number}", {sync} }}
cluster {{ name: bench, listen: 127.0.0.1:{route}, routes: [{routes}] }}
"""

VARIANTS = {
    "nats": ("NATS JetStream R3, defaults", "a majority has it in memory; synced every two minutes", ""),
    "nats-always": ("NATS JetStream R3, sync_interval: always", "a majority has it on disk", "sync_interval: always"),
}


def install():
    if not shutil.which("go"):
        raise peer.Missing("Go is not installed: it is at https://go.dev/dl")
    bin_folder = load.BUILT / "bin"
    for program, module in MODULES.items():
        if not (bin_folder / program).exists():
            done = subprocess.run(["go", "install", module], env=os.environ | {"GOBIN": str(bin_folder)},
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode != 0:
                raise peer.Missing(f"go install {module}: {done.stdout.strip()[-300:]}")


def run(name, options):
    install()
    sync = VARIANTS[name][2]
    ports = [options.base_port + number for number in range(3)]
    with peer.Servers(options.work / name) as servers:
        for number, port in enumerate(ports):
            routes = ", ".join(f"nats://127.0.0.1:{other + 100}" for other in ports)
            config = servers.folder / f"{number}.conf"
            config.write_text(CONFIG.format(number=number, port=port, route=port + 100, routes=routes, sync=sync,
                                            folder=servers.folder))
            servers.start([load.BUILT / "bin/nats-server", "-c", config], f"{number}.log")
        servers.await_ports(ports)
        peer.await_true(lambda: stream_can_be_made(ports[0]), "a leader of JetStream")
        for key, records, size in options.loads:
            yield peer.produce(servers, key, records, size, lambda: publish(ports[0], records, size))
        yield latency(ports[0], options)


def bench(port, how, *words):
    return peer.tool([load.BUILT / "bin/nats", "-s", f"nats://127.0.0.1:{port}", "bench", "js", "pub", how,
                      "--no-progress", *words, SUBJECT])


def stream_can_be_made(port):
    try:
        bench(port, "sync", *STREAM, "--msgs", "1")
    except peer.ToolFailed:
        return False
    return True


def publish(port, records, size):
    told = bench(port, "async", *STREAM, "--clients", "6", "--size", size, "--msgs", records)
    return peer.find(rf"{NUMBER} msgs/sec", told)[0]


def latency(port, options):
    """Two clients that sleep a millisecond after each message: a little less than 1,000/s of each."""
    told = bench(port, "sync", "--clients", "2", "--sleep", "1ms", "--size", "200",
                 "--msgs", int(options.latency_seconds * 1000))
    found = peer.find(rf"P50: {NUMBER}us.*?P99: {NUMBER}us.*?P99\.9: {NUMBER}us", told)
    return peer.latency(found, scale=1e-3)
