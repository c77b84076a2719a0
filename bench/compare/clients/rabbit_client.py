"""Client of RabbitMQ."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from bench.compare.clients.rabbit_words import DURABLE, QUEUE_OPTIONS, TASKS, Line
from bench.compare.clients.words import Client, End, check, payload, serve

RESULTS_PREFETCH = 1_000
CONNECT_TRIES = 50
RETRY_S = 0.2


class OfRabbit(Client):
    packages = ("aio-pika", "aiormq")

    async def open(self) -> None:
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._results = f"results-{os.urandom(6).hex()}"
        self._line = Line(0, self._prepare)
        for left in reversed(range(CONNECT_TRIES)):
            try:
                await self._line.channel()
                break
            except Exception:
                if not left:
                    raise
                await asyncio.sleep(RETRY_S)
        # A queue is led by the server that was asked for it.
        self._leader = self._line.server

    async def _prepare(self, channel: AbstractChannel) -> None:
        await channel.set_qos(prefetch_count=RESULTS_PREFETCH)
        await channel.declare_queue(TASKS, **QUEUE_OPTIONS)
        results = await channel.declare_queue(self._results, **QUEUE_OPTIONS)
        await results.consume(self._heard, no_ack=not DURABLE)

    async def _heard(self, message: AbstractIncomingMessage) -> None:
        future = self._waiting.pop(message.correlation_id or "", None)
        if future is not None and not future.done():
            future.set_result(json.loads(message.body))
        if DURABLE:
            await message.ack()

    async def _submit(self, kind: str, body: dict[str, Any]) -> asyncio.Future[Any]:
        name = os.urandom(12).hex()
        future = self._waiting[name] = asyncio.get_running_loop().create_future()
        task = json.dumps({"kind": kind, "body": body}).encode()
        await self._line.send(TASKS, task, correlation_id=name, reply_to=self._results)
        return future

    async def one(self, number: int, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            check(number, await (await self._submit("noop", payload(number))))

    async def nap(self, number: int, seconds: float, log: str) -> End:
        future = await self._submit("nap", {"n": number, "seconds": seconds, "log": log})

        async def end(timeout_s: float) -> None:
            async with asyncio.timeout(timeout_s):
                # Somebody must be there to hear it.
                await self._line.channel()
                await future

        return end

    async def held(self) -> int | None:
        """Without those that a worker has and has not acknowledged: the protocol does not tell."""
        channel = await self._line.channel()
        return (await channel.declare_queue(TASKS, passive=True)).declaration_result.message_count

    async def leader(self) -> str | None:
        return f"server-{self._leader}"

    async def server_versions(self) -> dict[str, str]:
        version = self._line.properties["version"]
        return {"rabbitmq-server": version.decode() if isinstance(version, bytes) else str(version)}


if __name__ == "__main__":
    serve(OfRabbit())
