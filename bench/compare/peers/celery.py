"""Celery on Redis."""

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
SETTINGS = {
    Mode.FAST: "prefork, acknowledged early, 64 prefetched a process, Redis without persistence",
    Mode.DURABLE: "prefork, acknowledged late, rejected on worker loss, 1 prefetched, Redis with appendfsync always",
}


class CeleryPeer:
    needs = Needs(python=("celery[redis]>=5.5",), commands=(redis.COMMAND,))

    def __init__(self, mode: Mode) -> None:
        self.label = Label("celery", "Celery + Redis", mode, redis.DURABILITY[mode], SETTINGS[mode], "broker")
        self._redis = redis.Redis(mode)
        self._workers: list[asyncio.subprocess.Process] = []
        self._env = {"BENCH_BROKER": self._redis.url, "BENCH_MODE": mode.value}

    async def start(self, stage: Stage, *, to_kill: bool) -> tuple[list[str], dict[str, str]]:
        self._slots = KILL_SLOTS // KILL_WORKERS if to_kill else PROCESSES
        await self._redis.start(stage)
        for _ in range(KILL_WORKERS if to_kill else 1):
            await self._start_worker(stage)
        return [str(stage.shelf.python("celery")), "-m", "bench.compare.clients.celery_client"], self._env

    async def _start_worker(self, stage: Stage) -> None:
        name = f"worker-{len(self._workers)}"
        options = ["--concurrency", str(self._slots), "--hostname", f"{name}@localhost", "--loglevel", "info"]
        options += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        argv: list[str | Path] = [
            stage.shelf.script("celery", "celery"),
            "-A",
            "bench.compare.clients.celery_app",
            "worker",
            *options,
        ]
        self._workers.append(await stage.spawn(name, argv, self._env))
        await stage.until_said(name, " ready.", self._workers[-1])

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
