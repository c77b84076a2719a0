"""Client of Ray: `ray_client ADDRESS`."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import Any

import ray

from bench.compare.clients.words import Client, End, check, note, payload, serve


@ray.remote
def noop(payload: dict[str, Any]) -> dict[str, Any]:
    return payload


@ray.remote
def nap(number: int, seconds: float, log: str) -> int:
    note(log, "s", number)
    time.sleep(seconds)
    note(log, "e", number)
    return number


class OfRay(Client):
    packages = ("ray",)

    async def open(self) -> None:
        ray.init(address=sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)

    async def one(self, number: int, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            check(number, await noop.remote(payload(number)))

    async def nap(self, number: int, seconds: float, log: str) -> End:
        promise = nap.remote(number, seconds, log)

        async def end(timeout_s: float) -> None:
            async with asyncio.timeout(timeout_s):
                await promise

        return end


if __name__ == "__main__":
    serve(OfRay())
