"""Dramatiq on Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bench.compare.client import ClientProcess
from bench.compare.peer import KILL_SLOTS, KILL_WORKERS
from bench.compare.peers import redis
from bench.compare.records import Label, Mode, Victim
from bench.compare.shelf import Needs
from bench.compare.stage import Stage, busiest, kill_tree

PROCESSES = 2
THREADS = 8
SETTINGS = {
    Mode.FAST: "2 processes of 8 threads, Redis without persistence",
    Mode.DURABLE: "2 processes of 8 threads, Redis with appendfsync always",
}


class DramatiqPeer:
    needs = Needs(python=("dramatiq[redis]>=1.17",), commands=(redis.COMMAND,))

    def __init__(self, mode: Mode) -> None:
        self.label = Label("dramatiq", "Dramatiq + Redis", mode, redis.DURABILITY[mode], SETTINGS[mode], "broker")
        self._redis = redis.Redis(mode)
        self._workers: list[asyncio.subprocess.Process] = []
        self._env = {"BENCH_BROKER": self._redis.url}

    async def start(self, stage: Stage, *, to_kill: bool) -> tuple[list[str], dict[str, str]]:
        self._shape = (1, KILL_SLOTS // KILL_WORKERS) if to_kill else (PROCESSES, THREADS)
        await self._redis.start(stage)
        for _ in range(KILL_WORKERS if to_kill else 1):
            await self._start_worker(stage)
        return [str(stage.shelf.python("dramatiq")), "-m", "bench.compare.clients.dramatiq_client"], self._env

    async def _start_worker(self, stage: Stage) -> None:
        name = f"worker-{len(self._workers)}"
        processes, threads = self._shape
        argv: list[str | Path] = [stage.shelf.script("dramatiq", "dramatiq"), "bench.compare.clients.dramatiq_app"]
        argv += ["--processes", str(processes), "--threads", str(threads)]
        self._workers.append(await stage.spawn(name, argv, self._env))
        await stage.until_said(name, "ready for action", self._workers[-1], times=processes)

    async def kill(self, stage: Stage, victim: Victim, client: ClientProcess, busy: frozenset[int]) -> None:
        if victim is Victim.WORKER:
            await kill_tree(busiest(self._workers, busy))
        else:
            await self._redis.kill()

    async def revive(self, stage: Stage, victim: Victim) -> None:
        if victim is Victim.WORKER:
            await self._start_worker(stage)
        else:
            await self._redis.start(stage)

    async def stop(self) -> None:
        pass
