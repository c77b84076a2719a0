"""NATS JetStream: three servers, a work queue stream of three replicas, workers that pull from it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from bench.compare.client import ClientProcess, Failed
from bench.compare.peer import KILL_SLOTS, KILL_WORKERS
from bench.compare.records import Durability, Label, Mode, Victim
from bench.compare.shelf import Needs
from bench.compare.stage import Stage, busiest, free_port, kill_tree

COMMAND = ("nats-server", "nats-server")
SERVERS = 3
WORKERS = 2
SLOTS = 256
LEADER_TIMEOUT_S = 10.0
READY_TIMEOUT_S = 60.0

DURABILITY = {
    Mode.FAST: Durability(3, "every 2 min", "sent to the client, kept nowhere"),
    Mode.DURABLE: Durability(3, "every 2 min", "in a second stream, 3 copies"),
}
SETTINGS = {
    Mode.FAST: "3 servers, file storage, 2 workers that pull; results by core NATS",
    Mode.DURABLE: "3 servers, file storage, 2 workers that pull; results in a stream, read and acknowledged",
}


class NatsPeer:
    needs = Needs(python=("nats-py>=2.9",), commands=(COMMAND,))

    def __init__(self, mode: Mode) -> None:
        self.label = Label("nats", "NATS JetStream", mode, DURABILITY[mode], SETTINGS[mode], "stream leader")
        self._ports = [free_port() for _ in range(SERVERS)]
        self._routes = [free_port() for _ in range(SERVERS)]
        self._servers: dict[str, asyncio.subprocess.Process] = {}
        self._workers: list[asyncio.subprocess.Process] = []
        servers = ",".join(f"nats://127.0.0.1:{port}" for port in self._ports)
        self._env = {"BENCH_SERVERS": servers, "BENCH_MODE": mode.value}
        self._struck = ""

    async def start(self, stage: Stage, *, to_kill: bool) -> tuple[list[str], dict[str, str]]:
        self._slots = KILL_SLOTS // KILL_WORKERS if to_kill else SLOTS
        for number in range(SERVERS):
            await self._start_server(stage, number)
        # Workers wait for the stream, which the client makes.
        for _ in range(KILL_WORKERS if to_kill else WORKERS):
            await self._start_worker(stage)
        return [str(stage.shelf.python("nats")), "-m", "bench.compare.clients.nats_client"], self._env

    async def _start_server(self, stage: Stage, number: int) -> None:
        command = stage.shelf.command(*COMMAND)
        assert command is not None, "what is missing is not started"
        name = f"server-{number}"
        # Any JSON is a NATS configuration.
        settings = {
            "server_name": name,
            "listen": f"127.0.0.1:{self._ports[number]}",
            "cluster": {
                "name": "compare",
                "listen": f"127.0.0.1:{self._routes[number]}",
                "routes": [f"nats://127.0.0.1:{port}" for port in self._routes],
            },
            "jetstream": {"store_dir": str(stage.folder / name)},
        }
        path = stage.folder / f"{name}.conf"
        path.write_text(json.dumps(settings))
        argv: list[str | Path] = [command, "-c", path]
        self._servers[name] = await stage.spawn(name, argv, stage.shelf.libraries(COMMAND[1]))
        await stage.until_listening(name, self._ports[number], self._servers[name])

    async def _start_worker(self, stage: Stage) -> None:
        name = f"worker-{len(self._workers)}"
        argv: list[str | Path] = [
            stage.shelf.python("nats"),
            "-m",
            "bench.compare.clients.nats_worker",
            str(self._slots),
        ]
        self._workers.append(await stage.spawn(name, argv, self._env))

    async def kill(self, stage: Stage, victim: Victim, client: ClientProcess, busy: frozenset[int]) -> None:
        if victim is Victim.WORKER:
            await kill_tree(busiest(self._workers, busy))
            return
        leader = (await client.ask("leader", LEADER_TIMEOUT_S)).leader
        if leader not in self._servers:
            raise Failed("nobody leads the stream")
        self._struck = leader
        await kill_tree(self._servers[leader])

    async def revive(self, stage: Stage, victim: Victim) -> None:
        if victim is Victim.WORKER:
            await self._start_worker(stage)
        else:
            await self._start_server(stage, int(self._struck.removeprefix("server-")))

    async def stop(self) -> None:
        pass
