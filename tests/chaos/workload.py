"""Clients that submit without pause, and keep a book of what they were told. The book is the truth of a run."""

import asyncio
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import IO

from mesh.client import Handle
from mesh.client.connection import MeshClient
from mesh.errors import Backpressure, MeshError, MeshUnavailable, TaskFailed
from tests.chaos.configurations import Mix
from tests.chaos.expect import COMPLETED, DEAD, answer_to
from tests.chaos.fleet import Fleet
from tests.chaos.history import Expected, History

ATTEMPTS = 200
"""More than any run can use up: a task must never die of the faults, only of itself."""

SUBMIT_TIMEOUT_S = 6.0
OPEN_MAX = 6_000
"""Tasks of one client that have not ended. Beyond that it waits: a mesh that is down must not fill this process."""

CERTAIN = "certainly not in the log"


class Book:
    """What clients were told, in memory and, for whoever comes afterwards, in a file."""

    def __init__(self, history: History, path: Path) -> None:
        self.history = history
        self._file: IO[str] = path.open("a", encoding="ascii")
        self._last_s = time.monotonic()

    def about_to(self, task_id: str, expected: Expected) -> None:
        """Before a submit leaves nobody knows how it will end."""
        self.history.unknown[task_id] = expected

    def acked(self, task_id: str) -> None:
        now_s = time.monotonic()
        self.history.silence_s = max(self.history.silence_s, now_s - self._last_s)
        self._last_s = now_s
        self.history.acked[task_id] = self.history.unknown.pop(task_id)
        self._file.write(f"{task_id}\n")

    def failed(self, task_id: str, error: Exception) -> None:
        """Refused for certain, or not known: never both."""
        if isinstance(error, Backpressure) or CERTAIN in str(error):
            self.history.unknown.pop(task_id, None)
            self.history.refused[task_id] = str(error)
        elif not isinstance(error, MeshUnavailable):
            self.history.broken.append(f"the submit of {task_id} ended with {error!r}")

    def close(self) -> None:
        self._file.close()


class Stream:
    """One client's work: batches at a pace, until told to stop. `open_results` are answers that are still to come."""

    def __init__(self, name: str, fleet: Fleet, book: Book, mix: Mix, rng: Random) -> None:
        self.name = name
        self._fleet = fleet
        self._book = book
        self._mix = mix
        self._rng = rng
        self._numbers = itertools.count()
        self.open_results: set[asyncio.Task[None]] = set()
        self.clients_used = 0

    async def run(self, until: Callable[[], bool]) -> None:
        """Submit. A client that lives short is closed with open answers, as a crashed one would be."""
        while not until():
            lives_s = self._rng.uniform(1, 8) if self._mix.short_lives else 1e9
            names = list(self._fleet.founders)
            knows = self._rng.sample(names, self._rng.randint(1, len(names))) if self._mix.short_lives else names
            try:
                async with self._fleet.client(*knows, timeout=5) as client:
                    self.clients_used += 1
                    ends = time.monotonic() + lives_s
                    await self._submit_until(client, lambda: until() or time.monotonic() > ends)  # noqa: B023 - awaited within the round.
                    if not self._mix.short_lives:
                        await self._drain()
            except MeshError:
                await asyncio.sleep(0.1)

    async def _submit_until(self, client: MeshClient, until: Callable[[], bool]) -> None:
        batch, pace_s = self._mix.batch, self._mix.batch / self._mix.rate
        due = time.monotonic()
        in_flight: set[asyncio.Task[None]] = set()
        while not until():
            due = max(due + pace_s, time.monotonic() - 1)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if len(self.open_results) + len(in_flight) >= OPEN_MAX:
                continue
            for _ in range(batch):
                task = asyncio.create_task(self._submit_one(client))
                in_flight.add(task)
                task.add_done_callback(in_flight.discard)
        if not self._mix.short_lives:
            await asyncio.gather(*in_flight)
        for task in list(in_flight):
            task.cancel()
        await asyncio.gather(*in_flight, return_exceptions=True)

    async def _submit_one(self, client: MeshClient) -> None:
        n = next(self._numbers)
        task_id = f"{self.name}-{n}"
        capability, payload, expected, attempts = self._what(n)
        self._book.about_to(task_id, expected)
        try:
            handle = await client.submit(
                capability, payload, task_id=task_id, max_attempts=attempts, timeout=SUBMIT_TIMEOUT_S
            )
        except MeshError as error:
            self._book.failed(task_id, error)
            return
        self._book.acked(task_id)
        if not self._mix.short_lives:
            listening = asyncio.create_task(self._listen(handle))
            self.open_results.add(listening)
            listening.add_done_callback(self.open_results.discard)

    def _what(self, n: int) -> tuple[str, dict[str, object], Expected, int]:
        """Capability, payload, how it must end, attempts."""
        mix, rng = self._mix, self._rng
        pad = "x" * rng.randint(0, mix.pad_bytes) if mix.pad_bytes and rng.random() < mix.pad_share else ""
        if mix.kind == "quick":
            return "quick", {"n": n, "pad": pad}, Expected(COMPLETED, tuple(answer_to(n, pad))), ATTEMPTS
        path, plain = str(self._fleet.trace), tuple(answer_to(n, ""))
        dice = rng.random()
        if dice < 0.05:
            return "doomed", {"n": n}, Expected(DEAD), 2
        if dice < 0.15:
            return "stumble", {"n": n}, Expected(COMPLETED, plain), ATTEMPTS
        kind = "steps" if dice < 0.35 else "traced"
        seconds = rng.choice((0.0, 0.05, 0.4, 1.5))
        return kind, {"n": n, "path": path, "seconds": seconds}, Expected(COMPLETED, plain, traced=True), ATTEMPTS

    async def _listen(self, handle: Handle) -> None:
        """Hear how it ended; what is not heard is asked about at the end."""
        try:
            self._book.history.results[handle.id] = await handle.result()
        except TaskFailed:
            pass
        except MeshError:
            pass

    async def _drain(self) -> None:
        """Stay until the last answer is there, or the run is over."""
        while self.open_results:
            await asyncio.wait(set(self.open_results), timeout=1)
