"""What a client process is asked to do, a JSON line each, and what it answers. Standard library only: it runs in the
interpreter of whichever system is measured.

    {"do": "many", "first": 0, "tasks": 10000, "in_flight": 2000}  ->  {"seconds": 0.81}
    {"do": "latency", "first": 0, "tasks": 300}                    ->  {"ms": [2.1, ...]}
    {"do": "naps", "tasks": 200, "seconds": 0.05, "log": "..."}    ->  {"accepted": [0, 1, ...]}
    {"do": "again", "timeout_s": 60}                               ->  {"seconds": 0.12}, null if it never succeeded
    {"do": "ends", "timeout_s": 5}                                 ->  {"ended": 200}
    {"do": "held"}                                                 ->  {"held": 3}, null if it cannot be told
    {"do": "leader"}                                               ->  {"leader": "n1"}, null if there is none
    {"do": "versions"}                                             ->  {"versions": {"celery": "5.7.0"}}

What goes wrong is answered as {"error": "one line"}.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from importlib import metadata
from typing import Any

PADDING = "x" * 60
TRY_S = 3.0
"""How long `again` waits for the result of one try before the next."""
NEXT_TRY_S = 0.05
END_SLACK_S = 1.0

End = Callable[[float], Awaitable[None]]
"""Returns once a task that was accepted has given its result; raises if it has not within so many seconds."""


def payload(number: int) -> dict[str, Any]:
    """About 100 bytes, whatever it is encoded with."""
    return {"id": f"task-{number:08d}", "n": number, "data": PADDING}


def check(number: int, result: Any) -> None:
    """Raises RuntimeError unless `result` is that of task `number`."""
    if not isinstance(result, dict) or result.get("n") != number:
        raise RuntimeError(f"task {number} came back as {result!r}")


def note(path: str, word: str, number: int) -> None:
    """A line, appended in one piece, so that workers share a log: `s` for a start or `e` for an end; task; process."""
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(log, f"{word} {number} {os.getpid()}\n".encode())
    finally:
        os.close(log)


class Client:
    """What each system's client can do. One that blocks may do so: nothing else runs on its loop."""

    packages: tuple[str, ...] = ()
    """Whose versions are told."""

    async def open(self) -> None:
        """Connect. Raises whatever the system raises."""

    async def one(self, number: int, timeout_s: float) -> None:
        """Submit one no-op, await its result and check it. Raises if that took longer than `timeout_s`."""
        raise NotImplementedError  # Each system's own.

    async def many(self, numbers: Iterator[int], in_flight: int) -> None:
        """All of them, one by one, with so many not yet ended at a time."""

        async def worker() -> None:
            for number in numbers:
                await self.one(number, 600.0)

        await asyncio.gather(*(worker() for _ in range(in_flight)))

    async def nap(self, number: int, seconds: float, log: str) -> End:
        """Submit a task that notes its start, sleeps, and notes its end. Returns once the system has accepted it."""
        raise NotImplementedError  # Each system's own.

    async def held(self) -> int | None:
        """How many tasks the system still holds and has promised to run."""
        return None

    async def leader(self) -> str | None:
        """Which of its servers leads what the tasks are in."""
        return None

    async def server_versions(self) -> dict[str, str]:
        """Of servers that are not Python packages."""
        return {}


class Conversation:
    """Answers requests, one at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._promised: list[End] = []

    async def answer(self, line: str) -> str:
        """The answer to one line, as one line."""
        try:
            request = json.loads(line)
            found = await getattr(self, "_" + request.pop("do"))(**request)
        except Exception as error:  # Whatever the system raises is its answer; who asked decides what it means.
            found = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
        return json.dumps(found)

    async def _many(self, first: int, tasks: int, in_flight: int) -> dict[str, Any]:
        started = time.perf_counter()
        await self._client.many(iter(range(first, first + tasks)), min(in_flight, tasks))
        return {"seconds": time.perf_counter() - started}

    async def _latency(self, first: int, tasks: int) -> dict[str, Any]:
        found = []
        for number in range(first, first + tasks):
            started = time.perf_counter()
            await self._client.one(number, 60.0)
            found.append((time.perf_counter() - started) * 1e3)
        return {"ms": found}

    async def _naps(self, tasks: int, seconds: float, log: str) -> dict[str, Any]:
        accepted = []
        self._promised.clear()
        submits = (self._client.nap(number, seconds, log) for number in range(tasks))
        for number, end in enumerate(await asyncio.gather(*submits, return_exceptions=True)):
            if not isinstance(end, BaseException):
                accepted.append(number)
                self._promised.append(end)
        return {"accepted": accepted}

    async def _again(self, timeout_s: float) -> dict[str, Any]:
        started = time.perf_counter()
        number = 1_000_000_000
        while time.perf_counter() - started < timeout_s:
            number += 1
            try:
                async with asyncio.timeout(TRY_S + END_SLACK_S):
                    await self._client.one(number, TRY_S)
            except Exception:  # It is down; that is what is being timed.
                await asyncio.sleep(NEXT_TRY_S)
            else:
                return {"seconds": time.perf_counter() - started}
        return {"seconds": None}

    async def _ends_within(self, timeout_s: float) -> int:
        deadline = time.perf_counter() + timeout_s

        async def ended(end: End) -> bool:
            left_s = max(0.01, deadline - time.perf_counter())
            try:
                async with asyncio.timeout(left_s + END_SLACK_S):
                    await end(left_s)
            except Exception:  # A result that did not come, or is a failure, is not an end.
                return False
            return True

        return sum(await asyncio.gather(*(ended(end) for end in self._promised)))

    async def _ends(self, timeout_s: float) -> dict[str, Any]:
        return {"ended": await self._ends_within(timeout_s)}

    async def _held(self) -> dict[str, Any]:
        return {"held": await self._client.held()}

    async def _leader(self) -> dict[str, Any]:
        return {"leader": await self._client.leader()}

    async def _versions(self) -> dict[str, Any]:
        found = {name: metadata.version(name) for name in self._client.packages}
        return {"versions": found | await self._client.server_versions()}


def serve(client: Client) -> None:
    """Answer on stdout what is asked on stdin, until that ends. Whatever else prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    async def talk() -> None:
        loop = asyncio.get_running_loop()
        requests = asyncio.StreamReader(limit=1 << 20)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
        conversation = Conversation(client)
        await client.open()
        print(json.dumps({}), file=answers)
        while line := await requests.readline():
            print(await conversation.answer(line.decode()), file=answers)

    try:
        asyncio.run(talk())
    except BaseException:
        traceback.print_exc()
    finally:
        # Some systems keep threads that would outlive us.
        answers.flush()
        sys.stderr.flush()
        os._exit(0)
