"""Client of Celery. It blocks: Celery has no awaitable results, so that many are in flight means a window of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Any

from bench.compare.clients.celery_app import app, nap, noop
from bench.compare.clients.words import Client, End, check, payload, serve

GET_TIMEOUT_S = 600.0
POLL_S = 0.25
QUEUE = "celery"
UNACKED = "unacked"


class OfCelery(Client):
    packages = ("celery", "kombu", "redis")

    async def open(self) -> None:
        self._redis = app.backend.client

    async def one(self, number: int, timeout_s: float) -> None:
        check(number, noop.apply_async((payload(number),), retry=False).get(timeout=timeout_s))

    async def many(self, numbers: Iterator[int], in_flight: int) -> None:
        window: deque[tuple[int, Any]] = deque()
        for number in numbers:
            if len(window) == in_flight:
                first, result = window.popleft()
                check(first, result.get(timeout=GET_TIMEOUT_S))
            window.append((number, noop.delay(payload(number))))
        for first, result in window:
            check(first, result.get(timeout=GET_TIMEOUT_S))

    async def nap(self, number: int, seconds: float, log: str) -> End:
        result = nap.delay(number, seconds, log)

        async def end(timeout_s: float) -> None:
            # get() would block for a second or more each time.
            async with asyncio.timeout(timeout_s):
                while not result.ready():
                    await asyncio.sleep(POLL_S)
            result.get(timeout=1.0)

        return end

    async def held(self) -> int | None:
        return int(self._redis.llen(QUEUE)) + int(self._redis.hlen(UNACKED))

    async def server_versions(self) -> dict[str, str]:
        return {"redis-server": self._redis.info("server")["redis_version"]}


if __name__ == "__main__":
    serve(OfCelery())
