"""A Redis server, on which Celery and Dramatiq stand."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bench.compare.records import Durability, Mode
from bench.compare.stage import Stage, free_port, kill_tree

COMMAND = ("redis-server", "redis-server")
"""The program and the Debian package that has it."""

DURABILITY = {
    Mode.FAST: Durability(1, "never", "in Redis, 1 copy in memory"),
    Mode.DURABLE: Durability(1, "every write", "in Redis, 1 copy"),
}


class Redis:
    """Without persistence, or with an append-only file synced before every answer."""

    def __init__(self, mode: Mode) -> None:
        self._mode = mode
        self._port = free_port()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    async def start(self, stage: Stage) -> None:
        """Also after a kill. Raises DidNotStart."""
        command = stage.shelf.command(*COMMAND)
        assert command is not None, "what is missing is not started"
        data = stage.folder / "redis"
        data.mkdir(exist_ok=True)
        argv: list[str | Path] = [
            command,
            "--bind",
            "127.0.0.1",
            "--port",
            str(self._port),
            "--dir",
            data,
            "--save",
            "",
        ]
        if self._mode is Mode.DURABLE:
            argv += ["--appendonly", "yes", "--appendfsync", "always"]
        self._process = await stage.spawn("redis", argv, stage.shelf.libraries(COMMAND[1]))
        await stage.until_listening("redis", self._port, self._process)

    async def kill(self) -> None:
        assert self._process is not None, "it was started"
        await kill_tree(self._process)
