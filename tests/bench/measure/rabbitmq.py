"""RabbitMQ: three nodes on this machine, a quorum queue or a stream on all of them, its own PerfTest."""
import os
import pathlib

from . import peer
from .maven import maven

PERF_TEST = (("com.rabbitmq", "perf-test", "2.22.1"),)
NODES = 3
DIST_PORT, EPMD_PORT = 100, 200
VARIANTS = {
    "rabbitmq-quorum": ("RabbitMQ quorum queue, three nodes", "a majority has it on disk", "--quorum-queue"),
    "rabbitmq-stream": ("RabbitMQ stream by AMQP 0.9.1, three nodes", "a majority has it in the page cache; not synced",
                        "--stream-queue"),
}
CONFIG = """listeners.tcp.local = 127.0.0.1:{port}
cluster_formation.peer_discovery_backend = classic_config
{nodes}
loopback_users = none
vm_memory_high_watermark.relative = 0.3
disk_free_limit.absolute = 1GB
"""


def server_program():
    """The package's own command runs as another user with folders of the system's."""
    peer.need("rabbitmq-server", "rabbitmq-server")
    found = sorted(pathlib.Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    if not found:
        raise peer.Missing("no rabbitmq-server in /usr/lib/rabbitmq/lib")
    return found[-1]


def run(name, options):
    program = server_program()
    jars = maven("perf-test", PERF_TEST)
    ports = [options.base_port + number for number in range(NODES)]
    with peer.Servers(options.work / name) as servers:
        start(servers, program, ports)
        servers.await_ports(ports)
        ctl = program.with_name("rabbitmqctl")
        peer.await_true(lambda: all_joined(servers, ctl, ports), "three RabbitMQ nodes in one cluster")
        for key, records, size in options.loads:
            yield peer.produce(servers, key, records, size, lambda: publish(name, jars, ports, key, records, size))
        yield latency(name, jars, ports, options)


def node(number):
    return f"bench{number}@localhost"


def environment(folder, number, port):
    home = folder / str(number)
    return {
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(port - number + EPMD_PORT),
        "RABBITMQ_NODENAME": node(number),
        "RABBITMQ_DIST_PORT": str(port + DIST_PORT),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_CONF_ENV_FILE": str(home / "none"),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_PID_FILE": str(home / "pid"),
    }


def words_with(env):
    return ["env", *(f"{name}={value}" for name, value in env.items())]


def start(servers, program, ports):
    cookie = servers.folder / ".erlang.cookie"
    cookie.write_text("tidelogbench")
    cookie.chmod(0o400)
    # Else the first node leaves one behind.
    servers.start(["epmd", "-port", ports[0] + EPMD_PORT, "-address", "127.0.0.1"], "epmd.log")
    servers.await_ports([ports[0] + EPMD_PORT])
    nodes = "\n".join(f"cluster_formation.classic_config.nodes.{i + 1} = {node(i)}" for i in range(NODES))
    for number, port in enumerate(ports):
        home = servers.folder / str(number)
        home.mkdir()
        (home / "rabbitmq.conf").write_text(CONFIG.format(port=port, nodes=nodes))
        (home / "enabled_plugins").write_text("[].\n")
        servers.start([*words_with(environment(servers.folder, number, port)), program], f"{number}.log")


def all_joined(servers, ctl, ports):
    env = os.environ | environment(servers.folder, 0, ports[0])
    try:
        told = peer.tool([ctl, "-n", node(0), "eval", "length(rabbit_nodes:all_running())."], env=env)
    except peer.ToolFailed:
        return False
    return told.strip() == str(NODES)


def perf_test(name, jars, ports, queue, *words):
    uris = ",".join(f"amqp://guest:guest@127.0.0.1:{port}" for port in ports)
    return peer.tool(["java", "-cp", f"{jars}/*", "com.rabbitmq.perf.PerfTest", "--uris", uris, VARIANTS[name][2],
                      "--queue", queue, "--consumers", "0", *words])


def publish(name, jars, ports, key, records, size):
    producers = 6
    told = perf_test(name, jars, ports, key, "--producers", producers, "--confirm", "1000", "--size", size,
                     "--pmessages", records // producers)
    return peer.find(r"sending rate avg: ([\d,.]+) msg/s", told)[0]


def latency(name, jars, ports, options):
    told = perf_test(name, jars, ports, "latency", "--producers", "1", "--rate", "1000", "--confirm", "1000",
                     "--size", "200", "--time", max(5, int(options.latency_seconds)))
    found = peer.find(r"confirm latency (?:min/median/75th/95th/99th|median/95th/99th) "
                      r"[\d,.]+/([\d,.]+)/[\d,.]+/[\d,.]+/([\d,.]+) [µu]s", told)
    return peer.latency(found, scale=1e-3)
