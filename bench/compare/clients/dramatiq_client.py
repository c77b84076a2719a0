"""Client of Dramatiq. It blocks: results are not awaitable, so that many are in flight means a window of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Any

from dramatiq.results import ResultMissing

from bench.compare.clients.dramatiq_app import broker, nap, noop
from bench.compare.clients.words import Client, End, check, payload, serve

GET_TIMEOUT_MS = 600_000
POLL_S = 0.25
MESSAGES = "dramatiq:default.msgs"
"""A hash of every message that has not been acknowledged, delivered or not."""


class OfDramatiq(Client):
    packages = ("dramatiq", "redis")

    async def one(self, number: int, timeout_s: float) -> None:
        check(number, noop.send(payload(number)).get_result(block=True, timeout=int(timeout_s * 1e3)))

    async def many(self, numbers: Iterator[int], in_flight: int) -> None:
        window: deque[tuple[int, Any]] = deque()
        for number in numbers:
            if len(window) == in_flight:
                first, message = window.popleft()
                check(first, message.get_result(block=True, timeout=GET_TIMEOUT_MS))
            window.append((number, noop.send(payload(number))))
        for first, message in window:
            check(first, message.get_result(block=True, timeout=GET_TIMEOUT_MS))

    async def nap(self, number: int, seconds: float, log: str) -> End:
        message = nap.send(number, seconds, log)

        async def end(timeout_s: float) -> None:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        message.get_result()
                    except ResultMissing:
                        await asyncio.sleep(POLL_S)
                    else:
                        return

        return end

    async def held(self) -> int | None:
        return int(broker.client.hlen(MESSAGES))

    async def server_versions(self) -> dict[str, str]:
        return {"redis-server": broker.client.info("server")["redis_version"]}


if __name__ == "__main__":
    serve(OfDramatiq())
