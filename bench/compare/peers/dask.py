"""Dask distributed: a scheduler that keeps everything in memory, and workers."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bench.compare.client import ClientProcess
from bench.compare.peer import KILL_SLOTS, KILL_WORKERS
from bench.compare.records import Durability, Label, Mode, Victim
from bench.compare.shelf import Needs
from bench.compare.stage import Stage, busiest, free_port, kill_tree

PROCESSES = 2
THREADS = 4


class DaskPeer:
    label = Label(
        name="dask",
        title="Dask distributed",
        mode=Mode.ONLY,
        durability=Durability(1, "never", "in a worker's memory"),
        setting="one scheduler, 2 workers of 4 threads; nothing of it can be made durable",
        keeper="scheduler",
    )
    needs = Needs(python=("distributed>=2024.8",))

    def __init__(self) -> None:
        self._port = free_port()
        self._address = f"tcp://127.0.0.1:{self._port}"
        self._scheduler: asyncio.subprocess.Process | None = None
        self._workers: list[asyncio.subprocess.Process] = []

    async def start(self, stage: Stage, *, to_kill: bool) -> tuple[list[str], dict[str, str]]:
        self._threads = KILL_SLOTS // KILL_WORKERS if to_kill else THREADS
        self._count = KILL_WORKERS if to_kill else PROCESSES
        await self._start_all(stage)
        return [str(stage.shelf.python("dask")), "-m", "bench.compare.clients.dask_client", self._address], {}

    async def _start_all(self, stage: Stage) -> None:
        argv: list[str | Path] = [
            stage.shelf.script("dask", "dask"),
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            str(self._port),
        ]
        self._scheduler = await stage.spawn("scheduler", [*argv, "--no-dashboard", "--no-show"])
        await stage.until_listening("scheduler", self._port, self._scheduler)
        for _ in range(self._count):
            await self._start_worker(stage)

    async def _start_worker(self, stage: Stage) -> None:
        name = f"worker-{len(self._workers)}"
        argv: list[str | Path] = [
            stage.shelf.script("dask", "dask"),
            "worker",
            self._address,
            "--name",
            name,
            "--no-dashboard",
        ]
        argv += ["--nworkers", "1", "--nthreads", str(self._threads), "--local-directory", stage.folder]
        self._workers.append(await stage.spawn(name, argv))
        await stage.until_said(name, "Registered to:", self._workers[-1])

    async def kill(self, stage: Stage, victim: Victim, client: ClientProcess, busy: frozenset[int]) -> None:
        assert self._scheduler is not None, "it was started"
        await kill_tree(busiest(self._workers, busy) if victim is Victim.WORKER else self._scheduler)

    async def revive(self, stage: Stage, victim: Victim) -> None:
        if victim is Victim.WORKER:
            await self._start_worker(stage)
            return
        # Workers leave a scheduler that is gone, so they are started again with it.
        for worker in self._workers:
            await kill_tree(worker)
        await self._start_all(stage)

    async def stop(self) -> None:
        pass
