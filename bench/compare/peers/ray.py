"""Ray: a head with its store and scheduler, and where something is killed a second node."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bench.compare.client import ClientProcess
from bench.compare.peer import KILL_SLOTS, KILL_WORKERS
from bench.compare.records import Durability, Label, Mode, Victim
from bench.compare.shelf import Needs
from bench.compare.stage import Stage, free_port, kill_tree

PROCESSORS = 2
STORE_BYTES = 100 << 20
# A node at 127.0.0.1 is taken for one of those systems, and may have no second one beside it unless this is set.
ENV = {"RAY_DISABLE_IMPORT_WARNING": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}


class RayPeer:
    label = Label(
        name="ray",
        title="Ray",
        mode=Mode.ONLY,
        durability=Durability(1, "never", "in the store of a node, in memory"),
        setting="one head with 2 processors, plain tasks, 3 retries; tasks cannot be made durable",
        keeper="head",
    )
    needs = Needs(python=("ray>=2.40",))

    def __init__(self) -> None:
        self._port = free_port()
        self._address = f"127.0.0.1:{self._port}"
        self._nodes: list[asyncio.subprocess.Process] = []

    async def start(self, stage: Stage, *, to_kill: bool) -> tuple[list[str], dict[str, str]]:
        self._processors = KILL_SLOTS // KILL_WORKERS if to_kill else PROCESSORS
        self._count = KILL_WORKERS if to_kill else 1
        await self._start_all(stage)
        return [str(stage.shelf.python("ray")), "-m", "bench.compare.clients.ray_client", self._address], ENV

    async def _start_all(self, stage: Stage) -> None:
        head = [
            "--head",
            "--port",
            str(self._port),
            "--include-dashboard",
            "false",
            "--temp-dir",
            str(stage.folder / "r"),
        ]
        await self._start_node(stage, head)
        for _ in range(self._count - 1):
            await self._start_node(stage, ["--address", self._address])

    async def _start_node(self, stage: Stage, options: list[str]) -> None:
        name = f"node-{len(self._nodes)}"
        argv: list[str | Path] = [
            stage.shelf.script("ray", "ray"),
            "start",
            *options,
            "--block",
            "--disable-usage-stats",
        ]
        argv += ["--node-ip-address", "127.0.0.1", "--num-cpus", str(self._processors)]
        argv += ["--object-store-memory", str(STORE_BYTES)]
        self._nodes.append(await stage.spawn(name, argv, ENV))
        await stage.until_said(name, "Ray runtime started", self._nodes[-1])

    async def kill(self, stage: Stage, victim: Victim, client: ClientProcess, busy: frozenset[int]) -> None:
        await kill_tree(self._nodes[1] if victim is Victim.WORKER else self._nodes[0])

    async def revive(self, stage: Stage, victim: Victim) -> None:
        if victim is Victim.WORKER:
            await self._start_node(stage, ["--address", self._address])
            return
        # Nodes do not outlive their head, so they are started again with it.
        for node in self._nodes:
            await kill_tree(node)
        await self._start_all(stage)

    async def stop(self) -> None:
        pass
