"""RabbitMQ: one server with a classic queue, or three with quorum queues."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bench.compare.client import ClientProcess, Failed
from bench.compare.peer import KILL_SLOTS, KILL_WORKERS
from bench.compare.records import Durability, Label, Mode, Victim
from bench.compare.shelf import Needs, Shelf
from bench.compare.stage import DidNotStart, Stage, busiest, free_port, kill_tree

PACKAGE = "rabbitmq-server"
COMMAND = ("rabbitmq-server", PACKAGE)
HOMES = "usr/lib/rabbitmq/lib/rabbitmq_server-*"
ERLANG = "usr/lib/erlang"
WORKERS = 2
SLOTS = 256
LEADER_TIMEOUT_S = 10.0
COOKIE = "comparecomparecompare"

SERVERS = {Mode.FAST: 1, Mode.DURABLE: 3}
DURABILITY = {
    Mode.FAST: Durability(1, "never", "in a queue of the client, 1 copy in memory"),
    Mode.DURABLE: Durability(3, "every write", "in a quorum queue, 3 copies"),
}
SETTINGS = {
    Mode.FAST: "one server, classic queue, transient messages, no confirms, 2 workers that prefetch 256",
    Mode.DURABLE: "3 servers, quorum queues, confirms, 2 workers that prefetch 256 and acknowledge late",
}

ERL = """#!/bin/sh
export ROOTDIR={root} BINDIR={binaries} EMU=beam PROGNAME=erl
exec "$BINDIR/erlexec" "$@"
"""

CONFIGURATION = """listeners.tcp.1 = 127.0.0.1:{port}
log.console = true
log.console.level = warning
"""


class RabbitPeer:
    needs = Needs(python=("aio-pika>=9.4",), commands=(COMMAND,))

    def __init__(self, mode: Mode) -> None:
        keeper = "broker" if mode is Mode.FAST else "queue leader"
        self.label = Label("rabbitmq", "RabbitMQ", mode, DURABILITY[mode], SETTINGS[mode], keeper)
        self._ports = [free_port() for _ in range(SERVERS[mode])]
        self._distribution = [free_port() for _ in self._ports]
        self._mapper = free_port()
        self._servers: dict[str, asyncio.subprocess.Process] = {}
        self._workers: list[asyncio.subprocess.Process] = []
        servers = ",".join(f"amqp://guest:guest@127.0.0.1:{port}/" for port in self._ports)
        self._env = {"BENCH_SERVERS": servers, "BENCH_MODE": mode.value}
        self._struck = ""

    async def start(self, stage: Stage, *, to_kill: bool) -> tuple[list[str], dict[str, str]]:
        self._slots = KILL_SLOTS // KILL_WORKERS if to_kill else SLOTS
        _, env = _command(stage.shelf, stage.folder)
        mapper: list[str | Path] = ["epmd", "-port", str(self._mapper), "-address", "127.0.0.1"]
        await stage.until_listening("epmd", self._mapper, await stage.spawn("epmd", mapper, env))
        # One after the other: the first founds the cluster that the others join.
        for number in range(len(self._ports)):
            await self._start_server(stage, number)
        client = [str(stage.shelf.python("rabbitmq")), "-m", "bench.compare.clients.rabbit_client"]
        # A queue is led by the server that was asked for it first: the first, where every worker and client begins.
        for _ in range(KILL_WORKERS if to_kill else WORKERS):
            await self._start_worker(stage)
        return client, self._env

    async def _start_server(self, stage: Stage, number: int) -> None:
        name = f"server-{number}"
        folder = stage.folder / name
        folder.mkdir(exist_ok=True)
        cookie = stage.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(COOKIE)
            cookie.chmod(0o400)
        configuration = CONFIGURATION.format(port=self._ports[number])
        if len(self._ports) > 1:
            configuration += "cluster_formation.peer_discovery_backend = classic_config\n"
            for other in range(len(self._ports)):
                configuration += f"cluster_formation.classic_config.nodes.{other + 1} = r{other}@localhost\n"
        (folder / "rabbitmq.conf").write_text(configuration)
        argv, env = _command(stage.shelf, stage.folder)
        env |= {
            "HOME": str(stage.folder),
            "RABBITMQ_NODENAME": f"r{number}@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution[number]),
            "ERL_EPMD_PORT": str(self._mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(folder),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        }
        self._servers[name] = await stage.spawn(name, argv, env)
        await stage.until_listening(name, self._ports[number], self._servers[name])

    async def _start_worker(self, stage: Stage) -> None:
        name = f"worker-{len(self._workers)}"
        argv: list[str | Path] = [stage.shelf.python("rabbitmq"), "-m", "bench.compare.clients.rabbit_worker"]
        self._workers.append(await stage.spawn(name, [*argv, str(self._slots), "0"], self._env))

    async def kill(self, stage: Stage, victim: Victim, client: ClientProcess, busy: frozenset[int]) -> None:
        if victim is Victim.WORKER:
            await kill_tree(busiest(self._workers, busy))
            return
        leader = (await client.ask("leader", LEADER_TIMEOUT_S)).leader
        if leader not in self._servers:
            raise Failed("nobody leads the queue")
        self._struck = leader
        await kill_tree(self._servers[leader])

    async def revive(self, stage: Stage, victim: Victim) -> None:
        if victim is Victim.WORKER:
            await self._start_worker(stage)
        else:
            await self._start_server(stage, int(self._struck.removeprefix("server-")))

    async def stop(self) -> None:
        pass


def _command(shelf: Shelf, folder: Path) -> tuple[list[Path], dict[str, str]]:
    """How the server is started, wherever it was unpacked or installed: its own scripts ask for `erl` by name, and
    Debian's `erl` knows only where it would have been installed.
    """
    for root in (shelf.debian(PACKAGE), Path("/")):
        homes = sorted(root.glob(HOMES))
        runtimes = sorted((root / ERLANG).glob("erts-*/bin"))
        if homes and runtimes:
            break
    else:
        raise DidNotStart("rabbitmq-server is not where Debian puts it")
    erl = folder / "bin" / "erl"
    erl.parent.mkdir(exist_ok=True)
    erl.write_text(ERL.format(root=root / ERLANG, binaries=runtimes[-1]))
    erl.chmod(0o700)
    env = {"PATH": f"{erl.parent}:{runtimes[-1]}:/usr/sbin:/usr/bin:/sbin:/bin"} | shelf.libraries(PACKAGE)
    return [homes[-1] / "sbin" / "rabbitmq-server"], env
